"""Partial results of a stopped stage, from which the same command resumes."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.system import distributed
from pipeline.system.errors import SpecialFileError, first_line
from pipeline.system.files import regular_file, remove_folder, replacing_stream, sha256_of, write_text
from pipeline.system.progress import bar, log
from pipeline.system.sealed import check_seal, seal

if TYPE_CHECKING:
    from pipeline.artifacts.provenance import Provenance


class PartialResults:
    """Folder `<name>.partial` of partial results, each a file that is written atomically.

    Results for another provenance, or from input files with another content, are removed. Results that are numbered by
    their place in a list are stored below `of(list)`.

    Args:
        target: the artifact that is being made.
        provenance: the provenance that it will get.
        fresh: discard earlier partial results.
    """

    def __init__(self, target: Path, provenance: "Provenance", *, fresh: bool = False) -> None:
        self.folder = target.with_name(target.name + ".partial")
        if distributed.is_main():
            stamp, expected = self.folder / "fingerprint", stamp_of(target.parent, provenance)
            if fresh or stamp_in(stamp) != expected:
                remove_folder(self.folder)
                write_text(stamp, expected)
            remove_damaged(self.folder)
        distributed.barrier()  # no process reads or saves a result before the old ones are removed

    def path(self, name: str) -> Path:
        """The path of the result with this name."""
        return self.folder / name

    def below(self, name: str) -> "PartialResults":
        """Partial results of a part of the work, in a subfolder."""
        inner = object.__new__(PartialResults)
        inner.folder = self.path(name)
        return inner

    def of(self, *lists: Any) -> "PartialResults":
        """Partial results numbered by the entries of these lists; other lists have another subfolder."""
        return self.below(digest_of(*lists))

    def save_arrays(self, index: int, arrays: dict[str, np.ndarray]) -> None:
        """Save one result of named arrays."""
        path = self._arrays(index)
        with replacing_stream(path) as stream:
            np.savez(stream, **arrays)
            seal(stream, place_of(path))

    def has_arrays(self, index: int) -> bool:
        """Whether the result with this index exists."""
        return self._arrays(index).exists()

    def load_arrays(self, index: int) -> dict[str, np.ndarray]:
        """Load one result of named arrays."""
        with np.load(self._arrays(index), allow_pickle=False) as content:
            return dict(content)

    def remove(self) -> None:
        """Remove the folder, after the artifact is written."""
        remove_folder(self.folder)

    def _arrays(self, index: int) -> Path:
        return self.path(f"{index:08d}.npz")


def place_of(path: Path) -> str:
    """The name that a partial result is sealed with: one file copied over another is noticed."""
    return f"{path.parent.name}/{path.name}"


def remove_damaged(folder: Path) -> None:
    """Remove damaged partial results; with a training's, whose epochs build on each other, all results of the stage."""
    for path in sorted(folder.rglob("*.*")):
        if path.suffix not in (".npz", ".pt"):
            continue
        try:
            check_seal(path, place_of(path))
        except (ValueError, SpecialFileError) as error:
            log(f"{path} is damaged ({first_line(error)}), so it is computed again.")
            if path.suffix == ".pt":
                stamp = stamp_in(folder / "fingerprint")
                remove_folder(folder)
                write_text(folder / "fingerprint", stamp)
                return
            path.unlink()


def stamp_in(path: Path) -> str:
    """The stamp in a file; empty if there is none."""
    try:
        return regular_file(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def stamp_of(folder: Path, provenance: "Provenance") -> str:
    """Digest of everything that determines partial results: the provenance and the content of the input files.

    A rebuilt file has the same fingerprint, but another device or number of processes gives other digits. The manifest
    is covered by its fingerprint, and its paths may change.
    """
    names = [name for name in provenance.inputs if name != "manifest.csv"]
    return digest_of(provenance.fingerprint, *((name, sha256_of(folder / name)) for name in names))


def digest_of(*values: Any) -> str:
    """Digest of arrays and JSON values."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype} {value.shape}\0".encode())
            digest.update(np.ascontiguousarray(value))
        else:
            digest.update(f"{json.dumps(value)}\0".encode())
    return digest.hexdigest()[:16]


def compute_partial_results(
    title: str,
    counts: Sequence[int],
    key: Sequence[Any],
    partial: PartialResults,
    work: Callable[[Sequence[int]], Iterator[tuple[np.ndarray, np.ndarray]]],
    finish: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
) -> "StoredParts":
    """Rows that `work` computes in one stream over all parts; finished parts are saved and not computed again.

    The processes of torchrun share the parts.

    Args:
        title: title of the progress bar.
        counts: rows of each part; together at least one.
        key: values for `digest_of` that determine the rows: the list that they index, and the model that computes them.
        partial: storage of finished parts.
        work: called once with the numbers of the missing parts, in order; yields row numbers int64 [b], counted over all
            parts, and their values [b, ...]. The order is free, but every row must come, early parts first.
        finish: maps the rows of a whole part to those that are saved. A matrix product belongs here: with a fixed number
            of rows it has fixed digits.

    Returns:
        The rows of each part in turn, so that they need not fit the memory together; in other processes than the first,
        nothing.
    """
    partial = partial.of(list(counts), *key)
    filled = [index for index, count in enumerate(counts) if count]
    mine = distributed.shard(filled)
    missing = [index for index in mine if not partial.has_arrays(index)]
    bounds = np.cumsum([0, *counts])
    unfinished: dict[int, tuple[np.ndarray, int]] = {}  # rows so far, and how many are missing
    done = sum(counts[i] for i in mine) - sum(counts[i] for i in missing)
    with bar(title, sum(counts[i] for i in mine), done) as progress:
        for rows, values in work(missing):
            owners = np.searchsorted(bounds, rows, side="right") - 1
            for index in np.unique(owners).tolist():
                here = owners == index
                if index not in unfinished:
                    unfinished[index] = np.zeros((counts[index], *values.shape[1:]), values.dtype), counts[index]
                part, left = unfinished[index]
                part[rows[here] - bounds[index]] = values[here]
                unfinished[index] = part, left - int(here.sum())
                if unfinished[index][1] == 0:
                    partial.save_arrays(index, {"rows": finish(unfinished.pop(index)[0])})
            progress.advance(len(rows))
    distributed.barrier()
    return StoredParts(partial, filled if distributed.is_main() else [])


@dataclass(frozen=True)
class StoredParts(Iterable[np.ndarray]):
    """The rows of saved parts, read one part at a time."""

    partial: PartialResults
    indices: Sequence[int]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.partial.load_arrays(index)["rows"] for index in self.indices)
