"""A run or a file of it to one set of labels, for those who compare it or hand it on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.machine.errors import PipelineError
from pipeline.method.thresholds import PRESENT
from pipeline.runs.artifacts import EpochScores, Labels
from pipeline.runs.manifest import Manifest, read_manifest
from pipeline.tools.read import read


@dataclass(frozen=True)
class LabelSet:
    """What something says of N images and C classes."""

    path: Path
    """The file."""
    split: str
    """Of the images, train or test."""
    manifest: Manifest
    """Of these images alone, in this order."""
    labels: np.ndarray
    """float32 [N, C] in [0, 1]."""
    thresholds: np.ndarray
    """float64 [C]; a class is present from there on."""

    @property
    def image_ids(self) -> list[str]:
        """N ids."""
        return self.manifest.image_ids

    @property
    def class_names(self) -> list[str]:
        """C names."""
        return self.manifest.class_names

    @property
    def present(self) -> np.ndarray:
        """Decisions, bool [N, C]."""
        return self.labels >= self.thresholds


def read_label_set(path: Path) -> LabelSet:
    """The final labels of a run folder, or what a file of a run says: labels, or scores of the test images.

    Raises:
        PipelineError: it holds no labels, or not of the run's images.
    """
    path = path / "final_labels.h5" if path.is_dir() else path
    artifact = read(path)
    manifest = read_manifest(path.parent)
    if isinstance(artifact, Labels):
        split, labels = "train", artifact.labels
        thresholds = np.full(len(artifact.class_names), PRESENT)
    elif isinstance(artifact, EpochScores):
        split, labels = "test", artifact.chosen
        thresholds = artifact.thresholds
    else:
        raise PipelineError(f"{path} holds no labels; give a run, a labels file, or epoch_scores.h5.")
    part = manifest.split(split)
    if (part.image_ids, part.class_names) != (artifact.image_ids, artifact.class_names):
        raise PipelineError(f"{path} is not about the images of {path.parent / 'manifest.csv'}. Run the stages again.")
    return LabelSet(path, split, part, labels, thresholds)
