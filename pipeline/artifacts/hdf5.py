"""Reading and writing of HDF5 artifacts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.artifacts.boxes import Boxes, CropScores
from pipeline.artifacts.corrections import Corrections
from pipeline.artifacts.damage import reporting_damage
from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.epoch_scores import EpochScores
from pipeline.artifacts.hdf5_file import (
    creating,
    put_array,
    put_attributes,
    put_texts,
    take,
    take_attributes,
    take_texts,
)
from pipeline.artifacts.labels import Labels
from pipeline.artifacts.provenance import Provenance, check_schema
from pipeline.artifacts.schema import Artifact, check_array, check_arrays
from pipeline.runs.graph import remedy
from pipeline.system.errors import PipelineError

KINDS: dict[str, type[Artifact]] = {
    schema: kind
    for kind in (Embeddings, Labels, Boxes, CropScores, Corrections, EpochScores)
    for schema in kind.SCHEMAS
}
"""Schema to kind. Ground truth is not among them: only `pipeline.evaluation.ground_truth` reads it."""


def read_arrays(path: Path, kinds: Mapping[str, type[Artifact]] = KINDS, without: Sequence[str] = ()) -> Any:
    """An HDF5 artifact, checked against its specification.

    Args:
        path: the file.
        kinds: schema to the class of the artifact.
        without: large arrays to leave out; they get no rows.

    Raises:
        PipelineError: missing, damaged, of another schema or version, or not as specified.
    """
    path = Path(path)
    with reporting_damage(path), h5py.File(path) as file:
        attributes = take_attributes(file)
        provenance = Provenance.from_attributes(attributes)
        check_schema(path, provenance)
        kind = kinds.get(provenance.schema)
        if kind is None:
            raise PipelineError(f"{path} contains {provenance.schema}, expected {', '.join(kinds)}.")
        values: dict[str, Any] = {
            f.name: take(file, f.name) for f in kind.array_fields() if f.name in file and f.name not in without
        }
        values |= {name: take_texts(file, name) for name in ("image_ids", "class_names")}
        for item in kind.scalar_fields():
            if item.name in attributes:
                values[item.name] = plain_scalar(attributes[item.name], item)
        left_out = {name: unread(file, name) for name in without if name in file}
        values |= {name: array[:0] for name, array in left_out.items()}
        try:
            artifact = kind(provenance=provenance, **values)
        except TypeError as error:
            raise PipelineError(
                f"{path} is incomplete ({error}). Rebuild it with {remedy(path, force=True)}."
            ) from None
    check_arrays(artifact, path, left_out)
    return artifact


def read_rows(path: Path, artifact: Artifact, name: str, rows: slice) -> np.ndarray:
    """Some rows of an array that `read_arrays` left out, with the same checks.

    Raises:
        PipelineError: the file is damaged or not as specified.
    """
    with reporting_damage(path), h5py.File(path) as file:
        values = take(file, name, rows)
    item = next(field for field in artifact.array_fields() if field.name == name)
    check_array(values, item, {"C": len(artifact.class_names), item.metadata["dims"][0]: rows.stop - rows.start}, path)
    return values


def unread(file: h5py.File, name: str) -> np.ndarray:
    """A placeholder with the shape and dtype of a dataset, which takes no memory."""
    return np.broadcast_to(np.zeros((), file[name].dtype), file[name].shape)


def plain_scalar(value: Any, item: Any) -> Any:
    """A root attribute as a plain Python value of its field's type."""
    kind = {"int": int, "float": float, "str": str}[getattr(item.type, "__name__", item.type)]
    if np.ndim(value) or isinstance(value, str | bytes) != (kind is str):
        raise ValueError(f"{item.name} is {value!r}, expected one {kind.__name__}")
    return kind(value)


def write(path: Path, artifact: Artifact) -> None:
    """Write an HDF5 artifact atomically.

    Raises:
        PipelineError: an array is not as specified.
    """
    check_arrays(artifact, path)
    with creating(path) as file:
        put_attributes(file, artifact.provenance.to_attributes())
        put_attributes(file, {item.name: getattr(artifact, item.name) for item in artifact.scalar_fields()})
        for name in ("image_ids", "class_names"):
            put_texts(file, name, getattr(artifact, name))
        for item in artifact.array_fields():
            if getattr(artifact, item.name) is not None:
                put_array(file, item.name, getattr(artifact, item.name))
