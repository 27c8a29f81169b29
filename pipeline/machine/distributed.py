"""The processes that torchrun started: which one this is, and what they do together; alone, nothing to do.

Values that processes exchange on the CPU travel by gloo, gradients on CUDA by NCCL.
"""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from inspect import signature
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.machine.errors import PipelineError, first_line

Items = TypeVar("Items", range, list, Tensor)

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: the first one may be at a stage that runs in one process alone. If one
dies, torchrun ends the rest."""


def join() -> None:
    """Join the other processes if torchrun started several, each with a GPU of its own where there are GPUs."""
    if not dist.is_available() or not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        return
    if local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(local_rank())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)


def leave() -> None:
    """Undo `join`."""
    if is_joined():
        dist.destroy_process_group()


def is_joined() -> bool:
    """Whether this is one of several processes."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if is_joined() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if is_joined() else 1


def local_rank() -> int:
    """Number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this is the process that writes the artifacts and talks to the user."""
    return rank() == 0


def own_share(items: Items) -> Items:
    """What of a list, range or tensor is this process's part: every K-th item of K processes, in order."""
    return items[rank() :: world_size()]


def barrier() -> None:
    """Wait until every process is here."""
    sum_up(torch.zeros(1))


def sum_up(values: Tensor) -> None:
    """Replace values by their sum over the processes."""
    exchange(values, dist.ReduceOp.SUM)


def take_largest(values: Tensor) -> None:
    """Replace each value by the largest that a process has."""
    exchange(values, dist.ReduceOp.MAX)


def average(tensors: Iterable[Tensor]) -> None:
    """Replace floating-point tensors by their means over the processes; others stay."""
    for tensor in tensors:
        if tensor.is_floating_point():
            exchange(tensor, dist.ReduceOp.SUM)
            tensor /= world_size()


def exchange(values: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
    """Replace values by what an operation makes of those of all processes.

    Raises:
        PipelineError: one of them is gone.
    """
    if not is_joined():
        return
    try:
        dist.all_reduce(values, operation)
    except RuntimeError as error:
        raise PipelineError(f"another process of this command has ended ({first_line(error)}); see there.") from error


def parallel(model: nn.Module) -> nn.Module:
    """The module to call in training: gradients become their mean over the processes in `backward`."""
    if not is_joined():
        return model
    # Every process keeps its own batch statistics during an epoch: sending them would change, between two forward
    # passes, what the backward pass of the first needs. Newer versions of torch call the option otherwise.
    names = signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    return DistributedDataParallel(model, **{sync: False})


def without_exchange(network: nn.Module, wanted: bool) -> AbstractContextManager:
    """Inside, gradients of `parallel`'s module are added up in this process alone, if wanted."""
    return network.no_sync() if wanted and isinstance(network, DistributedDataParallel) else nullcontext()
