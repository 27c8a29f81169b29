"""Train the final classifier on the final labels, from the warm-up on, with two views and a label-free choice of epoch."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.artifacts.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from pipeline.artifacts.corrections import Corrections, align_corrections
from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.epoch_scores import EpochScores
from pipeline.artifacts.hdf5 import read_arrays, write
from pipeline.artifacts.labels import Labels
from pipeline.artifacts.manifest import Manifest, write_csv
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.schema import check_same_images
from pipeline.artifacts.state import read_provenance
from pipeline.classifier.cross_fit import cross_fit, out_of_fold_logits
from pipeline.classifier.features import FeatureStore
from pipeline.classifier.inference import load_classifier, predict_once, predict_together
from pipeline.classifier.network import CamNet
from pipeline.classifier.teacher_head import TeacherHead
from pipeline.classifier.training import (
    Consistency,
    TrainingSet,
    check_sides,
    fit,
    read_epoch,
    start_training,
    targets_of,
)
from pipeline.classifier.view_sources import is_frozen
from pipeline.method.epoch_choice import authors_epoch
from pipeline.method.extras.calibration import fit_calibration
from pipeline.method.extras.two_heads import SMALLEST, agreement_with_labels, learned_weight, matching, mixture
from pipeline.method.labels import correct
from pipeline.method.losses import image_weights, mean_label_entropy
from pipeline.photos.image_cache import open_cache
from pipeline.runs.options import InitLabelsConfig, TrainConfig, WarmupConfig
from pipeline.runs.partial_results import PartialResults
from pipeline.system import distributed
from pipeline.system.progress import log
from pipeline.teachers.image_scores import teacher_scores
from pipeline.teachers.shared_network import shares_network, teacher_head

WEIGHT_FOLDS = 2
"""Folds of `weight_of_learned_head`."""


def choose_epoch(config: TrainConfig, warmup: Checkpoint, history: pd.DataFrame) -> int:
    """Epoch, from 1, whose weights are kept; the last one where the rule finds none."""
    chosen = None
    if config.checkpoint_selection == "authors":
        chosen = authors_epoch(list(history["certain_map"]), warmup.training.get("certain_map", []))
    return chosen or config.epochs


def calibrated(best: Checkpoint, logits: Tensor, labels: np.ndarray) -> Checkpoint:
    """The classifier with its scores calibrated on its logits [N, C] of the train images and their soft labels [N, C].

    See `fit_calibration`.
    """
    scale, offset = (torch.from_numpy(each).float() for each in fit_calibration(logits.numpy(), labels))
    return replace(best, weights=best.weights | {"scale": scale, "offset": offset})


def cross_fit_share(labels: Labels, warmup: Checkpoint, config: TrainConfig) -> float:
    """Share of out-of-fold scores in a label; 0 where labels are decided, as CLIP's are.

    A backbone that is trained has seen every label in the warm-up, so its scores are never out of fold.
    """
    frozen = config.freeze_backbone and config.freeze_norms and warmup.provenance.options(WarmupConfig).freeze_backbone
    if not frozen or not config.cross_fit_rounds or len(labels.image_ids) < config.cross_fit_folds:
        return 0.0
    return config.cross_fit_weight * mean_label_entropy(torch.from_numpy(labels.labels))


def cross_fitted_labels(
    folder: Path,
    labels: Labels,
    warmup: Checkpoint,
    data: TrainingSet,
    config: TrainConfig,
    logits_of: Callable[..., Tensor],
) -> Labels:
    """The labels to train on: the final labels mixed with the scores of classifiers that were trained without them.

    `logits_of` is `out_of_fold_logits` with the run's classifier, files and device.
    """
    share = cross_fit_share(labels, warmup, config)
    if not share:
        return labels

    def out_of_fold(round_labels: Tensor, name: str) -> Tensor:
        given = replace(data, labels=round_labels)
        return logits_of(given, config, config.cross_fit_folds, name, consistency=consistency_of(config))

    mixed = cross_fit(data.labels, config.cross_fit_rounds, share, out_of_fold).numpy()
    scores = mixed + np.float32(1 - share) * (labels.scores - labels.labels)
    if labels.corrected_entries:
        corrections: Corrections = read_arrays(folder / "corrections.h5")
        corrected = align_corrections(corrections, labels.image_ids, labels.class_names).labels
        mixed, scores = correct(mixed, corrected), correct(scores, corrected)
    return replace(labels, labels=mixed, scores=scores)


def untrained_on(labels: Tensor, *, warmup: Checkpoint, config: TrainConfig) -> CamNet:
    """The classifier of the warm-up with a new head for labels Tensor[n, C]."""
    model = load_classifier(warmup)
    model.init_head(targets_of(labels, config).mean(dim=0))
    return model


def weight_of_learned_head(
    labels: Labels, data: TrainingSet, config: TrainConfig, logits_of: Callable[..., Tensor]
) -> float:
    """`learned_weight` with the agreement of heads that were trained on one half of the photos, for half of the epochs.

    The backbone of the warm-up stays frozen in them. `logits_of` is as in `cross_fitted_labels`.
    """
    count = len(data.paths)
    if count < WEIGHT_FOLDS:
        return 0.0
    short = config.replace(epochs=max(config.epochs // 2, 1), freeze_backbone=True, freeze_norms=True)
    logits = logits_of(data, short, WEIGHT_FOLDS, "weight")
    return learned_weight(count, agreement_with_labels(logits.numpy(), labels.labels, labels.scores))


def consistency_of(config: TrainConfig) -> Consistency | None:
    """The second view and its loss, or None."""
    return Consistency(config.consistency, config.jitter, config.jitter_order) if config.consistency else None


def training_set(train: Manifest, labels: Labels, warmup: Checkpoint, config: TrainConfig) -> TrainingSet:
    """The train images with their final labels and weights."""
    return TrainingSet(
        train.paths,
        torch.from_numpy(labels.labels),
        image_weights(torch.from_numpy(labels.confident), config.loss_floor),
        open_cache(config.cache, train.digest_of, config.image_size, warmup.architecture["resize_filter"]),
    )


def teacher_of(folder: Path, warmup: Checkpoint) -> TeacherHead | None:
    """The teacher as a head on the classifier's maps; None if it is another network."""
    if not (folder / "embeddings.h5").exists():
        return None
    embeddings: Embeddings = read_arrays(folder / "embeddings.h5", without=("best_cell",))
    if not shares_network(embeddings, warmup):
        return None
    options = read_provenance(folder / "initial_labels.h5").options(InitLabelsConfig)
    return teacher_head(embeddings, options, warmup.weights["head.weight"].shape[1])


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


