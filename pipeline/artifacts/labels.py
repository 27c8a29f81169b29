"""initial_labels.h5, final_labels.h5, cross_fitted_labels.h5: pseudo-labels of the train images."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.artifacts.schema import Artifact, array
from pipeline.method.extras.thresholds import PRESENT
from pipeline.system.progress import log

if TYPE_CHECKING:
    import pandas as pd


def corrected_count(images: int) -> str:
    """Number of corrected photos as text; empty for none."""
    return f"{images:,} photo{'s' * (images != 1)}" if images else ""


def warn_of_classes(path: Path, labels: "Labels") -> None:
    """Log the classes without a label of PRESENT or more."""
    if labels.never_present:
        log(f"warning: {path} has no label of {PRESENT} or more of: {', '.join(labels.never_present)}.")


@dataclass(frozen=True, kw_only=True)
class Labels(Artifact):
    """Pseudo-labels of the train images: initial, final or cross-fitted."""

    SCHEMAS = ("initial_labels", "final_labels", "cross_fitted_labels")

    labels: np.ndarray = array("float32", "N", "C", low=0, high=1)
    """Soft targets in [0, 1], for training."""
    scores: np.ndarray = array("float32", "N", "C", low=0)
    """Non-negative and not clamped, for ranking: the labels of a class are in the order of its scores."""
    confident: np.ndarray = array("bool", "N")
    """Whether the entropy is at most the limit."""
    corrected_entries: int = 0
    """Pairs of image and class that a correction sets to 0 or 1 (see `Corrections`)."""
    corrected_images: int = 0
    """Images with such a pair."""

    @property
    def by_hand(self) -> str:
        """Number of corrected photos, as "3 photos"; empty for none."""
        return corrected_count(self.corrected_images)

    @property
    def per_image(self) -> np.ndarray:
        """Number of labels of PRESENT or more of each image, int64 [N]."""
        return (self.labels >= PRESENT).sum(1)

    @property
    def per_image_text(self) -> str:
        """Mean of `per_image`, with what it counts."""
        return f"{self.per_image.mean():.2f} labels per image (those of {PRESENT} or more)"

    @property
    def never_present(self) -> list[str]:
        """Names of the classes without a label of PRESENT or more."""
        return [
            name for name, column in zip(self.class_names, self.labels.T, strict=True) if not (column >= PRESENT).any()
        ]

    def frame(self) -> "pd.DataFrame":
        """Labels in [0, 1]."""
        return self.by_class(self.labels)
