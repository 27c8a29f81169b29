"""A run to the images that a person should look at, the most doubtful first."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.artifacts.labels import Labels
from pipeline.artifacts.photo_facts import check_photos
from pipeline.artifacts.schema import check_same_images
from pipeline.artifacts.state import up_to_date
from pipeline.evaluation.read import read
from pipeline.exchange.label_sets import LabelSet, read_label_set, waiting_corrections
from pipeline.review.corrections import UNTOUCHED, aligned_labels
from pipeline.review.doubt import DOUBTS, review_values
from pipeline.system.errors import PipelineError
from pipeline.system.progress import log
from pipeline.system.text import nfc


@dataclass(frozen=True)
class ReviewQueue:
    """Images in the order in which they are asked."""

    labels: LabelSet
    """The run's final labels, of all train images."""
    rows: list[int]
    """Of the images that are asked."""
    doubtful: np.ndarray
    """int64 [N, up to DOUBTS], the most doubtful classes of every train image."""

    def hint(self, row: int) -> str:
        """The classes of an image to look for, as a person reads them."""
        return ", ".join(self.labels.class_names[c] for c in self.doubtful[row])


def review_queue(folder: Path, count: int, chosen: Path | None = None) -> ReviewQueue:
    """The most doubtful images of a run, or those that somebody chose.

    Args:
        folder: the run folder.
        count: most images; those about which a person has said everything already are left out.
        chosen: CSV with the column image_id, as the report saves a selection; its train images, all of them.

    Raises:
        PipelineError: there are no final labels, or the list has no train image.
    """
    labels = read_label_set(folder)
    check_photos(folder, labels.manifest, remember=False)
    waiting = waiting_corrections(labels.path)
    if waiting:
        log(waiting)
    initial: Labels = read(up_to_date(folder / "initial_labels.h5"))
    check_same_images(labels, initial, labels.path, folder / "initial_labels.h5")
    values = review_values(initial.labels, labels.labels)
    doubtful = np.argsort(-values, axis=1, kind="stable")[:, :DOUBTS]
    if (folder / "corrections.h5").exists():
        said = aligned_labels(read(folder / "corrections.h5"), labels.image_ids, labels.class_names)
        values[said != UNTOUCHED] = 0  # a person has looked already
        doubtful = np.argsort(-values, axis=1, kind="stable")[:, :DOUBTS]
    top = np.sort(values, axis=1)[:, -DOUBTS:].mean(1)
    order = np.argsort(-top, kind="stable")
    if chosen is None:
        return ReviewQueue(labels, [int(row) for row in order[:count] if top[row] > 0], doubtful)
    wanted = read_selection(chosen)
    rows = [int(row) for row in order if nfc(labels.image_ids[row]) in wanted]
    if not rows:
        raise PipelineError(
            f"{chosen} names {len(wanted)} images and none of the train split; only these are corrected."
        )
    if len(rows) < len(wanted):
        log(
            f"{len(wanted) - len(rows)} of the {len(wanted)} images of {chosen} are not in the train split and left out."
        )
    return ReviewQueue(labels, rows[:count], doubtful)


def read_selection(path: Path) -> set[str]:
    """Image ids of a CSV file with that column.

    Raises:
        PipelineError: it cannot be read, or has no such column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PipelineError(f"{path} could not be read ({error}); expected a CSV with the column image_id.") from None
    if not rows or "image_id" not in rows[0]:
        raise PipelineError(f"{path} has no column image_id, or no row; the report saves such a list.")
    return {nfc(row["image_id"] or "") for row in rows}
