"""The labels of a run, or of one of its files, for comparison and export."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from pipeline.artifacts.epoch_scores import EpochScores
from pipeline.artifacts.labels import Labels
from pipeline.artifacts.manifest import Manifest, read_manifest
from pipeline.artifacts.state import read_provenance, up_to_date
from pipeline.evaluation.read import read
from pipeline.method.extras.thresholds import PRESENT
from pipeline.runs.graph import run_argument
from pipeline.system.errors import PipelineError

Part = Literal["train", "test", "both"]


@dataclass(frozen=True)
class LabelSet:
    """Labels or scores of N images and C classes."""

    path: Path
    """The file."""
    manifest: Manifest
    """Of these images only, in this order."""
    labels: np.ndarray
    """float32 [N, C] in [0, 1]."""

    @property
    def image_ids(self) -> list[str]:
        """N ids."""
        return self.manifest.image_ids

    @property
    def class_names(self) -> list[str]:
        """C names."""
        return self.manifest.class_names

    @property
    def splits(self) -> list[str]:
        """N of "train" or "test"."""
        return self.manifest.images["split"].tolist()

    @property
    def present(self) -> np.ndarray:
        """Present classes, bool [N, C]."""
        return self.labels >= PRESENT


def read_label_set(path: Path, part: Part | None = None) -> LabelSet:
    """The labels of a run folder, or the labels or test scores in one file of a run.

    Args:
        path: a run folder or a file.
        part: part of a run folder: its final labels (train, also for None), the classifier's labels of the test images,
            or both.

    Raises:
        PipelineError: it has no labels, is out of date, or has other images than the run or another split than `part`.
    """
    if not path.is_dir():
        labels = read_labels_file(path)
        if part not in (None, *labels.splits):
            raise PipelineError(
                f"{path} has only labels of the {labels.splits[0]} images, not of --split {part}. "
                f"Give the run, {path.parent}, or leave out --split."
            )
        return labels
    part = part or "train"
    sets = {"train": path / "final_labels.h5", "test": path / "epoch_scores.h5"}
    if part != "both":
        return read_labels_file(sets[part])
    train, test = (read_labels_file(sets[split]) for split in ("train", "test"))
    images = pd.concat([train.manifest.images, test.manifest.images], ignore_index=True)
    labels = np.concatenate([train.labels, test.labels])
    return LabelSet(train.path, replace(train.manifest, images=images), labels)


def read_labels_file(path: Path) -> LabelSet:
    """The labels or scores in one file of a run; see `read_label_set`."""
    artifact = read(up_to_date(path))
    manifest = read_manifest(path.parent)
    if isinstance(artifact, Labels):
        split, labels = "train", artifact.labels
    elif isinstance(artifact, EpochScores):
        split, labels = "test", artifact.chosen
    else:
        raise PipelineError(f"{path} has no labels. Give a run, a labels file, or epoch_scores.h5.")
    part = manifest.split(split)
    if (part.image_ids, part.class_names) != (artifact.image_ids, artifact.class_names):
        raise PipelineError(f"{path} has other images than {path.parent / 'manifest.csv'}. Run the stages again.")
    return LabelSet(path, part, labels)


def waiting_corrections(labels_path: Path) -> str | None:
    """A sentence about corrections that these final labels do not contain yet; None if they contain all."""
    path = labels_path.with_name("corrections.h5")
    if labels_path.name != "final_labels.h5" or not path.exists():
        return None
    if read_provenance(labels_path).inputs.get(path.name) == read_provenance(path).fingerprint:
        return None
    return f"{path} is not in these labels yet; `ccd all {run_argument(path.parent)} --to fuse` applies it."