def mixture_with_teacher(
    folder: Path, best: Checkpoint, logits: np.ndarray, labels: np.ndarray, weight: float
) -> np.ndarray:
    """The factors of `two_heads.mixture` for a teacher that is another network.

    Args:
        folder: of the run, with `embeddings.h5`.
        best: the classifier, calibrated.
        logits: float32 [N, C], its logits of the train images before calibration.
        labels: float [N, C], soft labels of the train images.
        weight: of the classifier in the logits.
    """
    embeddings: Embeddings = read_arrays(folder / "embeddings.h5", without=("best_cell",))
    options = read_provenance(folder / "initial_labels.h5").options(InitLabelsConfig)
    scores = teacher_scores(embeddings, embeddings.is_train, options)
    teacher = np.log(np.maximum(scores, SMALLEST))
    scale, offset = matching(teacher, logits)
    both = fit_calibration(weight * logits + (1 - weight) * (scale * teacher + offset), labels)
    alone = (best.weights["scale"].cpu().numpy(), best.weights["offset"].cpu().numpy())
    return mixture(scale, offset, alone, both, weight)


def logits_of_epochs(
    best: Checkpoint, epochs: Iterable[int], partial: PartialResults, predict: Callable[[CamNet], Tensor], device: str
) -> dict[int, Tensor]:
    """Logits Tensor[n, C] of the test images by epoch: those kept while training, else predicted from its weights."""
    logits = {}
    for epoch in epochs:
        logits[epoch] = read_epoch(partial, epoch, "after")
        if logits[epoch] is None:
            weights = read_epoch(partial, epoch, "weights")
            logits[epoch] = predict(load_classifier(replace(best, weights=best.weights | weights), device))
    return logits


