"""Adapter for photos in folders, tables, archives, shards or at addresses."""

import os.path
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline.datasets.archives import Limit
from pipeline.datasets.checks import check_unique, missing_files, read_lines
from pipeline.datasets.class_names import check_class_names
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.image_names import TEST_PREFIX, ImageNames
from pipeline.datasets.listing import ListedImage, Listing, describe_ignored, excluded_by
from pipeline.datasets.parquet_images import image_column, read_parquet_images
from pipeline.datasets.remote import Fetched, Rules, fetch, is_address, path_of
from pipeline.datasets.scan import Scan, check_utf8, is_archive, no_images, recognise, scan, sort_files
from pipeline.datasets.splits import assign_splits, split_in_folders
from pipeline.datasets.tables import TABLE_SUFFIXES, UNKNOWN, Row, read_table
from pipeline.datasets.web import hosts_of
from pipeline.datasets.webdataset import read_shards
from pipeline.photos.formats import PHOTO_SUFFIXES
from pipeline.system.downloads import cache_folder
from pipeline.system.errors import PipelineError

Source = Path | str
"""A path or an address."""


@dataclass(frozen=True)
class Reading:
    """Options for reading sources."""

    unpack_to: Path | None = None
    """Folder for the content of archives; None for `<name>.unpacked` next to each, or in the cache."""
    limit: Limit = Limit()
    """Largest size of the content of an archive."""
    skip_missing: bool = False
    """Leave out images of a table that have no file."""
    cache: Path = field(default_factory=cache_folder)
    """Folder for files from addresses."""
    exclude: tuple[str, ...] = ()
    """Patterns of names to ignore; see `excluded_by`."""


def load(
    images: Source | Sequence[Source],
    class_names: Sequence[str],
    test_images: Source | Sequence[Source] | None = None,
    labels: Path | None = None,
    reading: Reading = Reading(),
) -> Dataset:
    """Images of sources for training and, optionally, of separate sources for testing.

    Args:
        images: one or more sources. A source is a folder (searched to any depth) of photos, WebDataset tars and Parquet
            files that contain images; such a tar or Parquet file, or a zip; a photo; a CSV or Parquet file that lists
            files (`read_table`); a .txt file with one path per line; or the address of a folder or file of photos, tars
            or such Parquet files (`fetch`). All images are for training, unless a column split, or the name of a folder
            or shard, assigns them to test (`assign_splits`).
        class_names: C unique names.
        test_images: sources of test images; their ids begin with "test/". It may be a folder within `images`.
        labels: a table of labels, and optionally splits, of some or all images. It may use any unambiguous name of an
            image; see `ImageNames`.
        reading: options.

    Returns:
        Ids are paths from the source's folder; with several folders, they begin with the name of each. `labels` is None
        if no image is labelled; otherwise an unlabelled image is -1 in every class.

    Raises:
        PipelineError: a source has no image or is broken; an image is listed twice or has no file; a label
            is not one of the classes; a name in the table of labels fits no image, or several.
    """
    check_class_names(class_names)
    sources, test_sources = as_list(images), as_list(test_images)
    listings = _read_all(sources, class_names, reading)
    test_listings = _read_all(test_sources, class_names, reading)
    test, test_left_out, _ = assign_splits(_once(test_listings), option="test")
    train = _once(listings, {image.real_place for image in test})
    listed, left_out, notes = assign_splits(train, option="train", has_test=bool(test))
    listed += [replace(image, image_id=f"{TEST_PREFIX}{image.image_id}", split="test") for image in test]
    for listing in listings:
        left_out |= listing.left_out
    for each in (test_left_out, *(listing.left_out for listing in test_listings)):
        left_out |= {f"{TEST_PREFIX}{image_id}": reason for image_id, reason in each.items()}
    check_unique([image.image_id for image in listed], " and ".join(map(str, (*sources, *test_sources))))
    if labels is not None:
        listed = _with_labels(listed, left_out, labels, class_names)
    every = (*listings, *test_listings)
    remarks = [note for pair in zip((*sources, *test_sources), every, strict=True) for note in notes_of(*pair)]
    return Dataset(
        " and ".join(map(_title, sources)),
        list(class_names),
        [image.image_id for image in listed],
        [image.path for image in listed],
        [image.split or "train" for image in listed],
        _label_matrix(listed, len(class_names)),
        None,
        left_out,
        [*remarks, *unused_patterns(every, reading.exclude), *notes],
    )


