"""A folder, or what was fetched from an address, to the photos and shards in it; `prepare` and `predict` both use it."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.datasets.listing import HIDDEN, NOT_PHOTOS, describe_passed_over, why_passed_over
from pipeline.datasets.parquet_images import image_column
from pipeline.photos.formats import HEAD, PHOTO_SUFFIXES, kind_of, readable_formats, suffix_of, why_unreadable
from pipeline.photos.video import VIDEO_SUFFIXES
from pipeline.system.errors import PipelineError

SHARD_SUFFIXES = (".tar", ".parquet")
"""Of the files in a folder that hold photos themselves."""
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
"""Of what is read when it is named itself."""
OTHER_SUFFIXES = frozenset(
    (
        *(".txt", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".md", ".html", ".yaml", ".yml", ".toml", ".cls"),
        *(".py", ".pdf", ".db", ".ini", ".log", ".xmp", ".npy", ".npz", ".h5", ".pt", ".pth", ".onnx", ".safetensors"),
        *VIDEO_SUFFIXES,
    )
)
"""Of files that often lie next to photos; they are not opened to see whether they are photos."""
RUN_SETTINGS, MANIFEST = "run.toml", {"manifest.csv", "manifest.json"}
"""Files of which one or both make a folder a run."""

NO_UTF8 = "its name is not valid UTF-8; rename it"
UNPACKED = "unpacked by ccd"
RUNS = "with a run of ccd"
NO_PHOTOS_INSIDE = "Parquet without photos"
ARCHIVES = "archives that are read only if --images names them"


@dataclass(frozen=True)
class Scan:
    """What a folder holds; names are posix paths from it."""

    photos: dict[str, Path] = field(default_factory=dict)
    shards: dict[str, Path] = field(default_factory=dict)
    """Tar files, and Parquet files with photos in them."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Name of what looks like a photo or shard and cannot be one here, to the reason."""
    passed_over: dict[str, list[str]] = field(default_factory=dict)
    """Why files and folders are not looked at, to their names."""

    def pass_over(self, reason: str, name: str) -> None:
        """Note that something is not looked at."""
        self.passed_over.setdefault(reason, []).append(shown(name))

    def add(self, name: str, path: Path) -> None:
        """Sort one regular file in, by its ending or, where that is unknown, its first bytes."""
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path for each of a million files is slow
        if suffix == ".tar" or (suffix == ".parquet" and image_column(path)):
            self._add_to(self.shards, name, path)
        elif suffix == ".parquet":
            self.pass_over(NO_PHOTOS_INSIDE, name)
        elif name.lower().endswith(ARCHIVE_SUFFIXES):
            self.pass_over(ARCHIVES, name)
        elif suffix in OTHER_SUFFIXES:
            self.pass_over(NOT_PHOTOS, name)
        elif reason := why_unreadable(suffix):
            self.left_out[shown(name)] = reason
        elif suffix in PHOTO_SUFFIXES:
            self._add_to(self.photos, name, path)
        else:
            self._add_unknown(name, path)

    def _add_unknown(self, name: str, path: Path) -> None:
        try:
            suffix = recognise(path)
        except OSError as error:
            self.pass_over(f"not readable: {error.strerror}", name)
            return
        if suffix is None:
            self.pass_over(NOT_PHOTOS, name)
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
        """The same, sorted by name."""
        return Scan(*(dict(sorted(each.items())) for each in (self.photos, self.shards, self.left_out)),
                    {reason: sorted(names) for reason, names in sorted(self.passed_over.items())})  # fmt: skip


def scan(root: Path, exclude: Sequence[str] = (), unpack_to: Path | None = None) -> Scan:
    """Every photo and shard below a folder, searched to any depth.

    Links are followed. A FIFO, socket or device, a link to nothing, a photo of a format that cannot be read here, and a
    name that is not valid UTF-8 are left out, with the reason. Hidden files, folders of a NAS or an operating
    system, runs of ccd and what it has unpacked are passed over.

    Args:
        root: the folder.
        exclude: patterns of names that are passed over; see `excluded_by`.
        unpack_to: a folder that archives are unpacked to; passed over where it is below the root.

    Raises:
        PipelineError: a folder cannot be read, links form a loop, or a Parquet file is broken.
    """
    root = root.absolute()
    check_utf8(root)
    found = Scan()
    for name, entry in _walk(root, exclude, found, unpack_to and unpack_to.resolve()):
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
        if _is(entry.is_file):
            found.add(name, root / name)
        elif suffix in PHOTO_SUFFIXES or suffix in SHARD_SUFFIXES:
            found.left_out[shown(name)] = _why_not(entry)
        else:
            found.pass_over(NOT_PHOTOS, name)
    return found.sorted()


