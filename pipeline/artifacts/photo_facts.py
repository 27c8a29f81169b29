"""Hash, size and time of each photo's file, so that `prepare` reads only new photos and stages notice changed ones.

The table `photos.csv` is a cache next to the manifest: without it, `prepare` reads every photo again.
"""

import os
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from pipeline.artifacts.manifest import Manifest, write_csv
from pipeline.runs.graph import run_argument
from pipeline.system.errors import PipelineError
from pipeline.system.files import regular_file, sha256_of

FILE = "photos.csv"
COLUMNS = ["image_id", "bytes", "mtime_ns", "sha256", "height", "width"]
ABSENT = (-1, -1)
EVERY = 30.0
"""Shortest time between two writes of the table, seconds; longer if a write takes long."""


@dataclass(frozen=True)
class PhotoFacts:
    """Hash and size of one photo, and the size and time of its file before it was read."""

    bytes: int
    mtime_ns: int
    sha256: str
    height: int
    width: int


def file_status(path: str | Path) -> tuple[int, int]:
    """Size in bytes and modification time in ns of a file; `ABSENT` if it cannot be reached."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path per photo would cost more than the stat, for a million photos
    except OSError:
        return ABSENT
    return status.st_size, status.st_mtime_ns


def read_facts(folder: Path) -> pd.DataFrame:
    """The table of a run folder, with index image id; empty if there is none, or it cannot be read."""
    texts = {"image_id": str, "sha256": str}
    numbers = dict.fromkeys((name for name in COLUMNS if name not in texts), np.int64)
    try:
        frame = pd.read_csv(regular_file(folder / FILE), dtype=texts, na_filter=False)
        if list(frame.columns) == COLUMNS and frame["image_id"].is_unique:
            return frame.astype(numbers).set_index("image_id")
    except (OSError, ValueError, TypeError, OverflowError):
        pass
    return pd.DataFrame(columns=COLUMNS).astype(numbers).set_index("image_id")


class KnownPhotos:
    """Photos that `prepare` has read, now or earlier; saved from time to time and at the end of `with`.

    Args:
        folder: the run folder.
        fresh: ignore the table.
    """

    def __init__(self, folder: Path, *, fresh: bool) -> None:
        self._folder = folder
        rows = () if fresh else read_facts(folder).itertuples(name=None)
        self._before = {row[0]: PhotoFacts(*row[1:]) for row in rows}
        self._now: dict[str, PhotoFacts] = {}
        self._next = time.monotonic() + EVERY

    def find(self, image_id: str, path: Path) -> PhotoFacts | None:
        """The facts of a photo whose file has the same size and time as before; None if it must be read."""
        known = self._before.get(image_id)
        return known if known is not None and (known.bytes, known.mtime_ns) == file_status(path) else None

    def add(self, image_id: str, facts: PhotoFacts) -> None:
        """Add the facts of a photo."""
        self._now[image_id] = facts
        if time.monotonic() > self._next:
            self._save({**self._before, **self._now})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # after a complete pass, photos that are no longer in the dataset are dropped
        self._save({**self._before, **self._now} if kind else self._now)

    def _save(self, known: dict[str, PhotoFacts]) -> None:
        if known != self._before:
            start = time.monotonic()
            rows = [(image_id, *astuple(facts)) for image_id, facts in known.items()]
            write_csv(self._folder / FILE, pd.DataFrame(rows, columns=COLUMNS))
            self._next = time.monotonic() + max(EVERY, 20 * (time.monotonic() - start))


def check_photos(folder: Path, manifest: Manifest, *, remember: bool = True) -> None:
    """Raise unless every photo of a manifest exists with the content that `prepare` has read.

    A file with its old size and time counts as unchanged; any other is hashed again.

    Args:
        folder: the run folder.
        manifest: its manifest, or a part of it.
        remember: update the table; requires the whole manifest and the run's lock.

    Raises:
        PipelineError: photos are missing or have changed; gives their number, the first one and the remedy.
    """
    ids, paths, digests = manifest.image_ids, manifest.paths, manifest.digests
    seen = np.array([file_status(path) for path in paths], dtype=np.int64).reshape(-1, 2)
    again = f"`ccd prepare {run_argument(folder)}`"
    gone = np.flatnonzero(seen[:, 0] < 0)
    if len(gone):
        raise PipelineError(
            f"{len(gone)} of the {len(ids)} photos of {folder} are missing (first: {ids[gone[0]]}, expected at "
            f"{paths[gone[0]]}). Restore them, or give their new place with {again[:-1]} --images DIR`, or continue "
            f"without them: {again}."
        )
    known = read_facts(folder).reindex(ids)
    same = (known[["bytes", "mtime_ns"]].to_numpy() == seen).all(axis=1) & (known["sha256"] == digests).to_numpy()
    changed = [row for row in np.flatnonzero(~same) if sha256_of(Path(paths[row])) != digests[row]]
    if changed:
        raise PipelineError(
            f"{len(changed)} of the {len(ids)} photos of {folder} have changed since they were prepared (first: "
            f"{ids[changed[0]]}). Use their new content with {again}."
        )
    if remember and not same.all():
        images = manifest.images.assign(bytes=seen[:, 0], mtime_ns=seen[:, 1])
        write_csv(folder / FILE, images[COLUMNS])
