"""Cross-fitted labels: soft labels mixed with the scores of classifiers that were trained on the other images only.

A classifier repeats the labels that it was trained on. Its scores of other images, out of fold, correct their labels by
the evidence of the rest. Mixing labels with scores is bootstrapping (Reed et al., 2015). This is not part of CCD.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.artifacts.checkpoints import load_partial, save_partial
from pipeline.classifier.features import FeatureStore
from pipeline.classifier.inference import predict_together
from pipeline.classifier.network import CamNet
from pipeline.classifier.training import Consistency, TrainingSet, fit, start_training
from pipeline.method.extras.calibration import platt_scores
from pipeline.runs.options import TrainConfig
from pipeline.runs.partial_results import PartialResults
from pipeline.system import distributed


def deal_folds(count: int, folds: int, seed: int) -> Tensor:
    """Fold of each image, int64 Tensor[N] in [0, folds), in sizes that differ by at most 1."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)) % folds


def out_of_fold_logits(
    untrained: Callable[[Tensor], CamNet],
    data: TrainingSet,
    config: TrainConfig,
    folds: int,
    name: str,
    *,
    partial: PartialResults,
    device: str,
    consistency: Consistency | None = None,
    store: FeatureStore | None = None,
) -> Tensor:
    """Logits float32 Tensor[N, C] of each image by a classifier that was trained on the other folds.

    Args:
        untrained: returns a classifier to train on the labels Tensor[n, C].
        data: all images, with their labels.
        config: options of the trainings.
        folds: at most N.
        name: of these trainings among the partial results, and in titles.
        partial: keeps the logits of each fold, from which a killed command resumes.
        device: torch device.
        consistency: second view and its loss, as in the final training.
        store: keeps the feature maps.
    """
    fold_of = deal_folds(len(data.paths), folds, config.seed)
    logits = torch.zeros_like(data.labels)
    for fold in range(folds):
        held_out = fold_of == fold
        path = partial.path(f"{name}_fold{fold + 1}.pt")
        if not path.exists():
            rows = (~held_out).nonzero()[:, 0]
            inner = partial.below(path.stem)
            state = start_training(untrained(data.labels[rows]), config, torch.device(device))
            title = f"{name} fold {fold + 1}/{folds}"
            part = replace(data, rows=rows)
            fit(state, part, config.replace(track="none"), inner, consistency=consistency, title=title, store=store)
            fold_logits = predict_together(
                state.model.eval(), data.paths, config.test_size, title="  out of fold", store=store
            )
            if distributed.is_main():
                save_partial(path, {"logits": fold_logits[held_out]})
                inner.remove()
            distributed.barrier()  # the file exists for all processes
        logits[held_out] = load_partial(path)["logits"]
    return logits


def cross_fit(labels: Tensor, rounds: int, share: float, out_of_fold: Callable[[Tensor, str], Tensor]) -> Tensor:
    """Labels of the next training: (1 - share) * label + share * out-of-fold score, in each round again from the labels.

    Each round trains on the labels of the previous one. Its logits are mapped to the labels by Platt scaling for each class.

    Args:
        labels: Tensor[N, C] in [0, 1].
        rounds: their number.
        share: weight of the out-of-fold scores, in [0, 1].
        out_of_fold: logits Tensor[N, C] of `out_of_fold_logits`, from labels and the name of a round.

    Returns:
        float32 Tensor[N, C] in [0, 1].
    """
    mixed = labels
    for number in range(1, rounds + 1):
        mapped = platt_scores(out_of_fold(mixed, f"round{number}").numpy(), labels.numpy())
        mixed = ((1 - share) * labels.double() + share * torch.from_numpy(mapped)).float()
    return mixed
