"""All files of a run that are up to date, for reports and inspection without a model."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.artifacts.boxes import Boxes, CropScores
from pipeline.artifacts.checkpoints import CheckpointHeader, read_header, why_outdated
from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.epoch_scores import EpochScores
from pipeline.artifacts.labels import Labels
from pipeline.artifacts.manifest import Manifest, read_manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.state import UP_TO_DATE, file_states
from pipeline.evaluation.ground_truth import GroundTruth
from pipeline.evaluation.read import read
from pipeline.method.labels import local_scores
from pipeline.runs.graph import HISTORIES
from pipeline.runs.options import FuseConfig
from pipeline.system.errors import PipelineError
from pipeline.system.files import regular_file

EPOCH_COLUMNS = {"epoch": int, "loss": float, "pseudo_label_mAP": float}
"""Columns of `warmup.csv` and `train.csv` that reports show; a file with other cells is left out."""


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The files of a run; one that is missing or out of date is None."""

    folder: Path
    states: dict[str, str]
    """State of each file, see `FileState.state`."""
    provenances: dict[str, Provenance]
    """Provenance of each file that is up to date."""
    manifest: Manifest
    truth: GroundTruth | None
    embeddings: Embeddings | None
    initial: Labels | None
    boxes: Boxes | None
    crops: CropScores | None
    local: np.ndarray | None
    """float32 [N, C] of the train images, see `local_of`."""
    final: Labels | None
    epoch_scores: EpochScores | None
    thresholds: list[float] | None
    """C thresholds that `ccd predict` uses."""
    metrics: dict[str, Any] | None
    warmup_epochs: pd.DataFrame | None
    train_epochs: pd.DataFrame | None


def read_run(folder: Path, without: Sequence[str] = ()) -> RunFiles:
    """All files of a run that are up to date, except those in `without`; `states` names files that cannot be read.

    Raises:
        PipelineError: the manifest is missing or cannot be read.
    """
    manifest = read_manifest(folder)
    file_state = file_states(folder)
    states = {name: each.state for name, each in file_state.items()}

    def take(name: str, load: Callable[[Path], Any] = read) -> Any:
        if states[name] != UP_TO_DATE or name in without:
            return None
        try:
            return load(folder / name)
        except PipelineError as error:
            states[name] = str(error)
            return None

    def history(name: str) -> pd.DataFrame | None:
        path = folder / name
        if states[HISTORIES[name]] != UP_TO_DATE or not path.exists():
            return None
        try:
            frame = pd.read_csv(regular_file(path)).astype(EPOCH_COLUMNS)
            return frame if not frame.columns.has_duplicates else None
        except (OSError, ValueError, TypeError, KeyError, OverflowError):
            return None

    crops, final, header = take("crop_scores.h5"), take("final_labels.h5"), take("classifier.pt", read_header)
    return RunFiles(
        folder=folder,
        manifest=manifest,
        truth=take("ground_truth.h5"),
        embeddings=take("embeddings.h5"),
        initial=take("initial_labels.h5"),
        boxes=take("boxes.h5"),
        crops=crops,
        local=None if crops is None else local_of(crops, final),
        final=final,
        epoch_scores=take("epoch_scores.h5"),
        thresholds=None if header is None else thresholds_of(folder, header),
        metrics=take("metrics.json"),
        warmup_epochs=history("warmup.csv"),
        train_epochs=history("train.csv"),
        # last, because reading may change the states
        states=states,
        provenances={
            name: each.provenance for name, each in file_state.items() if each.provenance and states[name] == UP_TO_DATE
        },
    )


def thresholds_of(folder: Path, classifier: CheckpointHeader) -> list[float]:
    """The thresholds of a run's `calibrated.pt` if they apply to its classifier, else those of the classifier."""
    with suppress(PipelineError):
        calibrated = read_header(folder / "calibrated.pt")
        if not why_outdated(calibrated.provenance, classifier.provenance):
            return calibrated.thresholds
    return classifier.thresholds


def local_of(crops: CropScores, final: Labels | None) -> np.ndarray:
    """Local scores of the crops per image and class, float32 [N, C], combined as for the final labels; NaN without a crop."""
    config = FuseConfig() if final is None else final.provenance.options(FuseConfig)
    class_index = crops.class_index if config.crop_scope == "own" else None
    local, counts = local_scores(crops.probabilities, crops.image_index, len(crops.image_ids), class_index)
    return np.where(counts > 0, local, np.float32(np.nan))
