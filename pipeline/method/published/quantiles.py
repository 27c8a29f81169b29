"""Scores without a scale to training labels: the distribution of reference labels, in the order of the scores."""

import numpy as np


def match_quantiles(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """For each class, the reference values, given to the photos in the order of their scores.

    A class keeps the distribution of its reference labels, so only the ranking of the photos differs. Equal scores get the
    mean of their values. No label of a person and no constant is involved.

    Args:
        scores: float [N, C], finite.
        reference: float32 [N, C], labels of the same photos.

    Returns:
        float32 [N, C].
    """
    matched = np.empty_like(reference)
    for c, values in enumerate(np.sort(reference, axis=0).T.astype(np.float64)):
        _, group, counts = np.unique(scores[:, c], return_inverse=True, return_counts=True)
        starts = np.cumsum(counts) - counts
        matched[:, c] = (np.add.reduceat(values, starts) / counts)[group]
    return matched
