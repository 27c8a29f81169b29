"""Class activation maps to boxes, as pure functions of tensors.

P maps of h x w cells; boxes are xyxy in pixels of the view that the maps were made from, unless said otherwise.
"""

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor


def quantile_threshold(scores: Tensor, classes_per_image: float) -> float:
    """Threshold tau such that `scores >= tau` selects this many classes per image on average.

    The authors search tau in steps of 0.001 on augmented batches; this is the exact order statistic
    over all images.

    Args:
        scores: Tensor[N, C].
        classes_per_image: k, in (0, C]; rounded to a whole number of (image, class) pairs, at least one.
    """
    wanted = min(max(round(classes_per_image * len(scores)), 1), scores.numel())
    return scores.flatten().sort(descending=True).values[wanted - 1].item()


def relative_scores(scores: Tensor) -> Tensor:
    """How much a class stands out in an image against the other images: its logits in standard deviations.

    A classifier that has seen few labels of a class gives it low scores everywhere, and one threshold for all classes
    then selects the frequent ones in every image and the others in none.

    Args:
        scores: Tensor[N, C] in [0, 1].

    Returns:
        Tensor[N, C], each column with mean 0 and standard deviation 1, or 0 where all scores are equal.
    """
    logits = torch.logit(scores.double(), eps=1e-6)
    spread = logits.std(dim=0, correction=0)
    return torch.where(spread > 0, (logits - logits.mean(dim=0)) / spread.clamp(min=1e-12), 0).to(scores.dtype)


def upsample(cams: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps Tensor[P, h, w] resized bilinearly to Tensor[P, H, W]."""
    return F.interpolate(cams[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def normalise(cams: Tensor) -> Tensor:
    """Each map of Tensor[P, H, W] stretched to [0, 1]; a flat map becomes zeros."""
    low = cams.amin(dim=(1, 2), keepdim=True)
    span = cams.amax(dim=(1, 2), keepdim=True) - low
    return torch.where(span > 0, (cams - low) / span.clamp(min=torch.finfo(cams.dtype).tiny), 0)


def extent_boxes(mask: Tensor) -> Tensor:
    """Smallest box around the set cells of each mask.

    Args:
        mask: bool Tensor[P, H, W].

    Returns:
        float32 Tensor[P, 4], xyxy with the right and lower edge exclusive; zeros for an empty mask.
    """
    columns, rows = mask.any(dim=1), mask.any(dim=2)  # [P, W], [P, H]
    x1, x2 = span(columns)
    y1, y2 = span(rows)
    return torch.stack([x1, y1, x2, y2], dim=1).float()


def span(line: Tensor) -> tuple[Tensor, Tensor]:
    """First set index and one past the last of each row of bool Tensor[P, L]; 0, 0 for an empty row."""
    first = line.int().argmax(dim=1)
    last = line.shape[1] - line.flip(1).int().argmax(dim=1)
    return first, torch.where(line.any(dim=1), last, 0)


def corner_boxes(mask: Tensor) -> Tensor:
    """Box between the first and the last set cell in reading order: the authors' code.

    It is no extent: the last cell in reading order may lie left of the first, so the corners are sorted.
    Same shapes as `extent_boxes`.
    """
    count, _, width = mask.shape
    first, past_last = span(mask.reshape(count, -1))
    last = (past_last - 1).clamp(min=0)
    xs = torch.stack([first % width, last % width], dim=1).sort(dim=1).values
    boxes = torch.stack([xs[:, 0], first // width, xs[:, 1] + 1, last // width + 1], dim=1)
    return boxes.float() * (past_last > 0)[:, None]


def peak_boxes(mask: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """A box per connected region of each mask, largest region first, at most `limit` a map.

    Args:
        mask: bool Tensor[P, H, W].
        limit: largest number of boxes a map, at least 1.

    Returns:
        boxes: float32 Tensor[Q, 4], xyxy.
        owner: int64 Tensor[Q], the map of each box, ascending.
    """
    boxes, owner = [], []
    for p, plane in enumerate(mask.numpy()):
        regions, count = ndimage.label(plane, structure=[[1, 1, 1]] * 3)
        areas = ndimage.sum_labels(plane, regions, range(1, count + 1))
        slices = ndimage.find_objects(regions)
        for region in sorted(range(count), key=lambda r: -areas[r])[:limit]:
            rows, columns = slices[region]
            boxes.append([columns.start, rows.start, columns.stop, rows.stop])
            owner.append(p)
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(owner, dtype=torch.int64)


def cam_boxes(
    cams: Tensor,
    size: tuple[int, int],
    *,
    threshold: float,
    margin: float,
    rule: str,
    peak_limit: int,
) -> tuple[Tensor, Tensor]:
    """Boxes around the strongest response of each map.

    Args:
        cams: Tensor[P, h, w], any range.
        size: (H, W) of the view in pixels.
        threshold: share of the min-max normalised maximum that a pixel must exceed, in (0, 1).
        margin: share of the view's side by which each edge is moved outwards (80 px of 640 in the paper).
        rule: "extent", "corners" (the authors') or "peaks" (a box per connected region).
        peak_limit: most boxes a map under "peaks".

    Returns:
        boxes: float32 Tensor[Q, 4], clipped to the view. A flat map (no pixel above the threshold) has none.
        owner: int64 Tensor[Q], the map of each box, ascending.
    """
    if not len(cams):
        return torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    mask = normalise(upsample(cams.float(), size)) > threshold
    if rule == "peaks":
        boxes, owner = peak_boxes(mask, peak_limit)
    else:
        boxes = {"extent": extent_boxes, "corners": corner_boxes}[rule](mask)
        owner = mask.any(dim=2).any(dim=1).nonzero()[:, 0]
        boxes = boxes[owner]
    return expand_boxes(boxes, size, margin), owner


def expand_boxes(boxes: Tensor, size: tuple[int, int], margin: float) -> Tensor:
    """Boxes Tensor[Q, 4] with each edge moved outwards by `margin` of the side, clipped to (H, W)."""
    height, width = size
    step = torch.tensor([-width, -height, width, height]) * margin
    limit = torch.tensor([width, height, width, height], dtype=torch.float32)
    return (boxes + step).clamp(min=0).minimum(limit)


def rescale_boxes(boxes: Tensor, size: tuple[int, int], sizes: Tensor) -> Tensor:
    """Boxes from pixels of a squashed view to pixels of the original images.

    Args:
        boxes: Tensor[Q, 4], xyxy in a view of `size` (H, W).
        size: (H, W) of the view.
        sizes: Tensor[Q, 2], (H, W) of each box's original image.

    Returns:
        float32 Tensor[Q, 4].
    """
    scale = sizes.flip(1).repeat(1, 2) / torch.tensor([size[1], size[0]] * 2)
    return boxes * scale
