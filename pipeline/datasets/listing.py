"""One image as a folder, a table or a shard lists it, and the walk through a folder."""

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.machine.errors import PipelineError
from pipeline.runs.score_table import LABEL_SEPARATOR

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""In lower case; files may write them in any."""


@dataclass(frozen=True)
class ListedImage:
    """An image and what its source says about it."""

    image_id: str
    path: Path
    labels: list[str] | None = None
    """Class names, empty for none of them; None for not labelled."""
    split: str | None = None
    """The split that the source asks for, "train" or "test"; None for no wish."""


def scan_folder(root: Path) -> list[ListedImage]:
    """Every image below a folder, sorted by id, which is its posix path from there; hidden files are none.

    Raises:
        PipelineError: a folder cannot be read, links form a loop, or a name is no valid Unicode.
    """
    found = []
    # Without `onerror`, walk would leave out what it may not read.
    for folder, subfolders, files in os.walk(root, onerror=_refuse_folder, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        _refuse_loops(Path(folder), subfolders)
        for name in files:
            path = Path(folder, name)
            if path.suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                found.append(ListedImage(_image_id(path, root), path.absolute()))
    return sorted(found, key=lambda image: image.image_id)


def parse_labels(labels: object) -> list[str]:
    """Class names of a text like "cat; dog", or of a list.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(labels, str):
        labels = labels.split(LABEL_SEPARATOR)
    if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
        raise ValueError(f"expected class names joined with {LABEL_SEPARATOR!r} or a list of them")
    return [name.strip() for name in labels if name.strip()]


def _refuse_folder(error: OSError) -> None:
    raise PipelineError(
        f"folder {error.filename} cannot be read: {error.strerror}. Mend it or leave it out."
    ) from error


def _refuse_loops(folder: Path, subfolders: list[str]) -> None:
    for path in (folder / name for name in subfolders):
        if path.is_symlink() and folder.resolve().is_relative_to(path.resolve()):
            raise PipelineError(f"{path} is a link to a folder that it lies in. Remove the link.")


def _image_id(path: Path, root: Path) -> str:
    image_id = path.relative_to(root).as_posix()
    try:
        image_id.encode()
    except UnicodeEncodeError as error:
        raise PipelineError(f"the name of {os.fsencode(path)!r} is no valid UTF-8. Rename the file.") from error
    return image_id
