"""corrections.h5: labels set by people, and their alignment with the images and classes of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.artifacts.schema import Artifact, array

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Corrections(Artifact):
    """Labels that people set for some images; `fuse` uses them instead of the pseudo-labels.

    The file has its own image ids and class names, so it stays valid when photos or classes are added (see
    `align_corrections`).
    """

    SCHEMAS = ("corrections",)

    labels: np.ndarray = array("int8", "N", "C", low=-1, high=1)
    """1 present, 0 absent, -1 not corrected."""

    def frame(self) -> "pd.DataFrame":
        """Labels 1, 0 or -1."""
        return self.by_class(self.labels)


@dataclass(frozen=True)
class AlignedCorrections:
    """Corrections in the rows and columns of a run's images and classes."""

    labels: np.ndarray
    """int8 [N, C]: 1 present, 0 absent, -1 not corrected."""
    unknown_images: list[str]
    """Corrected images that the run does not have."""
    unknown_classes: list[str]
    """Corrected classes that the run does not have."""


def align_corrections(
    corrections: Corrections, image_ids: Sequence[str], class_names: Sequence[str]
) -> AlignedCorrections:
    """The corrections of these N images and C classes."""
    corrected = corrections.labels >= 0
    rows, columns = (
        np.array([place.get(name, -1) for name in names], dtype=np.int64)
        for place, names in (
            ({image_id: row for row, image_id in enumerate(image_ids)}, corrections.image_ids),
            ({name: column for column, name in enumerate(class_names)}, corrections.class_names),
        )
    )
    labels = np.full((len(image_ids), len(class_names)), -1, np.int8)
    labels[np.ix_(rows[rows >= 0], columns[columns >= 0])] = corrections.labels[np.ix_(rows >= 0, columns >= 0)]
    return AlignedCorrections(
        labels=labels,
        unknown_images=[corrections.image_ids[i] for i in np.flatnonzero((rows < 0) & corrected.any(axis=1))],
        unknown_classes=[corrections.class_names[c] for c in np.flatnonzero((columns < 0) & corrected.any(axis=0))],
    )
