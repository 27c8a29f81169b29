"""Two sets of labels, or two runs, to their differences."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.state import read_provenance
from pipeline.exchange.label_sets import LabelSet
from pipeline.runs.graph import MAKERS
from pipeline.system.errors import PipelineError
from pipeline.system.progress import log


@dataclass(frozen=True)
class Comparison:
    """The N images and C classes that both sets have, in the order of the first."""

    image_ids: list[str]
    class_names: list[str]
    labels: tuple[np.ndarray, np.ndarray]
    """float [N, C] each."""
    present: tuple[np.ndarray, np.ndarray]
    """bool [N, C] each."""

    @property
    def agreement(self) -> float:
        """Share of the pairs of image and class with equal decisions."""
        return float((self.present[0] == self.present[1]).mean())

    def class_columns(self) -> dict[str, np.ndarray]:
        """Column title to values [C]."""
        first, second = self.present
        return {
            "first": first.sum(0),
            "second": second.sum(0),
            "both": (first & second).sum(0),
            "lost": (first & ~second).sum(0),
            "gained": (second & ~first).sum(0),
            "mean change": (self.labels[1] - self.labels[0]).mean(0, dtype=np.float64),
        }

    def most_changed(self, limit: int) -> list[tuple[int, int]]:
        """Row and most different class of each image with a difference, largest difference first."""
        difference = np.abs(self.labels[1].astype(np.float64) - self.labels[0])
        rows = np.argsort(-difference.max(1), kind="stable")[:limit]
        return [(int(row), int(difference[row].argmax())) for row in rows if difference[row].max() > 0]


def shared_images(first: Manifest, second: Manifest) -> list[str]:
    """Ids of the photos that both manifests have, in the order of the first.

    An equal id is not enough, because two folders may each have a 001.jpg. Photos with different content are skipped and logged.
    """
    digests = dict(zip(second.image_ids, second.digests, strict=True))
    named = [(i, digest) for i, digest in zip(first.image_ids, first.digests, strict=True) if i in digests]
    shared = [image_id for image_id, digest in named if digests[image_id] == digest]
    if len(shared) < len(named):
        log(f"{len(named) - len(shared)} photos are skipped: the runs have different content under the same name.")
    return shared


def compare(first: LabelSet, second: LabelSet) -> Comparison:
    """The comparison of two sets of labels.

    Raises:
        PipelineError: they have no image or no class in common.
    """
    rows = [{image_id: row for row, image_id in enumerate(each.image_ids)} for each in (first, second)]
    images = shared_images(first.manifest, second.manifest)
    classes = [c for c in first.class_names if c in second.class_names]
    if not images or not classes:
        missing = "image" if classes else "class"
        raise PipelineError(
            f"{first.path} and {second.path} have no {missing} in common. Choose two files of the same dataset."
        )
    cells = [
        np.ix_([row[i] for i in images], [each.class_names.index(c) for c in classes])
        for each, row in zip((first, second), rows, strict=True)
    ]
    labels = tuple(each.labels[cell] for each, cell in zip((first, second), cells, strict=True))
    present = tuple(each.present[cell] for each, cell in zip((first, second), cells, strict=True))
    return Comparison(images, classes, labels, present)


def option_differences(first: Path, second: Path) -> list[tuple[str, str, Any, Any]]:
    """Artifact, option and both values of every option that differs between two run folders."""
    differences = []
    for name in MAKERS:
        paths = [folder / name for folder in (first, second)]
        if not all(path.exists() for path in paths):
            continue
        configs = [read_provenance(path).config for path in paths]
        for option in sorted({*configs[0], *configs[1]}):
            values = [config.get(option) for config in configs]
            if values[0] != values[1]:
                differences.append((name, option, *values))
    return differences
