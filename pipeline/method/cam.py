"""Class activation maps to boxes, as pure functions of tensors.

P maps of h x w cells; boxes are xyxy in pixels of the view that the maps were computed from, unless stated otherwise.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def quantile_threshold(scores: Tensor, classes_per_image: float) -> float:
    """Threshold tau such that `scores >= tau` selects this many classes per image on average.

    The authors search tau in steps of 0.001 on augmented batches; this is the exact order statistic
    over all images.

    Args:
        scores: Tensor[N, C].
        classes_per_image: k, in (0, C]; rounded to a whole number of (image, class) pairs, at least one.
    """
    rank = min(max(round(classes_per_image * len(scores)), 1), scores.numel())
    return scores.flatten().sort(descending=True).values[rank - 1].item()


MOST_PEAKS = 3
"""Most boxes of one map under the rule "peaks"."""

SEARCH_WINDOW = 100
"""Images per window of `search_threshold`, as in the authors' code."""


@dataclass(frozen=True)
class Search:
    """Where a search for tau ended."""

    tau: float
    converged: bool
    """Whether the mean count ended within the bounds; otherwise the search used up the images."""
    mean_count: float
    """Classes per image in the last window; NaN without any window."""


def search_threshold(windows: Iterable[Tensor], bound: float) -> Search:
    """Threshold tau as the authors' code searches it: from 0.05, raised by 0.001 per window until few enough classes pass.

    The search never lowers the threshold. After the last window it ends at the next threshold, whatever the count is.

    Args:
        windows: scores Tensor[w, C] of the images of each window, see `search_windows`; read only as far as needed.
        bound: b; the search ends where the mean count of classes is above b and below b + 2.
    """
    tau, mean_count = 0.05, math.nan
    for scores in windows:
        # the first window has one image more, and the authors' code divides by 100 all the same
        mean_count = (scores >= tau).sum().item() / SEARCH_WINDOW
        if bound < mean_count < bound + 2:
            return Search(tau, True, mean_count)
        tau += 0.001
    return Search(tau, False, mean_count)


def search_windows(order: Tensor) -> list[Tensor]:
    """Rows of each window of one pass: int64 Tensor[N] cut into 101, then 100 each, without the rest.

    The authors' code counts from 0 and checks at images 100, 200 and so on, hence the 101.
    """
    looks = range(SEARCH_WINDOW, len(order), SEARCH_WINDOW)
    return [order[look - SEARCH_WINDOW + (look > SEARCH_WINDOW) : look + 1] for look in looks]


def z_scores(scores: Tensor) -> Tensor:
    """Logits of each class in standard deviations from their mean over the images.

    A classifier trained on few labels of a class gives it low scores everywhere. One threshold on the scores of all
    classes then selects frequent classes in every image and rare ones in none.

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


def normalise(cams: Tensor, epsilon: float = 0.0) -> Tensor:
    """Each map of Tensor[P, H, W] stretched to [0, 1]; a flat map becomes zeros.

    Args:
        cams: Tensor[P, H, W], any range.
        epsilon: added to the span of each map, as in the authors' code (1e-5): the largest value then stays below 1,
            and a map that is nearly flat below any threshold.
    """
    low = cams.amin(dim=(1, 2), keepdim=True)
    return stretch(cams, low, cams.amax(dim=(1, 2), keepdim=True) - low + epsilon)


def stretch(values: Tensor, low: Tensor, height: Tensor) -> Tensor:
    """(values - low) / height; zeros where the height is 0."""
    return (values - low).div_(height.clamp(min=torch.finfo(values.dtype).tiny))


def span(line: Tensor) -> tuple[Tensor, Tensor]:
    """First set index and one past the last of each row of bool Tensor[P, L]; 0, 0 for an empty row."""
    first = line.int().argmax(dim=1)
    last = line.shape[1] - line.flip(1).int().argmax(dim=1)
    return first, torch.where(line.any(dim=1), last, 0)


def threshold_boxes(planes: Tensor, threshold: float, epsilon: float, corners: bool) -> tuple[Tensor, Tensor]:
    """Box of the pixels that exceed a share of each plane's maximum after `normalise`.

    Normalisation keeps the order of the values even after rounding. So the function normalises only the maximum of each
    row and column, which decides whether any pixel of it exceeds the threshold.

    Args:
        planes: float32 Tensor[P, H, W].
        threshold: see `cam_boxes`.
        epsilon: see `normalise`.
        corners: box between the first and the last such pixel in reading order, as in the authors' code, instead of
            the smallest box around all. The last pixel in reading order may be left of the first, so the corners are
            sorted. The right and lower edges are those pixels, which the box excludes: a box of one pixel is empty
            until it is expanded.

    Returns:
        boxes: float32 Tensor[Q, 4], xyxy, the right and lower edge of an extent exclusive.
        owner: int64 Tensor[Q], the plane of each box, ascending; planes without any such pixel have none.
    """
    low = planes.amin(dim=(1, 2))[:, None]
    row_peaks, column_peaks = planes.amax(dim=2), planes.amax(dim=1)  # [P, H], [P, W]
    height = row_peaks.amax(dim=1, keepdim=True) - low + epsilon

    def exceeds(values: Tensor) -> Tensor:
        return stretch(values, low, height) > threshold

    y1, y2 = span(exceeds(row_peaks))
    owner = y2.nonzero()[:, 0]
    if corners:
        bottom = (y2 - 1).clamp(min=0)
        every = torch.arange(len(planes), device=planes.device)
        first, _ = span(exceeds(planes[every, y1]))
        _, past_last = span(exceeds(planes[every, bottom]))
        xs = torch.stack([first, past_last - 1], dim=1).sort(dim=1).values
        boxes = torch.stack([xs[:, 0], y1, xs[:, 1], bottom], dim=1)
    else:
        x1, x2 = span(exceeds(column_peaks))
        boxes = torch.stack([x1, y1, x2, y2], dim=1)
    return boxes[owner].float(), owner


def peak_boxes(mask: Tensor) -> tuple[Tensor, Tensor]:
    """A box around each of the `MOST_PEAKS` largest connected regions of a mask, largest first.

    Args:
        mask: bool Tensor[P, H, W].

    Returns:
        boxes: float32 Tensor[Q, 4], xyxy.
        owner: int64 Tensor[Q], the map of each box, ascending.
    """
    from scipy import ndimage  # slow to import, and only this rule needs it

    boxes, owner = [], []
    for p, plane in enumerate(mask.cpu().numpy()):
        regions, count = ndimage.label(plane, structure=[[1, 1, 1]] * 3)
        areas = ndimage.sum_labels(plane, regions, range(1, count + 1))
        slices = ndimage.find_objects(regions)
        for region in sorted(range(count), key=lambda r: -areas[r])[:MOST_PEAKS]:
            rows, columns = slices[region]
            boxes.append([columns.start, rows.start, columns.stop, rows.stop])
            owner.append(p)
    box = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return box.to(mask.device), torch.tensor(owner, dtype=torch.int64, device=mask.device)


TOGETHER = {"cpu": 8}
"""Maps per upsampling call, by device: few enough for a CPU's cache; `MOST_TOGETHER` on other devices."""
MOST_TOGETHER = 128


