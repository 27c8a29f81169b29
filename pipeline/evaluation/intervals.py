"""95 % intervals of the mAP, and of the difference between two mAPs on the same images.

The interval is for the mAP that the same classifier would have on very many such images. It comes from the jackknife,
which leaves out one image at a time (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 10 and 11).
The mean change estimates the bias of an average precision of few positives; the spread of the changes is the standard
error. A percentile bootstrap misses the mAP of few positives, because a positive that is drawn twice has a higher
precision. `tests/benchmarks/README.md` shows the share of simulated intervals that contain the true mAP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from pipeline.evaluation.metrics import Difficult, EmptyClass, apply_difficult

TAIL = 0.025
"""Share of the intervals above the true value, and the same below: 95 % contain it."""
FEWEST_IMAGES = 3.0
"""The spread has no estimate if fewer images than this determine it."""
LONE_SHARE = 0.05
"""Largest share of classes with a single positive, whose average precision varies by an unknown amount."""
LARGEST_SHIFT = 1.25
"""Largest correction of the bias, in standard errors; beyond it the remaining bias is too large as well."""


@dataclass(frozen=True)
class Interval:
    """A 95 % interval, or the reason for having none."""

    low: float | None
    high: float | None
    why_none: str = ""

    def edges(self) -> tuple[float, float]:
        """Both ends; NaN without interval."""
        return (np.nan, np.nan) if self.low is None or self.high is None else (self.low, self.high)

    def figures(self) -> dict[str, Any]:
        """The entries of `metrics.json`."""
        if self.low is None:
            return {"no_interval": self.why_none}
        return {"mAP_interval": [self.low, self.high]}


@dataclass(frozen=True)
class LeaveOneOut:
    """An mAP, or a sum of mAPs on the same images, and how it changes without each image."""

    value: float
    changes: np.ndarray
    """float64 [N], the value without the image minus the value."""
    lone: int
    """Classes with a single positive."""
    classes: int
    """Classes with a positive."""


def leave_one_out(
    scores: np.ndarray, truth: np.ndarray, *, difficult: Difficult = "ignore", empty_class: EmptyClass = "skip"
) -> LeaveOneOut:
    """The mAP of `multilabel_metrics` and its change without each image.

    A class keeps its value if its only positive is left out. For the arguments see `multilabel_metrics`.
    """
    truth = apply_difficult(truth, difficult)
    positives = np.count_nonzero(truth == 1, axis=0)  # [C]
    total, changes = 0.0, np.zeros(len(truth))
    for c in np.flatnonzero(positives):
        known = np.flatnonzero(truth[:, c] >= 0)
        order = known[np.argsort(-scores[known, c])]
        value, class_changes = _class_changes(scores[order, c], truth[order, c] == 1)
        total += value
        changes[order] += class_changes
    classes = int((positives > 0).sum())
    counted = truth.shape[1] if empty_class == "zero" else max(classes, 1)
    return LeaveOneOut(total / counted, changes / counted, int((positives == 1).sum()), classes)


def map_interval(jackknife: LeaveOneOut) -> Interval:
    """95 % interval of an mAP, computed on its logit, so that it stays in [0, 1]."""
    spread = _spread(jackknife)
    if isinstance(spread, str):
        return Interval(None, None, spread)
    centre, half = spread
    if not 0 < centre < 1:
        return Interval(None, None, "too few images decide it")
    logit, slope = np.log(centre / (1 - centre)), 1 / (centre * (1 - centre))
    low, high = 1 / (1 + np.exp(-(logit + np.array([-half, half]) * slope)))
    return Interval(float(low), float(high))


def gain_interval(before: Sequence[LeaveOneOut], after: Sequence[LeaveOneOut]) -> Interval:
    """95 % interval of the mean mAP of `after` minus that of `before`, on the same images.

    If 0 is outside, the choice of test images does not explain the difference.
    """
    signed = [(-1 / len(before), each) for each in before] + [(1 / len(after), each) for each in after]
    spread = _spread(
        LeaveOneOut(
            sum(sign * each.value for sign, each in signed),
            np.sum([sign * each.changes for sign, each in signed], axis=0),
            max(each.lone for _, each in signed),
            max(each.classes for _, each in signed),
        )
    )
    if isinstance(spread, str):
        return Interval(None, None, spread)
    centre, half = spread
    return Interval(max(centre - half, -1.0), min(centre + half, 1.0))


def scores_gain_interval(
    before: Sequence[np.ndarray], after: Sequence[np.ndarray], truth: np.ndarray, **conventions: Any
) -> Interval:
    """`gain_interval` of sets of scores, float [N, C] each; equal sets differ by 0 with certainty.

    Args:
        before: sets of scores, one per seed.
        after: sets of scores to compare with them.
        truth: int8 [N, C].
        conventions: `difficult` and `empty_class`, see `leave_one_out`.
    """
    if np.array_equal(before, after):
        return Interval(0.0, 0.0)
    return gain_interval(
        *([leave_one_out(scores, truth, **conventions) for scores in sets] for sets in (before, after))
    )


def student_quantile(freedom: float) -> float:
    """The 97.5 % quantile of Student's t distribution with `freedom` degrees, at least 3; 0.1 % too small at 3.

    Abramowitz & Stegun, 26.7.5. The import of scipy takes longer than all intervals of a run.
    """
    z = NormalDist().inv_cdf(1 - TAIL)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def _spread(jackknife: LeaveOneOut) -> tuple[float, float] | str:
    """Middle and half the width of the interval, or the reason for having none."""
    changes = jackknife.changes
    count = len(changes)
    squares = (changes - changes.mean()) ** 2 if count else np.zeros(0)
    images = squares.sum() ** 2 / (squares**2).sum() if squares.any() else 0.0  # that determine the spread
    if images < FEWEST_IMAGES:
        return "too few images decide it"
    if jackknife.lone > LONE_SHARE * jackknife.classes:
        return f"{jackknife.lone} of {jackknife.classes} classes are in a single image"
    shift = -(count - 1) * changes.mean()
    error = np.sqrt((count - 1) / count * squares.sum())
    if abs(shift) > LARGEST_SHIFT * error:
        return "too few images show each class"
    return jackknife.value + shift, student_quantile(images) * float(error)


def _class_changes(scores: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
    """Average precision of one class, and its change without each image, float64 [N].

    Args:
        scores: float [N], descending.
        positive: bool [N], at least one.
    """
    places = np.flatnonzero(positive)
    count = len(places)
    starts = np.flatnonzero(np.append(True, scores[1:] < scores[:-1]))  # of the groups of equal scores
    sizes = np.diff(np.append(starts, len(scores)))
    first_positive = np.repeat(np.searchsorted(places, starts), sizes)  # [N], the first that is not above the image
    ends = starts + sizes
    seen = ends[np.searchsorted(ends, places, side="right")]  # [P]: equal scores enter together
    taken = np.searchsorted(places, seen)
    precision = taken / seen
    fewer = np.maximum(seen - 1, 1)
    above, without_absent, without_present = (
        np.append(0.0, np.cumsum(each)) for each in (precision, taken / fewer, (taken - 1) / fewer)
    )
    value = above[-1] / count
    changes = (above - without_absent + without_absent[-1])[first_positive] / count - value
    if count == 1:
        changes[places] = 0.0
    else:
        own = first_positive[places]
        rest = above[own] + without_present[-1] - without_present[own] - np.diff(without_present)
        changes[places] = rest / (count - 1) - value
    return float(value), changes
