"""A classifier file and photos to a table of labels and scores; needs neither the teacher nor the run, except with both."""

import glob
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.artifacts.predictions import check_suffix, prediction_frame, print_predictions, write_predictions
from pipeline.classifier.engines import Engine
from pipeline.datasets.checks import read_lines
from pipeline.datasets.folder import Reading, is_shard, notes_of, read_fetched, read_source, unused_patterns
from pipeline.datasets.listing import Listing, excluded_by, log_left_out
from pipeline.datasets.remote import Fetched, Rules, fetch_each, is_address, path_of
from pipeline.datasets.scan import NO_UTF8, shown
from pipeline.datasets.tables import TABLE_SUFFIXES, read_table
from pipeline.datasets.web import hosts_of
from pipeline.deploy.classifier import Classifier, Photo, score_photos
from pipeline.photos.images import UnreadableImage
from pipeline.photos.video import VIDEO_SUFFIXES, frame_count, frames
from pipeline.system.downloads import cache_folder
from pipeline.system.errors import PipelineError
from pipeline.system.progress import log

STANDARD_INPUT = "-"
SAME = 1e-6
"""Largest difference between the scores of different photos that counts as none."""


@dataclass(frozen=True)
class FoundPhoto:
    """A photo or a video of a source."""

    name: str
    """Name in the table."""
    place: Path | UnreadableImage
    """The file, or the error if there is none."""

    @property
    def is_video(self) -> bool:
        """Whether the suffix is that of a video."""
        return isinstance(self.place, Path) and self.place.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class Entry:
    """A source, or an entry of a source that is a list."""

    name: str
    """Name in the table."""
    place: str
    """Path or address."""
    listed: bool = False
    """Whether it is from a list, which may be anyone's, and not from the command line."""


