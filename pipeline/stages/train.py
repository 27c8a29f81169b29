"""Train the final classifier on the final labels, from the warm-up on, with two views and a label-free choice of epoch."""

from collections.abc import Callable, Iterable
from dataclasses import replace
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
from pipeline.classifier.cross_fit import OutOfFold, cross_fit, cross_fit_share
from pipeline.classifier.features import FeatureStore
from pipeline.classifier.inference import load_classifier, predict_once, predict_together
from pipeline.classifier.network import CamNet
from pipeline.classifier.second_head import Scored, calibrated, join_teacher, weight_of_learned_head
from pipeline.classifier.teacher_head import TeacherHead
from pipeline.classifier.training import Consistency, TrainingSet, check_sides, fit, read_epoch, start_training
from pipeline.classifier.view_sources import is_frozen
from pipeline.method.epoch_choice import authors_epoch
from pipeline.method.extras.two_heads import mixture
from pipeline.method.labels import correct
from pipeline.method.losses import image_weights
from pipeline.photos.image_cache import open_cache
from pipeline.runs.options import InitLabelsConfig, TrainConfig
from pipeline.runs.partial_results import PartialResults
from pipeline.system import distributed
from pipeline.system.progress import log
from pipeline.teachers.image_scores import teacher_scores
from pipeline.teachers.shared_network import shares_network, teacher_head


def training_set(train: Manifest, labels: Labels, warmup: Checkpoint, config: TrainConfig) -> TrainingSet:
    """The train images with their final labels and weights."""
    return TrainingSet(
        train.paths,
        torch.from_numpy(labels.labels),
        image_weights(torch.from_numpy(labels.confident), config.loss_floor),
        open_cache(config.cache, train.digest_of, config.image_size, warmup.architecture["resize_filter"]),
    )


def cross_fitted_labels(
    folder: Path, labels: Labels, data: TrainingSet, config: TrainConfig, out_of_fold: OutOfFold
) -> Labels:
    """The labels to train on: the final labels mixed with the scores of classifiers that were trained without them."""
    share = cross_fit_share(data.labels, out_of_fold.warmup, config)
    if not share:
        return labels
    mixed = cross_fit(data, share, config, out_of_fold).numpy()
    scores = mixed + np.float32(1 - share) * (labels.scores - labels.labels)
    if labels.corrected_entries:
        corrections: Corrections = read_arrays(folder / "corrections.h5")
        corrected = align_corrections(corrections, labels.image_ids, labels.class_names).labels
        mixed, scores = correct(mixed, corrected), correct(scores, corrected)
    return replace(labels, labels=mixed, scores=scores)


def choose_epoch(config: TrainConfig, warmup: Checkpoint, history: pd.DataFrame) -> int:
    """Epoch, from 1, whose weights are kept; the last one where the rule finds none."""
    chosen = None
    if config.checkpoint_selection == "authors":
        chosen = authors_epoch(list(history["certain_map"]), warmup.training.get("certain_map", []))
    return chosen or config.epochs


def scored_epochs(
    best: Checkpoint, epochs: Iterable[int], partial: PartialResults, predict: Callable[[Checkpoint, str], Tensor]
) -> Scored:
    """A classifier with its logits; those of the test images by epoch, kept while training, else predicted.

    Args:
        best: the classifier.
        epochs: those to score the test images after.
        partial: has the finished epochs.
        predict: returns the logits of the images of a split.
    """
    logits = {}
    for epoch in epochs:
        logits[epoch] = read_epoch(partial, epoch, "after")
        if logits[epoch] is None:
            weights = best.weights | read_epoch(partial, epoch, "weights")
            logits[epoch] = predict(replace(best, weights=weights), "test")
    return Scored(best, predict(best, "train"), logits)


def teacher_of(folder: Path, warmup: Checkpoint, config: TrainConfig) -> TeacherHead | np.ndarray | None:
    """The teacher as a head on the classifier's maps or, if it is another network, its scores float32 [N, C] of the train images.

    None where the options use neither.
    """
    path = folder / "embeddings.h5"
    if not (config.teacher_head or config.calibrate) or not path.exists():
        return None
    embeddings: Embeddings = read_arrays(path, without=("best_cell",))
    options = read_provenance(folder / "initial_labels.h5").options(InitLabelsConfig)
    if config.teacher_head and shares_network(embeddings, warmup):
        return teacher_head(embeddings, options, warmup.weights["head.weight"].shape[1])
    return teacher_scores(embeddings, embeddings.is_train, options) if config.calibrate else None