def epoch_scores(
    best: Checkpoint,
    test: Manifest,
    warmup_logits: Tensor,
    logits: dict[int, Tensor],
    train_logits: Tensor,
    learned: Tensor | None,
    factors: np.ndarray | None,
    chosen: int,
    origin: Provenance,
) -> EpochScores:
    """Scores of the test images by epoch, 0 for the warm-up, and of the train images; all with the calibration of the kept epoch.

    A monotone map that all epochs share leaves their mAPs unchanged. `learned` are the logits of the learned head alone, None
    for a classifier of one head.
    """
    scale, offset = best.weights["scale"].cpu(), best.weights["offset"].cpu()
    after = [scale * each + offset for each in logits.values()]
    return EpochScores(
        provenance=origin.of("epoch_scores.h5"),
        image_ids=test.image_ids,
        class_names=test.class_names,
        epochs=np.array([0, *logits]),
        scores=np.stack([each.sigmoid().numpy() for each in (warmup_logits, *after)]),
        train=(scale * train_logits + offset).sigmoid().numpy(),
        learned=None if learned is None else learned.sigmoid().numpy(),
        mixture=factors,
        chosen_epoch=chosen,
    )


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
    """Write the files of `train` from the manifest, `warmup.pt`, `final_labels.h5` and, if present, `corrections.h5`.

    `cross_fitted_labels.h5` contains the labels that the classifier was trained on.
    """
    train, test = manifest.split("train"), manifest.split("test")
    final_labels: Labels = read_arrays(folder / "final_labels.h5")
    check_same_images(final_labels, train, folder / "final_labels.h5", folder / "manifest.csv")
    warmup = read_checkpoint(folder / "warmup.pt")
    partial = PartialResults(folder / "classifier.pt", origin, fresh=fresh)
    config = config.replace(image_size=config.image_size or warmup.image_size)
    untrained = load_classifier(warmup)
    check_sides(untrained, config, "train")
    state = start_training(untrained, config, torch.device(device))
    state.restore(warmup.training)
    # later stages cannot use the maps of a backbone that is trained
    kept = store if is_frozen(state.model) else None
    on_test = {"title": "  test images", "store": kept}
    predict_test = functools.partial(predict_together, paths=test.paths, size=config.test_size, **on_test)
    initial = load_classifier(warmup, device)
    warmup_logits = predict_once(partial.path("warmup_logits.pt"), initial, test.paths, warmup.image_size, **on_test)
    data = training_set(train, final_labels, warmup, config)
    new_head = functools.partial(untrained_on, warmup=warmup, config=config)
    logits_of = functools.partial(out_of_fold_logits, new_head, partial=partial, device=device, store=store)
    labels = cross_fitted_labels(folder, final_labels, warmup, data, config, logits_of)
    # only whether there is ground truth: training does not read it
    each_epoch = config.score_epochs and (folder / "ground_truth.h5").exists()
    history = fit(
        state,
        replace(data, labels=torch.from_numpy(labels.labels)),
        config,
        partial,
        consistency=consistency_of(config),
        after_epoch=predict_test if each_epoch else None,
        store=store,
    )
    chosen = choose_epoch(config, warmup, history)
    weights = warmup.weights | read_epoch(partial, chosen, "weights")
    best = replace(warmup, weights=weights, image_size=config.test_size)
    epochs = range(1, config.epochs + 1) if each_epoch else [chosen]
    logits = logits_of_epochs(best, epochs, partial, predict_test, device)
    learned = factors = None
    teacher = teacher_of(folder, warmup) if config.teacher_head else None
    predict_train = functools.partial(
        predict_together, paths=train.paths, size=config.test_size, title="train images", store=kept
    )
    train_logits = predict_train(load_classifier(best, device))
    # a teacher that is another network joins at prediction
    beside = teacher is None and config.calibrate and bool(train.paths) and (folder / "embeddings.h5").exists()
    if teacher is not None or beside:
        weight = weight_of_learned_head(final_labels, data, config, logits_of)
    if teacher is not None:
        learned = logits[chosen]
        own = predict_train(load_classifier(with_teacher(best, teacher, 0.0), device))
        teacher.fit_scale(own, train_logits)
        train_logits = weight * train_logits + (1 - weight) * (teacher.scale * own + teacher.offset)
        alone = predict_test(load_classifier(with_teacher(best, teacher, 0.0), device))
        logits = {epoch: weight * each + (1 - weight) * alone for epoch, each in logits.items()}
        best = with_teacher(best, teacher, weight)
    if config.calibrate:
        best = calibrated(best, train_logits, labels.labels)
        if beside:
            factors = mixture_with_teacher(folder, best, train_logits.numpy(), labels.labels, weight)
    if not distributed.is_main():
        return
    write(folder / "cross_fitted_labels.h5", replace(labels, provenance=origin.of("cross_fitted_labels.h5")))
    write_csv(folder / "train.csv", history.assign(chosen=history["epoch"] == chosen))
    write(
        folder / "epoch_scores.h5",
        epoch_scores(best, test, warmup_logits, logits, train_logits, learned, factors, chosen, origin),
    )
    trained: dict[str, Any] = {"training": state.to_content(), "steps": state.steps}
    write_checkpoint(folder / "classifier.pt", replace(best, provenance=origin, image_ids=train.image_ids, **trained))
    partial.remove()
    log(f"{folder / 'classifier.pt'}: epoch {chosen} of {config.epochs}, loss {history['loss'].iloc[-1]:.4f}.")
