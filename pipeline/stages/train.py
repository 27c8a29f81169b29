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
from pipeline.method.calibration import fit_calibration
from pipeline.method.epoch_choice import choose_epoch
from pipeline.method.losses import image_weights
from pipeline.photos.image_cache import open_cache
from pipeline.runs.artifacts import EpochScores, Labels, Provenance, check_same_images, read_arrays, write
from pipeline.runs.checkpoints import Checkpoint, load_piece, read_checkpoint, save_pt, write_checkpoint
from pipeline.runs.manifest import read_manifest, write_csv
from pipeline.runs.options import TrainConfig
from pipeline.runs.pieces import Pieces


def calibrated(
    chosen: Checkpoint, paths: list[str], labels: np.ndarray, device: str, store: FeatureStore | None = None
) -> Checkpoint:
    """The classifier with its scores calibrated on the train images and their soft labels [N, C]; see `fit_calibration`."""
    logits = predict_together(load_classifier(chosen, device), paths, chosen.image_size, title="calibrate", store=store)
    scale, offset = (torch.from_numpy(each).float() for each in fit_calibration(logits.numpy(), labels))
    return replace(chosen, weights=chosen.weights | {"scale": scale, "offset": offset})


def warmup_logits(
    model: CamNet, paths: list[str], size: int, pieces: Pieces, store: FeatureStore | None = None
) -> Tensor:
    """Logits Tensor[N, C] of the warm-up classifier, those of an interrupted run where it had got so far."""
    path = pieces.path("warmup_logits.pt")
    if path.exists():
        return load_piece(path)["logits"]
    logits = predict_together(model, paths, size, title="  test images", store=store)
    if distributed.is_main():
        save_pt(path, {"logits": logits})
    return logits


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
    before = warmup_logits(load_classifier(warmup, device), test.paths, warmup.image_size, pieces, store)
    state = start_training(load_classifier(warmup), config, torch.device(device))
    state.restore(warmup.training)
    weights = image_weights(torch.from_numpy(labels.confident), config.loss_floor)
    # whether there are labels to measure with, not what they are
    each_epoch = config.score_epochs and (folder / "ground_truth.h5").exists()
    cache = open_cache(config.cache, train.paths, config.image_size, warmup.architecture["squash"])
    history = fit(
        state,
        TrainingSet(train.paths, torch.from_numpy(labels.labels), weights, cache),
        config,
        pieces,
        consistency=consistency_of(config),
        after_epoch=lambda model: (
            predict_together(
                model,
                test.paths,
                config.test_size,
                title="  test images",
                store=store if is_frozen(state.model) else None,  # else the maps of an epoch are of no use to the next
            )
            if each_epoch
            else None
        ),
        store=store,
    )
    certain_map = [*warmup.training.get("certain_map", []), *history["certain_map"]]
    chosen = choose_epoch(config.choose, list(history["pseudo_label_mAP"]), certain_map)
    best = replace(warmup, weights=read_epoch(pieces, chosen)["weights"], image_size=config.test_size)
    kept = {epoch: read_epoch(pieces, epoch)["after"] for epoch in range(1, config.epochs + 1)}
    scored = {epoch: logits for epoch, logits in kept.items() if logits is not None}
    if chosen not in scored:
        model = load_classifier(best, device)
        scored[chosen] = predict_together(model, test.paths, config.test_size, title="  test images", store=store)
    if config.calibrate:
        best = calibrated(best, train.paths, labels.labels, device, store)
    if not distributed.is_main():
        return
    # one monotone map for every epoch: their mAPs stay what they are
    scale, offset = best.weights["scale"].cpu(), best.weights["offset"].cpu()
    after = [scale * scored[epoch] + offset for epoch in sorted(scored)]
    write_csv(folder / "train.csv", history.assign(chosen=history["epoch"] == chosen))
    write(
        folder / "epoch_scores.h5",
        EpochScores(
            provenance=origin.of("epoch_scores.h5"),
            image_ids=test.image_ids,
            class_names=test.class_names,
            epochs=np.array([0, *sorted(scored)]),
            scores=torch.stack([before, *after]).sigmoid().numpy(),
            chosen_epoch=chosen,
        ),
    )
    trained: dict[str, Any] = {"training": state.to_content(), "steps": state.steps}
    write_checkpoint(folder / "classifier.pt", replace(best, provenance=origin, image_ids=train.image_ids, **trained))
    pieces.remove()
    say(f"{folder / 'classifier.pt'}: epoch {chosen} of {config.epochs}, loss {history['loss'].iloc[-1]:.4f}.")
