"""Search of a folder, or of the files of an address, for photos and shards."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.datasets.listing import HIDDEN, NOT_PHOTOS, describe_ignored, why_ignored
from pipeline.datasets.parquet_images import image_column
from pipeline.photos.formats import HEAD, PHOTO_SUFFIXES, readable_formats, suffix_of, why_unreadable
from pipeline.photos.video import VIDEO_SUFFIXES
from pipeline.system.errors import PipelineError
from pipeline.system.files import kind_of

SHARD_SUFFIXES = (".tar", ".parquet")
"""Endings of files in a folder that contain photos."""
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
"""Endings of archives, which are read only if the user names them."""
OTHER_SUFFIXES = frozenset(
    (
        *(".txt", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".md", ".html", ".yaml", ".yml", ".toml", ".cls"),
        *(".py", ".pdf", ".db", ".ini", ".log", ".xmp", ".npy", ".npz", ".h5", ".pt", ".pth", ".onnx", ".safetensors"),
        *VIDEO_SUFFIXES,
    )
)
"""Endings of files that are often next to photos; they are ignored without a look at their content."""
RUN_SETTINGS, MANIFEST = "run.toml", {"manifest.csv", "manifest.json"}
"""A folder with `RUN_SETTINGS` or with all files of `MANIFEST` is a run."""

MOST_LINKS = 100
"""Links to one folder that are followed; links inside linked folders multiply."""

NO_UTF8 = "its name is not valid UTF-8; rename it"
UNPACKED = "unpacked by ccd"
RUNS = "with a run of ccd"
NO_PHOTOS_INSIDE = "Parquet without photos"
ARCHIVES = "archives that are read only if --images names them"


@dataclass(frozen=True)
class Scan:
    """The files of a folder; names are posix paths from it."""

    photos: dict[str, Path] = field(default_factory=dict)
    shards: dict[str, Path] = field(default_factory=dict)
    """Tar files, and Parquet files with photos in them."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Name of a file that looks like a photo or shard but cannot be used, to the reason."""
    ignored: dict[str, list[str]] = field(default_factory=dict)
    """Reason why files and folders are not opened, to their names."""

    def ignore(self, reason: str, name: str) -> None:
        """Record a file or folder that is not opened."""
        self.ignored.setdefault(reason, []).append(shown(name))

    def add(self, name: str, path: Path) -> None:
        """Add one regular file by its ending or, if that is unknown, by its first bytes."""
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path for each of a million files is slow
        if suffix == ".tar" or (suffix == ".parquet" and image_column(path)):
            self._add_to(self.shards, name, path)
        elif suffix == ".parquet":
            self.ignore(NO_PHOTOS_INSIDE, name)
        elif name.lower().endswith(ARCHIVE_SUFFIXES):
            self.ignore(ARCHIVES, name)
        elif suffix in OTHER_SUFFIXES:
            self.ignore(NOT_PHOTOS, name)
        else:
            self._add_photo(suffix, name, path)

    def _add_photo(self, suffix: str | None, name: str, path: Path) -> None:
        if suffix not in PHOTO_SUFFIXES and not why_unreadable(suffix):
            try:
                suffix = recognise(path)
            except OSError as error:
                self.ignore(f"not readable: {error.strerror}", name)
                return
        if suffix is None:
            self.ignore(NOT_PHOTOS, name)
        elif reason := why_unreadable(suffix):
            self.left_out[shown(name)] = reason
        else:
            self._add_to(self.photos, name, path)

    def _add_to(self, files: dict[str, Path], name: str, path: Path) -> None:
        if shown(name) == name:
            files[name] = path
        else:
            self.left_out[shown(name)] = NO_UTF8

    def sorted(self) -> "Scan":
        """This scan, sorted by name."""
        return Scan(*(dict(sorted(each.items())) for each in (self.photos, self.shards, self.left_out)),
                    {reason: sorted(names) for reason, names in sorted(self.ignored.items())})  # fmt: skip


def scan(root: Path, exclude: Sequence[str] = (), unpack_to: Path | None = None) -> Scan:
    """Every photo and shard below a folder, searched to any depth.

    Links are followed. Left out, with the reason, are FIFOs, sockets, devices, broken links, loops of links, photos in formats that
    cannot be read here, and names that are not valid UTF-8. Ignored are hidden files, folders of a NAS or an operating
    system, runs of ccd and the folders that it has unpacked.

    Args:
        root: the folder.
        exclude: patterns of names that are ignored; see `excluded_by`.
        unpack_to: folder for the content of archives, ignored if it is below the root.

    Raises:
        PipelineError: a folder cannot be read, or a Parquet file is broken.
    """
    root = root.absolute()
    check_utf8(root)
    result = Scan()
    for name, entry in _walk(root, exclude, result, unpack_to and unpack_to.resolve()):
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
        if _is(entry.is_file):
            result.add(name, root / name)
        elif suffix in PHOTO_SUFFIXES or suffix in SHARD_SUFFIXES:
            result.left_out[shown(name)] = _why_not(entry)
        else:
            result.ignore(NOT_PHOTOS, name)
    return result.sorted()


