"""A trained classifier and its scores: the teacher joins it as a second head, and its logits are calibrated."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.checkpoints import Checkpoint
from pipeline.artifacts.labels import Labels
from pipeline.classifier.cross_fit import OutOfFold
from pipeline.classifier.teacher_head import TeacherHead
from pipeline.classifier.training import TrainingSet
from pipeline.method.extras.calibration import fit_calibration
from pipeline.method.extras.two_heads import agreement_with_labels, learned_weight
from pipeline.runs.options import TrainConfig

WEIGHT_FOLDS = 2
"""Folds of `weight_of_learned_head`."""


@dataclass(frozen=True)
class Scored:
    """A classifier and its logits."""

    classifier: Checkpoint
    train: Tensor
    """float32 Tensor[N, C], of the train images."""
    test: dict[int, Tensor]
    """Tensor[n, C] of the test images by epoch."""


def weight_of_learned_head(labels: Labels, data: TrainingSet, config: TrainConfig, out_of_fold: OutOfFold) -> float:
    """`learned_weight` with the agreement of heads that were trained on one half of the photos, for half of the epochs.

    The backbone of the warm-up stays frozen in them.
    """
    count = len(data.paths)
    if count < WEIGHT_FOLDS:
        return 0.0
    short = config.replace(epochs=max(config.epochs // 2, 1), freeze_backbone=True, freeze_norms=True)
    logits = out_of_fold.logits(data, short, WEIGHT_FOLDS, "weight")
    return learned_weight(count, agreement_with_labels(logits.numpy(), labels.labels, labels.scores))


def with_teacher(learned: Checkpoint, teacher: TeacherHead, weight: float) -> Checkpoint:
    """A classifier with the teacher as a second head.

    Args:
        learned: the classifier without it.
        teacher: on the same maps.
        weight: of the learned head in the logits, in [0, 1].
    """
    tensors = {f"teacher.{name}": value for name, value in teacher.state_dict().items()}
    weights = learned.weights | tensors | {"learned_weight": torch.tensor(weight)}
    return replace(learned, weights=weights, architecture=learned.architecture | {"teacher": asdict(teacher.shape)})


def join_teacher(
    learned: Scored, teacher: TeacherHead, weight: float, predict: Callable[[Checkpoint, str], Tensor]
) -> Scored:
    """The classifier of both heads.

    Args:
        learned: with one head, not calibrated.
        teacher: on the same maps; its logits get the mean and deviation of the learned ones of the train images.
        weight: of the learned head in the logits, in [0, 1].
        predict: returns the logits of the images of a split.
    """
    alone = with_teacher(learned.classifier, teacher, 0.0)
    own_train, own_test = predict(alone, "train"), predict(alone, "test")
    teacher.fit_scale(own_train, learned.train)

    def both(logits: Tensor, own: Tensor) -> Tensor:
        return weight * logits + (1 - weight) * (teacher.scale * own + teacher.offset)

    return Scored(
        with_teacher(learned.classifier, teacher, weight),
        both(learned.train, own_train),
        {epoch: both(logits, own_test) for epoch, logits in learned.test.items()},
    )


def calibrated(scored: Scored, labels: np.ndarray) -> Scored:
    """The classifier calibrated on soft labels float32 [N, C] of the train images, see `fit_calibration`, and its logits."""
    fitted = fit_calibration(scored.train.numpy(), labels)
    scale, offset = (torch.from_numpy(each).float() for each in fitted)
    return Scored(
        replace(scored.classifier, weights=scored.classifier.weights | {"scale": scale, "offset": offset}),
        scale * scored.train + offset,
        {epoch: scale * logits + offset for epoch, logits in scored.test.items()},
    )
