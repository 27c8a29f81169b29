"""What every adapter returns: images, their splits and, where they exist, labels and boxes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

UNKNOWN = -1
"""Label of a class that nobody has looked for in an image; it never counts in a figure."""
DIFFICULT = -2
"""Label of a class whose only objects are marked difficult; `evaluate.difficult` decides how it counts."""


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
    """int8 [N, C]: 1 present, 0 absent, UNKNOWN or DIFFICULT; None where nothing is labelled."""
    objects: Objects | None = None
    """Annotated boxes; None where there are none."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Id of an image that cannot be used, none of the N, to the reason."""
    notes: list[str] = field(default_factory=list)
    """What to say about how the images were found."""


def without_images(dataset: Dataset, left_out: Mapping[str, str]) -> Dataset:
    """The data set without some of its images, and the reasons.

    Args:
        dataset: N images.
        left_out: id to reason, of some of them.
    """
    if not left_out:
        return dataset
    kept = np.array([image_id not in left_out for image_id in dataset.image_ids], dtype=bool)
    rows = np.flatnonzero(kept)
    objects = dataset.objects
    if objects is not None:
        here = kept[objects.image_index]
        objects = Objects(
            image_index=(np.cumsum(kept) - 1)[objects.image_index[here]],
            class_index=objects.class_index[here],
            box=objects.box[here],
            difficult=objects.difficult[here],
        )
    return replace(
        dataset,
        image_ids=[dataset.image_ids[row] for row in rows],
        paths=[dataset.paths[row] for row in rows],
        splits=[dataset.splits[row] for row in rows],
        labels=None if dataset.labels is None else dataset.labels[kept],
        objects=objects,
        left_out={**dataset.left_out, **left_out},
    )
