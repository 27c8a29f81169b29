"""Names of devices to devices that can be used here."""

from typing import TYPE_CHECKING

from pipeline.system import distributed
from pipeline.system.errors import PipelineError, first_line

if TYPE_CHECKING:
    import torch

KINDS = ("cpu", "cuda", "mps", "xpu")
"""Devices that compute; torch has others, such as `meta`, that only pretend to."""


def pick_device(name: str) -> str:
    """The torch device that a name stands for; "auto" is CUDA where there is one, "cuda" this process's own GPU.

    Raises:
        PipelineError: there is no such device here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and 0 < torch.cuda.device_count() <= distributed.local_rank():
        raise PipelineError(
            f"there are {torch.cuda.device_count()} GPUs for {distributed.local_world_size()} processes; "
            "give torchrun one process per GPU, or try --device cpu."
        )
    try:
        if torch.device(name).type not in KINDS:
            raise RuntimeError(f"expected one of {', '.join(KINDS)}")
        torch.zeros(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise PipelineError(f"device {name!r} cannot be used here ({first_line(error)}); try --device cpu.") from None
    return name


def widest_float(device: "torch.device") -> "torch.dtype":
    """The widest floating-point format of a device: float64, or float32 on Apple's GPUs and on some of Intel's."""
    import torch

    if device.type == "mps" or (device.type == "xpu" and not torch.xpu.get_device_properties(device).has_fp64):
        return torch.float32
    return torch.float64


def free_memory(device: "torch.device") -> int:
    """Bytes free on a CUDA device; 0 for other devices, whose free memory torch cannot tell."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