def as_list(sources: Source | Sequence[Source] | None) -> list[Source]:
    """One source, several or none, as a list."""
    return [sources] if isinstance(sources, Path | str) else list(sources or ())


def own_path(source: Path) -> Path:
    """The absolute path of a source; "." and ".." are replaced by the names of the folders."""
    path = source.expanduser().absolute()
    if path.name in ("", ".."):
        return path.resolve()
    return path.parent.resolve() / path.name if ".." in path.parts else path


def name_of(source: Source) -> str:
    """The last part of the path or address of a source; empty for "/"."""
    return path_of(source.rstrip("/")).name if is_address(source) else own_path(Path(source)).name


def _title(source: Source) -> str:
    """Name of a source as part of the dataset's name."""
    name = name_of(source) or str(source)
    return name if is_address(source) or own_path(Path(source)).is_dir() else Path(name).stem


def _once(listings: Sequence[Listing], elsewhere: Set[str] = frozenset()) -> list[ListedImage]:
    """The images of all listings, each once and without those in `elsewhere`: a source may contain another source."""
    if len(listings) == 1 and not elsewhere:
        return listings[0].images
    kept: list[ListedImage] = []
    seen = set(elsewhere)
    for listing in listings:
        new = [image for image in listing.images if image.real_place not in seen]
        seen |= {image.real_place for image in new}
        kept += new
    return kept


def _read_all(sources: Sequence[Source], class_names: Sequence[str], reading: Reading) -> list[Listing]:
    """The listing of each source; with several sources, the ids of a folder begin with its name."""
    listings = [read_source(source, class_names, reading) for source in sources]
    return listings if len(sources) == 1 else list(map(_with_prefix, listings, prefixes(sources), sources))


def prefixes(sources: Sequence[Source]) -> list[str]:
    """For each source the shortest end of its path that no other source shares."""
    paths = [path_of(each).parts if is_address(each) else own_path(Path(each)).parts for each in sources]
    ends = []
    for own in paths:
        other = [each for each in paths if each != own]
        lengths = (n for n in range(1, len(own)) if all(each[-n:] != own[-n:] for each in other))
        ends.append("/".join(own[-next(lengths, len(own)) :]).lstrip("/"))
    return ends


def _with_prefix(listing: Listing, prefix: str, source: Source) -> Listing:
    if not (is_address(source) or own_path(Path(source)).is_dir()):
        return listing  # a file gives the ids of its images, or they begin with its name
    images = [replace(image, image_id=f"{prefix}/{image.image_id}") for image in listing.images]
    return replace(listing, images=images, left_out={f"{prefix}/{key}": why for key, why in listing.left_out.items()})


def notes_of(source: Source, listing: Listing) -> list[str]:
    """A line with the number of photos of a source and the files that are ignored; no line if none is."""
    if not listing.ignored:
        return []
    return [f"{source}: {len(listing.images):,} photos. Ignored: {describe_ignored(listing.ignored)}"]


def unused_patterns(listings: Sequence[Listing], exclude: Sequence[str]) -> list[str]:
    """A line for each pattern of --exclude that matches nothing and may be misspelt."""
    used = {reason for listing in listings for reason in listing.ignored}
    return [f"--exclude {each} matches nothing" for each in exclude if f"by --exclude {each}" not in used]


def is_plain(source: Source | None) -> bool:
    """Whether a source can be read without unpacking or fetching."""
    if source is None:
        return True
    if is_address(source):
        return False
    path = Path(source).expanduser()
    return not scan(path).shards if path.is_dir() else not is_shard(path)


