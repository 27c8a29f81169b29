"""Anyone's images, in a folder, a table or tar shards, to a Dataset."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.datasets.checks import check_files, check_unique, class_index
from pipeline.datasets.class_names import check_class_names
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.listing import IMAGE_SUFFIXES, ListedImage, scan_folder
from pipeline.datasets.tables import TABLE_SUFFIXES, read_table
from pipeline.datasets.webdataset import read_shards
from pipeline.machine.errors import PipelineError


def load(
    images: Path,
    class_names: list[str],
    test_images: Path | None = None,
    labels: Path | None = None,
    cache: Path | None = None,
) -> Dataset:
    """Images of a source for training and, as wanted, of another for testing.

    Args:
        images: a folder (searched to any depth), a CSV or Parquet file (`read_table`), or a WebDataset tar or
            folder of tars (`read_shards`). All are for training, unless a table's column split says test.
        class_names: C unique names.
        test_images: a source of test images; their ids begin with "test/". A folder within `images` will do.
        labels: a table with the columns image (an image id) and labels, and split as wanted.
        cache: where shards are unpacked; None for `<name>.unpacked` beside them.

    Returns:
        Ids are paths from the source's folder. `labels` is None where no image is labelled; a training image
        without labels, where others have some, is -1 in every class.

    Raises:
        PipelineError: a source holds no image or is broken; an image is listed twice or has no file; a label
            is none of the classes; some test images have labels and others none.
    """
    check_class_names(class_names)
    listed = _read_source(images, class_names, cache)
    if test_images is not None:
        test = _read_source(test_images, class_names, cache)
        test_paths = {image.path for image in test}
        listed = [image for image in listed if image.path not in test_paths]
        listed += [replace(image, image_id=f"test/{image.image_id}", split="test") for image in test]
    if labels is not None:
        listed = _with_labels(listed, labels)
    image_ids, paths = [image.image_id for image in listed], [image.path for image in listed]
    check_unique(image_ids, images)
    check_files(image_ids, paths, images)
    splits = [image.split or "train" for image in listed]
    return Dataset(images.stem, list(class_names), image_ids, paths, splits, _label_matrix(listed, class_names, images))


def _read_source(source: Path, class_names: list[str], cache: Path | None) -> list[ListedImage]:
    if source.suffix.lower() in TABLE_SUFFIXES:
        listed = read_table(source)
    elif source.suffix == ".tar" or (source.is_dir() and any(source.glob("*.tar"))):
        listed = read_shards(source, class_names, cache or source.with_name(f"{source.name}.unpacked"))
    else:
        listed = scan_folder(source)
    if not listed:
        raise PipelineError(f"{source} holds no image, expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    return listed


def _with_labels(listed: list[ListedImage], table: Path) -> list[ListedImage]:
    """The images with the labels and splits that the table gives them."""
    rows = read_table(table)
    check_unique([row.image_id for row in rows], table)
    known = {image.image_id for image in listed}
    for row in rows:
        if row.image_id not in known:
            raise PipelineError(
                f"{table} lists image {row.image_id}, which is none of the {len(listed)} images. "
                f"Write it as they are, for example {listed[0].image_id}."
            )
    given = {row.image_id: row for row in rows}
    return [
        replace(image, labels=row.labels, split=row.split or image.split)
        if (row := given.get(image.image_id))
        else image
        for image in listed
    ]


def _label_matrix(listed: list[ListedImage], class_names: list[str], source: Path) -> np.ndarray | None:
    """int8 [N, C] labels, -1 throughout for an image without; None if all are without."""
    unlabelled = [image for image in listed if image.labels is None]
    if len(unlabelled) == len(listed):
        return None
    test = [image for image in unlabelled if image.split == "test"]
    if test:
        raise PipelineError(
            f"{len(test)} test images have no labels while others have, first {test[0].image_id}. "
            "Label them (with nothing if they show no class) or use them for training."
        )
    matrix = np.full((len(listed), len(class_names)), -1, dtype=np.int8)
    for row, image in enumerate(listed):
        if image.labels is not None:
            matrix[row] = 0
            matrix[row, [class_index(name, class_names, source) for name in image.labels]] = 1
    return matrix
