"""Labels to the images that a person should look at first: where they are unsure, have changed, or are wrong."""

import numpy as np

DOUBTS = 3
"""Doubtful classes of an image that count when images are put in order, and that a person is pointed to."""


def class_uncertainty(labels: np.ndarray) -> np.ndarray:
    """Binary entropy of each label [N, C] in bits: 1 at 0.5, 0 at 0 and 1."""
    inside = np.clip(labels.astype(np.float64), 1e-9, 1 - 1e-9)
    return -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside))


def closeness(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How close scores are to the thresholds that decide about them, float64 [N, C]: 1 at it, 0 at 0 and at 1.

    Args:
        scores: float [N, C] in [0, 1].
        thresholds: float [C]; the way from it to 0 and that to 1 are each taken as a whole, as the scores of a
            classifier with low thresholds lie close together below them.
    """
    scores = scores.astype(np.float64)
    room = np.where(scores < thresholds, thresholds, 1 - thresholds)
    return 1 - np.minimum(np.abs(scores - thresholds) / np.maximum(room, 1e-9), 1)


def ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value over their number, float64 [N] in [0, 1]: 0 for the lowest, equal ones share the lower."""
    return np.searchsorted(np.sort(values), values) / max(len(values), 1)


def change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Largest change of a label over the classes, [N] in [0, 1]; both arguments are [N, C]."""
    return np.abs(after.astype(np.float64) - before).max(axis=1)


def review_values(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How much a person's word on each label would tell, float64 [N, C] in [0, 2]: its doubt and its change.

    Args:
        before: labels [N, C] of one stage.
        after: of the next.
    """
    return class_uncertainty(after) + np.abs(after.astype(np.float64) - before)


def wrong(decisions: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Which decisions, bool [N, C], contradict the ground truth, int8 [N, C] negative where not known."""
    return (decisions != (truth == 1)) & (truth >= 0)


def spread_choice(keys: list[np.ndarray], limit: int, seed: int) -> np.ndarray:
    """Rows to show where there are too many: those that lead by any key, and as many again at random.

    Args:
        keys: arrays [N], larger for more interesting; an array leads in turn with the others.
        limit: most rows to choose.
        seed: of the random half.

    Returns:
        Ascending rows, all of them if N is at most `limit`.
    """
    count = len(keys[0])
    if count <= limit:
        return np.arange(count)
    leading = np.stack([np.argsort(-key, kind="stable") for key in keys], axis=1).ravel()  # best of each key in turn
    first = leading[np.sort(np.unique(leading, return_index=True)[1])][: limit // 2]
    others = np.setdiff1d(np.arange(count), first)
    drawn = np.random.default_rng(seed).choice(others, limit - len(first), replace=False)
    return np.sort(np.concatenate([first, drawn]))
