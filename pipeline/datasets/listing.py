"""One image as a folder, a table or a shard lists it, and which files of a source are not looked at."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import numpy as np

from pipeline.system.errors import printable
from pipeline.system.progress import log
from pipeline.system.text import nfc


@dataclass(frozen=True)
class ListedImage:
    """An image and what its source says about it."""

    image_id: str
    path: Path
    labels: np.ndarray | None = None
    """int8 [C]: 1 present, 0 absent, -1 unknown; None for not labelled."""
    split: str | None = None
    """The split that the source asks for, "train" or "test"; None for no wish."""
    named_split: str | None = None
    """The split in the name of its folder or shard: "train", "validation" or "test"; None for none."""
    shard: Path | None = None
    """The tar or Parquet file that it was unpacked from; None for a photo in a file of its own."""

    @property
    def real_place(self) -> str:
        """The shard or file that holds it, with the links of its folder followed: the same for each way to write it."""
        place = self.shard or self.path
        return f"{_real_folder(place.parent)}/{place.name}"


@cache
def _real_folder(folder: Path) -> str:
    return os.path.realpath(folder)


@dataclass(frozen=True)
class Listing:
    """What a source holds."""

    images: list[ListedImage]
    left_out: dict[str, str] = field(default_factory=dict)
    """Id of what looks like a photo and cannot be one here, to the reason."""
    passed_over: dict[str, list[str]] = field(default_factory=dict)
    """Why files and folders are not looked at, to their names."""


NOT_PHOTOS = "of other kinds"
HIDDEN = "hidden"
JUNK = "made by a NAS or an operating system"
JUNK_FOLDERS = frozenset(
    (
        *("@eadir", "@recycle", "@recently-snapshot", "@tmp", "@__thumb", "#recycle", "#snapshot", "~snapshot"),
        *("__macosx", "lost+found", "$recycle.bin", "recycler", "system volume information", "network trash folder"),
    )
)
"""Names of folders, in lower case, that file systems, NAS and archivers add to photos: thumbnails and deleted files."""


def excluded_by(name: str, patterns: Sequence[str]) -> str | None:
    """The reason "by --exclude PATTERN" of the first pattern that a name matches; None where none does.

    Args:
        name: posix path from the source.
        patterns: of a file's or folder's name, or the end of its path, with the wildcards *, ? and []; a slash in
            front ties a pattern to the source itself.
    """
    if not patterns:
        return None
    path = nfc(f"/{name}")
    for pattern in patterns:
        end = nfc(pattern).removesuffix("/**").rstrip("/")
        if fnmatchcase(path, end if end.startswith("/") else f"*/{end.removeprefix('**/')}"):
            return f"by --exclude {pattern}"
    return None


def why_passed_over(name: str, patterns: Sequence[str] = (), *, is_folder: bool = False) -> str | None:
    """Why a file or folder is not looked at, by its own name; None where it is.

    Args:
        name: posix path from the source.
        patterns: see `excluded_by`.
        is_folder: whether it is a folder.
    """
    base = name.rpartition("/")[2]
    if reason := excluded_by(name, patterns):
        return reason
    if base.startswith("."):
        return HIDDEN
    return JUNK if is_folder and base.casefold() in JUNK_FOLDERS else None


def log_left_out(left_out: Mapping[str, str], source: Path | str) -> None:
    """Say how many files were left out, and for each reason name the first."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        log(f"{source}: {printable(names[0])}{others} left out: {reason}.")


def describe_passed_over(passed_over: Mapping[str, Sequence[str]]) -> str:
    """What was not looked at, as "3 of other kinds (.txt, .json), 1 hidden (.cache)"; empty for nothing."""
    return ", ".join(f"{len(names):,} {reason} ({_examples(reason, names)})" for reason, names in passed_over.items())


def _examples(reason: str, names: Sequence[str]) -> str:
    """The first names, or the endings of what are not photos."""
    if reason == NOT_PHOTOS:
        names = [f".{name.rpartition('.')[2]}" if "." in name.rpartition("/")[2] else "no ending" for name in names]
    names = list(dict.fromkeys(names))
    return ", ".join(map(printable, names[:3])) + (" ..." if len(names) > 3 else "")
