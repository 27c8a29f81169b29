"""Human labels of a dataset. Only `prepare` writes them.

The import contracts list the modules that must not import this one: everything that trains or selects.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.artifacts.hdf5 import read_arrays
from pipeline.artifacts.schema import Artifact, array
from pipeline.datasets.dataset import DIFFICULT, UNKNOWN
from pipeline.runs.graph import remedy, run_argument
from pipeline.system.errors import PipelineError

if TYPE_CHECKING:
    import pandas as pd

FILE = "ground_truth.h5"


@dataclass(frozen=True, kw_only=True)
class GroundTruth(Artifact):
    """Human labels of the images of a manifest, train and test."""

    SCHEMAS = ("ground_truth",)

    labels: np.ndarray = array("int8", "N", "C", low=DIFFICULT, high=1)
    """1 present, 0 absent, -1 (UNKNOWN) not labelled, -2 (DIFFICULT) only difficult objects."""
    object_image_index: np.ndarray = array("int64", "K", index="N")
    object_class_index: np.ndarray = array("int64", "K", index="C")
    object_box: np.ndarray = array("float32", "K", 4)
    """xyxy in pixels of the original image."""
    object_difficult: np.ndarray = array("bool", "K")

    @property
    def labelled(self) -> np.ndarray:
        """Images with a label of at least one class, bool [N]; figures are measured on these."""
        return (self.labels != UNKNOWN).any(axis=1)

    def frame(self) -> "pd.DataFrame":
        """Labels 1, 0, -1 or -2 as a table."""
        return self.by_class(self.labels)

    def rows_of(self, image_ids: list[str]) -> np.ndarray:
        """Labels int8 [N, C] of these images, in their order; raises as `positions_of`."""
        return self.labels[self.positions_of(image_ids)]

    def positions_of(self, image_ids: list[str]) -> np.ndarray:
        """Rows int64 [N] of these images.

        Raises:
            PipelineError: an image has no row.
        """
        row = {image_id: i for i, image_id in enumerate(self.image_ids)}
        missing = [i for i in image_ids if i not in row]
        if missing:
            raise PipelineError(
                f"{FILE} lacks {len(missing)} images (first: {missing[0]}). Rebuild it with `ccd prepare`."
            )
        return np.array([row[i] for i in image_ids], dtype=np.int64)


def digest_truth(labels: np.ndarray, *objects: np.ndarray) -> str:
    """Hash of labels and objects."""
    digest = hashlib.sha256()
    for values in (labels, *objects):
        digest.update(f"{values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()[:16]


def has_ground_truth(folder: Path) -> bool:
    """Whether a run has ground truth."""
    return (folder / FILE).exists()


def read_ground_truth(folder: Path) -> GroundTruth:
    """The ground truth of a run folder; raises PipelineError if it is missing or damaged."""
    return read_arrays(folder / FILE, {"ground_truth": GroundTruth})


def need_ground_truth(folder: Path) -> GroundTruth:
    """The ground truth of a run folder; raises PipelineError if the run has none."""
    if not has_ground_truth(folder):
        raise PipelineError(
            f"{folder} has no ground truth, so there is nothing to measure against; look at the labels with "
            f"`ccd inspect {run_argument(folder)}`, or give labelled photos: {remedy(folder / FILE)[:-1]} --labels TABLE`."
        )
    return read_ground_truth(folder)
