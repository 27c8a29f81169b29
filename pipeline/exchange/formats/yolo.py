"""A YOLO folder: images, labels and data.yaml."""

import re
import shutil
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.exchange.formats.export import ROUGH_BOXES, Export
from pipeline.photos.formats import HEAD, suffix_of
from pipeline.system.errors import PipelineError
from pipeline.system.files import replacing_folder
from pipeline.system.progress import log

COMMON_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""Of photos that readers of folders take for photos."""
HELD_OUT = 10
"""One in so many train photos is held out where a format needs photos to validate on and has no test photos."""


def write(export: Export, out: Path) -> None:
    """YOLO folder: images/, labels/ with a text file an image, data.yaml.

    A photo has its image id as its name; a part `images` of it becomes `images_`, as readers find a photo's text file
    by writing `labels` instead of the last `/images/` of its path, and a dot in front of a part becomes `_`, as
    they pass over hidden files.

    A photo with a label that has no box is left out, as a detector would learn it as background. With test photos these
    are what `val` names, without text files, as the run has no boxes of them; else one train photo in ten is.

    Raises:
        PipelineError: boxes are not asked for.
    """
    labels = export.labels
    if export.boxes is None:
        raise PipelineError(f"yolo is about boxes. {ROUGH_BOXES} Give --boxes to write them all the same.")
    has_test = "test" in labels.splits
    kept, places = [], []
    for row, split in enumerate(labels.splits):
        boxed = {c for c, _ in export.boxes_of(row)}
        if split == "train" and not set(np.flatnonzero(labels.present[row]).tolist()) <= boxed:
            continue
        kept.append(row)
        places.append("val" if split == "train" and not has_test and len(kept) % HELD_OUT == 0 else split)
    placed = [yolo_path(export, row) for row in kept]
    check_shared(
        [labels.image_ids[row] for row in kept],
        [f"{place}/{image.with_suffix('')}" for place, image in zip(places, placed, strict=True)],
    )
    with replacing_folder(out) as folder:
        for row, place, image in zip(kept, places, placed, strict=True):
            place_one(export, row, folder / "images" / place / image)
            if place == "test":
                continue
            height, width = export.size(row)
            lines = []
            for c, (x1, y1, x2, y2) in export.boxes_of(row):
                centre, sides = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height), ((x2 - x1) / width, (y2 - y1) / height)
                lines.append(f"{c} " + " ".join(f"{v:.6f}" for v in (*centre, *sides)))
            path = folder / "labels" / place / image.with_suffix(".txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines))
        names = "".join(f"  {c}: {yaml_text(name)}\n" for c, name in enumerate(labels.class_names))
        note = f"# {ROUGH_BOXES}\n"
        if has_test:
            note += "# The test photos have no boxes: put text files of your own into labels/test to measure on them.\n"
        place = "images/test" if has_test else "images/val"
        text = f"{note}train: images/train\nval: {place}\nnames:\n{names}"
        (folder / "data.yaml").write_text(text, encoding="utf-8")
    log(f"{len(labels.image_ids) - len(kept)} train photos are left out: a label of theirs has no box.")


def yolo_path(export: Export, row: int) -> PurePosixPath:
    """Where a photo of a YOLO folder is below its split."""
    name = with_format_suffix(export, row, export.labels.image_ids[row])
    parts = [re.sub(r"^\.|\.$", "_", part) for part in PurePosixPath(name).parts if part not in ("/", "..")]
    # `images_` becomes `images__`, so that no two names become one
    return PurePosixPath(*(f"{part}_" if re.fullmatch("images_*", part) else part for part in parts))


def with_format_suffix(export: Export, row: int, name: str) -> str:
    """A name of a photo with a suffix that readers of folders know: its own or, where that is odd, its format's."""
    path = Path(export.labels.manifest.paths[row])
    suffix = path.suffix
    if suffix.lower() not in COMMON_SUFFIXES:
        try:
            with path.open("rb") as file:
                suffix = suffix_of(file.read(HEAD)) or suffix
        except OSError as error:
            raise PipelineError(f"{path} can no longer be read ({error.strerror}). Run `ccd prepare` again.") from error
    return name if name.lower().endswith(suffix.lower()) else name + suffix


def place_one(export: Export, row: int, target: Path) -> None:
    """The photo of a row as a link or a copy."""
    source = Path(export.labels.manifest.paths[row])
    target.parent.mkdir(parents=True, exist_ok=True)
    if export.copy_images:
        shutil.copyfile(source, target)
    else:
        target.symlink_to(source)


def check_shared(image_ids: list[str], names: list[str]) -> None:
    """Raise if two images would have one name in an export."""
    owner: dict[str, str] = {}
    for image_id, name in zip(image_ids, names, strict=True):
        if name in owner:
            raise PipelineError(
                f"{owner[name]} and {image_id} would both be {name} in this format. Rename one, or export another format."
            )
        owner[name] = image_id


def yaml_text(text: str) -> str:
    """A text as a double-quoted scalar of YAML."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in quoted) + '"'