def sort_files(files: Mapping[str, Path]) -> Scan:
    """The photos and shards among files, by name."""
    result = Scan()
    for name, path in files.items():
        result.add(name, path)
    return result.sorted()


def recognise(path: Path) -> str | None:
    """The suffix of a photo's format, by the first bytes of the file; None for other content. May raise OSError."""
    with path.open("rb") as file:
        return suffix_of(file.read(HEAD))


def is_archive(path: Path) -> bool:
    """Whether a path has the ending of an archive."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def shown(name: str) -> str:
    """A name as valid Unicode, with escapes for bytes that are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    return name


def check_utf8(source: Path) -> None:
    """Raise unless the path of a source is valid UTF-8, as it is part of every photo's path."""
    if shown(str(source)) != str(source):
        raise PipelineError(f"the name of {shown(str(source))} is not valid UTF-8. Rename it.")


def no_images(source: Path | str, left_out: Mapping[str, str], ignored: Mapping[str, list[str]]) -> PipelineError:
    """The error for a source without images."""
    name, reason = next(iter(left_out.items()), ("", ""))
    unreadable = f" It has {len(left_out)} that cannot be read, first {name}: {reason}." if left_out else ""
    rest = f" Ignored: {describe_ignored(ignored)}." if ignored else ""
    return PipelineError(
        f"{source} has no images, expected {', '.join(readable_formats())} files, or tar or Parquet files with images in "
        f"them.{unreadable}{rest}"
    )


def _walk(
    root: Path, exclude: Sequence[str], result: Scan, unpack_to: Path | None
) -> Iterator[tuple[str, os.DirEntry]]:
    """Name and entry of each file below `root`; adds ignored files and folders to `result`."""
    folders = [""]
    links: Counter[str] = Counter()
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as listed:
                entries = list(listed)
        except OSError as error:
            leave_out = ", or leave the folder out with --exclude" if folder else ""
            raise PipelineError(
                f"folder {root / folder} cannot be read: {error.strerror}. Check the path{leave_out}."
            ) from error
        names = {entry.name for entry in entries}
        if folder and (names >= MANIFEST or RUN_SETTINGS in names):
            result.ignore(RUNS, folder)
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            is_folder = _is(entry.is_dir)
            if reason := why_ignored(name, exclude, is_folder=is_folder):
                if reason != HIDDEN or _may_have_photos(entry.name, is_folder=is_folder):
                    result.ignore(reason, name)
            elif not is_folder:
                yield name, entry
            elif _is_unpacked(root / name, names, unpack_to):
                result.ignore(UNPACKED, name)
            elif entry.is_symlink() and (reason := _why_not_followed(root, root / folder, entry.path, links)):
                result.left_out[shown(name)] = reason
            else:
                folders.append(name)


def _is_unpacked(folder: Path, names: Set[str], unpack_to: Path | None) -> bool:
    """Whether a folder contains unpacked archives, by its name."""
    is_own = folder.name.endswith(".unpacked") and folder.name.removesuffix(".unpacked") in names
    return is_own or (unpack_to is not None and folder.resolve() == unpack_to)


def _is(test: Callable[[], bool]) -> bool:
    """The result of `is_file` or `is_dir`; False for a link that cannot be followed."""
    try:
        return test()
    except OSError:
        return False


def _may_have_photos(base: str, *, is_folder: bool) -> bool:
    """Whether a hidden file or folder may contain photos; "._a.jpg" is metadata of macOS about a.jpg."""
    suffix = os.path.splitext(base)[1].lower()  # noqa: PTH122
    return is_folder or (suffix in PHOTO_SUFFIXES and not base.startswith("._"))


def _why_not(entry: os.DirEntry) -> str:
    """Reason why an entry is not a file."""
    try:
        return f"it is {kind_of(entry.stat().st_mode)}, not a file"
    except FileNotFoundError:
        return "it is a link to a file that is missing"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def _why_not_followed(root: Path, folder: Path, link: str, links: Counter[str]) -> str | None:
    """Reason to skip a link to a folder: it would lead to itself, or to many copies of the same photos; None to follow it.

    Args:
        root: of the search.
        folder: with the link; `root` or below.
        link: path of the link.
        links: target to the number of links that lead there, to be counted.
    """
    target = os.path.realpath(link)
    walked = (folder, *(each for each in folder.parents if each.is_relative_to(root)))
    if any(Path(os.path.realpath(each)).is_relative_to(target) for each in walked):
        return "it is a link to a folder that contains it"
    links[target] += 1
    return f"more than {MOST_LINKS} links lead to its folder" if links[target] > MOST_LINKS else None
