"""Tar shards of the WebDataset layout to the images they hold, unpacked once into a folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.archives import LIMIT, Limit, extract
from pipeline.datasets.listing import ListedImage, parse_labels, scan
from pipeline.datasets.tables import label_row
from pipeline.machine.errors import PipelineError
from pipeline.runs.files import replacing_folder


def read_shards(
    shards: Sequence[Path], class_names: Sequence[str], unpack_to: Path, limit: Limit = LIMIT
) -> tuple[list[ListedImage], dict[str, str]]:
    """Images of shards, with the labels beside them in the shard.

    A sample is what shares a name up to its first dot: `0001.jpg`, and as labels `0001.json` with the key
    "labels" (a list, or names joined with ";") or `0001.cls` (a class name or its number from 0).

    Args:
        shards: .tar files.
        class_names: C names, for the numbers.
        unpack_to: folder to unpack to; a shard that lies there already and has not changed is not unpacked again.
        limit: of what one shard may unpack.

    Returns:
        Images sorted by id, which is `shard/path`; and by id why others are left out.

    Raises:
        PipelineError: a shard is broken or unsafe, or its labels cannot be read.
    """
    images, left_out = [], {}
    for shard in shards:
        found = scan(_unpacked(shard, unpack_to, limit))
        images += [
            ListedImage(f"{shard.stem}/{image.image_id}", image.path, _read_labels(image.path, class_names))
            for image in found.images
        ]
        left_out |= {f"{shard.stem}/{image_id}": reason for image_id, reason in found.left_out.items()}
    return images, left_out


def _unpacked(shard: Path, unpack_to: Path, limit: Limit) -> Path:
    if not shard.is_file():
        raise PipelineError(f"{shard} is missing, expected a tar file. Check the path.")
    status = shard.stat()
    folder = unpack_to / f"{shard.stem}-{status.st_size:x}-{status.st_mtime_ns:x}"
    if not folder.is_dir():
        with replacing_folder(folder) as partial:
            extract(shard, partial, limit)
    return folder


def _read_labels(image: Path, class_names: Sequence[str]) -> np.ndarray | None:
    sample = image.with_name(image.name.split(".")[0])
    try:
        if (path := sample.with_suffix(".json")).is_file():
            names = _sidecar_names(json.loads(path.read_text(encoding="utf-8")))
        elif (path := sample.with_suffix(".cls")).is_file():
            label = path.read_text(encoding="utf-8").strip()
            names = [class_names[int(label)] if label.isdecimal() else label]
        else:
            return None
    except (IndexError, RecursionError, ValueError) as error:
        raise PipelineError(
            f"{path} holds no labels of the {len(class_names)} classes ({error}). Write the shard anew."
        ) from error
    return None if names is None else label_row(names, class_names, str(path))


def _sidecar_names(sidecar: Any) -> list[str] | None:
    """Class names of a sample's JSON; None where it has no labels.

    Raises:
        ValueError: it is of another form.
    """
    if not isinstance(sidecar, dict):
        raise ValueError("expected an object with the key labels")
    return parse_labels(sidecar["labels"]) if "labels" in sidecar else None
