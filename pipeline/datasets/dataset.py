"""What every adapter returns: images, their splits and, where they exist, labels and boxes."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Objects:
    """Annotated objects of a dataset, K of them; for evaluation and studies alone."""

    image_index: np.ndarray
    """int64 [K], row of the dataset's image."""
    class_index: np.ndarray
    """int64 [K], column of the dataset's class."""
    box: np.ndarray
    """float32 [K, 4], xyxy in pixels of the original image."""
    difficult: np.ndarray
    """bool [K], marked as hard to recognise by the annotators."""


@dataclass(frozen=True)
class Dataset:
    """N images with C class names, as found on disk; nothing is decoded yet."""

    name: str
    class_names: list[str]
    """C unique names as the dataset writes them ("tvmonitor")."""
    image_ids: list[str]
    """N unique ids."""
    paths: list[Path]
    """N absolute paths of image files."""
    splits: list[str]
    """N of "train" or "test"."""
    labels: np.ndarray | None = None
    """int8 [N, C]: 1 present, 0 absent, -1 only difficult objects or unknown; None where nothing is labelled."""
    objects: Objects | None = None
    """Annotated boxes; None where there are none."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Id of an image that cannot be used, none of the N, to the reason."""
