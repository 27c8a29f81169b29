"""Average precision of scores."""

import numpy as np


def average_precision(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Non-interpolated AP of each class, float64 [C]; NaN for one without positives; negative labels are ignored."""
    return np.array([_average_precision(*column) for column in zip(scores.T, truth.T, strict=True)])


def _average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """AP of one class from scores [N] and int8 [N]: mean over positives of the precision at their score."""
    losses, positives = np.sort(-scores[truth >= 0]), np.sort(-scores[truth == 1])
    found, seen = (np.searchsorted(among, positives, side="right") for among in (positives, losses))
    return float((found / seen).mean()) if len(positives) else float("nan")
