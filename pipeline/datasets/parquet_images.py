"""Reader of Parquet files with a column of images, as Hugging Face datasets write them."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipeline.datasets.archives import Limit
from pipeline.datasets.listing import ListedImage, excluded_by
from pipeline.datasets.splits import split_in_shard
from pipeline.datasets.tables import checked_split, import_pyarrow, labels_of
from pipeline.photos.formats import PHOTO_SUFFIXES, suffix_of
from pipeline.system.errors import PipelineError, first_line
from pipeline.system.files import regular_file, write_bytes

ROWS = 64
"""Rows that are in memory at the same time."""


def image_column(path: Path) -> str | None:
    """Name of the column with images, either bytes or {bytes, path}; None if there is none.

    Raises:
        PipelineError: it is not a Parquet file, or has several such columns.
    """
    pyarrow = import_pyarrow(path)
    try:
        schema = pyarrow.parquet.read_schema(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise PipelineError(f"{path} cannot be read as Parquet: {first_line(error)} Check it.") from error
    columns = [field.name for field in schema if _has_bytes(field.type, pyarrow)]
    if len(columns) > 1 and "image" not in columns:
        raise PipelineError(
            f"{path} has images in the columns {', '.join(columns)}, expected one. Rename one to image."
        )
    return ("image" if "image" in columns else columns[0]) if columns else None


def read_parquet_images(
    shards: Mapping[str, Path],
    class_names: Sequence[str],
    unpack_to: Path,
    limit: Limit,
    exclude: Sequence[str],
) -> list[ListedImage]:
    """Images of Parquet files, each written once to a file whose name is its SHA-256.

    Args:
        shards: name to a Parquet file with `image_column`. Optional columns are image_id, split (train or test), and
            labels (a list of class names, or names joined by ";") or label (one name). A number is an index of the
            file's own ClassLabel feature, or else of `class_names`.
        class_names: C names.
        unpack_to: folder for the image files.
        limit: largest content of one shard.
        exclude: patterns of ids that are ignored.

    Returns:
        Images in the order of the files. Ids are `shard/path` if the paths in a shard differ, else `shard/row`.

    Raises:
        PipelineError: a file is broken or has no such column; a row has no image or a wrong label.
    """
    return [
        image
        for name, shard in shards.items()
        for image in _read_shard(name, shard, class_names, unpack_to, limit)
        if excluded_by(image.image_id, exclude) is None
    ]


def _read_shard(
    shard_name: str, shard: Path, class_names: Sequence[str], unpack_to: Path, limit: Limit
) -> list[ListedImage]:
    column = image_column(shard)
    if column is None:
        raise PipelineError(f"{shard} has no column of images, expected one of bytes or of {{bytes, path}}.")
    images, inner = [], []
    written = 0
    for number, (row, features) in enumerate(_rows(shard, column)):
        where = f"row {number} of {shard}"
        content, name = _image_of(row[column], where)
        written += len(content)
        if written > limit.gigabytes * 1e9 or number >= limit.files:
            raise PipelineError(
                f"{shard} unpacks to more than {limit.gigabytes:g} GB or {limit.files} files. "
                "Raise it with --unpack-gb or --unpack-files if you trust the file."
            )
        split = checked_split(row.get("split"), where)
        image_id = row.get("image_id")
        if image_id is not None and not isinstance(image_id, str | int):
            raise PipelineError(f"{where} has image_id {image_id!r}, expected text. Correct it.")
        labels = _labels(row, features, class_names, where)
        path = _keep(content, name, unpack_to)
        own_id = "" if image_id is None else str(image_id)  # 0 is one
        images.append(ListedImage(own_id, path, labels, split, split_in_shard(shard_name), shard))
        inner.append(name)
    stem = shard_name[: -len(".parquet")]
    plain = "" in inner or len(set(inner)) < len(inner)
    return [
        image if image.image_id else replace(image, image_id=f"{stem}/{number if plain else name}")
        for number, (image, name) in enumerate(zip(images, inner, strict=True))
    ]


def _rows(shard: Path, column: str) -> Iterator[tuple[dict[str, Any], dict[str, list[str]]]]:
    """Rows of a shard, each with the class names that the numbers of a column stand for."""
    pyarrow = import_pyarrow(shard)
    try:
        with pyarrow.parquet.ParquetFile(regular_file(shard)) as file:
            names = {column, "image_id", "split", "labels", "label"} & set(file.schema_arrow.names)
            features = _class_names(file.schema_arrow.metadata or {})
            for batch in file.iter_batches(batch_size=ROWS, columns=sorted(names)):
                for row in batch.to_pylist():
                    yield row, features
    except (OSError, pyarrow.ArrowException) as error:
        raise PipelineError(f"{shard} cannot be read as Parquet: {first_line(error)} Check it.") from error


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Names of the ClassLabel features by column, from the metadata of Hugging Face datasets."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        labels = {}
        for column, feature in features.items():
            inner = feature.get("feature", feature) if isinstance(feature, dict) else feature
            names = inner.get("names") if isinstance(inner, dict) else None
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                labels[column] = names
        return labels
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        return {}  # another program wrote the file


def _image_of(cell: Any, where: str) -> tuple[bytes, str]:
    """Bytes of an image and its path, or an empty text if it has none."""
    content, name = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if not isinstance(content, bytes) or not content:
        raise PipelineError(f"{where} has no image bytes. Write the file with the images in it, or delete the row.")
    return content, str(PurePosixPath(name)).lstrip("/") if isinstance(name, str) else ""


def _labels(
    row: dict[str, Any], features: dict[str, list[str]], class_names: Sequence[str], where: str
) -> np.ndarray | None:
    column = next((name for name in ("labels", "label") if row.get(name) is not None), None)
    if column is None:
        return None
    cell = row[column]
    if cell in (-1, [-1]):  # hidden labels of a test split
        return None
    return labels_of(cell, class_names, where, column=column, numbered=features.get(column, class_names))


def _keep(content: bytes, name: str, folder: Path) -> Path:
    """The file with these bytes, written if it does not exist."""
    digest = hashlib.sha256(content).hexdigest()
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in PHOTO_SUFFIXES:
        suffix = suffix_of(content) or ""
    path = folder.absolute() / digest[:2] / f"{digest}{suffix}"
    if not path.is_file():
        write_bytes(path, content, durable=False)
    return path


def _has_bytes(kind: Any, pyarrow: Any) -> bool:
    types = pyarrow.types
    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _has_bytes(kind.field(index).type, pyarrow)
    return types.is_binary(kind) or types.is_large_binary(kind)
