"""Choice of the device, and what it can do."""

from typing import TYPE_CHECKING

from pipeline.system import distributed
from pipeline.system.errors import PipelineError, first_line

if TYPE_CHECKING:
    import torch

KINDS = ("cpu", "cuda", "mps", "xpu")
"""Types of devices that compute; torch has more types, such as `meta`, that do not."""


def pick_device(name: str) -> str:
    """The torch device of a name; "auto" is CUDA if available, and "cuda" this process's own GPU.

    Raises:
        PipelineError: this machine has no such device.
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
    """The widest floating-point format of a device: float64, or float32 on GPUs of Apple and some of Intel."""
    import torch

    if device.type == "mps" or (device.type == "xpu" and not torch.xpu.get_device_properties(device).has_fp64):
        return torch.float32
    return torch.float64


def free_memory(device: "torch.device") -> int:
    """Free bytes on a CUDA device; 0 for other devices, for which torch has no such function."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
