"""The finished pieces of a stage that was stopped, from which the same command goes on."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.system import distributed
from pipeline.system.progress import bar

if TYPE_CHECKING:
    from pipeline.artifacts.provenance import Provenance
from pipeline.system.files import remove_folder, replacing, sha256_of, write_text


class PartialResults:
    """Folder `<name>.partial` of finished pieces.

    A piece is a file that appears whole or not at all, so whatever is in the folder can be trusted. PartialResults that were
    made for another provenance, or from input files with another content, are removed. PartialResults that are numbered by
    their place in a list belong to `of` that list.

    Args:
        target: the artifact that is being made.
        provenance: what it will carry.
        fresh: throw finished pieces away.
    """

    def __init__(self, target: Path, provenance: "Provenance", *, fresh: bool = False) -> None:
        self.folder = target.with_name(target.name + ".partial")
        if distributed.is_main():
            stamp, wanted = self.folder / "fingerprint", stamp_of(target.parent, provenance)
            if fresh or not stamp.exists() or stamp.read_text() != wanted:
                remove_folder(self.folder)
                write_text(stamp, wanted)
        distributed.barrier()  # no process looks for pieces, or saves one, before the old ones are gone

    def path(self, name: str) -> Path:
        """Where the piece of this name lies, or would."""
        return self.folder / name

    def below(self, name: str) -> "PartialResults":
        """PartialResults of a part of the work, in a folder of their own among these."""
        inner = object.__new__(PartialResults)
        inner.folder = self.path(name)
        return inner

    def of(self, *lists: Any) -> "PartialResults":
        """PartialResults whose numbers count the entries of these lists; those of other lists are never found here."""
        return self.below(digest_of(*lists))

    def save_arrays(self, index: int, arrays: dict[str, np.ndarray]) -> None:
        """Keep one piece of named arrays."""
        with replacing(self._arrays(index)) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)

    def has_arrays(self, index: int) -> bool:
        """Whether the piece of this index is finished."""
        return self._arrays(index).exists()

    def load_arrays(self, index: int) -> dict[str, np.ndarray]:
        """One piece of named arrays."""
        with np.load(self._arrays(index), allow_pickle=False) as content:
            return dict(content)

    def remove(self) -> None:
        """Throw the folder away; the artifact is written."""
        remove_folder(self.folder)

    def _arrays(self, index: int) -> Path:
        return self.path(f"{index:08d}.npz")


def stamp_of(folder: Path, provenance: "Provenance") -> str:
    """Digest of all that decides pieces: the provenance, and the content of the input files in a run folder.

    A file that is rebuilt has the same fingerprint, but another device or number of processes gives other digits.
    The manifest's fingerprint covers its content, and its paths may change.
    """
    names = [name for name in provenance.inputs if name != "manifest.csv"]
    return digest_of(provenance.fingerprint, *((name, sha256_of(folder / name)) for name in names))


def digest_of(*values: Any) -> str:
    """Digest of arrays and of what JSON can hold."""
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
    decides: Sequence[Any],
    pieces: PartialResults,
    work: Callable[[Sequence[int]], Iterator[tuple[np.ndarray, np.ndarray]]],
    finish: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
) -> Iterator[np.ndarray]:
    """Rows that `work` computes in one stream over all pieces, kept piece by piece; finished pieces are not worked on.

    The processes of torchrun share the pieces.

    Args:
        title: stands before the progress bar.
        counts: rows of each piece; together at least one.
        decides: what decides the rows, as `digest_of` takes it: the list that they index, and who computes them.
        pieces: where finished ones are kept.
        work: called once with the numbers of the pieces to do, in order; yields row numbers int64 [b], counted over all
            pieces, and their values [b, ...], in any order that leaves no row out and finishes early ones soon.
        finish: what to keep of the rows of a whole piece; a matrix product of fixed rows has fixed digits.

    Returns:
        The rows of each piece in turn, as all of them together need not fit the memory; in other processes than the
        first, which removes the pieces, none.
    """
    pieces = pieces.of(list(counts), *decides)
    filled = [index for index, count in enumerate(counts) if count]
    mine = distributed.shard(filled)
    missing = [index for index in mine if not pieces.has_arrays(index)]
    bounds = np.cumsum([0, *counts])
    open_pieces: dict[int, tuple[np.ndarray, int]] = {}  # rows so far, and how many are still to come
    done = sum(counts[i] for i in mine) - sum(counts[i] for i in missing)
    with bar(title, sum(counts[i] for i in mine), done) as progress:
        for rows, values in work(missing):
            owners = np.searchsorted(bounds, rows, side="right") - 1
            for index in np.unique(owners).tolist():
                here = owners == index
                if index not in open_pieces:
                    open_pieces[index] = np.zeros((counts[index], *values.shape[1:]), values.dtype), counts[index]
                found, left = open_pieces[index]
                found[rows[here] - bounds[index]] = values[here]
                open_pieces[index] = found, left - int(here.sum())
                if open_pieces[index][1] == 0:
                    pieces.save_arrays(index, {"rows": finish(open_pieces.pop(index)[0])})
            progress.advance(len(rows))
    distributed.barrier()
    return (pieces.load_arrays(index)["rows"] for index in filled if distributed.is_main())
