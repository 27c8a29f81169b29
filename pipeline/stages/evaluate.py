"""Scores, labels and ground truth to the metrics of a run; runs no network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.epoch_scores import EpochScores
from pipeline.artifacts.hdf5 import read_arrays
from pipeline.artifacts.labels import Labels
from pipeline.artifacts.manifest import SPLITS, Manifest, read_manifest
from pipeline.artifacts.predictions import prediction_frame, write_predictions
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.schema import check_same_images
from pipeline.artifacts.state import read_provenance
from pipeline.evaluation.ground_truth import need_ground_truth
from pipeline.evaluation.intervals import gain_interval, leave_one_out, map_interval
from pipeline.evaluation.metrics import label_metrics, mean_average_precision, multilabel_metrics, ranking_metrics
from pipeline.evaluation.tables import TEACHER, TEACHER_LOCAL, teacher_of, write_metrics
from pipeline.method.extras.thresholds import PRESENT
from pipeline.method.extras.two_heads import mixed_logits
from pipeline.runs.options import EvaluateConfig, InitLabelsConfig, TrainConfig
from pipeline.teachers.image_scores import teacher_scores

LEARNED = "learned head"
"""Name of the scores of a classifier's learned head, without the teacher's."""

BOTH = "final + teacher"
"""Name of the scores of a classifier and of a teacher that is another network, as `ccd predict --with-teacher` gives."""

DECISION_FIGURES = ("CP", "CR", "CF1", "OP", "OR", "OF1", "sample_F1", "threshold", "calibration_error")
"""Metrics of `multilabel_metrics` that depend on its threshold or on calibrated scores."""


def conventions(config: EvaluateConfig) -> dict[str, Any]:
    """How difficult objects and empty classes count, as arguments of the metrics."""
    return {"difficult": config.difficult, "empty_class": config.empty_class}


def without_decisions(figures: dict[str, Any]) -> dict[str, Any]:
    """Metrics that do not depend on a threshold."""
    return {key: value for key, value in figures.items() if key not in DECISION_FIGURES}


def measure_labels(path: Path, rows: np.ndarray, truth: np.ndarray, config: EvaluateConfig) -> dict[str, Any]:
    """Metrics of pseudo-labels; the mAP is that of the unclamped scores, the rest those of the labels.

    Args:
        path: their file; labels and scores are in memory one after the other.
        rows: int64 [K], train images with ground truth.
        truth: int8 [K, C], their ground truth.
        config: options.
    """
    labels: Labels = read_arrays(path, without=("scores",))
    figures = label_metrics(at(labels.labels, rows), truth, labels.class_names, **conventions(config))
    figures["labels_mAP"] = figures["mAP"]
    figures |= {"corrected_entries": labels.corrected_entries, "corrected_images": labels.corrected_images}
    del labels
    ranked: Labels = read_arrays(path, without=("labels",))
    return figures | ranking_metrics(at(ranked.scores, rows), truth, ranked.class_names, **conventions(config))


def at(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of an array; the array itself, not a copy, if these are all."""
    return values if len(rows) == len(values) else values[rows]


