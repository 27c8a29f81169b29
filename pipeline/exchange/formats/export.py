"""The input of every label format: labels, boxes and photos."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.artifacts.boxes import Boxes
from pipeline.artifacts.state import up_to_date
from pipeline.evaluation.read import read
from pipeline.exchange import label_studio
from pipeline.exchange.label_sets import LabelSet
from pipeline.system.errors import PipelineError


@dataclass(frozen=True)
class Export:
    """Labels to export, with options."""

    labels: LabelSet
    boxes: Boxes | None
    """Boxes of the train images, which come first; None without --boxes."""
    copy_images: bool = False
    """Copy the photos into a folder export, instead of linking them."""
    image_prefix: str = label_studio.LOCAL_FILES
    """Address before an absolute path, for Label Studio."""

    def names(self, row: int) -> list[str]:
        """Present classes of an image."""
        return [self.labels.class_names[c] for c in np.flatnonzero(self.labels.present[row])]

    def size(self, row: int) -> tuple[int, int]:
        """Height and width of a photo."""
        height, width = self.labels.manifest.sizes[row]
        return int(height), int(width)

    def boxes_of(self, row: int) -> Iterator[tuple[int, list[float]]]:
        """Class and xyxy of the boxes of an image whose class is one of its labels."""
        if self.boxes is None:
            return
        start, stop = np.searchsorted(self.boxes.image_index, [row, row + 1])
        for m in range(start, stop):
            c = int(self.boxes.class_index[m])
            if c >= 0 and self.labels.present[row, c]:
                yield c, [float(v) for v in self.boxes.box[m]]

    @property
    def note(self) -> str:
        """A sentence about the boxes, for readers of the file."""
        return NO_OBJECTS if self.boxes is None else ROUGH_BOXES


def prepare(labels: LabelSet, *, boxes: bool = False, **options: Any) -> Export:
    """An export of a set of labels.

    Args:
        labels: the set.
        boxes: also export the run's boxes.
        options: further fields of `Export`.

    Raises:
        PipelineError: the run has no boxes of these images.
    """
    if not boxes:
        return Export(labels, None, **options)
    path = labels.path.with_name("boxes.h5")
    run_boxes: Boxes | None = read(up_to_date(path)) if path.exists() else None
    if run_boxes is None or run_boxes.image_ids != labels.image_ids[: len(run_boxes.image_ids)]:
        raise PipelineError(f"{path} is missing or has other images. Leave out --boxes, or run `ccd boxes`.")
    return Export(labels, run_boxes, **options)


def markdown(name: str) -> str:
    """A name as plain text in Markdown."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]()<>#+-.!|&~" else letter for letter in name)


NO_OBJECTS = "Labels describe whole images, not the places of objects."
ROUGH_BOXES = "Boxes show where a classifier looked, not the extent of objects."
