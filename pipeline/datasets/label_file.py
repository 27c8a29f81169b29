"""A file of soft labels from another source to the labels of the train images."""

from pathlib import Path

import h5py
import numpy as np

from pipeline.artifacts.hdf5 import read_arrays
from pipeline.artifacts.labels import Labels
from pipeline.datasets.given_hdf5 import (
    columns_of_classes,
    own_dataset,
    read_given,
    read_names,
    read_numbers,
    rows_of_images,
)
from pipeline.method.labels import clamp_labels
from pipeline.system.errors import PipelineError

ROUNDING = 0.002
"""Largest difference of a label from its clamped score; float16 causes it."""


def read_soft_labels(path: Path, image_ids: list[str], class_names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Labels of these images and classes in [0, 1], and scores that rank them, non-negative; float32 [N, C] each.

    The HDF5 file has `image_ids` [n], `classes` [c] and `labels` [n, c] in [0, 1]. It may have `scores` [n, c]: the labels
    before they were clamped to at most 1, which rank images that share a label of 1. Or it is the label file of a run. Other
    images and classes are skipped.

    Args:
        path: the file.
        image_ids: N ids, matched as in `match_names`.
        class_names: C names.

    Raises:
        PipelineError: an image or class has no labels, or the file is damaged or has another form.
    """
    names, classes, *values = read_given(path, lambda file: _read(path, file), "an .h5 file of soft labels")
    rows = np.array(rows_of_images(names, image_ids, [True] * len(image_ids), "labels of the file"), np.int64)
    columns = columns_of_classes(classes, class_names, "labels of the file")
    labels, scores = (each[rows][:, columns] for each in values)
    return labels, scores


def _read(path: Path, file: h5py.File) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Names of the images, names of the classes, labels and scores."""
    if file.attrs.get("schema") in [schema.encode() for schema in Labels.SCHEMAS]:
        return _read_run(path)
    if missing := [name for name in ("image_ids", "classes", "labels") if name not in file]:
        raise PipelineError(
            f"{path} contains {', '.join(file) or 'nothing'}, expected image_ids, classes and labels. "
            f"Rename or add {missing[0]}."
        )
    names, classes = (read_names(path, own_dataset(path, file, name)) for name in ("image_ids", "classes"))
    shape = (len(names), len(classes))
    labels = _matrix(path, file, "labels", shape)
    if not (labels.min() >= 0 and labels.max() <= 1):  # NaN is refused as well
        raise PipelineError(
            f"{path} has labels from {labels.min():.3g} to {labels.max():.3g}, expected 0 to 1. Clamp or scale them."
        )
    if "scores" not in file:
        return names, classes, labels, labels
    scores = _matrix(path, file, "scores", shape)
    if not (np.isfinite(scores).all() and scores.min() >= 0 and np.abs(scores.clip(max=1) - labels).max() <= ROUNDING):
        raise PipelineError(
            f"{path} has scores that are not its labels before clamping: a score is the label where that is below 1, and "
            "at least 1 elsewhere. Correct or remove them."
        )
    return names, classes, clamp_labels(scores), scores


def _read_run(path: Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """See `_read`."""
    own: Labels = read_arrays(path)
    if own.provenance.uses_ground_truth:
        raise PipelineError(
            f"{path} was made with ground truth. Give the labels of another run; to train on ground truth, as in an ablation, set "
            "init-labels.source to 'ground-truth'."
        )
    return own.image_ids, own.class_names, own.labels, own.scores


def _matrix(path: Path, file: h5py.File, name: str, shape: tuple[int, int]) -> np.ndarray:
    """A dataset as float32 of this shape."""
    values = read_numbers(path, own_dataset(path, file, name))
    if values.shape != shape:
        raise PipelineError(f"{path} has {name} of shape {values.shape}, expected {shape}. Transpose or slice them.")
    return values.astype(np.float32)
