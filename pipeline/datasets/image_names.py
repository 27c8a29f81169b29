"""Search for images by name: id, path, base name, or base name without suffix."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from pipeline.photos.formats import PHOTO_SUFFIXES
from pipeline.system.text import nfc

TEST_PREFIX = "test/"
"""Start of the ids of test photos from --test-images."""


class ImageNames:
    """Search for images by name; composed and decomposed characters are equal.

    Args:
        image_ids: N unique ids.
        paths: N absolute paths.
        splits: N of train and test.
    """

    def __init__(self, image_ids: Sequence[str], paths: Sequence[Path | str], splits: Sequence[str]) -> None:
        self.image_ids = image_ids
        self.splits = splits
        self._paths = [nfc(os.path.normpath(path)) for path in paths]
        ids = [nfc(image_id) for image_id in image_ids]
        self._by_id = {image_id: row for row, image_id in enumerate(ids)}
        self._by_path = _index(self._paths)
        # as a path from the folder of the image's own split
        self._by_own = _index(image_id.removeprefix(TEST_PREFIX) for image_id in ids)
        self._by_base = _index(os.path.basename(path) for path in self._paths)  # noqa: PTH119
        self._by_stem = _index(without_suffix(image_id) for image_id in ids)
        self._by_base_stem = _index(without_suffix(os.path.basename(path)) for path in self._paths)  # noqa: PTH119

    def exactly(self, name: str) -> int | None:
        """Row of the image with this id."""
        return self._by_id.get(nfc(name))

    def find(self, name: str, folder: Path | None = None) -> list[int]:
        """Rows of all images that a name fits, by the first of these rules that gives one.

        Args:
            name: an id; a path, absolute or from the photos' folder of either split, from `folder` or from the
                working directory; the end of a path, such as a base name; an id or base name without its suffix.
            folder: of the table that contains the name.
        """
        name = nfc(PurePosixPath(name).as_posix())
        exact = self._by_id.get(name)
        if name.startswith("train/") and exact is None:
            own = [row for row in self._by_own.get(name.removeprefix("train/"), []) if self.splits[row] == "train"]
            if own:
                return own
        rows = self._by_own.get(name, [])
        if exact is not None:
            return [exact, *(row for row in rows if row != exact)]
        if rows:
            return rows
        for start in (folder, Path.cwd()):
            if start is not None and (rows := self._by_path.get(nfc(os.path.normpath(start / name)))):
                return rows
        base = os.path.basename(name)  # noqa: PTH119
        if rows := [row for row in self._by_base.get(base, []) if self._paths[row].endswith(f"/{name}")]:
            return rows
        return self._by_stem.get(name) or self._by_base_stem.get(name, [])


def match_names(theirs: Sequence[str], image_ids: Sequence[str], required: Sequence[bool]) -> list[int | None]:
    """Position in `theirs` of each image, by one rule for all names; None for an image without a match.

    The rules, the strictest first: a name is the id; it is the id without test/; it is a path that ends in the id, below
    one folder; it is the end of the id, such as a file name. Each rule compares names as written, then without extension.
    Folders that differ never match. A name that fits several images, and an image that fits several names, have no match.
    The rule with the most required images wins; ties go to the rule with the most images, then to the strictest.

    Args:
        theirs: unique names.
        image_ids: N unique ids.
        required: N, whether an image needs a match.
    """
    best: list[int | None] = [None] * len(image_ids)
    rules = (
        lambda theirs, ours: _only_pairs(theirs, ([name] for name in ours)),
        lambda theirs, ours: _only_pairs(theirs, ([name.removeprefix(TEST_PREFIX)] for name in ours)),
        _path_to_id,
        lambda theirs, ours: _only_pairs(theirs, map(_ends, ours)),
    )
    for rule in rules:
        for strip in (str, without_suffix):
            matches: list[int | None] = [None] * len(image_ids)
            sides = ([nfc(strip(name)) for name in side] for side in (theirs, image_ids))
            for their, our in rule(*sides):
                matches[our] = their
            best = max(best, matches, key=lambda rows: _count(rows, required))  # the first of equal ones
            if None not in best:
                return best
    return best


def _count(rows: Sequence[int | None], required: Sequence[bool]) -> tuple[int, int]:
    has_match = [row is not None for row in rows]
    return sum(map(min, has_match, required)), sum(has_match)


def _path_to_id(theirs: Sequence[str], ours: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of a path and the id at its end, if all pairs of a split have the same folder before the id."""
    own = [name.removeprefix(TEST_PREFIX) for name in ours]
    pairs = [(their, our) for our, their in _only_pairs(own, map(_ends, theirs))]
    roots = [(own[our] == ours[our], theirs[their].removesuffix(own[our])) for their, our in pairs]
    counts = Counter(roots)
    usual = {max((root for root in counts if root[0] == split), key=counts.__getitem__) for split, _ in counts}
    return [pair for pair, root in zip(pairs, roots, strict=True) if root in usual]


def _only_pairs(names: Sequence[str], lists: Iterable[Sequence[str]]) -> list[tuple[int, int]]:
    """Positions of a name and of the list that contains it, if neither fits a second one."""
    index = _index(names)
    pairs = [(row, number) for number, keys in enumerate(lists) for key in keys for row in index.get(key, ())]
    rows, numbers = Counter(row for row, _ in pairs), Counter(number for _, number in pairs)
    return [(row, number) for row, number in pairs if rows[row] == numbers[number] == 1]


def _ends(name: str) -> list[str]:
    """The path and its ends: a/b/c, b/c and c."""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def without_suffix(name: str) -> str:
    """A name without the suffix of a photo."""
    start, suffix = os.path.splitext(name)  # noqa: PTH122
    return start if suffix.lower() in PHOTO_SUFFIXES else name


def _index(names: Iterable[str]) -> dict[str, list[int]]:
    rows = defaultdict(list)
    for row, name in enumerate(names):
        rows[name].append(row)
    return dict(rows)
