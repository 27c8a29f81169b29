"""What somebody calls an image to the row of that image: by id, path, base name, or base name without suffix."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from pipeline.photos.formats import PHOTO_SUFFIXES

TEST_PREFIX = "test/"
"""What the ids of the test photos begin with where these came from a source of their own."""


class ImageNames:
    """Finds images by whatever names them.

    Args:
        image_ids: N unique ids.
        paths: N absolute paths.
        splits: N of train and test.
    """

    def __init__(self, image_ids: Sequence[str], paths: Sequence[Path | str], splits: Sequence[str]) -> None:
        self.image_ids = image_ids
        self.splits = splits
        self._paths = [os.path.normpath(path) for path in paths]
        self._by_id = {image_id: row for row, image_id in enumerate(image_ids)}
        self._by_path = _index(self._paths)
        # as written from the folder of the own split
        self._by_own = _index(image_id.removeprefix(TEST_PREFIX) for image_id in image_ids)
        self._by_base = _index(os.path.basename(path) for path in self._paths)  # noqa: PTH119
        self._by_stem = _index(without_suffix(image_id) for image_id in image_ids)
        self._by_base_stem = _index(without_suffix(os.path.basename(path)) for path in self._paths)  # noqa: PTH119

    def exactly(self, name: str) -> int | None:
        """Row of the image with this id."""
        return self._by_id.get(name)

    def find(self, name: str, folder: Path | None = None) -> list[int]:
        """Rows of all images that a name may mean, by the nearest way in which it means any.

        Args:
            name: an id; a path, absolute or from the photos' folder of either split, from `folder` or from the
                working directory; the end of a path, as a base name; an id or base name without its suffix.
            folder: of the table that writes the name.
        """
        name = PurePosixPath(name).as_posix()
        exact = self._by_id.get(name)
        if name.startswith("train/") and exact is None:
            own = [row for row in self._by_own.get(name.removeprefix("train/"), []) if self.splits[row] == "train"]
            if own:
                return own
        found = self._by_own.get(name, [])
        if exact is not None:
            return [exact, *(row for row in found if row != exact)]
        if found:
            return found
        for start in (folder, Path.cwd()):
            if start is not None and (found := self._by_path.get(os.path.normpath(start / name))):
                return found
        base = os.path.basename(name)  # noqa: PTH119
        end = f"/{name}"
        if found := [row for row in self._by_base.get(base, []) if self._paths[row].endswith(end)]:
            return found
        return self._by_stem.get(name) or self._by_base_stem.get(name, [])


def without_suffix(name: str) -> str:
    """A name without the suffix of a photo, should it have one."""
    start, suffix = os.path.splitext(name)  # noqa: PTH122
    return start if suffix.lower() in PHOTO_SUFFIXES else name


def _index(names: Iterable[str]) -> dict[str, list[int]]:
    rows = defaultdict(list)
    for row, name in enumerate(names):
        rows[name].append(row)
    return dict(rows)
