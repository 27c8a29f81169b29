"""Final labels to the final classifier, continued from the warm-up, with two views and a label-free stop."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.classifier.inference import load_classifier, predict_scores
from pipeline.classifier.network import CamNet
from pipeline.classifier.training import Consistency, TrainingConfig, TrainingSet, fit, read_epoch, start_training
from pipeline.machine import distributed
from pipeline.machine.progress import say
from pipeline.method.epoch_choice import choose_epoch
from pipeline.method.thresholds import class_prior, prior_thresholds
from pipeline.photos.image_cache import open_cache
from pipeline.runs.artifacts import (
    Checkpoint,
    EpochScores,
    Labels,
    Partial,
    begin,
    check_same_images,
    read,
    read_checkpoint,
    read_manifest,
    write,
    write_checkpoint,
    write_csv,
)
from pipeline.runs.config import option


@dataclass(frozen=True)
class TrainConfig(TrainingConfig):
    """Final training (CCD, section 3.3)."""

    epochs: int = option(8, "passes over the train images", min=1, max=1000)
    consistency: float = option(1.0, "weight of the consistency loss (paper: 1); 0: one view", min=0.0, max=100.0)
    jitter: float = option(0.5, "largest colour change of the second view (paper: 0.5)", min=0.0, max=0.5)
    loss_floor: float = option(1.0, "weight of images that are not confident (paper, VOC12: 1)", min=0.0, max=1.0)
    choose: Literal["last", "second-difference"] = option(
        "last", "which epoch's weights to keep (paper: second-difference)"
    )


def score_together(model: CamNet, paths: list[str], size: int) -> Tensor:
    """Scores float32 Tensor[N, C] of images, each computed by one of the processes."""
    scores = torch.zeros(len(paths), model.head.out_channels)
    own = predict_scores(model, distributed.own_share(paths), size, title="  test images")
    distributed.own_share(scores).copy_(own)
    distributed.sum_up(scores)
    return scores


def label_free_thresholds(chosen: Checkpoint, paths: list[str], targets: np.ndarray, device: str) -> list[float]:
    """Scores from which each class is as frequent among the train images as the scores [N, C] of their labels say."""
    scores = predict_scores(load_classifier(chosen, device), paths, chosen.image_size, title="thresholds")
    return prior_thresholds(scores.numpy(), class_prior(targets)).tolist()


def run(folder: Path, config: TrainConfig, *, device: str = "cpu", force: bool = False) -> None:
    """Write `classifier.pt`, `train.csv` and `epoch_scores.h5` from the manifest, `warmup.pt` and `final_labels.h5`."""
    path = folder / "classifier.pt"
    config = config.scaled(distributed.world_size())
    sources = ["manifest.csv", "warmup.pt", "final_labels.h5"]
    provenance = begin(folder, path.name, config, sources, force=force)
    if provenance is None:
        return
    manifest = read_manifest(folder)
    train, test = manifest.split("train"), manifest.split("test")
    labels: Labels = read(folder / "final_labels.h5")
    check_same_images(labels, train, folder / "final_labels.h5", folder / "manifest.csv")
    warmup = read_checkpoint(folder / "warmup.pt")
    partial = Partial(path, provenance, fresh=force)
    state = start_training(load_classifier(warmup), config, torch.device(device))
    state.restore(warmup.training)
    weights = (torch.from_numpy(labels.confident).float() + config.loss_floor).clamp(max=1)
    cache = open_cache(config.cache, train.paths, config.image_size)
    data = TrainingSet(train.paths, torch.from_numpy(labels.labels), weights, cache)
    history = fit(
        state,
        data,
        config,
        partial,
        consistency=Consistency(config.consistency, config.jitter) if config.consistency else None,
        # scores of the test images, not their labels: for the oracle that `evaluate` reports beside the choice
        after_epoch=lambda model: score_together(model, test.paths, config.test_size),
    )
    if not distributed.is_main():
        return
    chosen = choose_epoch(config.choose, list(history["label_map"]))
    history["chosen"] = history["epoch"] == chosen
    write_csv(folder / "train.csv", history)
    epochs = [read_epoch(partial, epoch) for epoch in range(1, config.epochs + 1)]
    write(
        folder / "epoch_scores.h5",
        EpochScores(
            provenance=provenance.of(EpochScores),
            image_ids=test.image_ids,
            class_names=test.class_names,
            scores=torch.stack([epoch["scores"] for epoch in epochs]).numpy(),
            chosen_epoch=chosen,
        ),
    )
    write_checkpoint(
        path,
        Checkpoint(
            provenance=provenance,
            image_ids=train.image_ids,
            class_names=train.class_names,
            architecture=warmup.architecture,
            image_size=config.test_size,
            weights=epochs[chosen - 1]["weights"],
            training=state.to_content(),
            thresholds=label_free_thresholds(
                replace(warmup, weights=epochs[chosen - 1]["weights"], image_size=config.test_size),
                train.paths,
                labels.scores,
                device,
            ),
        ),
    )
    partial.remove()
    say(f"{path}: epoch {chosen} of {config.epochs}, loss {history['loss'].iloc[-1]:.4f}.")
