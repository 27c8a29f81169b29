"""The weight of a learned head against the teacher that labelled its photos.

The two make different errors, so their mean ranks better than either; but a head that learned from few photos is poor, above all
with rare classes. Chosen on train photos (pipeline/plans/README.md).
"""

import numpy as np

from pipeline.method.extras.calibration import fit_calibration
from pipeline.method.ranking import average_precision

SMALLEST = 1e-6
"""Smallest score of the teacher whose logarithm is taken."""
MOST = 0.5
"""Largest weight."""
HALF = 50
"""Photos at which half of it is reached, with full agreement."""


def learned_weight(images: int, agreement: float) -> float:
    """Weight of the learned head in the logits: MOST * agreement * images / (images + HALF).

    Args:
        images: photos that it was trained on.
        agreement: see `agreement_with_labels`.
    """
    return MOST * agreement * images / (images + HALF)


def agreement_with_labels(logits: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> float:
    """How well a learned head finds the photos with labels that it did not learn from, in [0, 1].

    The mean over classes of the average precision of `logits`, where the photos with the highest scores have the class, as many
    as have a label of 0.5 or more; 0 for a class without such a label. It is low where the photos of a class have nothing in
    common.

    Args:
        logits: out-of-fold logits float [N, C] of the learned head.
        labels: float [N, C] in [0, 1].
        scores: float [N, C], the labels before they were clamped.
    """
    truth = np.zeros(labels.shape, np.int8)
    for c, count in enumerate((labels >= 0.5).sum(axis=0)):
        truth[np.argsort(-scores[:, c], kind="stable")[:count], c] = 1
    return float(np.nan_to_num(average_precision(logits, truth)).mean())


def mixture(
    scores: np.ndarray,
    logits: np.ndarray,
    labels: np.ndarray,
    calibration: tuple[np.ndarray, np.ndarray],
    weight: float,
) -> np.ndarray:
    """Factors of a learned head and its teacher in the calibrated mean of their logits, for `mixed_logits`.

    The teacher's logits get the mean and the deviation of the learned head's over the same images.

    Args:
        scores: float [N, C], of the teacher.
        logits: float [N, C] of the learned head, not calibrated.
        labels: float [N, C] in [0, 1], soft labels.
        calibration: scale and offset of each class that calibrate the learned head alone; the scale is positive.
        weight: of the learned head, in [0, 1].

    Returns:
        float32 [3, C]: factor of the learned head's calibrated logit, factor of the logarithm of the teacher's score, offset.
    """
    teacher, learned = np.log(np.maximum(scores, SMALLEST)), logits.astype(np.float64)
    spread = teacher.astype(np.float64).std(axis=0)
    scale = np.where(spread > 0, learned.std(axis=0) / np.maximum(spread, SMALLEST), 1.0)
    offset = learned.mean(axis=0) - scale * teacher.astype(np.float64).mean(axis=0)
    after = fit_calibration(weight * logits + (1 - weight) * (scale * teacher + offset), labels)
    own = after[0] * weight / calibration[0]
    shift = after[0] * (1 - weight) * offset - own * calibration[1] + after[1]
    return np.stack([own, after[0] * (1 - weight) * scale, shift]).astype(np.float32)


def mixed_logits(logits: np.ndarray, scores: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Logits float32 [N, C] of a learned head and its teacher.

    Args:
        logits: calibrated logits float [N, C] of the learned head.
        scores: float [N, C], of the teacher.
        factors: see `mixture`.
    """
    return (factors[0] * logits + factors[1] * np.log(np.maximum(scores, SMALLEST)) + factors[2]).astype(np.float32)