def joined(
    learned: Scored,
    teacher: TeacherHead | np.ndarray | None,
    weight: float,
    labels: np.ndarray,
    config: TrainConfig,
    predict: Callable[[Checkpoint, str], Tensor],
) -> tuple[Scored, np.ndarray | None]:
    """The classifier with its teacher, calibrated; and for a teacher that is another network, the factors of `mixture`.

    Args:
        learned: the classifier alone.
        teacher: see `teacher_of`.
        weight: of the learned head in the logits, in [0, 1].
        labels: float32 [N, C], soft labels of the train images.
        config: options.
        predict: returns the logits of the images of a split.
    """
    final = join_teacher(learned, teacher, weight, predict) if isinstance(teacher, TeacherHead) else learned
    if config.calibrate:
        final = calibrated(final, labels)
    if not isinstance(teacher, np.ndarray):
        return final, None
    scale, offset = (final.classifier.weights[name].numpy() for name in ("scale", "offset"))
    return final, mixture(teacher, learned.train.numpy(), labels, (scale, offset), weight)


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
    model = load_classifier(warmup, device)
    check_sides(model, config, "train")
    state = start_training(model, config, torch.device(device))
    state.restore(warmup.training)
    # later stages cannot use the maps of a backbone that is trained
    kept = store if is_frozen(model) else None
    photos = {"train": (train.paths, "train images"), "test": (test.paths, "  test images")}

    def score(model: CamNet, split: str = "test", size: int = config.test_size) -> Tensor:
        paths, title = photos[split]
        return predict_together(model, paths, size, title=title, store=kept)

    def predict(classifier: Checkpoint, split: str) -> Tensor:
        return score(load_classifier(classifier, device), split)

    before = predict_once(partial.path("warmup_logits.pt"), lambda: score(model, size=warmup.image_size))
    data = training_set(train, final_labels, warmup, config)
    out_of_fold = OutOfFold(warmup, partial, device, store)
    labels = cross_fitted_labels(folder, final_labels, data, config, out_of_fold)
    # only whether there is ground truth: training does not read it
    each_epoch = config.score_epochs and (folder / "ground_truth.h5").exists()
    history = fit(
        state,
        replace(data, labels=torch.from_numpy(labels.labels)),
        config,
        partial,
        consistency=Consistency.of(config),
        after_epoch=score if each_epoch else None,
        store=store,
    )
    chosen = choose_epoch(config, warmup, history)
    weights = warmup.weights | read_epoch(partial, chosen, "weights")
    best = replace(warmup, weights=weights, image_size=config.test_size)
    learned = scored_epochs(best, range(1, config.epochs + 1) if each_epoch else [chosen], partial, predict)
    teacher = teacher_of(folder, warmup, config)
    weight = 0.0 if teacher is None else weight_of_learned_head(final_labels, data, config, out_of_fold)
    final, factors = joined(learned, teacher, weight, labels.labels, config, predict)
    if not distributed.is_main():
        return
    write(folder / "cross_fitted_labels.h5", replace(labels, provenance=origin.of("cross_fitted_labels.h5")))
    write_csv(folder / "train.csv", history.assign(chosen=history["epoch"] == chosen))
    scores = EpochScores(
        provenance=origin.of("epoch_scores.h5"),
        image_ids=test.image_ids,
        class_names=test.class_names,
        epochs=np.array([0, *final.test]),
        scores=np.stack([logits.sigmoid().numpy() for logits in (before, *final.test.values())]),
        train=final.train.sigmoid().numpy(),
        learned=learned.test[chosen].sigmoid().numpy() if isinstance(teacher, TeacherHead) else None,
        mixture=factors,
        chosen_epoch=chosen,
    )
    write(folder / "epoch_scores.h5", scores)
    trained: dict[str, Any] = {"training": state.to_content(), "steps": state.steps}
    write_checkpoint(
        folder / "classifier.pt",
        replace(final.classifier, provenance=origin, image_ids=train.image_ids, **trained),
    )
    partial.remove()
    log(f"{folder / 'classifier.pt'}: epoch {chosen} of {config.epochs}, loss {history['loss'].iloc[-1]:.4f}.")
