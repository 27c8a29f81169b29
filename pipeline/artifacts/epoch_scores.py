"""epoch_scores.h5: the classifier's scores of the test images, epoch by epoch, and of the train images."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.artifacts.schema import Artifact, array

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class EpochScores(Artifact):
    """The classifier's scores: of the test images before the final training and after its epochs, of the train images after it."""

    SCHEMAS = ("epoch_scores",)

    epochs: np.ndarray = array("int64", "E", low=0)
    """Epoch of each row of `scores`; 0 is the warm-up classifier."""
    scores: np.ndarray = array("float32", "E", "N", "C", low=0, high=1)
    """sigmoid(z); N is the number of test images. From epoch 1 on calibrated like `classifier.pt`."""
    train: np.ndarray = array("float32", "T", "C", low=0, high=1)
    """Scores of the T train images by `classifier.pt`, in the order of the manifest."""
    learned: np.ndarray = array("float32", "N", "C", optional=True, low=0, high=1)
    """sigmoid(z) of the learned head alone after the chosen epoch, not calibrated; absent for a classifier of one head."""
    mixture: np.ndarray = array("float32", 3, "C", optional=True)
    """Factors of the classifier and of a teacher that is another network, see `two_heads.mixture`; absent without one."""
    chosen_epoch: int
    """Epoch (from 1) whose weights are in `classifier.pt`."""

    def of_epoch(self, epoch: int) -> np.ndarray:
        """Scores float32 [N, C] after an epoch; 0 is the warm-up classifier."""
        return self.scores[np.flatnonzero(self.epochs == epoch)[0]]

    @property
    def chosen(self) -> np.ndarray:
        """Scores float32 [N, C] of the epoch in `classifier.pt`."""
        return self.of_epoch(self.chosen_epoch)

    def frame(self) -> "pd.DataFrame":
        """Scores of the chosen epoch."""
        return self.by_class(self.chosen)
