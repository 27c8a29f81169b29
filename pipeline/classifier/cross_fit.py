"""Soft labels mixed with what classifiers say that were trained on the other images only.

A classifier that has seen a label repeats it; one that has not tells what the other images say of it. Out-of-fold scores
are the usual means against that (cross-fitting); mixing labels with a classifier's word is bootstrapping (Reed et al.,
2015). It is not part of CCD.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.artifacts.checkpoints import load_partial, save_pt
from pipeline.classifier.features import FeatureStore
from pipeline.classifier.inference import predict_together
from pipeline.classifier.network import CamNet
from pipeline.classifier.training import Consistency, TrainingSet, fit, start_training
from pipeline.method.extras.calibration import platt_scores
from pipeline.runs.options import TrainConfig
from pipeline.runs.partial_results import PartialResults
from pipeline.system import distributed


def deal_folds(count: int, folds: int, seed: int) -> Tensor:
    """Fold of each image, int64 Tensor[N] in [0, folds): as equal in size as can be, drawn by the seed."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)) % folds


def cross_fit(
    begin: Callable[[Tensor], CamNet],
    data: TrainingSet,
    config: TrainConfig,
    share: float,
    pieces: PartialResults,
    *,
    device: str,
    consistency: Consistency | None = None,
    store: FeatureStore | None = None,
) -> Tensor:
    """Labels of the next training: (1 - share) * label + share * out-of-fold score, in each round again from the labels.

    Every round trains one classifier per fold on the other folds, with the labels of the round before, and takes its
    logits of the fold, mapped to the labels by Platt scaling for each class.

    Args:
        begin: labels Tensor[n, C] that a classifier will be trained on to an untrained one.
        data: all images, with their labels.
        config: how to train; `cross_fit_rounds` and `cross_fit_folds`.
        share: in [0, 1].
        pieces: keeps the logits of each fold, so that a killed command goes on from there.
        device: torch device.
        consistency: as in the training that follows.
        store: has the features of a backbone that is not trained.

    Returns:
        float32 Tensor[N, C] in [0, 1].
    """
    count = len(data.paths)
    fold_of = deal_folds(count, config.cross_fit_folds, config.seed)
    labels = data.labels
    for number in range(config.cross_fit_rounds):
        logits = torch.zeros_like(labels)
        for fold in range(config.cross_fit_folds):
            held_out = fold_of == fold
            path = pieces.path(f"round{number + 1}_fold{fold + 1}.pt")
            if not path.exists():
                rows = (~held_out).nonzero()[:, 0]
                title = f"refine {number + 1}/{config.cross_fit_rounds} fold {fold + 1}/{config.cross_fit_folds}"
                inner = pieces.below(path.stem)
                state = start_training(begin(labels[rows]), config, torch.device(device))
                part = replace(data, labels=labels, rows=rows)
                fit(state, part, config.replace(track="none"), inner, consistency=consistency, title=title, store=store)
                found = predict_together(
                    state.model.eval(), data.paths, config.test_size, title="  out of fold", store=store
                )
                if distributed.is_main():
                    save_pt(path, {"logits": found[held_out]})
                    inner.remove()
                distributed.barrier()  # all find it
            logits[held_out] = load_partial(path)["logits"]
        heard = platt_scores(logits.numpy(), data.labels.numpy())
        labels = ((1 - share) * data.labels.double() + share * torch.from_numpy(heard)).float()
    return labels
