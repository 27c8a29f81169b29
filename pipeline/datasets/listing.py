"""Images that a source lists, and the rules for files to ignore."""

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
    """An image with the labels and split that its source gives."""

    image_id: str
    path: Path
    labels: np.ndarray | None = None
    """int8 [C]: 1 present, 0 absent, -1 unknown; None for not labelled."""
    split: str | None = None
    """The split in a table, "train" or "test"; None if it gives none."""
    named_split: str | None = None
    """The split in the name of its folder or shard, "train", "validation" or "test"; None if the name has none."""
    shard: Path | None = None
    """The tar or Parquet file that it was unpacked from; None for a photo in its own file."""

    @property
    def real_place(self) -> str:
        """The shard or file that contains it; links of folders are resolved, so that equal places are equal texts."""
        place = self.shard or self.path
        return f"{_real_folder(place.parent)}/{place.name}"


@cache
def _real_folder(folder: Path) -> str:
    return os.path.realpath(folder)


@dataclass(frozen=True)
class Listing:
    """The images of a source."""

    images: list[ListedImage]
    left_out: dict[str, str] = field(default_factory=dict)
    """Id of a file that looks like a photo but cannot be used, to the reason."""
    ignored: dict[str, list[str]] = field(default_factory=dict)
    """Reason why files and folders are not opened, to their names."""


NOT_PHOTOS = "of other kinds"
HIDDEN = "hidden"
JUNK = "made by a NAS or an operating system"
JUNK_FOLDERS = frozenset(
    (
        *("@eadir", "@recycle", "@recently-snapshot", "@tmp", "@__thumb", "#recycle", "#snapshot", "~snapshot"),
        *("__macosx", "lost+found", "$recycle.bin", "recycler", "system volume information", "network trash folder"),
    )
)
"""Lower-case names of folders with thumbnails and deleted files, which file systems, NAS and archivers add to photos."""


def excluded_by(name: str, patterns: Sequence[str]) -> str | None:
    """The reason "by --exclude PATTERN" for the first pattern that matches a name; None if no pattern does.

    Args:
        name: posix path from the source.
        patterns: a pattern matches the name of a file or folder, or the end of its path. Wildcards are *, ? and []; a
            pattern that starts with a slash matches the whole path.
    """
    if not patterns:
        return None
    path = nfc(f"/{name}")
    for pattern in patterns:
        end = nfc(pattern).removesuffix("/**").rstrip("/")
        if fnmatchcase(path, end if end.startswith("/") else f"*/{end.removeprefix('**/')}"):
            return f"by --exclude {pattern}"
    return None


def why_ignored(name: str, patterns: Sequence[str] = (), *, is_folder: bool = False) -> str | None:
    """Reason to ignore a file or folder because of its name, see `excluded_by`; None if there is no reason."""
    base = name.rpartition("/")[2]
    if reason := excluded_by(name, patterns):
        return reason
    if base.startswith("."):
        return HIDDEN
    return JUNK if is_folder and base.casefold() in JUNK_FOLDERS else None


def log_left_out(left_out: Mapping[str, str], source: Path | str) -> None:
    """Log the number of files that are left out, with the first file of each reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        log(f"{source}: {printable(names[0])}{more} left out: {reason}.")


def describe_ignored(ignored: Mapping[str, Sequence[str]]) -> str:
    """Ignored files as "3 of other kinds (.txt, .json), 1 hidden (.cache)"; empty if there are none."""
    return ", ".join(f"{len(names):,} {reason} ({_examples(reason, names)})" for reason, names in ignored.items())


def _examples(reason: str, names: Sequence[str]) -> str:
    """The first names, or the endings of files that are not photos."""
    if reason == NOT_PHOTOS:
        names = [f".{name.rpartition('.')[2]}" if "." in name.rpartition("/")[2] else "no ending" for name in names]
    names = list(dict.fromkeys(names))
    return ", ".join(map(printable, names[:3])) + (" ..." if len(names) > 3 else "")
