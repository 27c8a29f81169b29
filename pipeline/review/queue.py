"""A run to the images that a person should review: the most uncertain first, or those that may show a class."""

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
from pipeline.review.uncertainty import TOP_UNCERTAIN, review_values
from pipeline.system.errors import PipelineError, hint
from pipeline.system.files import regular_file
from pipeline.system.progress import log
from pipeline.system.text import nfc


@dataclass(frozen=True)
class ReviewQueue:
    """The images to review, in order."""

    labels: LabelSet
    """The final labels of all train images."""
    rows: list[int]
    """Rows of the images to review."""
    uncertain: np.ndarray
    """int64 [N, up to TOP_UNCERTAIN], the most uncertain classes of every train image."""
    class_name: str
    """The class whose score orders the images; empty: the most uncertain come first."""

    def hint(self, row: int) -> str:
        """The most uncertain classes of an image, joined by commas."""
        return ", ".join(self.labels.class_names[c] for c in self.uncertain[row])


def review_queue(folder: Path, count: int, chosen: Path | None = None, class_name: str = "") -> ReviewQueue:
    """The most uncertain images of a run, or a selection of them.

    Args:
        folder: the run folder.
        count: maximum number of images; images that are corrected in every class are left out.
        chosen: CSV with the column image_id, as saved by the report; reviewed images stay in.
        class_name: order by the score of this class instead, and leave out images that are corrected in it.

    Raises:
        PipelineError: there are no final labels, no such class, or the selection has no train image.
    """
    labels = read_label_set(folder)
    if class_name and class_name not in labels.class_names:
        raise PipelineError(f"{folder} has no class {class_name!r}. {hint(class_name, labels.class_names)}")
    check_photos(folder, labels.manifest, remember=False)
    waiting = waiting_corrections(labels.path)
    if waiting:
        log(waiting)
    initial: Labels = read(up_to_date(folder / "initial_labels.h5"))
    check_same_images(labels, initial, labels.path, folder / "initial_labels.h5")
    values = review_values(initial.labels, labels.labels)
    corrected = np.zeros(values.shape, bool)
    if (folder / "corrections.h5").exists():
        corrections = aligned_labels(read(folder / "corrections.h5"), labels.image_ids, labels.class_names)
        corrected = corrections != UNTOUCHED
        values[corrected] = 0  # a correction is certain
    uncertain = np.argsort(-values, axis=1, kind="stable")[:, :TOP_UNCERTAIN]
    top = np.sort(values, axis=1)[:, -TOP_UNCERTAIN:].mean(1)
    order, is_open = np.argsort(-top, kind="stable"), top > 0
    if class_name:
        c = labels.class_names.index(class_name)
        order, is_open = np.argsort(-read(labels.path).scores[:, c], kind="stable"), ~corrected[:, c]
    if chosen is None:
        return ReviewQueue(labels, [int(row) for row in order if is_open[row]][:count], uncertain, class_name)
    selected = read_selection(chosen)
    rows = [int(row) for row in order if nfc(labels.image_ids[row]) in selected]
    if not rows:
        raise PipelineError(
            f"{chosen} names {len(selected)} images, but no image of the train split. Select train images to review."
        )
    if len(rows) < len(selected):
        log(f"{len(selected) - len(rows)} of {len(selected)} images of {chosen} are skipped: not in the train split.")
    return ReviewQueue(labels, rows[:count], uncertain, class_name)


def read_selection(path: Path) -> set[str]:
    """The column image_id of a CSV file.

    Raises:
        PipelineError: the file cannot be read, or has no such column.
    """
    try:
        with regular_file(path).open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PipelineError(f"{path} could not be read ({error}). Expected a CSV with the column image_id.") from None
    if not rows or "image_id" not in rows[0]:
        raise PipelineError(f"{path} has no column image_id, or no row. Save a selection on the page of `ccd report`.")
    return {nfc(row["image_id"] or "") for row in rows}
