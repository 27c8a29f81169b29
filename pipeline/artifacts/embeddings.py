"""embeddings.h5: the teacher's scores of every image."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.artifacts.schema import Artifact, array

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Embeddings(Artifact):
    """The teacher's scores of every image of the manifest, train and test."""

    SCHEMAS = ("embeddings",)

    is_train: np.ndarray = array("bool", "N")
    """Images of the train split; only these determine the bias."""
    known: np.ndarray = array("bool", "N", optional=True)
    """Images that have scores; absent: all. Precomputed scores may lack test images."""
    name_is_known: np.ndarray = array("bool", "C", optional=True)
    """Whether the class's name means something to the teacher; absent for precomputed scores or texts."""
    text: np.ndarray = array("float32", "S", "D", optional=True)
    """Unit text embeddings; one row per class, or one per synonym."""
    text_class_index: np.ndarray = array("int64", "S", optional=True, index="C")
    """Class of each row of `text`."""
    background_text: np.ndarray = array("float32", "O", "D", optional=True)
    """Unit text embeddings of the background classes."""
    probabilities: np.ndarray = array("float32", "N", "C", low=0, high=1)
    """Softmax over classes and background classes, without the columns of the latter; with `logit_bias`, sigmoids."""
    entropy: np.ndarray = array("float32", "N", low=0)
    """Entropy of the softmax, or of the sigmoids divided by their sum, in nats, in [0, log `outcomes`]."""
    class_is_top1: np.ndarray = array("bool", "N")
    """Whether the most probable name is a class, not a background class; for sigmoids, whether one is at least 1/C."""
    bias: np.ndarray = array("float32", "C", low=0, high=1)
    """Mean probability over the confident train images whose top-1 class it is; in (0, 1]."""
    bias_counts: np.ndarray = array("int64", "C", low=0)
    """Train images behind each bias; 0 marks a class that got the mean bias of the other classes."""
    cell_scores: np.ndarray = array("float32", "N", "C", optional=True, low=0, high=1)
    """Local evidence: score of each class over the cells or tiles of the image, softened; absent without local evidence."""
    best_cell: np.ndarray = array("uint16", "N", "C", optional=True)
    """Row-major number of the cell with the highest probability; absent for precomputed scores."""
    ranking_probabilities: np.ndarray = array("float32", "N", "C", optional=True, low=0, high=1)
    """Softmax at a lower scale, which ranks images better; absent: `probabilities` rank them."""
    softening: float = 1.0
    """Factor of the scale in `ranking_probabilities` and `cell_scores`."""
    grid_height: int = 0
    """Rows of cells of a view; 0 without cells."""
    grid_width: int = 0
    """Columns of cells of a view."""
    logit_scale: float
    """s of softmax(s * f . t) behind `probabilities`."""
    logit_bias: float = math.nan
    """b of sigmoid(s * f . t + b); NaN for a softmax."""
    outcomes: int
    """C plus the number of background classes."""
    background: str = ""
    """Names of the background classes, joined by ", "."""
    background_left_out: str = ""
    """Names left out because they are too similar to a class, joined by ", "."""
    image_size: int
    """Side in pixels of the square global view; 0 for precomputed scores."""
    teacher: str
    """Spec of the teacher as given; not part of the fingerprint."""
    teacher_fingerprint: str
    """Hash of the teacher's weights; `score-crops` refuses other weights."""
    self_check: str = ""
    """Figures of the teacher's self-check as JSON; "off", or empty for a teacher that is not checked."""

    def frame(self) -> "pd.DataFrame":
        """Probabilities."""
        return self.by_class(self.probabilities)
