"""Tar shards of the WebDataset layout to the images they hold, unpacked once into a cache folder."""

import json
from pathlib import Path

from pipeline.datasets.archives import LIMIT, Limit, extract
from pipeline.datasets.listing import ListedImage, parse_labels, scan_folder
from pipeline.machine.errors import PipelineError
from pipeline.runs.files import replacing_folder


def read_shards(source: Path, class_names: list[str], cache: Path, limit: Limit = LIMIT) -> list[ListedImage]:
    """Images of one shard or of a folder of shards, with the labels beside them in the shard.

    A sample is what shares a name up to its first dot: `0001.jpg`, and as labels `0001.json` with the key
    "labels" (a list, or names joined with ";") or `0001.cls` (a class name or its number from 0).

    Args:
        source: a .tar file, or a folder of them.
        class_names: C names, for the numbers.
        cache: folder to unpack to; a shard that lies there already and has not changed is not unpacked again.
        limit: of what one shard may unpack.

    Returns:
        Images sorted by id, which is `shard/path`.

    Raises:
        PipelineError: a shard is broken or unsafe, or its labels cannot be read.
    """
    shards = sorted(source.glob("*.tar")) if source.is_dir() else [source]
    return [image for shard in shards for image in _read_shard(shard, class_names, cache, limit)]


def _read_shard(shard: Path, class_names: list[str], cache: Path, limit: Limit) -> list[ListedImage]:
    folder = _unpacked(shard, cache, limit)
    return [
        ListedImage(f"{shard.stem}/{image.image_id}", image.path, _read_labels(image.path, class_names))
        for image in scan_folder(folder)
    ]


def _unpacked(shard: Path, cache: Path, limit: Limit) -> Path:
    if not shard.is_file():
        raise PipelineError(f"{shard} is missing, expected a tar file. Check the path.")
    status = shard.stat()
    folder = cache / f"{shard.stem}-{status.st_size:x}-{status.st_mtime_ns:x}"
    if not folder.is_dir():
        with replacing_folder(folder) as partial:
            extract(shard, partial, limit)
    return folder


def _read_labels(image: Path, class_names: list[str]) -> list[str] | None:
    sample = image.with_name(image.name.split(".")[0])
    try:
        if (path := sample.with_suffix(".json")).is_file():
            sidecar = json.loads(path.read_text(encoding="utf-8"))
            return parse_labels(sidecar["labels"]) if "labels" in sidecar else None
        if (path := sample.with_suffix(".cls")).is_file():
            label = path.read_text(encoding="utf-8").strip()
            return [class_names[int(label)] if label.isdecimal() else label]
    except (ValueError, TypeError, IndexError) as error:
        raise PipelineError(
            f"{path} holds no labels of the {len(class_names)} classes ({error}). Write the shard anew."
        ) from error
    return None
