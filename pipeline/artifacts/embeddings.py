"""embeddings.h5: the teacher's scores of every image."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
from pipeline.artifacts.schema import Artifact, array


@dataclass(frozen=True, kw_only=True)
class Embeddings(Artifact):
    """What the teacher says of every image of the manifest, train and test."""

    SCHEMAS = ("embeddings",)

    is_train: np.ndarray = array("bool", "N")
    """Images of the train split; bias is estimated on these alone."""
    known: np.ndarray = array("bool", "N", optional=True)
    """Images of which the teacher said anything; absent: all. Precomputed scores may lack test images."""
    text: np.ndarray = array("float32", "S", "D", optional=True)
    """Unit rows; one per class, or one per synonym."""
    text_class_index: np.ndarray = array("int64", "S", optional=True, index="C")
    """Class of each row of `text`."""
    background_text: np.ndarray = array("float32", "O", "D", optional=True)
    """Unit rows, of the background: what joined the softmax and is not a class."""
    probabilities: np.ndarray = array("float32", "N", "C", low=0, high=1)
    """Softmax over classes and background, the columns of the classes: rows sum to at most 1; or sigmoids, with `logit_bias`."""
    entropy: np.ndarray = array("float32", "N", low=0)
    """Nats, in [0, log `outcomes`], of the softmax, or of the shares in the sum of the sigmoids."""
    class_is_top1: np.ndarray = array("bool", "N")
    """A class, and none of the background, is the most probable; of sigmoids, one has at least 1/C."""
    bias: np.ndarray = array("float32", "C", low=0, high=1)
    """Mean probability where the class is on top of a confident train image; in (0, 1]."""
    bias_counts: np.ndarray = array("int64", "C", low=0)
    """Train images behind each bias; 0 marks a class that got the mean of the background."""
    logit_scale: float
    """s of softmax(s * f . t) behind `probabilities`."""
    logit_bias: float = math.nan
    """b of sigmoid(s * f . t + b); NaN for a softmax."""
    outcomes: int
    """C and the number of background: how many the softmax chose among."""
    background: str = ""
    """Names of the background, joined by ", "."""
    background_left_out: str = ""
    """Names of those that are too near a class, joined by ", "."""
    image_size: int
    """Side in pixels of the squashed global view; 0 where precomputed scores were given."""
    teacher: str
    """Its spec, as it was given; no part of the fingerprint."""
    teacher_fingerprint: str
    """Hash of the teacher's weights; `score-crops` refuses another teacher."""

    def frame(self) -> "pd.DataFrame":
        """Probabilities."""
        return self.by_class(self.probabilities)
