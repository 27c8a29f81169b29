"""HDF5 files that other tools wrote: checked reading, and their rows and columns by name."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np

from pipeline.datasets.hdf5_probe import check_readable
from pipeline.datasets.image_names import match_names
from pipeline.system.errors import PipelineError, UnreadableError, first_line, hint, system_refusal
from pipeline.system.text import nfc

Content = TypeVar("Content")


def read_given(path: Path, read: Callable[[h5py.File], Content], expected: str) -> Content:
    """Content of an HDF5 file that may be damaged or hostile.

    Args:
        path: the file.
        read: reads the open file.
        expected: the forms that the option accepts, for errors.

    Raises:
        PipelineError: the file is missing, not HDF5, damaged, or has another form.
    """
    if not path.is_file():
        raise PipelineError(f"{path} is missing. Give {expected}.")
    if not h5py.is_hdf5(path):
        raise PipelineError(f"{path} is not an HDF5 file. Give {expected}.")
    try:
        check_readable(path)
        with h5py.File(path) as file:
            return read(file)
    except (
        OSError,
        RuntimeError,
        KeyError,
        TypeError,
        AttributeError,
        MemoryError,
        OverflowError,
        ValueError,
    ) as error:
        if refusal := system_refusal(error):
            raise UnreadableError(f"{path} cannot be read {refusal}") from error
        raise PipelineError(f"{path} is damaged or has another form ({first_line(error)}). Write it again.") from error


def own_dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset of this file, not of another file that it links to."""
    own = isinstance(file.get(name, getlink=True), h5py.HardLink)
    if not own or not isinstance(file[name], h5py.Dataset) or file[name].external or file[name].is_virtual:
        raise PipelineError(f"{path} has {name} that is not a dataset of its own. Copy the values into the file.")
    return file[name]


def read_numbers(path: Path, dataset: h5py.Dataset) -> np.ndarray:
    """The values of a dataset of real numbers, in its own dtype."""
    if dataset.dtype.kind not in "fiu":
        name = dataset.name.removeprefix("/")
        raise PipelineError(f"{path} has {name} of {dataset.dtype}, expected real numbers. Convert it.")
    return dataset[()]


def read_names(path: Path, dataset: h5py.Dataset) -> list[str]:
    """The texts of a dataset; see `checked_names`."""
    if h5py.check_string_dtype(dataset.dtype) is None:
        raise PipelineError(f"{path} has {dataset.name} of {dataset.dtype}, expected strings. Convert it.")
    return checked_names(path, dataset.name.removeprefix("/"), dataset.asstr("utf-8")[()])


def checked_names(path: Path, kind: str, names: Iterable[str]) -> list[str]:
    """The names as a list; an error if there are none, or one occurs twice."""
    counts = Counter(names)
    if not counts:
        raise PipelineError(f"{path} has no {kind}. Compute at least one.")
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise PipelineError(f"{path} has {kind} {repeated[0]!r} more than once. Remove or rename the copies.")
    return list(counts)


def rows_of_images(names: list[str], image_ids: Sequence[str], required: Sequence[bool], what: str) -> list[int | None]:
    """The row of each image, by `match_names`; None for an image without one.

    Args:
        names: unique names of the rows.
        image_ids: N ids.
        required: N, whether the image must have a row.
        what: names the values in errors, as "precomputed scores".

    Raises:
        PipelineError: a required image has no row.
    """
    rows = match_names(names, image_ids, required)
    if missing := [i for i, row in enumerate(rows) if row is None and required[i]]:
        raise PipelineError(
            f"The {what} lack {len(missing)} of {sum(required)} images, the first {image_ids[missing[0]]!r}; "
            f"their first name is {names[0]!r}. Names match as ids, as paths that end in an id, or as file names, "
            "with or without extension, by one of these rules for the whole file; a name that fits several images matches "
            "none. Compute the rest, or name the images by their ids in manifest.csv."
        )
    return rows


def columns_of_classes(names: Sequence[str], class_names: Sequence[str], what: str) -> list[int]:
    """The column of each class.

    Args:
        names: unique names of the columns.
        class_names: C names.
        what: names the values in errors, as "precomputed scores".

    Raises:
        PipelineError: a class has no column.
    """
    position = {nfc(name): i for i, name in enumerate(names)}
    if missing := [name for name in class_names if nfc(name) not in position]:
        raise PipelineError(
            f"The {what} lack {len(missing)} of {len(class_names)} class names, the first {missing[0]!r}. "
            f"{hint(missing[0], names)} Give the run the same class names as the file, or the file those of the run."
        )
    return [position[nfc(name)] for name in class_names]
