"""Classifiers, labels and ground truth to the figures of the run; the one stage that measures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.classifier.inference import load_classifier, predict_scores
from pipeline.evaluation.metrics import (
    average_precision,
    bootstrap_difference,
    bootstrap_interval,
    label_metrics,
    multilabel_metrics,
)
from pipeline.evaluation.tables import show_metrics
from pipeline.machine.errors import PipelineError
from pipeline.runs.artifacts import (
    Checkpoint,
    Embeddings,
    EpochScores,
    GroundTruth,
    Labels,
    begin,
    check_same_images,
    read,
    read_checkpoint,
    read_manifest,
)
from pipeline.runs.config import Config, option
from pipeline.runs.files import write_json
from pipeline.runs.score_table import prediction_frame, write_predictions

DECISION_FIGURES = ("CP", "CR", "CF1", "OP", "OR", "OF1", "sample_F1", "threshold")
"""Figures of `multilabel_metrics` that depend on its threshold."""


@dataclass(frozen=True)
class EvaluateConfig(Config):
    """The conventions of the figures."""

    difficult: Literal["ignore", "negative", "positive"] = option(
        "ignore", "what a class with only difficult objects counts as (CCD: negative)"
    )
    empty_class: Literal["skip", "zero"] = option("skip", "AP of a class without positives: left out, or 0")
    resamples: int = option(1000, "bootstrap resamples of the test images behind the intervals", min=0, max=100_000)
    seed: int = option(0, "seed of the bootstrap", min=0)


def measure(scores: np.ndarray, truth: np.ndarray, class_names: list[str], config: EvaluateConfig) -> dict[str, Any]:
    """Figures of one set of scores [N, C] against ground truth [N, C], with the interval of its mAP."""
    conventions = {"difficult": config.difficult, "empty_class": config.empty_class}
    figures = multilabel_metrics(scores, truth, class_names, **conventions)
    if config.resamples:
        interval = bootstrap_interval(scores, truth, **conventions, resamples=config.resamples, seed=config.seed)
        figures["mAP_interval"] = list(interval)
    return figures


def measure_decisions(
    scores: np.ndarray, truth: np.ndarray, checkpoint: Checkpoint, config: EvaluateConfig
) -> dict[str, Any]:
    """Figures of the labels that a classifier gives by its own thresholds: those that depend on a threshold."""
    conventions = {"difficult": config.difficult, "empty_class": config.empty_class}
    thresholds = np.array(checkpoint.thresholds)
    figures = multilabel_metrics(scores, truth, checkpoint.class_names, **conventions, threshold=thresholds)
    return {key: figures[key] for key in DECISION_FIGURES}


def measure_labels(labels: Labels, truth: np.ndarray, config: EvaluateConfig) -> dict[str, Any]:
    """Figures of pseudo-labels; the mAP is that of the unclamped scores, everything else that of the labels."""
    conventions = {"difficult": config.difficult, "empty_class": config.empty_class}
    figures = label_metrics(labels.labels, truth, labels.class_names, **conventions)
    ranked = multilabel_metrics(labels.scores, truth, labels.class_names, **conventions)
    return {**figures, "labels_mAP": figures["mAP"], "mAP": ranked["mAP"], "AP": ranked["AP"]} | {
        "corrected_entries": int(labels.corrected_entries)
    }


def gain_over_teacher(
    scores: dict[str, np.ndarray], truth: np.ndarray, figures: dict[str, Any], config: EvaluateConfig
) -> dict[str, Any]:
    """How much higher the final classifier's mAP is than the teacher's, with its interval over the same images."""
    teacher, final = "teacher zero-shot", "final classifier"
    gain: dict[str, Any] = {"mAP": figures[final]["mAP"] - figures[teacher]["mAP"]}
    if config.resamples:
        gain["mAP_interval"] = bootstrap_difference(
            [scores[teacher]],
            [scores[final]],
            truth,
            difficult=config.difficult,
            empty_class=config.empty_class,
            resamples=config.resamples,
            seed=config.seed,
        )
    return gain


def oracle_epoch(epochs: EpochScores, truth: np.ndarray) -> dict[str, Any]:
    """The epoch that ground truth would have chosen, beside the one that was: reported, never used."""
    means = [float(np.nanmean(average_precision(scores, truth))) for scores in epochs.scores]
    best = int(np.argmax(means))
    return {
        "chosen_epoch": int(epochs.chosen_epoch),
        "chosen_mAP": means[epochs.chosen_epoch - 1],
        "oracle_epoch": best + 1,
        "oracle_mAP": means[best],
        "mAP_by_epoch": means,
    }


def run(folder: Path, config: EvaluateConfig, *, device: str = "cpu", force: bool = False) -> None:
    """Write `metrics.json` and `predictions.csv`, and show the table of the run."""
    path = folder / "metrics.json"
    sources = [
        "manifest.csv",
        "ground_truth.h5",
        "embeddings.h5",
        "initial_labels.h5",
        "final_labels.h5",
        "warmup.pt",
        "classifier.pt",
        "epoch_scores.h5",
    ]
    if not (folder / "ground_truth.h5").exists():
        raise PipelineError(
            f"{folder} has no ground truth, so there is nothing to measure against; "
            "look at the labels with `ccd inspect`, or give --labels to `ccd prepare`."
        )
    provenance = begin(folder, path.name, config, sources, force=force)
    if provenance is None:
        show_metrics(folder)
        return
    manifest = read_manifest(folder)
    truth: GroundTruth = read(folder / "ground_truth.h5")
    check_same_images(manifest, truth, folder / "manifest.csv", folder / "ground_truth.h5")
    embeddings: Embeddings = read(folder / "embeddings.h5")
    final = read_checkpoint(folder / "classifier.pt")
    train, test = manifest.split("train"), manifest.split("test")
    labels = {name: read(folder / f"{name}_labels.h5") for name in ("initial", "final")}
    train_truth, test_truth = truth.rows_of(train.image_ids), truth.rows_of(test.image_ids)
    metrics: dict[str, Any] = {"labels": {n: measure_labels(v, train_truth, config) for n, v in labels.items()}}
    if len(test.image_ids):
        scores = {
            "teacher zero-shot": embeddings.probabilities[~embeddings.is_train],
            "warm-up classifier": scores_of(read_checkpoint(folder / "warmup.pt"), test.paths, device, "warm-up"),
            "final classifier": scores_of(final, test.paths, device, "final"),
        }
        metrics["test"] = {n: measure(v, test_truth, test.class_names, config) for n, v in scores.items()}
        metrics["gain"] = gain_over_teacher(scores, test_truth, metrics["test"], config)
        metrics["epochs"] = oracle_epoch(read(folder / "epoch_scores.h5"), test_truth)
        predicted = scores["final classifier"]
        metrics["test"]["final classifier"]["own_thresholds"] = measure_decisions(predicted, test_truth, final, config)
        frame = prediction_frame(test.image_ids, predicted, final.thresholds, final.class_names, key="image_id")
        write_predictions(folder / "predictions.csv", frame)
    write_json(path, {"attributes": provenance.to_attributes(), **metrics})
    show_metrics(folder)


def scores_of(checkpoint: Checkpoint, paths: list[str], device: str, title: str) -> np.ndarray:
    """Scores float32 [N, C] of a checkpoint on images."""
    return predict_scores(load_classifier(checkpoint, device), paths, checkpoint.image_size, title=title).numpy()
