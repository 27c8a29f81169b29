"""Labels and scores to the images that a person should see first: the uncertain, changed and wrong ones."""

import numpy as np

TOP_UNCERTAIN = 3
"""Number of uncertain classes per image that decide its place in the queue, and that the review page names."""


def class_uncertainty(labels: np.ndarray) -> np.ndarray:
    """Binary entropy of each label [N, C] in bits: 1 at 0.5, 0 at 0 and 1."""
    inside = np.clip(labels.astype(np.float64), 1e-9, 1 - 1e-9)
    return -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside))


def closeness(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Closeness of each score to the threshold of its class, float64 [N, C]: 1 at the threshold, 0 at scores 0 and 1.

    Args:
        scores: float [N, C] in [0, 1].
        thresholds: float [C]. Distances below and above a threshold are scaled separately, because the scores below a
            low threshold are close together.
    """
    scores = scores.astype(np.float64)
    room = np.where(scores < thresholds, thresholds, 1 - thresholds)
    return 1 - np.minimum(np.abs(scores - thresholds) / np.maximum(room, 1e-9), 1)


def ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value divided by N, float64 [N] in [0, 1]: 0 for the lowest; equal values share the lower rank."""
    return np.searchsorted(np.sort(values), values) / max(len(values), 1)


def change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Largest change of a label over the classes, [N] in [0, 1]; both arguments are [N, C]."""
    return np.abs(after.astype(np.float64) - before).max(axis=1)


def review_values(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Value of a correction of each label, float64 [N, C] in [0, 2]: the uncertainty after a stage plus the change by it."""
    return class_uncertainty(after) + np.abs(after.astype(np.float64) - before)


def wrong(decisions: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Decisions, bool [N, C], that contradict the ground truth, int8 [N, C] with negative values for unknown."""
    return (decisions != (truth == 1)) & (truth >= 0)


def spread_choice(keys: list[np.ndarray], limit: int, seed: int) -> np.ndarray:
    """A selection of rows: half have the highest values of the keys, half are drawn at random.

    Args:
        keys: arrays [N], which take turns in selecting the row with the next highest value.
        limit: maximum number of rows.
        seed: seed of the random half.

    Returns:
        Ascending rows; all rows if N is at most `limit`.
    """
    count = len(keys[0])
    if count <= limit:
        return np.arange(count)
    leading = np.stack([np.argsort(-key, kind="stable") for key in keys], axis=1).ravel()  # best of each key in turn
    first = leading[np.sort(np.unique(leading, return_index=True)[1])][: limit // 2]
    rest = np.setdiff1d(np.arange(count), first)
    drawn = np.random.default_rng(seed).choice(rest, limit - len(first), replace=False)
    return np.sort(np.concatenate([first, drawn]))
