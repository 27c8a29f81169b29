"""Figures of the multi-label literature from scores and ground truth, all in [0, 1]."""

from typing import Any, Literal

import numpy as np

from pipeline.datasets.dataset import DIFFICULT, UNKNOWN
from pipeline.method.extras.thresholds import PRESENT
from pipeline.method.ranking import average_precision
from pipeline.system.errors import PipelineError

Difficult = Literal["ignore", "negative", "positive"]
"""Value of DIFFICULT in the ground truth. ML-GCN and its successors ignore it; the single-positive literature, with CCD,
counts it as negative, TagCLIP as positive."""

EmptyClass = Literal["skip", "zero"]
"""A class without positives is left out of the means over classes, or 0 in them (single-positive convention)."""

_DIFFICULT_VALUE = {"ignore": UNKNOWN, "negative": 0, "positive": 1}
_IMAGES = 65_536
"""Images per block in steps that need eight bytes for each pair of image and class."""
_BINS = 15
"""Bins of equal width for the calibration error."""


def multilabel_metrics(
    scores: np.ndarray,
    truth: np.ndarray,
    class_names: list[str],
    *,
    difficult: Difficult = "ignore",
    empty_class: EmptyClass = "skip",
    threshold: float | np.ndarray = PRESENT,
) -> dict[str, Any]:
    """All figures of the evaluation, ready for JSON; ignored pairs of image and class never count.

    Args:
        scores: float [N, C], higher for "more likely present"; probabilities if the calibration error matters.
        truth: int8 [N, C]: 1 present, 0 absent, UNKNOWN, or DIFFICULT.
        class_names: C names.
        difficult: value of DIFFICULT; UNKNOWN never counts.
        empty_class: value of a class without positives.
        threshold: lowest score of a present class; one number or [C].

    Returns:
        mAP: mean over classes of the non-interpolated average precision.
        AP: the same by class name; None for a class without positives.
        CP, CR, CF1: precision and recall at `threshold`, averaged over classes, and their harmonic mean.
        OP, OR, OF1: the same over all pairs of image and class at once.
        top3: the same six figures if the three highest scores of each image are the present classes.
        sample_F1: mean over images of the F1 of their decisions; 0 for an image without positives and decisions.
        hit_at_1: share of the images with a positive whose highest score is of a positive.
        calibration_error: mean |confidence - frequency| over 15 bins; None for scores outside [0, 1].
        left_out: names of the classes without positives.
        difficult, empty_class, threshold, images: the conventions and N.

    Raises:
        PipelineError: shapes or values do not fit, or no class has a positive and `empty_class` is "skip".
    """
    _check(scores, truth, class_names)
    truth = apply_difficult(truth, difficult)
    ranking = _ranking(scores, truth, class_names, empty_class)
    empty = np.array([precision is None for precision in ranking["AP"].values()])
    counted = ~empty if empty_class == "skip" else np.ones_like(empty)
    top3 = _top_k(scores, truth, k=3)
    return {
        **ranking,
        **_decision_metrics(scores >= threshold, truth, counted),
        "top3": _decision_metrics(top3, truth, counted),
        "sample_F1": _sample_f1(scores >= threshold, truth),
        "hit_at_1": _hit_at_1(scores, truth),
        "calibration_error": _calibration_error(scores, truth),
        "left_out": [name for name, is_empty in zip(class_names, empty, strict=True) if is_empty],
        "difficult": difficult,
        "empty_class": empty_class,
        "threshold": np.asarray(threshold, dtype=float).tolist(),
        "images": len(truth),
    }


def ranking_metrics(
    scores: np.ndarray,
    truth: np.ndarray,
    class_names: list[str],
    *,
    difficult: Difficult = "ignore",
    empty_class: EmptyClass = "skip",
) -> dict[str, Any]:
    """The mAP and AP of `multilabel_metrics`, which depend on no threshold."""
    _check(scores, truth, class_names)
    return _ranking(scores, apply_difficult(truth, difficult), class_names, empty_class)