def find_images(
    sources: Sequence[str], class_names: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[FoundPhoto]:
    """The photos and videos of the sources, each once, in order; logs what is skipped.

    Args:
        sources: files, folders (searched recursively), globs, addresses, lists of paths and addresses (.txt, tables, "-"
            for standard input), Parquet files that contain images, tars and zips.
        class_names: class names of the labels that a source may contain.
        exclude: patterns of names to skip; see `listing.excluded_by`.

    Raises:
        PipelineError: a source is missing or broken, or a folder has no photo.
    """
    reading = Reading(unpack_to=cache_folder() / "unpacked", exclude=tuple(exclude))
    listings: list[Listing] = []
    named: list[Entry] = []
    for entry in (entry for source in sources for entry in entries_of(source, class_names)):
        if reason := excluded_by(entry.name, exclude):
            listings.append(Listing([], ignored={reason: [entry.name]}))
        else:
            named.append(entry)
    addresses = list(dict.fromkeys(entry.place for entry in named if is_address(entry.place)))
    trusted = hosts_of(entry.place for entry in named if not entry.listed)
    fetched = fetch_each(addresses, reading.cache, Rules(exclude, trusted)) if addresses else {}
    unique: dict[tuple[str, str], FoundPhoto] = {}
    for entry in named:
        photos, listing = photos_and_listing(entry, fetched, class_names, reading)
        listings.append(listing)
        for note in notes_of(entry.name, listing):
            log(f"{note}.")
        for photo in photos:
            unique.setdefault((photo.name, str(photo.place)), photo)
    for note in unused_patterns(listings, exclude):
        log(f"{note}.")
    if not unique:
        raise PipelineError(
            f"--exclude {' '.join(exclude)} leaves no photo of {', '.join(sources)[:200]}. Remove a pattern."
        )
    return list(unique.values())


def photos_and_listing(
    entry: Entry, fetched: dict[str, Fetched | PipelineError], class_names: Sequence[str], reading: Reading
) -> tuple[list[FoundPhoto], Listing]:
    """The photos of an entry, and what is ignored; one error instead of the photos of a broken entry of a list."""
    try:
        if is_address(entry.place):
            return from_address(entry.place, fetched[entry.place], class_names, reading)
        return from_path(entry.name, Path(entry.place), class_names, reading)
    except PipelineError as error:
        if not entry.listed:
            raise
        return [FoundPhoto(entry.name, UnreadableImage(str(error)))], Listing([])


def entries_of(source: str, class_names: Sequence[str]) -> list[Entry]:
    """The entries of a list, or the matches of any other source."""
    if source == STANDARD_INPUT:
        return [listed_entry(line) for line in standard_input()]
    entries = []
    for entry in matches_of(source):
        listed = None if is_address(entry.place) else list_entries(Path(entry.place), class_names)
        entries += [entry] if listed is None else listed
    return entries


def list_entries(path: Path, class_names: Sequence[str]) -> list[Entry] | None:
    """The entries of a text file or table; None if the file is not a list."""
    suffix = path.suffix.lower()
    if suffix == ".txt" and path.is_file():
        return [listed_entry(line if is_address(line) else str(path.parent / line)) for line in read_lines(path)]
    if suffix not in TABLE_SUFFIXES or path.is_dir() or is_shard(path):
        return None
    rows = read_table(path, class_names)
    if not rows:
        raise PipelineError(f"{path} lists no image, expected at least one.")
    return [
        listed_entry(row.place) if is_address(row.place) else Entry(row.name, str(row.path), listed=True)
        for row in rows
    ]


def listed_entry(line: str) -> Entry:
    """The entry of a line of a list. A line is not a glob: a hostile one could search the whole disk."""
    return Entry(line if is_address(line) else str(Path(line)), line, listed=True)


def standard_input() -> list[str]:
    """The non-empty lines of standard input."""
    try:
        lines = [line.strip() for line in sys.stdin.read().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise PipelineError(f"standard input is not UTF-8 text ({error.reason}). Write one path per line.") from error
    if not lines:
        raise PipelineError("standard input is empty, expected one path or address per line.")
    return lines


def matches_of(source: str) -> list[Entry]:
    """The file with exactly this name (such as "[1].jpg"), or else the matches of the glob."""
    if is_address(source):
        return [Entry(source, source)]
    # unlike Path.glob, glob.glob accepts absolute patterns
    matches = glob.glob(glob.escape(source)) or sorted(glob.glob(source, recursive=True))  # noqa: PTH207
    if not matches:
        raise PipelineError(f"{source} is missing, expected a photo, a folder or a glob. Correct the path.")
    return [Entry(str(Path(match)), match) for match in matches]


def from_path(name: str, path: Path, class_names: Sequence[str], reading: Reading) -> tuple[list[FoundPhoto], Listing]:
    """The photos of a folder or an archive, or the file itself, whatever its suffix."""
    # unlike Path.is_dir, False for a name that is too long
    if not os.path.isdir(path) and not is_shard(path):  # noqa: PTH112
        if shown(name) != name:
            return [FoundPhoto(shown(name), UnreadableImage(f"{shown(name)} is left out: {NO_UTF8}."))], Listing([])
        return [FoundPhoto(name, path.absolute())], Listing([])
    listing = read_source(path, class_names, reading)
    log_left_out(listing.left_out, path)
    folder = path if path.is_dir() else path.parent
    return [FoundPhoto(str(folder / image.image_id), image.path) for image in listing.images], listing


def from_address(
    address: str, fetched: Fetched | PipelineError, class_names: Sequence[str], reading: Reading
) -> tuple[list[FoundPhoto], Listing]:
    """The photos of a fetched address, or one entry with the error."""
    if isinstance(fetched, PipelineError):
        return [FoundPhoto(address, UnreadableImage(str(fetched)))], Listing([])
    listing = read_fetched(fetched, class_names, reading)
    log_left_out(listing.left_out, address)
    alone = list(fetched.files) == [path_of(address).name]
    names = [address if alone else f"{address.rstrip('/')}/{image.image_id}" for image in listing.images]
    return [FoundPhoto(name, image.path) for name, image in zip(names, listing.images, strict=True)], listing


def photos_of(
    photos: Sequence[FoundPhoto], frame_interval: float, names: list[str]
) -> Iterator[Photo | UnreadableImage]:
    """The photos and the frames of the videos; appends the name of each to `names` before it yields it."""
    for photo in photos:
        if not photo.is_video:
            names.append(photo.name)
            yield photo.place
            continue
        try:
            for time, pixels in frames(photo.place, frame_interval):
                names.append(f"{photo.name}#t={round(time, 3)}")
                yield pixels
        except UnreadableImage as error:
            names.append(photo.name)
            yield error.with_traceback(None)  # a traceback keeps a frame in memory


def run(
    classifier_path: Path,
    sources: Sequence[str],
    out: Path | None,
    *,
    frame_interval: float,
    batch_size: int,
    device: str,
    engine: Engine = "auto",
    exclude: Sequence[str] = (),
    with_teacher: bool = False,
) -> None:
    """Write labels and scores of photos to a table, or print them as CSV.

    Args:
        classifier_path: file of a classifier.
        sources: see `find_images`.
        out: CSV, JSON lines or Parquet file; None for standard output.
        frame_interval: seconds between two frames of a video.
        batch_size: photos per batch.
        device: torch device.
        engine: runtime of the backbone; see `engines.run_of`.
        exclude: see `find_images`.
        with_teacher: see `Classifier.load`.

    Raises:
        PipelineError: a file is missing or invalid, or no photo can be read.
    """
    if out is not None:
        check_suffix(out)
    classifier = Classifier.load(classifier_path, device, engine, with_teacher=with_teacher)
    photos = find_images(sources, classifier.class_names, exclude)
    total = sum(frame_count(photo.place, frame_interval) if photo.is_video else 1 for photo in photos)
    names: list[str] = []
    scored = score_photos(classifier, photos_of(photos, frame_interval, names), names, total, batch_size)
    images = [names[row] for row in scored.rows]
    if not (scored.scores >= classifier.thresholds).any():
        log(
            f"no class reaches its threshold in any photo; the highest score is {scored.scores.max():.2f}. The scores still rank "
            f"the photos. Set thresholds on labelled photos with `ccd calibrate {shlex.quote(str(classifier_path))} TABLE`."
        )
    if len(images) > 1 and np.ptp(scored.scores, axis=0).max() < SAME:
        log("warning: all photos have the same scores, so the weights of the classifier are probably damaged.")
    frame = prediction_frame(images, scored.scores, classifier.thresholds, classifier.class_names, key="image")
    if out is None:
        print_predictions(frame)
        return
    write_predictions(out, frame)
    log(f"{out}: {len(images)} images, {len(classifier.class_names)} classes.")
