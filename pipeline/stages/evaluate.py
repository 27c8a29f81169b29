"""Scores, labels and ground truth to the figures of the run; the one stage that measures. It asks no network."""

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
from pipeline.evaluation.ground_truth import need_ground_truth
from pipeline.evaluation.intervals import gain_interval, leave_one_out, map_interval
from pipeline.evaluation.metrics import label_metrics, mean_average_precision, multilabel_metrics, ranking_metrics
from pipeline.method.extras.thresholds import PRESENT
from pipeline.runs.options import EvaluateConfig, TrainConfig
from pipeline.system.files import write_json

DECISION_FIGURES = ("CP", "CR", "CF1", "OP", "OR", "OF1", "sample_F1", "threshold", "calibration_error")
"""Figures of `multilabel_metrics` that depend on its threshold, or on what a score means."""


def conventions(config: EvaluateConfig) -> dict[str, Any]:
    """How difficult objects and empty classes count, as the metrics take it."""
    return {"difficult": config.difficult, "empty_class": config.empty_class}


def without_decisions(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures without those that depend on a threshold."""
    return {key: value for key, value in figures.items() if key not in DECISION_FIGURES}


def measure_labels(path: Path, rows: np.ndarray, truth: np.ndarray, config: EvaluateConfig) -> dict[str, Any]:
    """Figures of pseudo-labels; the mAP is that of the unclamped scores, everything else that of the labels.

    Args:
        path: their file; of labels and scores only one is held at a time.
        rows: int64 [K], the train images that ground truth knows.
        truth: int8 [K, C], of these.
        config: options.
    """
    labels: Labels = read_arrays(path, without=("scores",))
    figures = label_metrics(at(labels.labels, rows), truth, labels.class_names, **conventions(config))
    found = {"labels_mAP": figures["mAP"], "corrected_entries": labels.corrected_entries}
    found["corrected_images"] = labels.corrected_images
    del labels
    ranked: Labels = read_arrays(path, without=("labels",))
    return figures | found | ranking_metrics(at(ranked.scores, rows), truth, ranked.class_names, **conventions(config))


def at(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of an array; the array itself, and no copy, where these are all."""
    return values if len(rows) == len(values) else values[rows]


def measure(
    scores: dict[str, np.ndarray], truth: np.ndarray, class_names: list[str], config: EvaluateConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of sets of scores [N, C] against ground truth [N, C], with the intervals of their mAP, by name.

    Returns:
        Also how much higher the final classifier's mAP is than the teacher's, with its interval over the same images;
        empty without teacher.
    """
    figures = {n: multilabel_metrics(values, truth, class_names, **conventions(config)) for n, values in scores.items()}
    changes = {name: leave_one_out(values, truth, **conventions(config)) for name, values in scores.items()}
    for name, found in changes.items():
        figures[name] |= map_interval(found).figures()
    teacher, final = "teacher zero-shot", "final classifier"
    if teacher not in scores:
        return figures, {}
    gain = {"mAP": figures[final]["mAP"] - figures[teacher]["mAP"]}
    return figures, gain | gain_interval([changes[teacher]], [changes[final]]).figures()


def oracle_epoch(epochs: EpochScores, rows: np.ndarray, truth: np.ndarray, config: EvaluateConfig) -> dict[str, Any]:
    """The epoch that ground truth would have chosen, next to the one that was: reported, never used.

    Args:
        epochs: scores of the test images.
        rows: int64 [K], the images among them that ground truth knows.
        truth: int8 [K, C], of these.
        config: the conventions, which are those of the table.
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
    embeddings: Embeddings, epochs: EpochScores, rows: np.ndarray, truth: np.ndarray, config: EvaluateConfig
) -> dict[str, Any]:
    """Figures of teacher, warm-up and final classifier on those test images (rows) that ground truth knows."""
    names = epochs.class_names
    scores = {"warm-up classifier": epochs.of_epoch(0)[rows], "final classifier": epochs.chosen[rows]}
    if knows_teacher(embeddings, rows):
        scores = {"teacher zero-shot": embeddings.probabilities[~embeddings.is_train][rows], **scores}
    figures, gain = measure(scores, truth, names, config)
    # its scores are not calibrated, so that 0.5 decides nothing
    figures["warm-up classifier"] = without_decisions(figures["warm-up classifier"])
    found = {"test": figures} | ({} if lacks_epochs(epochs) else {"epochs": oracle_epoch(epochs, rows, truth, config)})
    return found | ({"gain": gain} if gain else {})


def lacks_epochs(epochs: EpochScores) -> bool:
    """Whether the test images were not scored after every epoch: there was no ground truth, or nobody wanted it."""
    return len(epochs.epochs) <= epochs.provenance.options(TrainConfig).epochs


def knows_teacher(embeddings: Embeddings, rows: np.ndarray) -> bool:
    """Whether the teacher has said something of all these test images; precomputed scores may lack some."""
    return embeddings.known is None or bool(embeddings.known[~embeddings.is_train][rows].all())


def known_rows(folder: Path, manifest: Manifest) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Those images of each split that ground truth knows: their rows int64 [K] in the split, and labels int8 [K, C].

    Raises:
        PipelineError: there is no ground truth, or it is about other images.
    """
    truth = need_ground_truth(folder)
    check_same_images(manifest, truth, folder / "manifest.csv", folder / "ground_truth.h5")
    for split in SPLITS:
        places = np.flatnonzero(manifest.images["split"] == split)
        rows = np.flatnonzero(truth.labelled[places])
        yield rows, truth.labels[places[rows]]


def not_measured(known: dict[str, tuple[int, int]]) -> list[str]:
    """Sentences about what has no ground truth; `known` holds, by split, how many images have some, and all."""
    found = []
    for split, what in (("test", "teacher and classifiers"), ("train", "pseudo-labels")):
        labelled, images = known[split]
        if not images:
            found.append(f"There are no {split} images, so {what} are not measured.")
        elif not labelled:
            found.append(f"The {images} {split} images have no labels, so {what} are not measured.")
        elif labelled < images:
            found.append(f"{labelled} of the {images} {split} images have labels; {what} are measured on these.")
    return found


def without_interval(test: dict[str, Any], gain: dict[str, Any]) -> list[str]:
    """Sentences about the mAPs of test images, and their difference, that have no interval, and why."""
    names: dict[str, list[str]] = {}
    for name, figures in [*test.items(), ("gain", gain)]:
        if "no_interval" in figures:
            names.setdefault(figures["no_interval"], []).append(name)
    return [f"There is no 95 % interval for {', '.join(found)}: {reason}." for reason, found in names.items()]


def run(folder: Path, config: EvaluateConfig, origin: Provenance) -> None:
    """Write `metrics.json` and, where there are test images, `predictions.csv`.

    Raises:
        PipelineError: there is no ground truth, or it is about other images.
    """
    manifest = read_manifest(folder)
    (train_rows, train_truth), (test_rows, test_truth) = known_rows(folder, manifest)
    train, test = manifest.split("train"), manifest.split("test")
    counts = {"train": (len(train_rows), len(train.image_ids)), "test": (len(test_rows), len(test.image_ids))}
    metrics: dict[str, Any] = {"conventions": conventions(config), "not_measured": not_measured(counts)}
    if len(train_rows):
        metrics["labels"] = {
            name.replace("_", "-"): measure_labels(folder / f"{name}_labels.h5", train_rows, train_truth, config)
            for name in ("initial", "final", "cross_fitted")
        }
    epochs: EpochScores = read_arrays(folder / "epoch_scores.h5")
    if len(test_rows):
        embeddings: Embeddings = read_arrays(folder / "embeddings.h5")
        metrics |= measure_test(embeddings, epochs, test_rows, test_truth, config)
        metrics["not_measured"] += without_interval(metrics["test"], metrics.get("gain", {}))
        if not knows_teacher(embeddings, test_rows):
            metrics["not_measured"].append("The scores of the teacher lack test images, so it is not measured.")
        if lacks_epochs(epochs):
            metrics["not_measured"].append(
                f"The test images were scored after epoch {epochs.chosen_epoch} alone, so the oracle epoch is not known."
            )
    if len(test.image_ids):
        thresholds = [PRESENT] * len(test.class_names)
        frame = prediction_frame(test.image_ids, epochs.chosen, thresholds, test.class_names, key="image_id")
        write_predictions(folder / "predictions.csv", frame)
    write_json(folder / "metrics.json", {"attributes": origin.to_attributes(), **metrics})