def is_shard(path: Path) -> bool:
    """Whether a file contains photos: an archive, by its name, or a Parquet file with a column of images."""
    if is_archive(path) or path.suffix.lower() != ".parquet":
        return is_archive(path)
    # unlike Path.is_file, False for a name that is too long
    return os.path.isfile(path) and bool(image_column(path))  # noqa: PTH113


def read_source(source: Source, class_names: Sequence[str], reading: Reading) -> Listing:
    """The images of a source (see `load`), and the files that are left out or ignored, with the reasons.

    Raises:
        PipelineError: it has no images, or is broken.
    """
    if is_address(source):
        rules = Rules(reading.exclude, hosts_of([str(source)]), 1e9 * reading.limit.gigabytes)
        listing = read_fetched(fetch(str(source), reading.cache, rules), class_names, reading)
    else:
        listing = _read_local(Path(source), class_names, reading)
    if not listing.images:
        raise no_images(source, listing.left_out, listing.ignored)
    return listing


def _read_local(source: Path, class_names: Sequence[str], reading: Reading) -> Listing:
    path = own_path(source)
    check_utf8(path)
    unpack_to = reading.unpack_to or (path.with_name(f"{path.name}.unpacked") if path.name else None)
    suffix = path.suffix.lower()
    if path.is_dir() or not (path.exists() or is_archive(path) or suffix in (*TABLE_SUFFIXES, ".txt")):
        if reading.unpack_to and path.is_dir() and reading.unpack_to.resolve() == path.resolve():
            raise PipelineError(f"--unpack-to is the folder of the photos, {source}. Choose another folder.")
        return read_scan(scan(path, reading.exclude, reading.unpack_to), class_names, unpack_to, reading)
    if is_shard(path):
        return read_scan(Scan(shards={path.name: path}), class_names, unpack_to, reading)
    if suffix in TABLE_SUFFIXES or suffix == ".txt":
        return _read_list(path, class_names, reading)
    if suffix in PHOTO_SUFFIXES or (path.is_file() and recognise(path)):
        return Listing([ListedImage(path.name, path)])
    raise PipelineError(
        f"{source} is not a source of photos. Give a folder, a photo, an archive (.tar, .tgz, .zip), a Parquet file, or a "
        "list of photos (.csv, .parquet, .txt)."
    )


def _read_list(table: Path, class_names: Sequence[str], reading: Reading) -> Listing:
    """The images in a table or a text file of paths."""
    if table.suffix.lower() == ".txt":
        listed = [ListedImage(Path(line).as_posix(), table.parent / line) for line in read_lines(table)]
    else:
        rows = read_table(table, class_names)
        listed = [ListedImage(row.name, row.path, row.labels, row.split) for row in rows]
    ignored: dict[str, list[str]] = {}
    kept = []
    for image in listed:
        if reason := excluded_by(image.image_id, reading.exclude):
            ignored.setdefault(reason, []).append(image.image_id)
        else:
            kept.append(image)
    ids, paths = [image.image_id for image in kept], [image.path for image in kept]
    left_out = missing_files(ids, paths, table, skip=reading.skip_missing) if kept else {}
    return Listing([image for image in kept if image.image_id not in left_out], left_out, ignored)


def read_scan(files: Scan, class_names: Sequence[str], unpack_to: Path | None, reading: Reading) -> Listing:
    """The photos of a folder or an address, and those in its shards."""
    if files.shards and unpack_to is None:
        raise PipelineError("archives cannot be unpacked next to /. Name a folder with --unpack-to.")
    images = [ListedImage(name, path, named_split=split_in_folders(name)) for name, path in files.photos.items()]
    parquet = {name: path for name, path in files.shards.items() if name.lower().endswith(".parquet")}
    tars = {name: path for name, path in files.shards.items() if name not in parquet}
    images += read_parquet_images(parquet, class_names, unpack_to, reading.limit, reading.exclude)
    inside = read_shards(tars, class_names, unpack_to, reading.limit, reading.exclude)
    ignored = dict(files.ignored)
    for reason, names in inside.ignored.items():
        ignored[reason] = [*ignored.get(reason, []), *names]
    return Listing([*images, *inside.images], {**files.left_out, **inside.left_out}, ignored)


