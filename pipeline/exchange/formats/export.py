"""What every label format needs: labels, boxes and photos of an export, and names that other tools can read."""

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
    """What a format may need to know."""

    labels: LabelSet
    boxes: Boxes | None
    """Of the first of these images, where they are asked for."""
    copy_images: bool = False
    """Copy the photos into a folder export; else they are symbolic links."""
    image_prefix: str = label_studio.LOCAL_FILES
    """Address that an absolute path is appended to, for Label Studio."""

    def names(self, row: int) -> list[str]:
        """Classes of an image."""
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
        """What a reader of the file must know of its boxes."""
        return NO_OBJECTS if self.boxes is None else ROUGH_BOXES


def prepare(labels: LabelSet, *, boxes: bool = False, **options: Any) -> Export:
    """A set of labels, with the boxes of its images where they are asked for.

    Args:
        labels: the set.
        boxes: take the run's boxes along.
        options: further fields of `Export`.

    Raises:
        PipelineError: boxes are asked for, and there are none of these images.
    """
    if not boxes:
        return Export(labels, None, **options)
    path = labels.path.with_name("boxes.h5")
    found: Boxes | None = read(up_to_date(path)) if path.exists() else None
    if found is None or found.image_ids != labels.image_ids[: len(found.image_ids)]:
        raise PipelineError(f"{path} is missing or about other images; leave out --boxes, or run `ccd boxes`.")
    return Export(labels, found, **options)


def markdown(name: str) -> str:
    """A name as plain text in Markdown."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]()<>#+-.!|&~" else letter for letter in name)


NO_OBJECTS = "Labels are of whole images; no object was located."
ROUGH_BOXES = "Boxes are where a classifier looked, not the extent of objects."
