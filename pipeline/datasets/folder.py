"""Anyone's images, in folders, tables, archives, shards or at addresses, to a Dataset."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline.datasets.archives import Limit
from pipeline.datasets.checks import check_unique, missing_files, read_lines
from pipeline.datasets.class_names import check_class_names
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.image_names import TEST_PREFIX, ImageNames
from pipeline.datasets.listing import ListedImage, Listing, describe_passed_over, excluded_by
from pipeline.datasets.parquet_images import image_column, read_parquet_images
from pipeline.datasets.remote import Fetched, fetch, is_address, path_of
from pipeline.datasets.scan import Scan, check_utf8, is_archive, no_images, recognise, scan, sort_files
from pipeline.datasets.splits import assign_splits, split_in_folders
from pipeline.datasets.tables import TABLE_SUFFIXES, UNKNOWN, Row, read_table
from pipeline.datasets.webdataset import read_shards
from pipeline.photos.formats import PHOTO_SUFFIXES
from pipeline.system.downloads import cache_folder
from pipeline.system.errors import PipelineError

Source = Path | str
"""A path or an address."""


@dataclass(frozen=True)
class Reading:
    """How the sources are read."""

    unpack_to: Path | None = None
    """Folder that archives are unpacked to; None for `<name>.unpacked` next to them, or in the cache."""
    limit: Limit = Limit()
    """The most that an archive may unpack."""
    skip_missing: bool = False
    """Whether images that a table lists may have no file."""
    cache: Path = field(default_factory=cache_folder)
    """Folder for what comes from an address."""
    exclude: tuple[str, ...] = ()
    """Patterns of names that are passed over; see `excluded_by`."""


def load(
    images: Source | Sequence[Source],
    class_names: Sequence[str],
    test_images: Source | Sequence[Source] | None = None,
    labels: Path | None = None,
    reading: Reading = Reading(),
) -> Dataset:
    """Images of sources for training and, optionally, of others for testing.

    Args:
        images: one or more of: a folder (searched to any depth) of photos, WebDataset tars and Parquet files with images
            in them; such a tar or Parquet file, or a zip; a photo; a CSV or Parquet file that lists files
            (`read_table`) or a .txt file with a path per line; the address of a folder or file of photos, tars or such
            Parquet files (`fetch`). All are for training, unless a column split, or the names of their folders or shards,
            say test (`assign_splits`).
        class_names: C unique names.
        test_images: sources of test images; their ids begin with "test/". A folder within `images` will do.
        labels: a table of labels for all of the images or some, and optionally of splits. It may call an image by any
            name of `ImageNames` that is unambiguous.
        reading: unpacking, what may be missing, and what is passed over.

    Returns:
        Ids are paths from the source's folder; with several folders, they begin with the name of each. `labels` is None
        where no image is labelled; an image without labels, where others have some, is -1 in every class.

    Raises:
        PipelineError: a source holds no image or is broken; an image is listed twice or has no file; a label
            is none of the classes; a name in the table of labels is none of the images', or of several.
    """
    check_class_names(class_names)
    sources, test_sources = as_list(images), as_list(test_images)
    found = _read_all(sources, class_names, reading)
    test_found = _read_all(test_sources, class_names, reading)
    test, test_left_out, _ = assign_splits(_once(test_found), wanted="test")
    train = _once(found, {image.real_place for image in test})
    listed, left_out, notes = assign_splits(train, wanted="train", has_test=bool(test))
    listed += [replace(image, image_id=f"{TEST_PREFIX}{image.image_id}", split="test") for image in test]
    for listing in found:
        left_out |= listing.left_out
    for each in (test_left_out, *(listing.left_out for listing in test_found)):
        left_out |= {f"{TEST_PREFIX}{image_id}": reason for image_id, reason in each.items()}
    check_unique([image.image_id for image in listed], " and ".join(map(str, (*sources, *test_sources))))
    if labels is not None:
        listed = _with_labels(listed, left_out, labels, class_names)
    return Dataset(
        " and ".join(map(_title, sources)),
        list(class_names),
        [image.image_id for image in listed],
        [image.path for image in listed],
        [image.split or "train" for image in listed],
        _label_matrix(listed, len(class_names)),
        None,
        left_out,
        [*_notes((*sources, *test_sources), (*found, *test_found), reading.exclude), *notes],
    )


def as_list(sources: Source | Sequence[Source] | None) -> list[Source]:
    """One source, several or none, as a list."""
    return [sources] if isinstance(sources, Path | str) else list(sources or ())


def own_path(source: Path) -> Path:
    """The absolute path of a source, ending in its own name: "." and ".." stand for the folders that they mean."""
    path = source.expanduser().absolute()
    if path.name in ("", ".."):
        return path.resolve()
    return path.parent.resolve() / path.name if ".." in path.parts else path


def name_of(source: Source) -> str:
    """What a source is called: the last part of its path or address; empty for "/"."""
    return path_of(source.rstrip("/")).name if is_address(source) else own_path(Path(source)).name


def _title(source: Source) -> str:
    """What the photos of a source are called."""
    name = name_of(source) or str(source)
    return name if is_address(source) or own_path(Path(source)).is_dir() else Path(name).stem


def _once(listings: Sequence[Listing], elsewhere: Set[str] = frozenset()) -> list[ListedImage]:
    """The images of all listings without those that an earlier one has too, as a folder and one inside it.

    Args:
        listings: of the sources.
        elsewhere: real places of images that are not to be in the result.
    """
    if len(listings) == 1 and not elsewhere:
        return listings[0].images
    kept: list[ListedImage] = []
    before = set(elsewhere)
    for listing in listings:
        own = [image for image in listing.images if image.real_place not in before]
        before |= {image.real_place for image in own}
        kept += own
    return kept


def _read_all(sources: Sequence[Source], class_names: Sequence[str], reading: Reading) -> list[Listing]:
    """What each source holds, and the ids of folders, where there are several sources, with the name of each in front."""
    listings = [read_source(source, class_names, reading) for source in sources]
    return listings if len(sources) == 1 else list(map(_with_prefix, listings, prefixes(sources), sources))


def prefixes(sources: Sequence[Source]) -> list[str]:
    """The shortest ends of the sources' paths that tell each from the others."""
    parts = [path_of(each).parts if is_address(each) else own_path(Path(each)).parts for each in sources]
    found = []
    for own in parts:
        others = [each for each in parts if each != own]
        lengths = (n for n in range(1, len(own)) if all(each[-n:] != own[-n:] for each in others))
        found.append("/".join(own[-next(lengths, len(own)) :]).lstrip("/"))
    return found