def label_metrics(
    labels: np.ndarray,
    truth: np.ndarray,
    class_names: list[str],
    *,
    difficult: Difficult = "ignore",
    empty_class: EmptyClass = "skip",
) -> dict[str, Any]:
    """`multilabel_metrics` of pseudo-labels float [N, C] in [0, 1] at a threshold of 0.5, and figures of soft labels.

    Returns:
        Also label_sum: mean over images of the sum of their labels. positives_per_image: mean number of
        labels from 0.5 on. classes_per_image: mean number of classes present. ties: see `tied_fraction`.
    """
    figures = multilabel_metrics(labels, truth, class_names, difficult=difficult, empty_class=empty_class)
    known = apply_difficult(truth, difficult)
    counts = np.count_nonzero(known >= 0, axis=0)
    return figures | {
        "label_sum": float(labels.sum(axis=1).mean()),
        "positives_per_image": float((labels >= PRESENT).sum(axis=1).mean()),
        # with complete labels the mean number of classes, else estimated from the known pairs of each class
        "classes_per_image": float((np.count_nonzero(known == 1, axis=0) / np.maximum(counts, 1)).sum()),
        "ties": tied_fraction(labels),
    }


def apply_difficult(truth: np.ndarray, difficult: Difficult) -> np.ndarray:
    """Copy of the int8 [N, C] ground truth with another value for DIFFICULT, UNKNOWN for "ignore"."""
    if difficult not in _DIFFICULT_VALUE:
        raise PipelineError(f"difficult is {difficult!r}, expected ignore, negative or positive.")
    return np.where(truth == DIFFICULT, np.int8(_DIFFICULT_VALUE[difficult]), truth)


def mean_average_precision(
    scores: np.ndarray, truth: np.ndarray, *, difficult: Difficult = "ignore", empty_class: EmptyClass = "skip"
) -> float:
    """The mAP of `multilabel_metrics`; NaN if no class counts."""
    return _mean(average_precision(scores, apply_difficult(truth, difficult)), empty_class)