def cam_boxes(
    cams: Tensor,
    size: tuple[int, int],
    *,
    threshold: float,
    margin: float,
    rule: str,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """Boxes around the strongest response of each map.

    Args:
        cams: Tensor[P, h, w], any range.
        size: (H, W) of the view in pixels.
        threshold: share of the min-max normalised maximum that a pixel must exceed, in (0, 1).
        margin: share of the view's side by which each edge is moved outwards (80 px of 640 in the paper).
        rule: "extent", "corners" (the authors') or "peaks" (see `peak_boxes`).
        epsilon: see `normalise`.

    Returns:
        boxes: float32 Tensor[Q, 4], clipped to the view, at least a pixel wide and high; none for a flat map.
        owner: int64 Tensor[Q], the map of each box, ascending.
    """
    boxes, owner = [torch.zeros(0, 4, device=cams.device)], [torch.zeros(0, dtype=torch.int64, device=cams.device)]
    together = TOGETHER.get(cams.device.type, MOST_TOGETHER)
    for start in range(0, len(cams), together):
        planes = upsample(cams[start : start + together].float(), size)
        if rule == "peaks":
            box, local = peak_boxes(normalise(planes, epsilon) > threshold)
        else:
            box, local = threshold_boxes(planes, threshold, epsilon, corners=rule == "corners")
        boxes.append(box)
        owner.append(local + start)
    boxes = expand_boxes(torch.cat(boxes), size, margin)
    # without a margin, boxes of the rule "corners" may be empty
    empty = (boxes[:, 2:] - boxes[:, :2] < 1).repeat(1, 2) & (torch.arange(4, device=boxes.device) >= 2)
    boxes = torch.where(empty, boxes[:, :2].repeat(1, 2) + 1, boxes)
    return boxes, torch.cat(owner)


def expand_boxes(boxes: Tensor, size: tuple[int, int], margin: float) -> Tensor:
    """Boxes Tensor[Q, 4] with each edge moved outwards by `margin` of the side, clipped to (H, W)."""
    height, width = size
    step = torch.tensor([-width, -height, width, height], device=boxes.device) * margin
    limit = torch.tensor([width, height, width, height], dtype=torch.float32, device=boxes.device)
    return (boxes + step).clamp(min=0).minimum(limit)


def rescale_boxes(boxes: Tensor, size: tuple[int, int], sizes: Tensor) -> Tensor:
    """Boxes from pixels of a square view to pixels of the original images.

    Args:
        boxes: Tensor[Q, 4], xyxy in a view of `size` (H, W).
        size: (H, W) of the view.
        sizes: Tensor[Q, 2], (H, W) of each box's original image.

    Returns:
        float32 Tensor[Q, 4].
    """
    scale = sizes.flip(1).repeat(1, 2) / torch.tensor([size[1], size[0]] * 2, device=sizes.device)
    return boxes * scale
