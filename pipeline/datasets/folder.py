"""Anyone's images, in a folder, a table, shards or at an address, to a Dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline.datasets.archives import LIMIT, Limit
from pipeline.datasets.checks import check_unique, missing_files
from pipeline.datasets.class_names import check_class_names
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.downloads import cache_folder
from pipeline.datasets.image_names import TEST_PREFIX, ImageNames
from pipeline.datasets.listing import ListedImage, no_images, scan
from pipeline.datasets.parquet_images import image_column, read_parquet_images
from pipeline.datasets.remote import fetch, is_address
from pipeline.datasets.tables import TABLE_SUFFIXES, UNKNOWN, Row, listed_images, read_table
from pipeline.datasets.webdataset import read_shards
from pipeline.machine.errors import PipelineError
from pipeline.photos.formats import why_unreadable


@dataclass(frozen=True)
class Reading:
    """How the sources are read."""

    unpack_to: Path | None = None
    """Folder that archives are unpacked to; None for `<name>.unpacked` beside them, or in the cache."""
    limit: Limit = field(default_factory=lambda: LIMIT)
    """The most that an archive may unpack."""
    skip_missing: bool = False
    """Whether images that a table lists may have no file."""
    cache: Path = field(default_factory=cache_folder)
    """Folder for what comes from an address."""


def load(
    images: Path | str,
    class_names: Sequence[str],
    test_images: Path | str | None = None,
    labels: Path | None = None,
    reading: Reading = Reading(),
) -> Dataset:
    """Images of a source for training and, as wanted, of another for testing.

    Args:
        images: a folder (searched to any depth); a CSV or Parquet file that lists files (`read_table`); a Parquet file
            with the images in it, or a folder of them (`read_parquet_images`); a WebDataset tar or folder of tars
            (`read_shards`); or the address of a folder or file of photos, of tars or of such Parquet files (`fetch`).
            All are for training, unless a column split says test.
        class_names: C unique names.
        test_images: a source of test images; their ids begin with "test/". A folder within `images` will do.
        labels: a table of labels for all of the images or some, and of splits as wanted. It may call an image by any
            name of `ImageNames` that is unambiguous.
        reading: unpacking and what may be missing.

    Returns:
        Ids are paths from the source's folder. `labels` is None where no image is labelled; an image without
        labels, where others have some, is -1 in every class.

    Raises:
        PipelineError: a source holds no image or is broken; an image is listed twice or has no file; a label
            is none of the classes; a name in the table of labels is none of the images', or of several.
    """
    check_class_names(class_names)
    reading = reading or Reading()
    listed, left_out = read_source(images, class_names, reading)
    if test_images is not None:
        test, test_left_out = read_source(test_images, class_names, reading)
        test_paths = {image.path for image in test}
        listed = [image for image in listed if image.path not in test_paths]
        listed += [replace(image, image_id=f"{TEST_PREFIX}{image.image_id}", split="test") for image in test]
        left_out |= {f"{TEST_PREFIX}{image_id}": reason for image_id, reason in test_left_out.items()}
    check_unique([image.image_id for image in listed], Path(images))
    if labels is not None:
        listed = _with_labels(listed, left_out, labels, class_names)
    image_ids, paths = [image.image_id for image in listed], [image.path for image in listed]
    splits = [image.split or "train" for image in listed]
    return Dataset(
        Path(images).stem,
        list(class_names),
        image_ids,
        paths,
        splits,
        _label_matrix(listed, len(class_names)),
        None,
        left_out,
    )


def read_source(
    source: Path | str, class_names: Sequence[str], reading: Reading
) -> tuple[list[ListedImage], dict[str, str]]:
    """The images of a source (see `load`), and by id why others are left out.

    Raises:
        PipelineError: it holds none, or is broken.
    """
    if is_address(source):
        listed, left_out = read_fetched(fetch(str(source), reading.cache), class_names, reading)
    else:
        listed, left_out = _read_local(Path(source), class_names, reading)
    if not listed:
        raise no_images(source, left_out)
    return listed, left_out


def _read_local(source: Path, class_names: Sequence[str], reading: Reading) -> tuple[list[ListedImage], dict[str, str]]:
    shards = {suffix: sorted(source.glob(f"*{suffix}")) if source.is_dir() else [] for suffix in (".tar", ".parquet")}
    unpack_to = reading.unpack_to or source.with_name(f"{source.name}.unpacked")
    suffix = source.suffix.lower()
    if shards[".parquet"] or (suffix == ".parquet" and source.is_file() and image_column(source)):
        return read_parquet_images(shards[".parquet"] or [source], class_names, unpack_to, reading.limit), {}
    if suffix in TABLE_SUFFIXES:
        listed = listed_images(source, class_names)
        ids, paths = [image.image_id for image in listed], [image.path for image in listed]
        left_out = missing_files(ids, paths, source, skip=reading.skip_missing) if listed else {}
        return [image for image in listed if image.image_id not in left_out], left_out
    if shards[".tar"] or suffix == ".tar":
        return read_shards(shards[".tar"] or [source], class_names, unpack_to, reading.limit)
    found = scan(source)
    return found.images, found.left_out


def read_fetched(
    files: Mapping[str, Path], class_names: Sequence[str], reading: Reading
) -> tuple[list[ListedImage], dict[str, str]]:
    """The images of what was fetched from an address: shards, or else photos."""
    unpack_to = reading.unpack_to or reading.cache / "unpacked"
    by_suffix = {
        suffix: [path for path in files.values() if path.suffix.lower() == suffix] for suffix in (".parquet", ".tar")
    }
    if by_suffix[".parquet"]:
        return read_parquet_images(by_suffix[".parquet"], class_names, unpack_to, reading.limit), {}
    if by_suffix[".tar"]:
        return read_shards(by_suffix[".tar"], class_names, unpack_to, reading.limit)
    left_out = {name: reason for name, path in files.items() if (reason := why_unreadable(path.suffix))}
    return [ListedImage(name, path.absolute()) for name, path in files.items() if name not in left_out], left_out


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
