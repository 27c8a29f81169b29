"""HDF5 files in which every damaged byte is noticed: checksums on metadata and data, and no text of variable length.

libhdf5 can hang or crash in the heap that holds texts of variable length if a byte of it is damaged, so texts have a
fixed length here, and a file with other texts is refused before its heap is read.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.system.files import replacing_stream

FORMAT = ("v110", "v110")
"""Format of HDF5 1.10, the first with checksums on all metadata."""
CHUNK = 2**20
"""Size of a chunk, which has one checksum, bytes."""
COMPRESSION = 1100
"""Largest ratio of HDF5's filters; a dataset that claims more is refused."""


@contextmanager
def creating(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file that replaces `path` atomically at the end."""
    with replacing_stream(path) as stream, h5py.File(stream, "w", libver=FORMAT) as file:
        yield file


def put_attributes(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    """Store numbers and texts as root attributes."""
    for name, value in attributes.items():
        if isinstance(value, str):
            text = value.encode()
            file.attrs.create(name, text, dtype=h5py.string_dtype("utf-8", max(len(text), 1)))
        else:
            file.attrs[name] = value


def take_attributes(file: h5py.File) -> dict[str, Any]:
    """The root attributes; raises ValueError for a text of variable length."""
    attributes = {}
    for name in file.attrs:
        if file.attrs.get_id(name).dtype.hasobject:
            raise ValueError(f"{name} is a text of variable length, as in files of earlier versions")
        value = file.attrs[name]
        attributes[name] = value.decode() if isinstance(value, bytes) else value
    return attributes


def create_array(file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any) -> h5py.Dataset:
    """A new dataset with checksums."""
    if 0 in shape:
        return file.create_dataset(name, shape, dtype)
    row = np.dtype(dtype).itemsize * int(np.prod(shape[1:]))
    chunk = (min(max(CHUNK // row, 1), shape[0]), *shape[1:])
    return file.create_dataset(name, shape, dtype, chunks=chunk, fletcher32=True)


def put_array(file: h5py.File, name: str, values: np.ndarray) -> None:
    """Store an array with checksums."""
    create_array(file, name, values.shape, values.dtype)[...] = values


def put_texts(file: h5py.File, name: str, texts: Sequence[str]) -> None:
    """Store a list of texts as UTF-8 of a fixed length."""
    encoded = [text.encode() for text in texts]
    longest = max(map(len, encoded), default=1) or 1
    put_array(file, name, np.array(encoded, dtype=h5py.string_dtype("utf-8", longest)))


def take(file: h5py.File, name: str, rows: slice = slice(None)) -> np.ndarray:
    """Rows of a dataset.

    Raises:
        ValueError: it is a link or external, is not a dataset, has texts of variable length, or claims more data than
            the file has.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link, expected a dataset in this file")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise ValueError(f"{name} is not an array")
    if dataset.dtype.hasobject:
        raise ValueError(f"{name} has texts of variable length, as in files of earlier versions")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{name} is in another file, expected a dataset in this file")
    if dataset.nbytes > COMPRESSION * (dataset.id.get_storage_size() + 4096):
        raise ValueError(f"{name} claims {dataset.nbytes:,} bytes, but the file has fewer")
    return dataset[rows] if dataset.ndim else dataset[()]


def take_texts(file: h5py.File, name: str) -> list[str]:
    """A dataset of unique texts; raises ValueError for anything else."""
    values = take(file, name)
    if values.dtype.kind != "S" or values.ndim != 1:
        raise ValueError(f"{name} is not a list of texts")
    texts = [item.decode() for item in values]
    if len(set(texts)) != len(texts):
        raise ValueError(f"{name} has a duplicate")
    return texts
