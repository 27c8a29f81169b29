"""Logits and probabilities of the cells of a view to one score per class, as pure functions of tensors.

J cells, C classes. A cell is a place of the teacher's last feature map, or a tile of the photo.
"""

import torch
from torch import Tensor


def best_mean(probabilities: Tensor, share: float) -> Tensor:
    """Mean probability of the best cells of each class, Tensor[C].

    Args:
        probabilities: Tensor[J, C].
        share: best cells as a share of J, in [0, 1]; at least one cell counts, so 0 gives the maximum.
    """
    count = max(round(share * len(probabilities)), 1)
    return probabilities.topk(count, dim=0).values.mean(dim=0)


def weighted_logits(logits: Tensor) -> Tensor:
    """Mean of the logits over the cells, weighted by their softmax over the cells (TaI-DPT, Guo et al., CVPR 2023).

    Args:
        logits: Tensor[J, C].

    Returns:
        Tensor[C], between the mean and the maximum of each column.
    """
    return (logits.softmax(dim=0) * logits).sum(dim=0)


def cell_boxes(cells: Tensor, grid: tuple[int, int]) -> Tensor:
    """Boxes of cells in a view of size 1 x 1.

    Args:
        cells: int64 Tensor[M], row-major numbers of cells.
        grid: (h, w), cells of the view.

    Returns:
        float32 Tensor[M, 4], xyxy in [0, 1].
    """
    height, width = grid
    row, column = cells // width, cells % width
    return torch.stack([column / width, row / height, (column + 1) / width, (row + 1) / height], dim=1)
