"""Reader of WebDataset shards, each unpacked once into a folder."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.datasets.archives import Limit, extract
from pipeline.datasets.listing import NOT_PHOTOS, ListedImage, Listing, excluded_by
from pipeline.datasets.scan import ARCHIVE_SUFFIXES, scan
from pipeline.datasets.splits import split_in_folders, split_in_shard
from pipeline.datasets.tables import labels_of
from pipeline.system.errors import PipelineError
from pipeline.system.files import regular_file, replacing_folder

BEGIN = 65_536
"""Number of bytes whose hash is part of the folder's name."""
NESTED = "archives or Parquet inside an archive"


def read_shards(
    shards: Mapping[str, Path],
    class_names: Sequence[str],
    unpack_to: Path,
    limit: Limit,
    exclude: Sequence[str],
) -> Listing:
    """Images of shards, with the labels next to them in the shard.

    The files of a sample share a name up to its first dot: `0001.jpg` and, for labels, `0001.json` with the key
    "labels" (a list, or names joined with ";") or `0001.cls` (a class name, or its number from 0).

    Args:
        shards: name to a tar (compressed or not) or zip file.
        class_names: C names, for the numbers.
        unpack_to: folder to unpack to; an unchanged shard is not unpacked again.
        limit: largest content of one shard.
        exclude: patterns of names inside a shard that are ignored.

    Returns:
        Images sorted by id, which is `shard/path`.

    Raises:
        PipelineError: a shard is broken or unsafe, or its labels cannot be read.
    """
    images, left_out, ignored = [], {}, {}
    for name, shard in shards.items():
        files = scan(_unpacked(shard, unpack_to, limit), exclude)
        stem = without_archive_suffix(name)
        for inner, path in files.photos.items():
            if excluded_by(f"{stem}/{inner}", exclude) is None:
                named = split_in_shard(name) or split_in_folders(inner)
                labels = _read_labels(path, class_names)
                images.append(ListedImage(f"{stem}/{inner}", path, labels, named_split=named, shard=shard))
        left_out |= {f"{stem}/{inner}": reason for inner, reason in files.left_out.items()}
        for reason, names in (*files.ignored.items(), *([(NESTED, list(files.shards))] if files.shards else ())):
            ignored.setdefault(reason, []).extend(f"{stem}/{inner}" for inner in names)
    # nearly all of these are the label files of samples
    ignored.pop(NOT_PHOTOS, None)
    return Listing(images, left_out, ignored)


def without_archive_suffix(name: str) -> str:
    """The name of an archive or Parquet file without its ending."""
    endings = (each for each in (*ARCHIVE_SUFFIXES, ".parquet") if name.lower().endswith(each))
    return name[: -len(max(endings, key=len, default="")) or None]


def _unpacked(shard: Path, unpack_to: Path, limit: Limit) -> Path:
    if not shard.is_file():
        raise PipelineError(f"{shard} is missing, expected a tar or zip file. Check the path.")
    status = shard.stat()
    # the first bytes distinguish two shards of the same name, size and time
    with regular_file(shard).open("rb") as file:
        begin = hashlib.sha256(file.read(BEGIN)).hexdigest()[:12]
    stem = without_archive_suffix(shard.name)
    folder = unpack_to.absolute() / f"{stem}-{begin}-{status.st_size:x}-{status.st_mtime_ns:x}"
    if not folder.is_dir():
        with replacing_folder(folder, listed=False) as partial:
            extract(shard, partial, limit)
    return folder


def _read_labels(image: Path, class_names: Sequence[str]) -> np.ndarray | None:
    """Labels int8 [C] in the file next to an image; None if it has none."""
    sample = image.with_name(image.name.split(".")[0])
    try:
        if (path := sample.with_suffix(".json")).is_file():
            cell = json.loads(path.read_text(encoding="utf-8")).get("labels")
        elif (path := sample.with_suffix(".cls")).is_file():
            label = path.read_text(encoding="utf-8").strip()
            cell = int(label) if label.isdecimal() else [label]
        else:
            return None
    except (AttributeError, RecursionError, ValueError) as error:
        raise PipelineError(f"{path} has no labels that can be read ({error}). Write the shard again.") from error
    return labels_of(cell, class_names, str(path), numbered=class_names if path.suffix == ".cls" else ())
