"""Final labels to the final classifier, continued from the warm-up, with two views and a label-free stop."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.classifier.features import FeatureStore
from pipeline.classifier.inference import load_classifier, predict_together
from pipeline.classifier.network import CamNet
from pipeline.classifier.training import Consistency, TrainingSet, fit, read_epoch, start_training
from pipeline.classifier.view_sources import is_frozen
from pipeline.machine import distributed
from pipeline.machine.progress import say
from pipeline.method.epoch_choice import choose_epoch
from pipeline.method.losses import image_weights
from pipeline.method.thresholds import class_prior, prior_thresholds
from pipeline.photos.image_cache import open_cache
from pipeline.runs.artifacts import EpochScores, Labels, Provenance, check_same_images, read_arrays, write
from pipeline.runs.checkpoints import Checkpoint, load_piece, read_checkpoint, save_pt, write_checkpoint
from pipeline.runs.manifest import read_manifest, write_csv
from pipeline.runs.options import TrainConfig
from pipeline.runs.pieces import Pieces


def label_free_thresholds(
    chosen: Checkpoint, paths: list[str], targets: np.ndarray, device: str, store: FeatureStore | None = None
) -> list[float]:
    """Scores from which each class is as frequent among the train images as the scores [N, C] of their labels say."""
    model = load_classifier(chosen, device)
    scores = predict_together(model, paths, chosen.image_size, title="thresholds", store=store)
    return prior_thresholds(scores.numpy(), class_prior(targets)).tolist()


def warmup_scores(
    model: CamNet, paths: list[str], size: int, pieces: Pieces, store: FeatureStore | None = None
) -> Tensor:
    """Scores Tensor[N, C] of the warm-up classifier, those of an interrupted run where it had got so far."""
    path = pieces.path("warmup_scores.pt")
    if path.exists():
        return load_piece(path)["scores"]
    scores = predict_together(model, paths, size, title="  test images", store=store)
    if distributed.is_main():
        save_pt(path, {"scores": scores})
    return scores


def consistency_of(config: TrainConfig) -> Consistency | None:
    """The second view and its loss, if there is one."""
    return Consistency(config.consistency, config.jitter, config.jitter_order) if config.consistency else None


def run(
    folder: Path, config: TrainConfig, origin: Provenance, *, device: str, fresh: bool, store: FeatureStore
) -> None:
    """Write `classifier.pt`, `train.csv` and `epoch_scores.h5` from the manifest, `warmup.pt` and `final_labels.h5`."""
    manifest = read_manifest(folder)
    train, test = manifest.split("train"), manifest.split("test")
    labels: Labels = read_arrays(folder / "final_labels.h5")
    check_same_images(labels, train, folder / "final_labels.h5", folder / "manifest.csv")
    warmup = read_checkpoint(folder / "warmup.pt")
    pieces = Pieces(folder / "classifier.pt", origin, fresh=fresh)
    # scores of the test images, not their labels: for what `evaluate` reports beside the choice
    before = warmup_scores(load_classifier(warmup, device), test.paths, warmup.image_size, pieces, store)
    state = start_training(load_classifier(warmup), config, torch.device(device))
    state.restore(warmup.training)
    weights = image_weights(torch.from_numpy(labels.confident), config.loss_floor)
    cache = open_cache(config.cache, train.paths, config.image_size, warmup.architecture["squash"])
    history = fit(
        state,
        TrainingSet(train.paths, torch.from_numpy(labels.labels), weights, cache),
        config,
        pieces,
        consistency=consistency_of(config),
        after_epoch=lambda model: predict_together(
            model,
            test.paths,
            config.test_size,
            title="  test images",
            store=store if is_frozen(state.model) else None,  # else the maps of an epoch are of no use to the next
        ),
        store=store,
    )
    certain_map = [*warmup.training.get("certain_map", []), *history["certain_map"]]
    chosen = choose_epoch(config.choose, list(history["pseudo_label_mAP"]), certain_map)
    epochs = [read_epoch(pieces, epoch) for epoch in range(1, config.epochs + 1)]
    best = replace(warmup, weights=epochs[chosen - 1]["weights"], image_size=config.test_size)
    thresholds = label_free_thresholds(best, train.paths, labels.scores, device, store)
    if not distributed.is_main():
        return
    write_csv(folder / "train.csv", history.assign(chosen=history["epoch"] == chosen))
    write(
        folder / "epoch_scores.h5",
        EpochScores(
            provenance=origin.of("epoch_scores.h5"),
            image_ids=test.image_ids,
            class_names=test.class_names,
            epochs=np.arange(config.epochs + 1),
            scores=torch.stack([before, *(epoch["scores"] for epoch in epochs)]).numpy(),
            chosen_epoch=chosen,
            thresholds=np.array(thresholds),
        ),
    )
    trained: dict[str, Any] = {"training": state.to_content(), "steps": state.steps, "thresholds": thresholds}
    write_checkpoint(folder / "classifier.pt", replace(best, provenance=origin, image_ids=train.image_ids, **trained))
    pieces.remove()
    say(f"{folder / 'classifier.pt'}: epoch {chosen} of {config.epochs}, loss {history['loss'].iloc[-1]:.4f}.")
