"""Pseudo-labels as pure functions of arrays: bias, debiasing, local scores, fusion, corrections.

N images, C classes, M crops. Equations and settings: CCD (Kim & Shim, CVPR 2025, arXiv 2503.16873).
"""

import math

import numpy as np

BLOCK = 65_536
"""Crops per block; bounds the memory for intermediate results."""


def confident_images(entropies: np.ndarray, class_count: int, limit: float) -> np.ndarray:
    """Whether the teacher is confident about each image: its entropy is at most `limit` times log C.

    The authors' code uses 2 nats for every C; 0.668 of log C is the same at C = 20.

    Args:
        entropies: float [N], nats.
        class_count: C, with the background classes; at least 2.
        limit: share of the largest possible entropy, in (0, 1].

    Returns:
        bool [N].
    """
    return entropies <= limit * math.log(class_count)


def class_bias(
    probabilities: np.ndarray, confident: np.ndarray, shrinkage: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Mean probability of each class over the confident images where it is top-1.

    A class that is never top-1 has no mean and gets the mean bias of the other classes. Without any confident image,
    every bias is 1, which leaves the scores unchanged.

    Args:
        probabilities: float32 [N, C].
        confident: bool [N].
        shrinkage: pseudo-counts that pull each bias toward the mean of all; 0 is the paper's.

    Returns:
        bias: float32 [C], in (0, 1].
        counts: int64 [C], confident images where the class is top-1; 0 marks a substituted bias.
    """
    class_count = probabilities.shape[1]
    top_class, highest = probabilities.argmax(axis=1)[confident], probabilities.max(axis=1)[confident]
    counts = np.bincount(top_class, minlength=class_count)
    # float64: a sum over 80,000 images must not depend on their order in the sixth digit
    sums = np.bincount(top_class, weights=highest.astype(np.float64), minlength=class_count)
    seen = counts > 0
    if not seen.any():
        return np.ones(class_count, np.float32), counts
    mean_bias = (sums[seen] / counts[seen]).mean()
    weight = np.maximum(counts + shrinkage, 1e-12)
    return np.where(seen, (sums + shrinkage * mean_bias) / weight, mean_bias).astype(np.float32), counts


def debias(scores: np.ndarray, bias: np.ndarray | None, floor_share: float = 0.0) -> np.ndarray:
    """max(scores, d) / bias, not clamped: may exceed 1.

    The floor d comes before the division, as in the authors' code.

    Args:
        scores: float32 [N, C], probabilities.
        bias: float32 [C], positive; None divides by nothing.
        floor_share: d in units of 1/C (1/2 for a single class): 1 is the authors' 1/20 for VOC and 1/80 for COCO; 0 for no floor.

    Returns:
        float32 [N, C].
    """
    floored = np.maximum(scores, np.float32(floor_share / max(scores.shape[1], 2)))
    return floored if bias is None else floored / bias


def clamp_labels(scores: np.ndarray) -> np.ndarray:
    """Scores clamped to [0, 1]. Clamping creates ties at 1, so artifacts keep the scores next to the labels."""
    return scores.clip(0, 1)


def match_values(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values of each class, in the order of its scores: the image with the k-th highest score gets the k-th highest value.

    Images with the same score share the mean of their values.

    Args:
        scores: float32 [N, C], which rank the images of each class.
        values: float32 [N, C].

    Returns:
        float32 [N, C].
    """
    matched = np.empty_like(values)
    for ranked, given, column in zip(scores.T, values.T, matched.T, strict=True):
        _, place, count = np.unique(ranked, return_inverse=True, return_counts=True)
        ascending = np.concatenate([[0.0], np.sort(given).astype(np.float64).cumsum()])
        ends = count.cumsum()
        means = (ascending[ends] - ascending[ends - count]) / count
        # single values stay exact; a difference of sums does not
        single = count[place] == 1
        column[:] = means[place]
        column[single] = np.sort(given)[ends[place][single] - 1]
    return matched


def local_scores(
    probabilities: np.ndarray,
    image_index: np.ndarray,
    image_count: int,
    crop_class: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Per image and class, the maximum over the crops of the image that count for the class.

    Args:
        probabilities: float32 [M, C], one row per crop.
        image_index: int64 [M], the image of each crop, in [0, N).
        image_count: N.
        crop_class: int64 [M], the only class that each crop counts for, -1 for all classes; None: all crops count for all (the paper).

    Returns:
        local: float32 [N, C]; 0 where no crop counts.
        counts: uint16 [N, C], crops that count.
    """
    classes = np.arange(probabilities.shape[1])
    counts = np.zeros((image_count, len(classes)), dtype=np.uint16)
    local = np.zeros((image_count, len(classes)), dtype=np.float32)
    for start in range(0, len(probabilities), BLOCK):
        rows = slice(start, start + BLOCK)
        counted = np.ones(probabilities[rows].shape, dtype=bool)
        if crop_class is not None:
            own_class = crop_class[rows, None]
            counted = (own_class == classes) | (own_class < 0)
        np.add.at(counts, image_index[rows], counted)
        np.maximum.at(local, image_index[rows], np.where(counted, probabilities[rows], np.float32(0)))
    return local, counts


def fuse_scores(initial: np.ndarray, local: np.ndarray, has_crops: np.ndarray, ratio: float) -> np.ndarray:
    """Return ratio * initial + (1 - ratio) * local where crops count, else initial; not clamped.

    For an image without boxes, the authors' code returns ratio * initial, which nearly erases it.

    Args:
        initial: float32 [N, C].
        local: float32 [N, C].
        has_crops: bool [N, C], or one bool for all.
        ratio: r, weight of the initial scores, in [0, 1].

    Returns:
        float32 [N, C].
    """
    return np.where(has_crops, np.float32(ratio) * initial + np.float32(1 - ratio) * local, initial)


def correct(values: np.ndarray, corrections: np.ndarray) -> np.ndarray:
    """Labels or scores with a person's corrections: 0 for absent, the highest value of the class for present.

    A label of a present class becomes 1. A score may exceed 1 and becomes at least 1, so corrected images rank first.

    Args:
        values: float32 [N, C], non-negative.
        corrections: int8 [N, C]: 1 present, 0 absent, -1 not corrected.
    """
    highest = np.maximum(values.max(axis=0, initial=0), np.float32(1))
    return np.where(corrections < 0, values, corrections * highest)
