"""What `prepare` has seen of each photo, so that it looks at none twice, and no stage at one that is another now.

The table `photos.csv` lies next to the manifest. It saves work and decides nothing: without it, `prepare` looks at every
photo again.
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
from pipeline.system.files import sha256_of

FILE = "photos.csv"
COLUMNS = ["image_id", "bytes", "mtime_ns", "sha256", "height", "width"]
ABSENT = (-1, -1)
EVERY = 30.0
"""Seconds between two savings of the table while photos are looked at; more where a saving takes long."""


@dataclass(frozen=True)
class PhotoFacts:
    """What was found in one photo, and the size and time of its file before it was read."""

    bytes: int
    mtime_ns: int
    sha256: str
    height: int
    width: int


def look(path: str | Path) -> tuple[int, int]:
    """Size in bytes and time of change in ns of a file; `ABSENT` where it cannot be reached."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a Path for each of a million photos would cost more than the look
    except OSError:
        return ABSENT
    return found.st_size, found.st_mtime_ns


def read_facts(folder: Path) -> pd.DataFrame:
    """The table of a run folder, with index image id; empty where there is none that can be read."""
    texts = {"image_id": str, "sha256": str}
    numbers = dict.fromkeys((name for name in COLUMNS if name not in texts), np.int64)
    try:
        frame = pd.read_csv(folder / FILE, dtype=texts, na_filter=False)
        if list(frame.columns) == COLUMNS and frame["image_id"].is_unique:
            return frame.astype(numbers).set_index("image_id")
    except (OSError, ValueError, TypeError, OverflowError):
        pass
    return pd.DataFrame(columns=COLUMNS).astype(numbers).set_index("image_id")


class KnownPhotos:
    """Photos that `prepare` has looked at, now or before; saved every now and then, and at the end of `with`.

    Args:
        folder: the run folder.
        fresh: know nothing from before.
    """

    def __init__(self, folder: Path, *, fresh: bool) -> None:
        self._folder = folder
        rows = () if fresh else read_facts(folder).itertuples(name=None)
        self._before = {row[0]: PhotoFacts(*row[1:]) for row in rows}
        self._now: dict[str, PhotoFacts] = {}
        self._next = time.monotonic() + EVERY

    def find(self, image_id: str, path: Path) -> PhotoFacts | None:
        """What is known of a photo whose file has the size and time that it had; None if it has to be looked at."""
        known = self._before.get(image_id)
        return known if known is not None and (known.bytes, known.mtime_ns) == look(path) else None

    def add(self, image_id: str, facts: PhotoFacts) -> None:
        """Note what was found in a photo."""
        self._now[image_id] = facts
        if time.monotonic() > self._next:
            self._save({**self._before, **self._now})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # of photos that are no longer in the dataset nothing is kept, once all have been seen
        self._save({**self._before, **self._now} if kind else self._now)

    def _save(self, known: dict[str, PhotoFacts]) -> None:
        if known != self._before:
            start = time.monotonic()
            rows = [(image_id, *astuple(facts)) for image_id, facts in known.items()]
            write_csv(self._folder / FILE, pd.DataFrame(rows, columns=COLUMNS))
            self._next = time.monotonic() + max(EVERY, 20 * (time.monotonic() - start))


def check_photos(folder: Path, manifest: Manifest, *, remember: bool = True) -> None:
    """Raise unless every photo of a manifest is still there, with the content that `prepare` has seen.

    A photo whose file has its old size and time is taken for the same; any other is hashed again.

    Args:
        folder: the run folder.
        manifest: its manifest, or a part of it.
        remember: write down what was seen, which needs the whole manifest and the run's lock.

    Raises:
        PipelineError: photos are gone or have changed; says how many, names the first, and what to do.
    """
    ids, paths, digests = manifest.image_ids, manifest.paths, manifest.digests
    seen = np.array([look(path) for path in paths], dtype=np.int64).reshape(-1, 2)
    again = f"`ccd prepare --run {run_argument(folder)}`"
    gone = np.flatnonzero(seen[:, 0] < 0)
    if len(gone):
        raise PipelineError(
            f"{len(gone)} of the {len(ids)} photos of {folder} are missing (first: {ids[gone[0]]}, expected at "
            f"{paths[gone[0]]}). Bring them back, or say where they lie now with {again[:-1]} --images DIR`, or go on "
            f"without them: {again}."
        )
    known = read_facts(folder).reindex(ids)
    same = (known[["bytes", "mtime_ns"]].to_numpy() == seen).all(axis=1) & (known["sha256"] == digests).to_numpy()
    changed = [row for row in np.flatnonzero(~same) if sha256_of(Path(paths[row])) != digests[row]]
    if changed:
        raise PipelineError(
            f"{len(changed)} of the {len(ids)} photos of {folder} have changed since they were prepared (first: "
            f"{ids[changed[0]]}). Take them as they are now with {again}."
        )
    if remember and not same.all():
        images = manifest.images.assign(bytes=seen[:, 0], mtime_ns=seen[:, 1])
        write_csv(folder / FILE, images[COLUMNS])
