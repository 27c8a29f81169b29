"""One image as a folder, a table or a shard lists it, and the walk through a folder."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from pipeline.machine.errors import PipelineError, printable
from pipeline.machine.progress import say
from pipeline.photos.formats import PHOTO_SUFFIXES, kind_of, readable_suffixes, why_unreadable
from pipeline.runs.score_table import LABEL_SEPARATOR


@dataclass(frozen=True)
class ListedImage:
    """An image and what its source says about it."""

    image_id: str
    path: Path
    labels: np.ndarray | None = None
    """int8 [C]: 1 present, 0 absent, -1 unknown; None for not labelled."""
    split: str | None = None
    """The split that the source asks for, "train" or "test"; None for no wish."""


@dataclass(frozen=True)
class Scan:
    """What a walk through a folder has found."""

    images: list[ListedImage]
    """Sorted by id, which is the posix path from the folder."""
    left_out: dict[str, str]
    """Id of what looks like a photo and cannot be one here, to the reason."""


def scan_folder(root: Path) -> list[ListedImage]:
    """Every image below a folder as `scan`; what is left out is said."""
    found = scan(root)
    say_left_out(found.left_out, root)
    return found.images


def say_left_out(left_out: Mapping[str, str], source: Path | str) -> None:
    """Say how many files were left out, and for each reason name the first."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        say(f"{source}: {printable(names[0])}{others} left out: {reason}.")


def scan(root: Path) -> Scan:
    """Every image below a folder, searched to any depth; hidden files and folders are passed over.

    Links are followed. A FIFO, socket or device, a link to nothing, and a photo of a format that cannot be read here are
    left out, with the reason.

    Raises:
        PipelineError: a folder cannot be read, links form a loop, or a name is not valid Unicode.
    """
    images, left_out = [], {}
    for folder, entry in _walk(root):
        suffix = PurePath(entry.name).suffix.lower()
        if suffix not in PHOTO_SUFFIXES:
            continue
        path = Path(folder, entry.name)
        image_id = _image_id(path, root)
        if reason := _why_not(entry) or why_unreadable(suffix):
            left_out[image_id] = reason
        else:
            images.append(ListedImage(image_id, path.absolute()))
    return Scan(sorted(images, key=lambda image: image.image_id), dict(sorted(left_out.items())))


def no_images(source: Path | str, left_out: Mapping[str, str]) -> PipelineError:
    """The error about a source without a single image."""
    name, reason = next(iter(left_out.items()), ("", ""))
    also = f" It has {len(left_out)} that cannot be read, first {name}: {reason}." if left_out else ""
    return PipelineError(f"{source} has no images, expected files ending in {', '.join(readable_suffixes())}.{also}")


def _walk(root: Path) -> Iterator[tuple[str, os.DirEntry]]:
    """Folder and entry of everything that is no folder, below `root`."""
    folders = [str(root)]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                found = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            raise PipelineError(
                f"folder {folder} cannot be read: {error.strerror}. Mend it or leave it out."
            ) from error
        for entry in found:
            if not entry.is_dir():
                yield folder, entry
                continue
            if entry.is_symlink():
                _refuse_loop(Path(folder), Path(entry.path))
            folders.append(entry.path)


def _why_not(entry: os.DirEntry) -> str | None:
    """Why an entry is no file, None where it is one; asks the disk only about links and oddities."""
    try:
        if entry.is_file():
            return None
        return f"it is {kind_of(entry.stat().st_mode)}, not a file"
    except FileNotFoundError:
        return "it is a link to a file that is missing"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


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


def _refuse_loop(folder: Path, link: Path) -> None:
    if folder.resolve().is_relative_to(link.resolve()):
        raise PipelineError(f"{link} is a link to a folder that it lies in. Remove the link.")


def _image_id(path: Path, root: Path) -> str:
    image_id = path.relative_to(root).as_posix()
    try:
        image_id.encode()
    except UnicodeEncodeError as error:
        raise PipelineError(f"the name of {os.fsencode(path)!r} is not valid UTF-8. Rename the file.") from error
    return image_id
