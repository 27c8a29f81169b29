"""A run folder to everything in it that is up to date, for those who look at a run and need no model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.machine.errors import PipelineError
from pipeline.runs.artifacts import (
    MAKERS,
    OPTIONAL,
    Boxes,
    CropScores,
    Embeddings,
    EpochScores,
    GroundTruth,
    Labels,
    Manifest,
    Provenance,
    check_current,
    read,
    read_checkpoint,
    read_manifest,
)

HISTORIES = {"warmup.csv": "warmup.pt", "train.csv": "classifier.pt"}
"""Tables of epochs and the artifact that each belongs to."""


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What a run has; a file that is missing or stale is None."""

    folder: Path
    states: dict[str, str]
    """File name to "current", "missing", "none" (of one that need not be there) or what is wrong with it."""
    provenances: dict[str, Provenance]
    """Of the current files."""
    manifest: Manifest
    truth: GroundTruth | None
    embeddings: Embeddings | None
    initial: Labels | None
    boxes: Boxes | None
    crops: CropScores | None
    final: Labels | None
    epoch_scores: EpochScores | None
    thresholds: list[float] | None
    """C, the classifier's own."""
    metrics: dict[str, Any] | None
    warmup_epochs: pd.DataFrame | None
    train_epochs: pd.DataFrame | None


def state_of(path: Path, known: dict[Path, Provenance]) -> tuple[str, Provenance | None]:
    """The state of a file as `RunFiles.states` words it, and where the file came from if it is current.

    Args:
        path: the file.
        known: files that are already checked, as of `check_current`.
    """
    if not path.exists():
        return ("none" if path.name in OPTIONAL else "missing"), None
    try:
        return "current", check_current(path, known)
    except PipelineError as error:
        return str(error), None


def read_run(folder: Path) -> RunFiles:
    """Every current file of a run.

    Raises:
        PipelineError: there is no manifest, or a file is damaged.
    """
    manifest = read_manifest(folder)
    known: dict[Path, Provenance] = {}
    found = {name: state_of(folder / name, known) for name in MAKERS}
    current = {name: provenance for name, (_, provenance) in found.items() if provenance is not None}

    def take(name: str) -> Any:
        return read(folder / name) if name in current else None

    histories = {
        name: pd.read_csv(folder / name) if of in current and (folder / name).exists() else None
        for name, of in HISTORIES.items()
    }
    return RunFiles(
        folder=folder,
        states={name: state for name, (state, _) in found.items()},
        provenances=current,
        manifest=manifest,
        truth=take("ground_truth.h5"),
        embeddings=take("embeddings.h5"),
        initial=take("initial_labels.h5"),
        boxes=take("boxes.h5"),
        crops=take("crop_scores.h5"),
        final=take("final_labels.h5"),
        epoch_scores=take("epoch_scores.h5"),
        thresholds=read_checkpoint(folder / "classifier.pt").thresholds if "classifier.pt" in current else None,
        metrics=take("metrics.json"),
        warmup_epochs=histories["warmup.csv"],
        train_epochs=histories["train.csv"],
    )
