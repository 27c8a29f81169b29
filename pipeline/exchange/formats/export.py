"""What every label format needs: labels, boxes and photos of an export, and names that other tools can read."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from pipeline.artifacts.boxes import Boxes
from pipeline.artifacts.state import up_to_date
from pipeline.evaluation.read import read
from pipeline.exchange import label_studio
from pipeline.exchange.label_sets import LabelSet
from pipeline.photos.formats import HEAD, suffix_of
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

    def scores(self, row: int) -> dict[str, float]:
        """Class name to label or score of an image."""
        return dict(zip(self.labels.class_names, self.labels.labels[row].astype(float).tolist(), strict=True))

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


def described(export: Export, row: int) -> dict[str, Any]:
    """What is known of an image, for a JSON line."""
    labels = export.labels
    return {
        "image_id": labels.image_ids[row],
        "split": labels.splits[row],
        "labels": export.names(row),
        "scores": export.scores(row),
    }


def with_format_suffix(export: Export, row: int, name: str) -> str:
    """A name of a photo with a suffix that readers of folders know: its own or, where that is odd, its format's."""
    path = Path(export.labels.manifest.paths[row])
    suffix = path.suffix
    if suffix.lower() not in COMMON_SUFFIXES:
        try:
            with path.open("rb") as file:
                suffix = suffix_of(file.read(HEAD)) or suffix
        except OSError as error:
            raise PipelineError(f"{path} can no longer be read ({error.strerror}). Run `ccd prepare` again.") from error
    return name if name.lower().endswith(suffix.lower()) else name + suffix


COMMON_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""Of photos that readers of folders take for photos."""


def place_one(export: Export, row: int, target: Path) -> None:
    """The photo of a row as a link or a copy."""
    source = Path(export.labels.manifest.paths[row])
    target.parent.mkdir(parents=True, exist_ok=True)
    if export.copy_images:
        shutil.copyfile(source, target)
    else:
        target.symlink_to(source)


def check_shared(image_ids: list[str], names: list[str]) -> None:
    """Raise if two images would have one name in an export."""
    owner: dict[str, str] = {}
    for image_id, name in zip(image_ids, names, strict=True):
        if name in owner:
            raise PipelineError(
                f"{owner[name]} and {image_id} would both be {name} in this format. Rename one, or export another format."
            )
        owner[name] = image_id


def markdown(name: str) -> str:
    """A name as plain text in Markdown."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]()<>#+-.!|&~" else letter for letter in name)


def xml_text(root: ElementTree.Element) -> str:
    """An XML document, indented.

    Raises:
        PipelineError: a name has a character that XML cannot contain.
    """
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
    if found := re.search(r".{0,40}[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", text):
        raise PipelineError(f"XML cannot contain the last character of {found[0]!r}. Rename the photo or the class.")
    return text


HELD_OUT = 10
"""One in so many train photos is held out where a format needs photos to validate on and has no test photos."""


NO_OBJECTS = "Labels are of whole images; no object was located."


ROUGH_BOXES = "Boxes are where a classifier looked, not the extent of objects."
