"""The order of an epoch: which images make a batch, a step, and the part of one process."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.system import distributed


@dataclass(frozen=True)
class Batch:
    """The images of one forward pass, and what of them this process sees."""

    rows: Tensor
    """int64 Tensor[b], rows of the training set."""
    mine: Tensor
    """int64 Tensor[b], this process's places in `rows`; at least one."""
    own_rows: Tensor
    """int64 Tensor[b], the rows that this process sees."""
    share: float
    """What the mean loss over `mine` counts in the step; 0 where another process does the work."""
    begins_step: bool
    ends_step: bool


def plan_epoch(order: Tensor, batch_size: int, accumulate: int, owned: bool = False) -> list[Batch]:
    """Batches of an epoch over the rows int64 Tensor[N] in this order.

    Args:
        order: rows of the training set.
        batch_size: rows of a batch, of all processes together.
        accumulate: batches of a step.
        owned: this process sees the rows rank, rank + K and so on of K processes; else its equal part of each batch.
    """
    rank, processes = distributed.rank(), distributed.world_size()
    batches = []
    for step in order.split(batch_size * accumulate):
        parts = step.split(batch_size)
        for number, rows in enumerate(parts):
            mine = (rows % processes == rank).nonzero()[:, 0] if owned else distributed.shard(torch.arange(len(rows)))
            own_rows = rows[mine]
            # the mean over processes divides by their number, though their parts may be of unequal size
            share = len(mine) * processes / len(step)
            if not len(mine):
                # none of these is this process's, but each has to take part
                mine = torch.tensor([0])
                own_rows = torch.tensor([rank]) if owned else rows[mine]
            batches.append(Batch(rows, mine, own_rows, share, number == 0, number + 1 == len(parts)))
    return batches


def draw_order(labels: Tensor, sampling: str, generator: torch.Generator) -> Tensor:
    """Rows int64 Tensor[N] of one epoch.

    Args:
        labels: Tensor[N, C] in [0, 1].
        sampling: "each": all rows, shuffled. "balanced": with repetition; for each place a class is drawn, all
            being as likely, and then a row in proportion to its label of that class. A class without labels is
            left out.
        generator: of the draws.
    """
    sums = labels.sum(dim=0)
    if sampling == "each" or not sums.any():
        return torch.randperm(len(labels), generator=generator)
    chances = (labels[:, sums > 0] / sums[sums > 0]).sum(dim=1)
    return torch.multinomial(chances, len(labels), replacement=True, generator=generator)