def precision_recall(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision-recall curve of one class: one point per distinct score of a positive, from the highest down.

    Args:
        scores: float [N].
        truth: int8 [N]; negative labels are ignored.

    Returns:
        Recall, strictly rising to 1, and precision, float64 [P] each; empty without positives.
    """
    known = truth >= 0
    order = np.argsort(-scores[known], kind="stable")
    descending, positive = scores[known][order], truth[known][order] == 1
    last_of_ties = np.append(descending[1:] < descending[:-1], True)[: len(order)]
    hits, taken = np.cumsum(positive)[last_of_ties], np.arange(1, len(order) + 1)[last_of_ties]
    rising = np.diff(hits, prepend=0) > 0
    return hits[rising] / max(positive.sum(), 1), hits[rising] / taken[rising]


def tied_fraction(labels: np.ndarray) -> float:
    """Share of the N * C labels that equal another image's label of the same class, so that no ranking separates them."""
    tied = 0
    for column in labels.T:
        counts = np.unique(column, return_counts=True)[1]
        tied += counts[counts > 1].sum()
    return float(tied / labels.size)


def _check(scores: np.ndarray, truth: np.ndarray, class_names: list[str]) -> None:
    if not scores.shape == truth.shape == (len(truth), len(class_names)) or len(truth) == 0:
        raise PipelineError(
            f"scores are {scores.shape}, ground truth is {truth.shape}, expected both "
            f"(images, {len(class_names)}) with at least one image. Rebuild the one of another dataset."
        )
    if not np.isfinite(scores).all():
        raise PipelineError(
            f"{np.count_nonzero(~np.isfinite(scores))} of {scores.size} scores are not finite, expected all. "
            "The training that made them diverged; lower its learning rate."
        )
    # np.isin needs twelve bytes for each pair of image and class
    if not ((truth == 1) | (truth == 0) | (truth == UNKNOWN) | (truth == DIFFICULT)).all():
        raise PipelineError(
            f"ground truth contains {np.unique(truth)[:5].tolist()}, expected only 1, 0, {UNKNOWN} and {DIFFICULT}."
        )


def _decision_metrics(decisions: np.ndarray, truth: np.ndarray, counted: np.ndarray) -> dict[str, float]:
    """CP, CR, CF1, OP, OR, OF1 of bool [N, C] decisions; a class without predictions has precision 0."""
    hits, false, missed = _outcomes(decisions, truth, axis=0)  # [C] each
    class_precision = (hits / np.maximum(hits + false, 1))[counted].mean()
    class_recall = (hits / np.maximum(hits + missed, 1))[counted].mean()
    precision = hits.sum() / max((hits + false).sum(), 1)
    recall = hits.sum() / max((hits + missed).sum(), 1)
    return {
        "CP": float(class_precision),
        "CR": float(class_recall),
        "CF1": _harmonic_mean(float(class_precision), float(class_recall)),
        "OP": float(precision),
        "OR": float(recall),
        "OF1": _harmonic_mean(float(precision), float(recall)),
    }


def _outcomes(decisions: np.ndarray, truth: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of true positives, false positives and false negatives along an axis of [N, C]; ignored pairs count nowhere."""
    pairs = decisions & (truth == 1), decisions & (truth == 0), ~decisions & (truth == 1)
    hits, false, missed = (np.count_nonzero(each, axis=axis) for each in pairs)
    return hits, false, missed


def _harmonic_mean(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b > 0 else 0.0


def _ranking(scores: np.ndarray, truth: np.ndarray, class_names: list[str], empty_class: EmptyClass) -> dict[str, Any]:
    precisions = average_precision(scores, truth)  # [C]
    empty = np.isnan(precisions)
    if empty.all() and empty_class == "skip":
        raise PipelineError(
            f"none of the {len(class_names)} classes is present in the {len(truth)} images, "
            'so there is no mean over classes. Check the labels, or count empty classes as "zero".'
        )
    return {
        "mAP": _mean(precisions, empty_class),
        "AP": {n: None if np.isnan(p) else float(p) for n, p in zip(class_names, precisions, strict=True)},
    }


def _mean(precisions: np.ndarray, empty_class: EmptyClass) -> float:
    """Mean over classes [C]; NaN if none counts."""
    counted = np.nan_to_num(precisions) if empty_class == "zero" else precisions[~np.isnan(precisions)]
    return float(counted.mean()) if len(counted) else float("nan")


def _top_k(scores: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    """The k highest scores per image without ignored pairs, bool [N, C]; of equal scores the earlier class."""
    chosen = np.zeros(scores.shape, dtype=bool)
    for start in range(0, len(scores), _IMAGES):
        rows = slice(start, start + _IMAGES)
        order = np.argsort(-np.where(truth[rows] < 0, -np.inf, scores[rows]), axis=1, kind="stable")[:, :k]
        np.put_along_axis(chosen[rows], order, True, axis=1)
    return chosen


def _sample_f1(decisions: np.ndarray, truth: np.ndarray) -> float:
    hits, false, missed = _outcomes(decisions, truth, axis=1)  # [N] each
    return float((2 * hits / np.maximum(2 * hits + false + missed, 1)).mean())


def _hit_at_1(scores: np.ndarray, truth: np.ndarray) -> float | None:
    """Share of hits; None if no image has a positive."""
    labelled = (truth == 1).any(axis=1)
    hits = truth[_top_k(scores, truth, k=1)] == 1  # [N]
    return float(hits[labelled].mean()) if labelled.any() else None


def _calibration_error(scores: np.ndarray, truth: np.ndarray) -> float | None:
    """Expected calibration error (Naeini et al., AAAI 2015); None for scores outside [0, 1] or without labels."""
    if scores.min() < 0 or scores.max() > 1:
        return None
    excess, pairs = np.zeros(_BINS), 0  # (confidence - frequency) times the pairs of the bin
    for start in range(0, len(scores), _IMAGES):
        known = truth[start : start + _IMAGES] >= 0
        confidence, present = (each[start : start + _IMAGES][known].astype(float) for each in (scores, truth))
        bins = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
        excess += np.bincount(bins, confidence - present, minlength=_BINS)
        pairs += len(bins)
    return float(np.abs(excess).sum() / pairs) if pairs else None