def sort_files(files: Mapping[str, Path]) -> Scan:
    """The photos and shards among files, by name."""
    found = Scan()
    for name, path in files.items():
        found.add(name, path)
    return found.sorted()


def recognise(path: Path) -> str | None:
    """The suffix of the photo format that a file's first bytes show; None for any other content.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return suffix_of(file.read(HEAD))


def is_archive(path: Path) -> bool:
    """Whether a path is called like an archive that can be unpacked."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def shown(name: str) -> str:
    """A name as valid Unicode: bytes that are not UTF-8 become escapes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    return name


def check_utf8(source: Path) -> None:
    """Raise where the path of a source is not valid UTF-8: every photo's path would begin with it."""
    if shown(str(source)) != str(source):
        raise PipelineError(f"the name of {shown(str(source))} is not valid UTF-8. Rename it.")


def no_images(source: Path | str, left_out: Mapping[str, str], passed_over: Mapping[str, list[str]]) -> PipelineError:
    """The error about a source without a single image."""
    name, reason = next(iter(left_out.items()), ("", ""))
    also = f" It has {len(left_out)} that cannot be read, first {name}: {reason}." if left_out else ""
    passed = f" Passed over: {describe_passed_over(passed_over)}." if passed_over else ""
    return PipelineError(
        f"{source} has no images, expected {', '.join(readable_formats())} files, or tar or Parquet files with images in "
        f"them.{also}{passed}"
    )


def _walk(root: Path, exclude: Sequence[str], found: Scan, unpack_to: Path | None) -> Iterator[tuple[str, os.DirEntry]]:
    """Name and entry of everything that is not a folder, below `root`; notes in `found` what is passed over."""
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as listed:
                entries = list(listed)
        except OSError as error:
            raise PipelineError(
                f"folder {root / folder} cannot be read: {error.strerror}. Check the path, or leave the folder out with "
                "--exclude."
            ) from error
        names = {entry.name for entry in entries}
        if folder and (names >= MANIFEST or RUN_SETTINGS in names):
            found.pass_over(RUNS, folder)
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            is_folder = _is(entry.is_dir)
            if reason := why_passed_over(name, exclude, is_folder=is_folder):
                if reason != HIDDEN or _is_worth_a_word(entry.name, is_folder=is_folder):
                    found.pass_over(reason, name)
            elif not is_folder:
                yield name, entry
            elif _is_unpacked(root / name, names, unpack_to):
                found.pass_over(UNPACKED, name)
            else:
                if entry.is_symlink():
                    _refuse_loop(root / folder, Path(entry.path))
                folders.append(name)


def _is_unpacked(folder: Path, names: Set[str], unpack_to: Path | None) -> bool:
    """Whether archives are unpacked to a folder, by its name next to that of the archive or their folder."""
    beside = folder.name.endswith(".unpacked") and folder.name.removesuffix(".unpacked") in names
    return beside or (unpack_to is not None and folder.resolve() == unpack_to)


def _is(test: Callable[[], bool]) -> bool:
    """The answer of `is_file` or `is_dir`; False for a link that cannot be followed."""
    try:
        return test()
    except OSError:
        return False


def _is_worth_a_word(base: str, *, is_folder: bool) -> bool:
    """Whether something hidden could hold photos; "._a.jpg" is what macOS knows of a.jpg."""
    suffix = os.path.splitext(base)[1].lower()  # noqa: PTH122
    return is_folder or (suffix in PHOTO_SUFFIXES and not base.startswith("._"))


def _why_not(entry: os.DirEntry) -> str:
    """Why an entry is not a file."""
    try:
        return f"it is {kind_of(entry.stat().st_mode)}, not a file"
    except FileNotFoundError:
        return "it is a link to a file that is missing"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def _refuse_loop(folder: Path, link: Path) -> None:
    if folder.resolve().is_relative_to(link.resolve()):
        raise PipelineError(f"{link} is a link to a folder that it lies in. Remove the link.")
