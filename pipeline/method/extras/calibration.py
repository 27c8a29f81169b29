"""An affine map of the logits of each class, fitted without ground truth; calibrated scores separate present from absent at 0.5.

The targets of the training are sharpened and smoothed, so a classifier ranks photos well but scores them far below 0.5. The
map keeps the ranking. It is Platt's (1999) with another threshold. Pseudo-labels are too low where the teacher overlooks a
class, and Platt's threshold is then too high. The logits of the photos without the class give an upper limit for it.
"""

from collections.abc import Callable

import numpy as np

SPREADS = 5.0
"""The threshold is at most this many spreads above the bulk of the photos."""
MAX_PREDICTED = 1.5
"""That limit predicts at most this many times as many photos as the labels: a rare class has no clear bulk."""
STEEPER = 1.5
"""Factor on the slope that fits the labels, which are less decided than the truth."""
RESOLUTION = 1e-4
"""Logits of a class that differ by this share of their standard deviation get different float32 scores."""
SURE = 0.999
"""Probability of the largest logit that is expected for a class that no train photo has."""
SLOPES = (0.3, 60.0)
"""Range of the slope that fits the labels."""


def fit_calibration(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map of each class; the calibrated score is sigmoid(scale * logit + offset).

    Args:
        logits: float [N, C] of the train images.
        labels: float [N, C] in [0, 1], their soft labels before sharpening.

    Returns:
        scale and offset, float64 [C] each; scale is positive.
    """
    lowest = labels.min(axis=0, initial=1)
    shares = (labels - lowest) / np.maximum(
        1 - lowest, 1e-9
    )  # a floor that all labels of a class share carries no information
    fitted = [_fit_class(z, y) for z, y in zip(logits.T.astype(np.float64), shares.T.astype(np.float64), strict=True)]
    scale, threshold = np.array(fitted).reshape(-1, 2).T
    return scale, -scale * threshold


def _fit_class(z: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and threshold of logits [N] and labels [N]."""
    if len(z) == 0 or z.min() == z.max():
        return 1.0, float(z[0] - _logit(y.mean())) if len(z) else 0.0
    mode, spread = _bulk(z)
    limit = max(mode + SPREADS * spread, _logit_at_rank(z, MAX_PREDICTED * y.sum()))
    slope, offset = platt(z, y)
    threshold = min(-offset / slope, limit) if slope > 0 else limit
    x = z - threshold
    largest = float(x.max())
    if slope > 0 and (y < 0.5).all():
        # new photos with the class have far larger logits than those without it
        largest = max(largest, (_logit(SURE) - offset) / slope - threshold)
    return _order_keeping_scale(STEEPER * _slope(x, y), largest, float(z.std())), threshold


def _order_keeping_scale(scale: float, largest: float, deviation: float) -> float:
    """The scale, lowered until float32 scores near 1 still separate the logits.

    Below 1, float32 numbers are 2^-24 apart, and the slope of the sigmoid at a logit u > 0 is about exp(-u). A difference d
    in calibrated logits is visible at the largest one if d * exp(-u) >= 2^-24, here with d = scale * RESOLUTION * deviation.

    Args:
        scale: positive.
        largest: the largest logit minus the threshold; at most 0 if every score is below 0.5.
        deviation: standard deviation of the logits.
    """

    def keeps_order(k: float) -> bool:
        return np.log(k * RESOLUTION * deviation) - k * max(largest, 0.0) >= -24 * np.log(2)

    low = 1 / max(largest, 1 / scale)  # of all scales up to `scale`, the best for the order
    if keeps_order(scale):
        return scale
    if not keeps_order(low):
        return low
    return _bisect(keeps_order, low, scale, 60)[0]


def _bisect(holds: Callable[[float], bool], low: float, high: float, steps: int) -> tuple[float, float]:
    """An interval that contains the point up to which `holds` is true."""
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low, high


def _logit(share: float) -> float:
    share = float(np.clip(share, 1e-3, 1 - 1e-3))
    return float(np.log(share / (1 - share)))


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(z, -40, 40)))


def _bulk(z: np.ndarray) -> tuple[float, float]:
    """Mode of the logits of photos without the class, and their spread below it, where no photo with the class is.

    The mode is the median of the shortest interval that contains a quarter of the photos.
    """
    ordered = np.sort(z)
    width = max(len(z) // 4, 1)
    first = int(np.argmin(ordered[width:] - ordered[:-width]))
    mode = float(np.median(ordered[first : first + width + 1]))
    return mode, float(np.sqrt(np.mean((ordered[ordered <= mode] - mode) ** 2)))


def _logit_at_rank(z: np.ndarray, count: float) -> float:
    """The logit that about `count` photos reach."""
    return float(np.sort(z)[::-1][min(int(count), len(z) - 1)])


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """The k in SLOPES that minimises the cross-entropy of sigmoid(k x) to y; bisection on the derivative, as the loss is convex."""
    low, high = np.log(SLOPES)
    low, high = _bisect(lambda k: not np.mean(x * (_sigmoid(np.exp(k) * x) - y)) > 0, low, high, 20)
    return float(np.exp((low + high) / 2))


def platt(z: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the logistic regression sigmoid(slope * z + offset) of y in [0, 1] (Platt, 1999).

    Args:
        z: float64 [N], not all equal.
        y: float64 [N].
    """
    mean, spread = z.mean(), z.std()
    x = (z - mean) / spread
    parameters = np.array([1.0, _logit(y.mean())])
    for _ in range(60):  # Newton's method
        p = _sigmoid(parameters[0] * x + parameters[1])
        w = p * (1 - p)
        gradient = np.array([((p - y) * x).mean(), (p - y).mean()])
        mixed = (w * x).mean()
        hessian = np.array([[(w * x * x).mean(), mixed], [mixed, w.mean()]]) + 1e-4 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        step *= min(1.0, 2 / max(np.abs(step).max(), 1e-12))  # so that no step overshoots
        parameters -= step
        if np.abs(step).max() < 1e-10:
            break
    slope = parameters[0] / spread
    return float(slope), float(parameters[1] - slope * mean)


def platt_scores(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Scores float64 [N, C]: per class a logistic regression of its labels.

    Args:
        logits: float [N, C].
        labels: float [N, C] in [0, 1].
    """
    scores = np.empty(logits.shape)
    for c, (z, y) in enumerate(zip(logits.T.astype(np.float64), labels.T.astype(np.float64), strict=True)):
        slope, offset = platt(z, y) if len(z) and z.min() < z.max() else (0.0, _logit(y.mean()) if len(y) else 0.0)
        scores[:, c] = _sigmoid(slope * z + offset)
    return scores
