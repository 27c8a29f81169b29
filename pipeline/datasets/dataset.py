"""The dataset that every adapter returns: images, their splits and, where they exist, labels and boxes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline.datasets.checks import check_unique, missing_files
from pipeline.datasets.class_names import check_class_names

UNKNOWN = -1
"""Label of a class that nobody has looked for in an image; it never counts in a figure."""
DIFFICULT = -2
"""Label of a class whose only objects are marked difficult; `evaluate.difficult` decides how it counts."""


@dataclass(frozen=True)
class Objects:
    """K annotated objects of a dataset, for evaluation only."""

    image_index: np.ndarray
    """int64 [K], row of the dataset's image."""
    class_index: np.ndarray
    """int64 [K], column of the dataset's class."""
    box: np.ndarray
    """float32 [K, 4], xyxy in pixels of the original image."""
    difficult: np.ndarray
    """bool [K], marked as hard to recognise by the annotators."""

    @classmethod
    def of(cls, rows: Sequence[tuple[int, int, Sequence[float], bool]]) -> "Objects":
        """Objects of rows with the image, class, box and difficult flag of each."""
        image_index, class_index, box, difficult = zip(*rows, strict=True) if rows else ((), (), (), ())
        return cls(
            np.array(image_index, np.int64),
            np.array(class_index, np.int64),
            np.array(box, np.float32).reshape(-1, 4),
            np.array(difficult, bool),
        )

    def of_images(self, rows: np.ndarray, count: int) -> "Objects":
        """The objects of some of `count` images; `rows` are these images in their new order."""
        new_row = np.full(count, -1)
        new_row[rows] = np.arange(len(rows))
        kept = new_row[self.image_index] >= 0
        image_index = new_row[self.image_index[kept]]
        return Objects(image_index, self.class_index[kept], self.box[kept], self.difficult[kept])


@dataclass(frozen=True)
class Dataset:
    """N images with C class names, as they are on disk; nothing is decoded yet."""

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
    """int8 [N, C]: 1 present, 0 absent, UNKNOWN or DIFFICULT; None if no image is labelled."""
    objects: Objects | None = None
    """Annotated boxes; None if the dataset has none."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Id of an image that cannot be used, and is not among the N, to the reason."""
    notes: list[str] = field(default_factory=list)
    """Remarks on the search for images, to be logged."""


def check_dataset(dataset: Dataset, source: Path, *, skip_missing: bool) -> Dataset:
    """The dataset without images that have no file.

    Args:
        dataset: N images, with or without files.
        source: of the lists of images, named in errors.
        skip_missing: leave out images without a file, instead of refusing the dataset.

    Raises:
        PipelineError: an image is listed twice or has no file, or two classes have the same name.
    """
    check_class_names(dataset.class_names)
    check_unique(dataset.image_ids, source)
    left_out = missing_files(dataset.image_ids, dataset.paths, source, skip=skip_missing)
    if not left_out:
        return dataset
    rows = np.array([row for row, image_id in enumerate(dataset.image_ids) if image_id not in left_out])
    return replace(
        dataset,
        image_ids=[dataset.image_ids[row] for row in rows],
        paths=[dataset.paths[row] for row in rows],
        splits=[dataset.splits[row] for row in rows],
        labels=None if dataset.labels is None else dataset.labels[rows],
        objects=dataset.objects and dataset.objects.of_images(rows, len(dataset.image_ids)),
        left_out=left_out,
    )