def measure(
    scores: dict[str, np.ndarray], truth: np.ndarray, class_names: list[str], config: EvaluateConfig
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Metrics of sets of scores [N, C] on ground truth [N, C], with the intervals of their mAP, by name.

    Returns:
        The metrics, the gain in mAP of the final classifier over the teacher, with local evidence if there is any, and the gain
        of both over the final classifier, with their paired intervals; a gain is empty without its scores.
    """
    figures = {n: multilabel_metrics(values, truth, class_names, **conventions(config)) for n, values in scores.items()}
    changes = {name: leave_one_out(values, truth, **conventions(config)) for name, values in scores.items()}
    for name, change in changes.items():
        figures[name] |= map_interval(change).figures()
    final = "final classifier"

    def gain(name: str, base: str) -> dict[str, Any]:
        if name not in scores or base not in scores:
            return {}
        difference = {"mAP": figures[name]["mAP"] - figures[base]["mAP"]}
        return difference | gain_interval([changes[base]], [changes[name]]).figures()

    return figures, gain(final, teacher_of(scores)), gain(BOTH, final)


def oracle_epoch(epochs: EpochScores, rows: np.ndarray, truth: np.ndarray, config: EvaluateConfig) -> dict[str, Any]:
    """The epoch with the best mAP on ground truth, next to the chosen one; reported, never used.

    Args:
        epochs: scores of the test images.
        rows: int64 [K], test images with ground truth.
        truth: int8 [K, C], their ground truth.
        config: conventions of the metrics.
    """
    trained = np.flatnonzero(epochs.epochs > 0)
    means = [mean_average_precision(epochs.scores[e][rows], truth, **conventions(config)) for e in trained]
    best = int(np.argmax(means))
    numbers = epochs.epochs[trained].tolist()
    return {
        "chosen_epoch": epochs.chosen_epoch,
        "chosen_mAP": means[numbers.index(epochs.chosen_epoch)],
        "oracle_epoch": numbers[best],
        "oracle_mAP": means[best],
        "mAP_by_epoch": means,
    }


def measure_test(
    embeddings: Embeddings,
    init_labels: InitLabelsConfig,
    epochs: EpochScores,
    rows: np.ndarray,
    truth: np.ndarray,
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Metrics of teacher, warm-up and final classifier on the test images (rows) with ground truth."""
    names = epochs.class_names
    scores = teacher_test_scores(embeddings, init_labels, rows) if knows_teacher(embeddings, rows) else {}
    scores["warm-up classifier"] = epochs.of_epoch(0)[rows]
    if epochs.learned is not None:
        scores[LEARNED] = epochs.learned[rows]
    scores["final classifier"] = epochs.chosen[rows]
    if epochs.mixture is not None and knows_teacher(embeddings, rows):
        scores[BOTH] = scores_of_both(embeddings, init_labels, epochs)[rows]
    figures, gain, more = measure(scores, truth, names, config)
    for name in {TEACHER_LOCAL, "warm-up classifier", LEARNED} & set(figures):
        figures[name] = without_decisions(figures[name])  # not calibrated, so 0.5 has no meaning
    measured = {"test": figures} | ({"gain": gain} if gain else {}) | ({"gain_with_teacher": more} if more else {})
    return measured if lacks_epochs(epochs) else measured | {"epochs": oracle_epoch(epochs, rows, truth, config)}


def teacher_test_scores(
    embeddings: Embeddings, init_labels: InitLabelsConfig, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """The teacher's scores of test images by name: of whole images and, where there is local evidence, of both."""
    test = ~embeddings.is_train
    scores = {TEACHER: embeddings.probabilities[test][rows]}
    if embeddings.cell_scores is not None and init_labels.cell_weight:
        scores[TEACHER_LOCAL] = teacher_scores(embeddings, test, init_labels)[rows]
    return scores


def scores_of_both(embeddings: Embeddings, init_labels: InitLabelsConfig, epochs: EpochScores) -> np.ndarray:
    """Scores float32 [N, C] of the test images by the classifier and its teacher, another network."""
    teacher = teacher_scores(embeddings, ~embeddings.is_train, init_labels)
    scores = epochs.chosen.astype(np.float64).clip(1e-9, 1 - 1e-9)
    return 1 / (1 + np.exp(-mixed_logits(np.log(scores / (1 - scores)), teacher, epochs.mixture)))


def lacks_epochs(epochs: EpochScores) -> bool:
    """Whether the test images were not scored after every epoch: without ground truth, or with `score_epochs` off."""
    return len(epochs.epochs) <= epochs.provenance.options(TrainConfig).epochs


def knows_teacher(embeddings: Embeddings, rows: np.ndarray) -> bool:
    """Whether the teacher has scores of all these test images; precomputed scores may lack some."""
    return embeddings.known is None or bool(embeddings.known[~embeddings.is_train][rows].all())


def known_rows(folder: Path, manifest: Manifest) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The images of each split with ground truth: their rows int64 [K] in the split, and labels int8 [K, C].

    Raises:
        PipelineError: there is no ground truth, or it has other images.
    """
    truth = need_ground_truth(folder)
    check_same_images(manifest, truth, folder / "manifest.csv", folder / "ground_truth.h5")
    for split in SPLITS:
        places = np.flatnonzero(manifest.images["split"] == split)
        rows = np.flatnonzero(truth.labelled[places])
        yield rows, truth.labels[places[rows]]


def not_measured(known: dict[str, tuple[int, int]]) -> list[str]:
    """Sentences about what is not measured; `known` has, by split, the number of images with ground truth and in all."""
    sentences = []
    for split, what in (("test", "teacher and classifiers"), ("train", "pseudo-labels")):
        labelled, images = known[split]
        if not images:
            sentences.append(f"There are no {split} images, so {what} are not measured.")
        elif not labelled:
            sentences.append(f"The {images} {split} images have no labels, so {what} are not measured.")
        elif labelled < images:
            sentences.append(f"{labelled} of the {images} {split} images have labels; {what} are measured on these.")
    return sentences


def without_interval(test: dict[str, Any], gain: dict[str, Any]) -> list[str]:
    """Sentences about test mAPs, or a gain, without an interval, and the reason."""
    names: dict[str, list[str]] = {}
    for name, figures in [*test.items(), ("gain", gain)]:
        if "no_interval" in figures:
            names.setdefault(figures["no_interval"], []).append(name)
    return [f"There is no 95 % interval for {'; '.join(each)}: {reason}." for reason, each in names.items()]


def label_names(folder: Path) -> list[str]:
    """Names of the labels to measure; without cross-fitting, the classifier was trained on the final labels."""
    final: Labels = read_arrays(folder / "final_labels.h5", without=("scores",))
    trained_on: Labels = read_arrays(folder / "cross_fitted_labels.h5", without=("scores",))
    return ["initial", "final"] + ["cross_fitted"] * (not np.array_equal(final.labels, trained_on.labels))


def run(folder: Path, config: EvaluateConfig, origin: Provenance) -> None:
    """Write `metrics.json` and, where there are test images, `predictions.csv`.

    Raises:
        PipelineError: there is no ground truth, or it has other images.
    """
    manifest = read_manifest(folder)
    (train_rows, train_truth), (test_rows, test_truth) = known_rows(folder, manifest)
    train, test = manifest.split("train"), manifest.split("test")
    counts = {"train": (len(train_rows), len(train.image_ids)), "test": (len(test_rows), len(test.image_ids))}
    metrics: dict[str, Any] = {"conventions": conventions(config), "not_measured": not_measured(counts)}
    if len(train_rows):
        metrics["labels"] = {
            name.replace("_", "-"): measure_labels(folder / f"{name}_labels.h5", train_rows, train_truth, config)
            for name in label_names(folder)
        }
    epochs: EpochScores = read_arrays(folder / "epoch_scores.h5")
    if len(test_rows):
        embeddings: Embeddings = read_arrays(folder / "embeddings.h5")
        init_labels = read_provenance(folder / "initial_labels.h5").options(InitLabelsConfig)
        metrics |= measure_test(embeddings, init_labels, epochs, test_rows, test_truth, config)
        metrics["not_measured"] += without_interval(metrics["test"], metrics.get("gain", {}))
        if not knows_teacher(embeddings, test_rows):
            metrics["not_measured"].append("The scores of the teacher lack test images, so it is not measured.")
        if lacks_epochs(epochs):
            metrics["not_measured"].append(
                f"The test images were scored only after epoch {epochs.chosen_epoch}, so the best epoch is unknown."
            )
    if len(test.image_ids):
        thresholds = [PRESENT] * len(test.class_names)
        frame = prediction_frame(test.image_ids, epochs.chosen, thresholds, test.class_names, key="image_id")
        write_predictions(folder / "predictions.csv", frame)
    write_metrics(folder, origin, metrics)
