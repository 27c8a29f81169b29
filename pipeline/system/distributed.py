"""The processes that torchrun started: which one this is, and what they do together; alone, nothing to do.

Values that processes exchange on the CPU travel by gloo, gradients on CUDA by NCCL. torch is imported only where there
are several processes, so that asking which one this is costs nothing.
"""

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.system.errors import PipelineError, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

Items = TypeVar("Items", range, list, "Tensor")

PROMPTNESS = timedelta(minutes=10)
"""How long a process waits for the others between two steps that all of them make: longer, and one of them is gone."""

PATIENCE = timedelta(days=7)
"""How long a process waits in `barrier`, while others look at all photos or compute their share of them."""

_patient_group: Any = None
"""Group of all processes whose exchanges wait with `PATIENCE`."""


def is_launched() -> bool:
    """Whether torchrun started several processes, of which this is one."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def join() -> None:
    """Join the other processes if torchrun started several, each with a GPU of its own where there are GPUs."""
    global _patient_group
    if not is_launched():
        return
    import torch
    import torch.distributed as dist

    if local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(local_rank())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PROMPTNESS)
    _patient_group = dist.new_group(backend="gloo", timeout=PATIENCE)


def leave() -> None:
    """Undo `join`."""
    if is_joined():
        import torch.distributed as dist

        dist.destroy_process_group()


def is_joined() -> bool:
    """Whether this is one of several processes."""
    if not is_launched():
        return False
    import torch.distributed as dist

    return dist.is_initialized()


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ["RANK"]) if is_launched() else 0


def world_size() -> int:
    """Number of processes."""
    return int(os.environ["WORLD_SIZE"]) if is_launched() else 1


def local_rank() -> int:
    """Number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this is the process that writes the artifacts and talks to the user."""
    return rank() == 0


def shard(items: Items) -> Items:
    """What of a list, range or tensor is this process's part: every K-th item of K processes, in order."""
    return items[rank() :: world_size()]


def barrier() -> None:
    """Wait until every process is here, however long another works before.

    Where the work before an exchange of values grows with the number of photos, a barrier comes first.
    """
    if is_joined():
        import torch

        _all_reduce(torch.zeros(1), "SUM", _patient_group)


def all_reduce_sum(values: "Tensor") -> None:
    """Replace values by their sum over the processes."""
    _all_reduce(values, "SUM")


def all_reduce_max(values: "Tensor") -> None:
    """Replace each value by the largest that a process has."""
    _all_reduce(values, "MAX")


def all_reduce_mean(tensors: "Iterable[Tensor]") -> None:
    """Replace floating-point tensors by their means over the processes; others stay."""
    for tensor in tensors:
        if tensor.is_floating_point() and is_joined():
            _all_reduce(tensor, "SUM")
            tensor /= world_size()


def _all_reduce(values: "Tensor", operation: str, group: Any = None) -> None:
    """Replace values by what an operation of `torch.distributed.ReduceOp` makes of those of all processes.

    Raises:
        PipelineError: one of them is gone.
    """
    if not is_joined():
        return
    import torch.distributed as dist

    try:
        dist.all_reduce(values, getattr(dist.ReduceOp, operation), group=group)
    except RuntimeError as error:
        raise PipelineError(f"another process of this command has ended ({first_line(error)}); see there.") from error


def parallel(model: "nn.Module") -> "nn.Module":
    """The module to call in training: gradients become their mean over the processes in `backward`."""
    if not is_joined():
        return model
    from inspect import signature

    from torch.nn.parallel import DistributedDataParallel

    # Every process keeps its own batch statistics during an epoch: sending them would change, between two forward
    # passes, what the backward pass of the first needs. Newer versions of torch call the option otherwise.
    names = signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    return DistributedDataParallel(model, **{sync: False})
