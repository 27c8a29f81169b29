"""Boxes that need no classifier, and the sizes of the crops that the teacher encodes.

Boxes are xyxy in pixels of the original image; sizes are (H, W).
"""

import numpy as np
import torch
from torch import Tensor

from pipeline.method.snapping import snapped_size


def grid_boxes(size: tuple[int, int], tiles: int) -> Tensor:
    """The tiles x tiles equal tiles of an image, row by row: float32 Tensor[tiles^2, 4] (the views of CDUL)."""
    height, width = size
    xs, ys = torch.linspace(0, width, tiles + 1), torch.linspace(0, height, tiles + 1)
    return torch.stack([torch.stack([xs[c], ys[r], xs[c + 1], ys[r + 1]]) for r in range(tiles) for c in range(tiles)])


def random_boxes(boxes: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Boxes of the same sizes at random places of the image: a control for the effect of size alone.

    Args:
        boxes: Tensor[M, 4] of one image.
        size: (H, W) of the image.
        generator: draws the places.
    """
    spans = boxes[:, 2:] - boxes[:, :2]  # [M, 2], (w, h)
    room = (torch.tensor([size[1], size[0]], dtype=torch.float32) - spans).clamp(min=0)
    corner = torch.rand(len(boxes), 2, generator=generator) * room
    return torch.cat([corner, corner + spans], dim=1)


def square_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes grown to squares about their centres, shifted into the image; cut where the image is too narrow.

    Args:
        boxes: Tensor[M, 4].
        sizes: Tensor[M, 2], (H, W) of each box's image.
    """
    limit = sizes.flip(1).to(boxes.dtype)  # [M, 2], (W, H)
    spans = boxes[:, 2:] - boxes[:, :2]
    grown = spans.amax(dim=1, keepdim=True).minimum(limit)
    corner = ((boxes[:, :2] + boxes[:, 2:] - grown) / 2).clamp(min=0).minimum(limit - grown)
    return torch.cat([corner, corner + grown], dim=1)


def view_size(box: Tensor, long_side: int) -> tuple[int, int]:
    """(H, W) of the crop of a box: the given long side, with the aspect kept to the nearest 32 pixels.

    Rounding the short side gives few distinct sizes, so that crops can share a batch; it changes the
    short side by at most 16 pixels.
    """
    width, height = (box[2:] - box[:2]).tolist()
    scale = long_side / max(width, height)
    return snapped_size(height * scale, width * scale, 32)


def truncated_size(height: int, width: int, long_side: int) -> tuple[int, int]:
    """(H, W) of a crop as in the authors' code: int(side * long_side / longer side), computed in float32.

    Rounding makes the long side one pixel shorter for a sixth of all sizes, as in their code.
    """
    scale = np.float32(1) / np.float32(max(height, width)) * np.float32(long_side)
    return max(1, int(np.float32(height) * scale)), max(1, int(np.float32(width) * scale))