def read_fetched(fetched: Fetched, class_names: Sequence[str], reading: Reading) -> Listing:
    """The images in the files of an address."""
    files = sort_files(fetched.files)
    for reason, names in fetched.ignored.items():
        files.ignored.setdefault(reason, []).extend(names)
    files.left_out.update(fetched.left_out)
    return read_scan(files, class_names, reading.unpack_to or reading.cache / "unpacked", reading)


def _with_labels(
    listed: list[ListedImage], left_out: dict[str, str], table: Path, class_names: Sequence[str]
) -> list[ListedImage]:
    """The images with labels and splits from a table."""
    splits = [image.split or "train" for image in listed]
    names = ImageNames([image.image_id for image in listed], [image.path for image in listed], splits)
    rows = match_rows(read_table(table, class_names, needs_labels=True), names, table, left_out)
    labelled = list(listed)
    for index, row in rows.items():
        labelled[index] = replace(listed[index], labels=row.labels, split=row.split or listed[index].split)
    return labelled


def match_rows(
    rows: Sequence[Row],
    names: ImageNames,
    table: Path,
    left_out: Sequence[str] | dict[str, str] = (),
    *,
    ids_win: bool = False,
) -> dict[int, Row]:
    """The row of a table for each image in it.

    Args:
        rows: of the table.
        names: of the images.
        table: named in errors.
        left_out: ids of further images, which are not among `names`; their rows are skipped.
        ids_win: a name that is the id of an image means this image, even if it fits several: for tables of a run.

    Returns:
        Index of the image to its row.

    Raises:
        PipelineError: the name in a row fits no image, or several; or two rows name the same image.
    """
    skipped = ImageNames(list(left_out), list(left_out), ["train"] * len(left_out))
    claimed = {row.name for row in rows}
    matches: dict[int, Row] = {}
    for row in rows:
        candidates = names.find(row.name, table.absolute().parent)
        if ids_win and (exact := names.exactly(row.name)) is not None:
            candidates = [exact]
        if not candidates and skipped.find(row.name):
            continue
        index = _choose(candidates, row, names, claimed, table)
        if index in matches:
            raise PipelineError(
                f"row {row.number} of {table} names image {names.image_ids[index]}, as row {matches[index].number} does; "
                "expected once. Remove one."
            )
        matches[index] = row
    return matches


def _choose(candidates: list[int], row: Row, names: ImageNames, claimed: set[str], table: Path) -> int:
    """The one image that a row means."""
    if len(candidates) > 1 and row.split:
        candidates = [index for index in candidates if names.splits[index] == row.split] or candidates
    if len(candidates) > 1:  # "a.jpg" is the train photo if the table also has "test/a.jpg"
        ids = names.image_ids
        candidates = [index for index in candidates if ids[index] == row.name or ids[index] not in claimed]
    if len(candidates) == 1:
        return candidates[0]
    where = f"row {row.number} of {table} names image {row.name}"
    if candidates:
        either = " or ".join(_unmistakable(index, names) for index in candidates[:3])
        raise PipelineError(f"{where}, which fits {len(candidates)} images. Write {either}.")
    split = row.split or ("test" if row.name.startswith(TEST_PREFIX) or "test" in names.splits else "train")
    example = next((n for n, each in enumerate(names.splits) if each == split), 0)
    raise PipelineError(
        f"{where}, which is none of the {len(names.image_ids)} images. Write it like them: one {names.splits[example]} "
        f"image is {names.image_ids[example]}."
    )


def _unmistakable(index: int, names: ImageNames) -> str:
    """A name that fits only this image."""
    image_id = names.image_ids[index]
    return f"train/{image_id}" if names.splits[index] == "train" and len(names.find(image_id)) > 1 else image_id


def _label_matrix(listed: list[ListedImage], classes: int) -> np.ndarray | None:
    """Labels int8 [N, C], UNKNOWN for an unlabelled image; None if no image is labelled."""
    if all(image.labels is None for image in listed):
        return None
    unlabelled = np.full(classes, UNKNOWN, dtype=np.int8)
    return np.stack([unlabelled if image.labels is None else image.labels for image in listed])
