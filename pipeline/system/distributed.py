"""The processes of torchrun: rank, world size and exchanges. Without torchrun, exchanges do nothing.

Processes exchange values on the CPU with gloo, and gradients on CUDA with NCCL. Only several processes import torch here, so
that reading the rank is fast.
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
"""Timeout of an exchange between steps that all processes make; after it, one of them must have ended."""

PATIENCE = timedelta(days=7)
"""Timeout of `barrier`, where a process may wait while another reads all photos or computes its share."""

_patient_group: Any = None
"""Group of all processes with the timeout `PATIENCE`."""


def is_launched() -> bool:
    """Whether this is one of several processes of torchrun."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def join() -> None:
    """Connect the processes of torchrun, if there are several, and give each its own GPU, if there are GPUs."""
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
    """Whether this is one of several connected processes."""
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
    """Whether this process writes the artifacts and prints messages."""
    return rank() == 0


def shard(items: Items) -> Items:
    """This process's part of a list, range or tensor: every K-th item of K processes, in order."""
    return items[rank() :: world_size()]


def barrier() -> None:
    """Wait for every process, up to `PATIENCE`.

    Call it before an exchange of values if the work before that grows with the number of photos.
    """
    if is_joined():
        import torch

        _all_reduce(torch.zeros(1), "SUM", _patient_group)


def all_reduce_sum(values: "Tensor") -> None:
    """Replace values by their sum over the processes."""
    _all_reduce(values, "SUM")


def all_reduce_max(values: "Tensor") -> None:
    """Replace each value by the largest of the processes."""
    _all_reduce(values, "MAX")


def all_reduce_mean(tensors: "Iterable[Tensor]") -> None:
    """Replace floating-point tensors by their means over the processes; integer tensors do not change."""
    for tensor in tensors:
        if tensor.is_floating_point() and is_joined():
            _all_reduce(tensor, "SUM")
            tensor /= world_size()


def _all_reduce(values: "Tensor", operation: str, group: Any = None) -> None:
    """Reduce values over all processes by an operation of `torch.distributed.ReduceOp`, in place.

    Raises:
        PipelineError: another process has ended.
    """
    if not is_joined():
        return
    import torch.distributed as dist

    try:
        dist.all_reduce(values, getattr(dist.ReduceOp, operation), group=group)
    except RuntimeError as error:
        raise PipelineError(
            f"another process of this command has ended ({first_line(error)}). See its messages."
        ) from error


def parallel(model: "nn.Module") -> "nn.Module":
    """The module to call in training; `backward` averages its gradients over the processes."""
    if not is_joined():
        return model
    from inspect import signature

    from torch.nn.parallel import DistributedDataParallel

    # Every process keeps its own batch statistics during an epoch: an exchange between two forward passes would change
    # buffers that the backward pass of the first needs. Newer versions of torch have another name for the option.
    names = signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    return DistributedDataParallel(model, **{sync: False})
