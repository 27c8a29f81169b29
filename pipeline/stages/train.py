"""Final labels to the final classifier, continued from the warm-up, with two views and a label-free stop."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from pipeline.artifacts.corrections import Corrections, align_corrections
from pipeline.artifacts.epoch_scores import EpochScores
from pipeline.artifacts.hdf5 import read_arrays, write
from pipeline.artifacts.labels import Labels
from pipeline.artifacts.manifest import Manifest, write_csv
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.schema import check_same_images
from pipeline.classifier.cross_fit import cross_fit
from pipeline.classifier.features import FeatureStore
from pipeline.classifier.inference import load_classifier, predict_once, predict_together
from pipeline.classifier.network import CamNet
from pipeline.classifier.training import Consistency, TrainingSet, fit, read_epoch, start_training, targets_of
from pipeline.classifier.view_sources import is_frozen
from pipeline.method.epoch_choice import choose_epoch
from pipeline.method.extras.calibration import fit_calibration
from pipeline.method.labels import correct
from pipeline.method.losses import image_weights, mean_label_entropy
from pipeline.photos.image_cache import open_cache
from pipeline.runs.options import TrainConfig, WarmupConfig
from pipeline.runs.partial_results import PartialResults
from pipeline.system import distributed
from pipeline.system.progress import log


def calibrated(
    chosen: Checkpoint, paths: list[str], labels: np.ndarray, device: str, store: FeatureStore | None = None
) -> Checkpoint:
    """The classifier with its scores calibrated on the train images and their soft labels [N, C]; see `fit_calibration`."""
    logits = predict_together(load_classifier(chosen, device), paths, chosen.image_size, title="calibrate", store=store)
    scale, offset = (torch.from_numpy(each).float() for each in fit_calibration(logits.numpy(), labels))
    return replace(chosen, weights=chosen.weights | {"scale": scale, "offset": offset})


def refining_share(labels: Labels, warmup: Checkpoint, config: TrainConfig) -> float:
    """What other classifiers' word counts in a label; 0 where labels are decided, as CLIP's are.

    A backbone that is trained has seen every label in the warm-up, so that nothing it says is out of fold.
    """
    frozen = config.freeze_backbone and config.freeze_norms and warmup.provenance.options(WarmupConfig).freeze_backbone
    if not (config.cross_fit_rounds and frozen):
        return 0.0
    return config.cross_fit_weight * mean_label_entropy(torch.from_numpy(labels.labels))


def refine(
    folder: Path,
    labels: Labels,
    warmup: Checkpoint,
    data: TrainingSet,
    config: TrainConfig,
    pieces: PartialResults,
    *,
    device: str,
    store: FeatureStore,
) -> Labels:
    """The labels to train on: the final labels, with the word of classifiers that were trained without them."""
    share = refining_share(labels, warmup, config)
    if len(labels.image_ids) < config.cross_fit_folds or not share:
        return labels

    def begin(part: Tensor) -> CamNet:
        model = load_classifier(warmup)
        model.init_head(targets_of(part, config).mean(dim=0))
        return model

    options = {"device": device, "consistency": consistency_of(config), "store": store}
    found = cross_fit(begin, data, config, share, pieces, **options).numpy()
    scores = found + np.float32(1 - share) * (labels.scores - labels.labels)
    if labels.corrected_entries:
        corrections: Corrections = read_arrays(folder / "corrections.h5")
        said = align_corrections(corrections, labels.image_ids, labels.class_names).labels
        found, scores = correct(found, said), correct(scores, said)
    return replace(labels, labels=found, scores=scores)


def consistency_of(config: TrainConfig) -> Consistency | None:
    """The second view and its loss, if there is one."""
    return Consistency(config.consistency, config.jitter, config.jitter_order) if config.consistency else None


def run(
    folder: Path,
    config: TrainConfig,
    origin: Provenance,
    *,
    manifest: Manifest,
    device: str,
    fresh: bool,
    store: FeatureStore,
) -> None:
    """Write what `train` makes from the manifest, `warmup.pt`, `final_labels.h5` and, where there is one, `corrections.h5`.

    `cross_fitted_labels.h5` has the labels that it was trained on.
    """
    train, test = manifest.split("train"), manifest.split("test")
    labels: Labels = read_arrays(folder / "final_labels.h5")
    check_same_images(labels, train, folder / "final_labels.h5", folder / "manifest.csv")
    warmup = read_checkpoint(folder / "warmup.pt")
    pieces = PartialResults(folder / "classifier.pt", origin, fresh=fresh)
    state = start_training(load_classifier(warmup), config, torch.device(device))
    state.restore(warmup.training)
    # the maps of a backbone that is trained are of no use to what comes later
    kept = store if is_frozen(state.model) else None
    # scores of the test images, not their labels: for what `evaluate` reports next to the choice
    place, begun = pieces.path("warmup_logits.pt"), load_classifier(warmup, device)
    before = predict_once(place, begun, test.paths, warmup.image_size, title="  test images", store=kept)
    weights = image_weights(torch.from_numpy(labels.confident), config.loss_floor)
    # whether there are labels to measure with, not what they are
    each_epoch = config.score_epochs and (folder / "ground_truth.h5").exists()
    cache = open_cache(config.cache, train.paths, config.image_size, warmup.architecture["resize_filter"])
    data = TrainingSet(train.paths, torch.from_numpy(labels.labels), weights, cache)
    refined = refine(folder, labels, warmup, data, config, pieces, device=device, store=store)
    history = fit(
        state,
        replace(data, labels=torch.from_numpy(refined.labels)),
        config,
        pieces,
        consistency=consistency_of(config),
        after_epoch=lambda model: (
            predict_together(
                model,
                test.paths,
                config.test_size,
                title="  test images",
                store=kept,
            )
            if each_epoch
            else None
        ),
        store=store,
    )
    certain_map = [*warmup.training.get("certain_map", []), *history["certain_map"]]
    chosen = choose_epoch(config.choose, list(history["pseudo_label_mAP"]), certain_map)
    best = replace(warmup, weights=read_epoch(pieces, chosen, "weights"), image_size=config.test_size)
    scored: dict[int, Tensor] = {}
    for epoch in range(1, config.epochs + 1) if each_epoch else [chosen]:
        scored[epoch] = read_epoch(pieces, epoch, "after")
        if scored[epoch] is None:  # as where the command that trained it was not to score epochs
            model = load_classifier(replace(best, weights=read_epoch(pieces, epoch, "weights")), device)
            scored[epoch] = predict_together(model, test.paths, config.test_size, title="  test images", store=kept)
    if config.calibrate:
        best = calibrated(best, train.paths, refined.labels, device, kept)
    if not distributed.is_main():
        return
    # one monotone map for every epoch: their mAPs stay what they are
    scale, offset = best.weights["scale"].cpu(), best.weights["offset"].cpu()
    after = [scale * scored[epoch] + offset for epoch in sorted(scored)]
    write(folder / "cross_fitted_labels.h5", replace(refined, provenance=origin.of("cross_fitted_labels.h5")))
    write_csv(folder / "train.csv", history.assign(chosen=history["epoch"] == chosen))
    write(
        folder / "epoch_scores.h5",
        EpochScores(
            provenance=origin.of("epoch_scores.h5"),
            image_ids=test.image_ids,
            class_names=test.class_names,
            epochs=np.array([0, *sorted(scored)]),
            scores=np.stack([logits.sigmoid().numpy() for logits in (before, *after)]),
            chosen_epoch=chosen,
        ),
    )
    trained: dict[str, Any] = {"training": state.to_content(), "steps": state.steps}
    write_checkpoint(folder / "classifier.pt", replace(best, provenance=origin, image_ids=train.image_ids, **trained))
    pieces.remove()
    log(f"{folder / 'classifier.pt'}: epoch {chosen} of {config.epochs}, loss {history['loss'].iloc[-1]:.4f}.")
