"""The batches of an epoch, and the part of each that one process computes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.system import distributed


@dataclass(frozen=True)
class Batch:
    """The images of one step, and this process's part of them."""

    rows: Tensor
    """int64 Tensor[b], rows of the training set."""
    mine: Tensor
    """int64 Tensor[b], this process's places in `rows`; at least one."""
    own_rows: Tensor
    """int64 Tensor[b], the rows of this process."""
    share: float
    """Factor of the mean loss over `mine` in the step; 0 where other processes have all images of the batch."""


def plan_epoch(order: Tensor, batch_size: int, owned: bool = False) -> list[Batch]:
    """Batches of an epoch over the rows int64 Tensor[N] in this order.

    Args:
        order: rows of the training set.
        batch_size: rows of a batch, over all processes together.
        owned: whether this process has the rows rank, rank + K and so on of K processes, and not an equal part of each
            batch.
    """
    rank, processes = distributed.rank(), distributed.world_size()
    batches = []
    for rows in order.split(batch_size):
        mine = (rows % processes == rank).nonzero()[:, 0] if owned else distributed.shard(torch.arange(len(rows)))
        own_rows = rows[mine]
        # the mean over processes divides by their number, though their parts may be of unequal size
        share = len(mine) * processes / len(rows)
        if not len(mine):
            # every process takes part in every step: with an image that does not count
            mine = torch.tensor([0])
            own_rows = torch.tensor([rank]) if owned else rows[mine]
        batches.append(Batch(rows, mine, own_rows, share))
    return batches
