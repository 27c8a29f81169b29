"""An affine map of each class's logits, fitted without ground truth, after which a score of 0.5 means what it says.

What a classifier is trained on is sharpened and smoothed, so that its scores rank the photos of a class well and lie far
below 0.5. The map keeps that order. It is Platt's (1999) but for its threshold: labels that were made by a program are too
low where the teacher overlooks a class, and Platt's threshold is then too high, so what the logits themselves say of the
photos without the class has a word too.
"""

import numpy as np

SPREADS = 5.0
"""A class is called present from this many spreads above the bulk of the photos on, at the latest."""
MOST_CALLED = 1.5
"""That rule calls at most this many times as many photos as the labels say: a rare class has no bulk to speak of."""
STEEPER = 1.5
"""The slope over that of the labels, which are less decided than the truth."""
RESOLUTION = 1e-4
"""Logits of a class that differ by this share of their standard deviation get different float32 scores."""
SLOPES = (0.3, 60.0)
"""Range in which the slope of the labels is looked for."""


def fit_calibration(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map of each class; the calibrated score is sigmoid(scale * logit + offset).

    Args:
        logits: float [N, C] of the train images.
        labels: float [N, C] in [0, 1], their soft labels as they are before they are sharpened.

    Returns:
        scale and offset, float64 [C] each; scale is positive.
    """
    lowest = labels.min(axis=0, initial=1)
    shares = (labels - lowest) / np.maximum(1 - lowest, 1e-9)  # what a floor says of a class's absence is taken away
    fitted = [_fit_class(z, y) for z, y in zip(logits.T.astype(np.float64), shares.T.astype(np.float64), strict=True)]
    scale, threshold = np.array(fitted).reshape(-1, 2).T
    return scale, -scale * threshold


def _fit_class(z: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and threshold of logits [N] and labels [N]."""
    if len(z) == 0 or z.min() == z.max():
        return 1.0, float(z[0] - _logit(y.mean())) if len(z) else 0.0
    mode, spread = _bulk(z)
    threshold = min(_even_odds(z, y), max(mode + SPREADS * spread, _rank(z, MOST_CALLED * y.sum())))
    x = z - threshold
    return _order_keeping_scale(STEEPER * _slope(x, y), float(x.max()), float(z.std())), threshold


def _order_keeping_scale(scale: float, largest: float, deviation: float) -> float:
    """The scale, lowered until float32 scores near 1 still tell logits apart.

    Below 1, float32 numbers are 2^-24 apart, and the sigmoid's slope at a logit u > 0 is about exp(-u). So a difference d
    in calibrated logits shows at the largest one if d * exp(-u) >= 2^-24, here with d = scale * RESOLUTION * deviation.

    Args:
        scale: positive.
        largest: the largest logit, counted from the threshold; not above 0 if every score is below 0.5.
        deviation: standard deviation of the logits.
    """

    def keeps_order(k: float) -> bool:
        return np.log(k * RESOLUTION * deviation) - k * max(largest, 0.0) >= -24 * np.log(2)

    low = 1 / max(largest, 1 / scale)  # of all scales up to `scale`, the best for the order
    if keeps_order(scale):
        return scale
    if not keeps_order(low):
        return low
    high = scale
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps_order(middle) else (low, middle)
    return low


def _logit(share: float) -> float:
    share = float(np.clip(share, 1e-3, 1 - 1e-3))
    return float(np.log(share / (1 - share)))


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(z, -40, 40)))


def _bulk(z: np.ndarray) -> tuple[float, float]:
    """Mode of the photos without the class, and how far they spread below it, where no photo with it lies.

    The mode is the median of the shortest interval that holds a quarter of the photos.
    """
    ordered = np.sort(z)
    width = max(len(z) // 4, 1)
    first = int(np.argmin(ordered[width:] - ordered[:-width]))
    mode = float(np.median(ordered[first : first + width + 1]))
    return mode, float(np.sqrt(np.mean((ordered[ordered <= mode] - mode) ** 2)))


def _rank(z: np.ndarray, count: float) -> float:
    """The logit that about `count` photos reach."""
    return float(np.sort(z)[::-1][min(int(count), len(z) - 1)])


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """The k of SLOPES whose sigmoid(k x) has the least cross-entropy to y; that is convex in k, so its slope is halved in."""
    low, high = np.log(SLOPES)
    for _ in range(20):
        middle = (low + high) / 2
        rises = np.mean(x * (_sigmoid(np.exp(middle) * x) - y)) > 0
        low, high = (low, middle) if rises else (middle, high)
    return float(np.exp((low + high) / 2))


def _even_odds(z: np.ndarray, y: np.ndarray) -> float:
    """Logit at which a logistic regression of the labels gives 0.5 (Platt); infinite where it does not rise."""
    slope, offset = platt(z, y)
    return -offset / slope if slope > 0 else np.inf


def platt(z: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the logistic regression sigmoid(slope * z + offset) of y in [0, 1] (Platt, 1999).

    Args:
        z: float64 [N], not all equal.
        y: float64 [N].
    """
    mean, spread = z.mean(), z.std()
    x = (z - mean) / spread
    found = np.array([1.0, _logit(y.mean())])
    for _ in range(60):  # Newton's method
        p = _sigmoid(found[0] * x + found[1])
        w = p * (1 - p)
        gradient = np.array([((p - y) * x).mean(), (p - y).mean()])
        mixed = (w * x).mean()
        hessian = np.array([[(w * x * x).mean(), mixed], [mixed, w.mean()]]) + 1e-4 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        step *= min(1.0, 2 / max(np.abs(step).max(), 1e-12))  # a first step from afar must not overshoot
        found -= step
        if np.abs(step).max() < 1e-10:
            break
    slope = found[0] / spread
    return float(slope), float(found[1] - slope * mean)


def platt_scores(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Scores float64 [N, C] whose every class is a logistic regression of its labels.

    Args:
        logits: float [N, C].
        labels: float [N, C] in [0, 1].
    """
    scores = np.empty(logits.shape)
    for c, (z, y) in enumerate(zip(logits.T.astype(np.float64), labels.T.astype(np.float64), strict=True)):
        slope, offset = platt(z, y) if len(z) and z.min() < z.max() else (0.0, _logit(y.mean()) if len(y) else 0.0)
        scores[:, c] = _sigmoid(slope * z + offset)
    return scores
