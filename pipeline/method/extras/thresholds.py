"""Scores and labels to per-class thresholds of highest F1."""

from dataclasses import dataclass

import numpy as np

PRESENT = 0.5
"""A score or soft label from here on says "present" where nothing better is known."""
NEARLY_ALL, MANY = 0.9, 0.7
"""A class that is predicted in more than the first share of the images is suspicious unless the second share shows it."""


def out_of_fold_thresholds(
    scores: np.ndarray, truth: np.ndarray, folds: int = 5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds of highest F1 on labelled images, and the F1 that unseen images can expect of them.

    Each fold is decided by the thresholds that are best on the others.

    Args:
        scores: float [N, C] in [0, 1].
        truth: int8 [N, C]: 1 present, 0 absent, negative ignored.
        folds: number of parts, at least 2 and at most N.
        seed: of the parts.

    Returns:
        Thresholds float64 [C], the mean over folds (PRESENT for a class without positives), and the F1 of
        the out-of-fold decisions, float64 [C] (0 for such a class).
    """
    images, classes = scores.shape
    fold = np.random.default_rng(seed).permutation(images) % folds
    by_fold = np.full((folds, classes), np.nan)
    for index in range(folds):
        others = fold != index
        by_fold[index] = [best_f1_threshold(scores[others, c], truth[others, c]) for c in range(classes)]
    found = ~np.isnan(by_fold)
    thresholds = np.full(classes, PRESENT)
    np.divide(np.nansum(by_fold, axis=0), found.sum(axis=0), out=thresholds, where=found.any(axis=0))
    decisions = scores >= np.where(found, by_fold, PRESENT)[fold]
    return thresholds, class_f1(decisions, truth)


@dataclass(frozen=True)
class NewThresholds:
    """Thresholds of C classes from labelled images, no worse than those that there were before."""

    thresholds: np.ndarray
    """float64 [C]."""
    kept: np.ndarray
    """bool [C], whether the threshold is the old one."""
    f1_before: np.ndarray
    """float64 [C], of the old thresholds."""
    f1_expected: np.ndarray
    """float64 [C], that unseen images can expect."""


def better_thresholds(
    scores: np.ndarray, truth: np.ndarray, old: np.ndarray, folds: int = 5, seed: int = 0
) -> NewThresholds:
    """Thresholds as of `out_of_fold_thresholds`; the old one where the new F1 is not higher out of fold.

    Args:
        scores: float [N, C] in [0, 1].
        truth: int8 [N, C]: 1 present, 0 absent, negative ignored.
        old: float [C].
        folds: number of parts, at least 2 and at most N.
        seed: of the parts.
    """
    found, expected = out_of_fold_thresholds(scores, truth, folds, seed)
    before = class_f1(scores >= old, truth)
    kept = expected <= before
    return NewThresholds(np.where(kept, old, found), kept, before, np.where(kept, before, expected))


def predicted_nearly_everywhere(decisions: np.ndarray, truth: np.ndarray | None) -> np.ndarray:
    """Classes that nearly every image is predicted to show, though far from every image shows them, bool [C].

    Args:
        decisions: bool [N, C].
        truth: int8 [N, C], negative ignored; None where nothing is known, so that only the decisions count.
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
        Halfway between the lowest score that it takes in and the highest that it leaves out (or 0); the highest such
        threshold where several are best; NaN without positives.
    """
    known = truth >= 0
    order = np.argsort(-scores[known], kind="stable")
    descending, positive = scores[known][order], truth[known][order] == 1
    if not positive.any():
        return float("nan")
    following = np.append(descending[1:], 0.0)
    f1 = 2 * np.cumsum(positive) / (np.arange(1, len(order) + 1) + positive.sum())
    cuts = np.append(descending[1:] < descending[:-1], True)  # no threshold parts equal scores
    best = np.argmax(np.where(cuts, f1, -1))
    return float((descending[best] + following[best]) / 2)


def class_f1(decisions: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """F1 of each class, float64 [C], of bool decisions [N, C]; 0 where nothing is present or decided."""
    hits = (decisions & (truth == 1)).sum(axis=0)
    total = (decisions & (truth >= 0)).sum(axis=0) + (truth == 1).sum(axis=0)
    return np.divide(2 * hits, total, out=np.zeros(len(total)), where=total > 0)
