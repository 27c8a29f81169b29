"""Image embeddings of a teacher by the content of the photos: a photo is encoded once, whatever the classes."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.artifacts.hdf5_file import (
    CHUNK,
    create_array,
    creating,
    put_array,
    put_attributes,
    take,
    take_attributes,
    take_texts,
)
from pipeline.runs.config import split_teacher
from pipeline.runs.folders import existing_run, run_folder
from pipeline.runs.options import EmbedConfig
from pipeline.system.errors import PipelineError, UnreadableError, first_line, system_refusal
from pipeline.system.files import regular_file
from pipeline.system.progress import log

FOLDER = "image_embeddings"
"""Folder in a run folder; one file per teacher, view size and precision."""

BLOCK = 65_536
"""Most rows in memory at a time."""
BLOCK_BYTES = 2**28
"""Most bytes of rows in memory at a time, from the second row on."""


@dataclass(frozen=True)
class StoreKey:
    """Everything but the photo that decides its embedding."""

    teacher_fingerprint: str
    image_size: int
    """Side in pixels of the square view."""
    precision: str
    """Precision in which the teacher computes."""
    content: str = ""
    """What is stored of each photo; empty for its global embedding."""

    def attributes(self) -> dict[str, Any]:
        """The fields that are set."""
        return {name: value for name, value in vars(self).items() if value != ""}

    @property
    def file(self) -> str:
        """Name of the file."""
        text = " ".join(map(str, self.attributes().values()))
        return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.h5"


class ImageStore:
    """Embeddings by the SHA-256 of the photos.

    The file contains `sha256` (64 characters [K]) and `image` ([K, ...]: by default float32 [K, D], unit rows), with the key
    as attributes.

    Args:
        folder: run folder.
        key: teacher, size and precision of the embeddings.
        teacher: spec of the teacher, written to the file for `check_reuse`.
        dtype: of `image`.
    """

    def __init__(self, folder: Path, key: StoreKey, teacher: str = "", dtype: type = np.float32) -> None:
        self.path = folder / FOLDER / key.file
        self.key = key
        self._teacher = teacher
        self._dtype = np.dtype(dtype)
        self._shape: tuple[int, ...] = ()
        self._rows: dict[str, int] = {}
        self.reload()

    def reload(self) -> None:
        """Read the file again, after another process has written it."""
        if self.path.exists():
            try:
                self._rows = self._sound_rows()
            except UnreadableError:
                raise
            except PipelineError as error:
                log(f"{str(error).rstrip('.')}, so its photos are encoded again.")

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those of these photos that the store lacks, each once, in order."""
        return [digest for digest in dict.fromkeys(digests) if digest not in self._rows]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the entry of one photo; empty for a store without photos."""
        return self._shape if self._rows else ()

    def add(self, digests: Sequence[str], images: Iterable[np.ndarray]) -> None:
        """Add the entries of K missing photos, K at least 1, [K, ...] in blocks of rows."""
        images = iter(images)
        first = next(images)
        kept = list(self._rows)
        with creating(self.path) as file:
            put_attributes(file, self.key.attributes() | {"teacher": self._teacher})
            put_array(file, "sha256", np.array([*kept, *digests], dtype="S64"))
            made = create_array(file, "image", (len(kept) + len(digests), *first.shape[1:]), self._dtype)
            start = 0
            for block in chain(self.blocks(kept), [first], images):
                made[start : start + len(block)] = block
                start += len(block)
        self._rows = {digest: row for row, digest in enumerate([*kept, *digests])}
        self._shape = first.shape[1:]

    def take_over(self, other: "ImageStore", digests: Sequence[str]) -> int:
        """Copy embeddings that are missing here from another store, and return their number."""
        shared = [digest for digest in self.missing(digests) if digest in other._rows]
        if shared:
            self.add(shared, other.blocks(shared))
        return len(shared)

    def blocks(self, digests: Sequence[str]) -> Iterator[np.ndarray]:
        """Entries of photos of the store in this order, [at most BLOCK, ...] at a time."""
        rows = np.array([self._rows[digest] for digest in digests], dtype=np.int64)
        block = self._block()
        for start in range(0, len(rows), block):
            unique, inverse = np.unique(rows[start : start + block], return_inverse=True)
            # one read of a range is far faster than HDF5's own selection of single rows
            ranges = np.split(unique, np.flatnonzero(np.diff(unique) * self._row_bytes() > CHUNK) + 1)
            yield np.concatenate([self._read(slice(r[0], r[-1] + 1))[r - r[0]] for r in ranges])[inverse]

    def _block(self) -> int:
        """Rows in memory at a time."""
        return max(min(BLOCK, BLOCK_BYTES // self._row_bytes()), 1)

    def _row_bytes(self) -> int:
        return max(int(np.prod(self._shape)) * self._dtype.itemsize, 1)

    def _read(self, rows: slice) -> np.ndarray:
        with self._opened() as file:
            return file["image"][rows]

    def _sound_rows(self) -> dict[str, int]:
        """Row of each photo with a finite embedding; raises PipelineError for a damaged file."""
        with self._opened() as file:
            attributes = take_attributes(file)
            expected = self.key.attributes()
            key = {name: attributes.get(name) for name in expected}
            digests = take_texts(file, "sha256")
            if key != expected or file["image"].shape[:1] != (len(digests),) or file["image"].dtype != self._dtype:
                raise ValueError("it has another content")
            self._shape = file["image"].shape[1:]
            rows: dict[str, int] = {}
            block = self._block()
            for start in range(0, len(digests), block):
                values = take(file, "image", slice(start, start + block))
                finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
                rows |= {digests[start + row]: start + row for row in np.flatnonzero(finite).tolist()}
            return rows

    @contextmanager
    def _opened(self) -> Iterator[h5py.File]:
        try:
            with h5py.File(regular_file(self.path)) as file:
                yield file
        except (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            if refusal := system_refusal(error):
                raise UnreadableError(f"{self.path} cannot be read {refusal}") from error
            raise PipelineError(f"{self.path} is damaged ({first_line(error)}).") from error


def check_reuse(config: EmbedConfig) -> None:
    """Raise unless the run of `reuse_embeddings` may have embeddings for these options.

    Only reads the files, before any work. Whether the weights are the same is known once the teacher is loaded.

    Raises:
        PipelineError: it is not a run, or has only embeddings of other teachers or sizes.
    """
    folder = run_folder(config.reuse_embeddings)
    files = sorted((folder / FOLDER).glob("*.h5"))
    if not files:
        existing_run(config.reuse_embeddings)
        raise PipelineError(
            f"{folder} has no image embeddings. Name another run, or leave the option reuse_embeddings out."
        )
    stored = []
    for path in files:
        try:
            with h5py.File(regular_file(path)) as file:
                attributes = take_attributes(file)
                stored.append((str(attributes.get("teacher", "")), int(attributes["image_size"])))
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise PipelineError(f"{path} is damaged ({first_line(error)}). Delete it.") from error
    if not any(_may_fit(config, teacher, size) for teacher, size in stored):
        size = f"at {config.image_size} px" if config.image_size else "at its own size"
        have = ", ".join(f"{teacher or 'an unnamed teacher'} at {size} px" for teacher, size in stored)
        raise PipelineError(
            f"{folder} has no image embeddings of {config.teacher} {size}, but of {have}. Name another run, or leave the "
            "option reuse_embeddings out."
        )


def _may_fit(config: EmbedConfig, teacher: str, size: int) -> bool:
    """Whether embeddings of this teacher, empty if the file does not name it, and size may suit the options."""
    (mine, my_file), (other, other_file) = split_teacher(config.teacher), split_teacher(teacher)
    same_kind = mine.partition(":")[0] == other.partition(":")[0]
    # a file may contain the weights of a named model
    same_teacher = not teacher or teacher == config.teacher or (same_kind and bool(my_file or other_file))
    return same_teacher and config.image_size in (0, size)
