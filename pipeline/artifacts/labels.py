"""initial_labels.h5, final_labels.h5, cross_fitted_labels.h5: pseudo-labels of the train images."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
from pipeline.artifacts.schema import Artifact, array


def corrected_count(images: int, entries: int) -> str:
    """How much people have corrected, in photos or, where an old file does not count them, in labels; empty for nothing."""
    number, what = (images, "photo") if images else (entries, "label")
    return f"{number:,} {what}{'s' * (number != 1)}" if number else ""


@dataclass(frozen=True, kw_only=True)
class Labels(Artifact):
    """Pseudo-labels of the train images: initial, final, or as they are trained on."""

    SCHEMAS = ("initial_labels", "final_labels", "cross_fitted_labels")

    labels: np.ndarray = array("float32", "N", "C", low=0, high=1)
    """Soft targets in [0, 1]."""
    scores: np.ndarray = array("float32", "N", "C", low=0)
    """The same before clamping: free of the ties that clamping makes, non-negative."""
    confident: np.ndarray = array("bool", "N")
    """Entropy at most the limit."""
    corrected_entries: int = 0
    """Pairs of image and class that a person has fixed to 0 or 1 (see `Corrections`)."""
    corrected_images: int = 0
    """Images with such a pair; 0 also in files of earlier versions."""

    @property
    def by_hand(self) -> str:
        """How much people have corrected, as "3 photos"; empty where they have not."""
        return corrected_count(self.corrected_images, self.corrected_entries)

    def frame(self) -> "pd.DataFrame":
        """Labels in [0, 1]."""
        return self.by_class(self.labels)
