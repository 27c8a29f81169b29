"""The photos of a review, the corrections that a person makes to them, and the log that undo reads."""

import contextlib
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.corrections import Corrections
from pipeline.artifacts.hdf5 import write
from pipeline.evaluation.read import read
from pipeline.review.corrections import UNTOUCHED, aligned_labels, corrections_of
from pipeline.review.queue import ReviewQueue, review_queue
from pipeline.runs.graph import run_argument
from pipeline.runs.lock import locked
from pipeline.system.files import regular_file, write_text

LOG = "review_log.jsonl"
"""In a run folder: the corrections made on the page, oldest first; undo reads it."""

MAX_EARLIER = 1000
"""Largest number of photos from earlier reviews on the page; the latest are kept."""


@dataclass(frozen=True)
class LogEntry:
    """A line of the log: the corrections of a photo before and after a change, class name to 1 or 0."""

    image_id: str
    before: dict[str, int]
    after: dict[str, int]


def read_log(folder: Path) -> list[LogEntry]:
    """The log of a run, oldest entry first; malformed lines are ignored."""
    entries = []
    try:
        lines = regular_file(folder / LOG).read_text(encoding="utf-8").split("\n")
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            entry = LogEntry(**json.loads(line))
            if isinstance(entry.image_id, str) and isinstance(entry.before, dict) and isinstance(entry.after, dict):
                entries.append(entry)
    return entries


@dataclass(frozen=True)
class Review:
    """The photos of a review and the files that take the corrections."""

    folder: Path
    queue: ReviewQueue
    rows: list[int]
    """Row of each photo of the page: those of earlier reviews, latest last, then those of the queue."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Requests run on several threads, and each reads and writes the same files."""

    @property
    def path(self) -> Path:
        """The file of corrections."""
        return self.folder / "corrections.h5"

    @property
    def earlier(self) -> int:
        """Number of photos from earlier reviews."""
        return len(self.rows) - len(self.queue.rows)

    def corrections(self) -> Corrections | None:
        """The corrections on disk, from the page or imported."""
        return read(self.path) if self.path.exists() else None

    def labels(self) -> np.ndarray:
        """The corrections of the train images, int8 [N, C]."""
        return aligned_labels(self.corrections(), self.queue.labels.image_ids, self.queue.labels.class_names)

    def save(self, index: int, present: list[int] | None) -> dict[str, Any]:
        """Write the correction of a photo, or (None) undo its last one.

        Undo restores the corrections from before the last change, an earlier correction included.

        Args:
            index: position of the photo on the page.
            present: the classes in the photo; the rest are absent.

        Returns:
            The state of the photo, and as `corrected` the number of images with a correction.
        """
        train = self.queue.labels.manifest
        row = self.rows[index]
        with self.lock, locked(self.folder):
            labels, entries = self.labels(), read_log(self.folder)
            before = labels[row].copy()
            if present is None:
                labels[row] = self._undone(row, before, entries)
            else:
                labels[row] = 0
                labels[row, present] = 1
                entries.append(LogEntry(train.image_ids[row], self._by_class(before), self._by_class(labels[row])))
            write(self.path, corrections_of(train, labels, self.corrections()))
            write_text(self.folder / LOG, "".join(f"{json.dumps(vars(entry))}\n" for entry in entries))
        return {"corrected": corrected_images(labels), **self._state(row, labels[row])}

    def _undone(self, row: int, now: np.ndarray, entries: list[LogEntry]) -> np.ndarray:
        """The corrections of an image, int8 [C], without its last log entry, which is removed.

        Corrections imported since then stay. Without an entry the image becomes uncorrected.
        """
        image_id, names = self.queue.labels.image_ids[row], self.queue.labels.class_names
        last = next((n for n in reversed(range(len(entries))) if entries[n].image_id == image_id), None)
        if last is None:
            return np.full_like(now, UNTOUCHED)
        entry = entries.pop(last)
        before, after = ([by_class.get(name, UNTOUCHED) for name in names] for by_class in (entry.before, entry.after))
        return np.where(now == after, before, now)

    def _by_class(self, corrections: np.ndarray) -> dict[str, int]:
        return {self.queue.labels.class_names[c]: int(corrections[c]) for c in np.flatnonzero(corrections != UNTOUCHED)}

    def _state(self, row: int, corrections: np.ndarray) -> dict[str, Any]:
        """The ticked classes of a photo, and whether a person has reviewed it."""
        reviewed = is_reviewed(corrections)
        present = corrections == 1 if reviewed else self.queue.labels.present[row]
        return {"present": np.flatnonzero(present).tolist(), "reviewed": bool(reviewed)}

    def content(self) -> dict[str, Any]:
        """The data of the page."""
        labels = self.queue.labels
        corrections = self.labels()
        photos = [
            {
                "id": labels.image_ids[row],
                "uncertain": self.queue.uncertain[row].tolist(),
                "scores": [round(float(score), 3) for score in labels.labels[row]],
                **self._state(row, corrections[row]),
            }
            for row in self.rows
        ]
        index_of = {labels.image_ids[row]: index for index, row in enumerate(self.rows)}
        latest = {entry.image_id: n for n, entry in enumerate(read_log(self.folder)) if entry.image_id in index_of}
        return {
            "run": self.folder.resolve().name,
            "argument": run_argument(self.folder),
            "classes": labels.class_names,
            "photos": photos,
            "history": [index_of[image_id] for image_id in sorted(latest, key=latest.__getitem__)],
            "earlier": self.earlier,
            "order": self.queue.class_name,
        }


def is_reviewed(corrections: np.ndarray) -> np.ndarray:
    """Whether a person has decided on every class, bool [...] of int8 [..., C]."""
    return (corrections != UNTOUCHED).all(-1)


def corrected_images(labels: np.ndarray) -> int:
    """Number of images with any correction, of int8 [N, C]."""
    return int((labels != UNTOUCHED).any(1).sum())


def open_review(folder: Path, count: int, chosen: Path | None = None, class_name: str = "") -> Review:
    """The review of a run.

    Args:
        folder: the run folder.
        count: maximum number of photos, earlier reviews not counted.
        chosen: CSV with the column image_id, as saved by the report; earlier reviews are then left out.
        class_name: see `review_queue`.

    Raises:
        PipelineError: see `review_queue`.
    """
    queue = review_queue(folder, count, chosen, class_name)
    review = Review(folder, queue, queue.rows)
    if chosen is not None:
        return review
    latest = {entry.image_id: n for n, entry in enumerate(read_log(folder))}
    reviewed = [row for row in np.flatnonzero(is_reviewed(review.labels())).tolist() if row not in set(queue.rows)]
    # photos that were reviewed elsewhere are not in the log and come first
    earlier = sorted(reviewed, key=lambda row: latest.get(queue.labels.image_ids[row], -1))
    return Review(folder, queue, [*earlier[-MAX_EARLIER:], *queue.rows])
