"""Scores and labels to thresholds of highest F1, one per class."""

from dataclasses import dataclass

import numpy as np

PRESENT = 0.5
"""Default threshold of scores and soft labels."""
NEARLY_ALL, MANY = 0.9, 0.7
"""A class is suspicious if it is predicted in more than NEARLY_ALL of the images and present in less than MANY of them."""


def out_of_fold_thresholds(
    scores: np.ndarray, truth: np.ndarray, folds: int = 5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds of highest F1 on labelled images, and the F1 to expect on unseen images.

    The decisions on each fold use the thresholds that are best on the other folds.

    Args:
        scores: float [N, C] in [0, 1].
        truth: int8 [N, C]: 1 present, 0 absent, negative ignored.
        folds: number of folds, 2 to N.
        seed: seed of the folds.

    Returns:
        Thresholds float64 [C], the mean over folds (PRESENT for a class without positives), and the F1 of
        the out-of-fold decisions, float64 [C] (0 for such a class).
    """
    images, classes = scores.shape
    fold = np.random.default_rng(seed).permutation(images) % folds
    by_fold = np.full((folds, classes), np.nan)
    for index in range(folds):
        rest = fold != index
        by_fold[index] = [best_f1_threshold(scores[rest, c], truth[rest, c]) for c in range(classes)]
    known = ~np.isnan(by_fold)
    thresholds = np.full(classes, PRESENT)
    np.divide(np.nansum(by_fold, axis=0), known.sum(axis=0), out=thresholds, where=known.any(axis=0))
    decisions = scores >= np.where(known, by_fold, PRESENT)[fold]
    return thresholds, class_f1(decisions, truth)


@dataclass(frozen=True)
class NewThresholds:
    """Thresholds of C classes from labelled images; a class keeps its old one unless a new one is better."""

    thresholds: np.ndarray
    """float64 [C]."""
    kept: np.ndarray
    """bool [C], True where the threshold is the old one."""
    f1_before: np.ndarray
    """float64 [C], F1 of the old thresholds."""
    f1_expected: np.ndarray
    """float64 [C], F1 to expect on unseen images."""


def better_thresholds(
    scores: np.ndarray, truth: np.ndarray, old: np.ndarray, folds: int = 5, seed: int = 0
) -> NewThresholds:
    """Thresholds of `out_of_fold_thresholds`; a class keeps its old threshold unless the out-of-fold F1 is higher.

    Args:
        scores: float [N, C] in [0, 1].
        truth: int8 [N, C]: 1 present, 0 absent, negative ignored.
        old: float [C], old thresholds.
        folds: number of folds, 2 to N.
        seed: seed of the folds.
    """
    new, expected = out_of_fold_thresholds(scores, truth, folds, seed)
    before = class_f1(scores >= old, truth)
    kept = expected <= before
    return NewThresholds(np.where(kept, old, new), kept, before, np.where(kept, before, expected))


def predicted_nearly_everywhere(decisions: np.ndarray, truth: np.ndarray | None) -> np.ndarray:
    """Classes predicted in nearly every image although far fewer images show them, bool [C].

    Args:
        decisions: bool [N, C].
        truth: int8 [N, C], negative ignored; None: only the decisions count.
    """
    shares = decisions.mean(axis=0) if len(decisions) else np.zeros(decisions.shape[1])
    if truth is None:
        return shares > NEARLY_ALL
    known = np.maximum((truth >= 0).sum(axis=0), 1)
    return (shares > NEARLY_ALL) & ((truth == 1).sum(axis=0) < MANY * known)


def best_f1_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """Threshold of highest F1 for one class.

    Args:
        scores: float [N] in [0, 1].
        truth: int8 [N], negative ignored.

    Returns:
        The middle between the lowest score at or above it and the highest score below it (or 0). Of several best
        thresholds the highest; NaN without positives.
    """
    known = truth >= 0
    order = np.argsort(-scores[known], kind="stable")
    descending, positive = scores[known][order], truth[known][order] == 1
    if not positive.any():
        return float("nan")
    following = np.append(descending[1:], 0.0)
    f1 = 2 * np.cumsum(positive) / (np.arange(1, len(order) + 1) + positive.sum())
    cuts = np.append(descending[1:] < descending[:-1], True)  # no threshold separates equal scores
    best = np.argmax(np.where(cuts, f1, -1))
    return float((descending[best] + following[best]) / 2)


def class_f1(decisions: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """F1 of each class, float64 [C], of bool decisions [N, C]; 0 for a class that is neither present nor predicted."""
    hits = (decisions & (truth == 1)).sum(axis=0)
    total = (decisions & (truth >= 0)).sum(axis=0) + (truth == 1).sum(axis=0)
    return np.divide(2 * hits, total, out=np.zeros(len(total)), where=total > 0)