def _with_prefix(listing: Listing, prefix: str, source: Source) -> Listing:
    if not (is_address(source) or own_path(Path(source)).is_dir()):
        return listing  # the ids of a file's images are as the file gives them, or begin with its name
    images = [replace(image, image_id=f"{prefix}/{image.image_id}") for image in listing.images]
    return replace(listing, images=images, left_out={f"{prefix}/{key}": why for key, why in listing.left_out.items()})


def _notes(sources: Sequence[Source], listings: Sequence[Listing], exclude: Sequence[str]) -> list[str]:
    """What to say about what sources hold in addition to the photos themselves; see `notes_of`."""
    notes = [note for pair in zip(sources, listings, strict=True) for note in notes_of(*pair)]
    return [*notes, *unused_patterns(listings, exclude)]


def notes_of(source: Source, listing: Listing) -> list[str]:
    """A line on what of a source was taken and what was not; none where everything was."""
    if not listing.passed_over:
        return []
    passed = describe_passed_over(listing.passed_over)
    return [f"{source}: {len(listing.images):,} photos. Passed over: {passed}"]


def unused_patterns(listings: Sequence[Listing], exclude: Sequence[str]) -> list[str]:
    """A line for each pattern of --exclude that nothing matches: it may be misspelt."""
    used = {reason for listing in listings for reason in listing.passed_over}
    return [f"--exclude {each} matches nothing" for each in exclude if f"by --exclude {each}" not in used]


def is_plain(source: Source | None) -> bool:
    """Whether reading a source neither unpacks nor fetches anything."""
    if source is None:
        return True
    if is_address(source):
        return False
    path = Path(source).expanduser()
    return not scan(path).shards if path.is_dir() else not is_archive(path) and not image_column_of(path)


def image_column_of(path: Path) -> str | None:
    """The column of photos in a Parquet file; None for any other file."""
    return image_column(path) if path.suffix.lower() == ".parquet" and path.is_file() else None


def read_source(source: Source, class_names: Sequence[str], reading: Reading) -> Listing:
    """The images of a source (see `load`), why others are left out, and what is passed over.

    Raises:
        PipelineError: it holds none, or is broken.
    """
    if is_address(source):
        listing = read_fetched(fetch(str(source), reading.cache, reading.exclude), class_names, reading)
    else:
        listing = _read_local(Path(source), class_names, reading)
    if not listing.images:
        raise no_images(source, listing.left_out, listing.passed_over)
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
    if is_archive(path) or (suffix == ".parquet" and path.is_file() and image_column(path)):
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
    """The images that a table or a text file lists."""
    if table.suffix.lower() == ".txt":
        listed = [ListedImage(Path(line).as_posix(), table.parent / line) for line in read_lines(table)]
    else:
        rows = read_table(table, class_names)
        listed = [ListedImage(row.name, row.path, row.labels, row.split) for row in rows]
    passed_over: dict[str, list[str]] = {}
    kept = []
    for image in listed:
        if reason := excluded_by(image.image_id, reading.exclude):
            passed_over.setdefault(reason, []).append(image.image_id)
        else:
            kept.append(image)
    ids, paths = [image.image_id for image in kept], [image.path for image in kept]
    left_out = missing_files(ids, paths, table, skip=reading.skip_missing) if kept else {}
    return Listing([image for image in kept if image.image_id not in left_out], left_out, passed_over)


def read_scan(found: Scan, class_names: Sequence[str], unpack_to: Path | None, reading: Reading) -> Listing:
    """The photos of a folder or an address, and those in its shards."""
    if found.shards and unpack_to is None:
        raise PipelineError("there is no place beside / to unpack archives to. Name a folder with --unpack-to.")
    images = [ListedImage(name, path, named_split=split_in_folders(name)) for name, path in found.photos.items()]
    parquet = {name: path for name, path in found.shards.items() if name.lower().endswith(".parquet")}
    tars = {name: path for name, path in found.shards.items() if name not in parquet}
    images += read_parquet_images(parquet, class_names, unpack_to, reading.limit, reading.exclude)
    inside = read_shards(tars, class_names, unpack_to, reading.limit, reading.exclude)
    passed_over = dict(found.passed_over)
    for reason, names in inside.passed_over.items():
        passed_over[reason] = [*passed_over.get(reason, []), *names]
    return Listing([*images, *inside.images], {**found.left_out, **inside.left_out}, passed_over)


def read_fetched(fetched: Fetched, class_names: Sequence[str], reading: Reading) -> Listing:
    """The images of what was fetched from an address."""
    found = sort_files(fetched.files)
    for reason, names in fetched.passed_over.items():
        found.passed_over.setdefault(reason, []).extend(names)
    unpack_to = reading.unpack_to or reading.cache / "unpacked"
    return read_scan(found, class_names, unpack_to, reading)


def _with_labels(
    listed: list[ListedImage], left_out: dict[str, str], table: Path, class_names: Sequence[str]
) -> list[ListedImage]:
    """The images with the labels and splits that the table gives them."""
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
    """The row of a table for each image that it names.

    Args:
        rows: of the table.
        names: of the images.
        table: named in errors.
        left_out: ids of images that are there and not among `names`; rows about them are passed over.
        ids_win: what is an image's id means that image, whatever else it could mean: for tables that came from a run.

    Returns:
        Index of the image to its row.

    Raises:
        PipelineError: a row names none of the images or, without an id that says which, several; two rows name one.
    """
    skipped = ImageNames(list(left_out), list(left_out), ["train"] * len(left_out))
    claimed = {row.name for row in rows}
    found: dict[int, Row] = {}
    for row in rows:
        candidates = names.find(row.name, table.absolute().parent)
        if ids_win and (exact := names.exactly(row.name)) is not None:
            candidates = [exact]
        if not candidates and skipped.find(row.name):
            continue
        index = _choose(candidates, row, names, claimed, table)
        if index in found:
            raise PipelineError(
                f"row {row.number} of {table} names image {names.image_ids[index]}, as row {found[index].number} does; "
                "expected once. Remove one."
            )
        found[index] = row
    return found


def _choose(candidates: list[int], row: Row, names: ImageNames, claimed: set[str], table: Path) -> int:
    """The one image that a row means."""
    if len(candidates) > 1 and row.split:
        candidates = [index for index in candidates if names.splits[index] == row.split] or candidates
    if len(candidates) > 1:  # "a.jpg" is the train photo where the table has "test/a.jpg" too
        ids = names.image_ids
        candidates = [index for index in candidates if ids[index] == row.name or ids[index] not in claimed]
    if len(candidates) == 1:
        return candidates[0]
    where = f"row {row.number} of {table} names image {row.name}"
    if candidates:
        either = " or ".join(_unmistakable(index, names) for index in candidates[:3])
        raise PipelineError(f"{where}, which is any of {len(candidates)} images. Write {either}.")
    split = row.split or ("test" if row.name.startswith(TEST_PREFIX) or "test" in names.splits else "train")
    example = next((n for n, each in enumerate(names.splits) if each == split), 0)
    raise PipelineError(
        f"{where}, which is none of the {len(names.image_ids)} images. Write it as they are: a {names.splits[example]} "
        f"image is {names.image_ids[example]}."
    )


def _unmistakable(index: int, names: ImageNames) -> str:
    """A name that means this image alone."""
    image_id = names.image_ids[index]
    return f"train/{image_id}" if names.splits[index] == "train" and len(names.find(image_id)) > 1 else image_id


def _label_matrix(listed: list[ListedImage], classes: int) -> np.ndarray | None:
    """int8 [N, C] labels, -1 throughout for an image without; None if all are without."""
    if all(image.labels is None for image in listed):
        return None
    matrix = np.full((len(listed), classes), UNKNOWN, dtype=np.int8)
    for row, image in enumerate(listed):
        if image.labels is not None:
            matrix[row] = image.labels
    return matrix
