"""YOLO: a folder with images, labels and data.yaml."""

import re
import shutil
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from pipeline.exchange.formats.export import ROUGH_BOXES, Export
from pipeline.photos.formats import HEAD, suffix_of
from pipeline.system.errors import PipelineError
from pipeline.system.files import regular_file, replacing_folder
from pipeline.system.progress import log

COMMON_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""Suffixes of photos that YOLO trainers read."""
HELD_OUT = 10
"""Without test photos, one train photo in this many is for validation."""


def write(export: Export, out: Path) -> None:
    """YOLO folder: images/, labels/ with one text file per image, and data.yaml.

    The name of a photo is its image id. A folder `images` in it becomes `images_`, because readers replace the last
    `/images/` of a path by `/labels/`. A leading dot becomes `_`, because readers ignore hidden files.

    A photo with a label that has no box is left out, because a detector would learn it as background. `val` is the test
    photos if there are any, without text files, as the run has no boxes for them; else it is one train photo in ten.

    Raises:
        PipelineError: --boxes is not given, or two photos would have the same name.
    """
    labels = export.labels
    if export.boxes is None:
        raise PipelineError(f"yolo needs boxes. {ROUGH_BOXES} Give --boxes to export them anyway.")
    has_test = "test" in labels.splits
    kept: dict[PurePosixPath, int] = {}
    stems: dict[PurePosixPath, str] = {}
    for row, split in enumerate(labels.splits):
        boxed = {c for c, _ in export.boxes_of(row)}
        if split == "train" and not set(np.flatnonzero(labels.present[row]).tolist()) <= boxed:
            continue
        is_val = split == "train" and not has_test and (len(kept) + 1) % HELD_OUT == 0
        image = ("val" if is_val else split) / yolo_path(export, row)
        image_id = stems.setdefault(image.with_suffix(""), labels.image_ids[row])
        if image_id != labels.image_ids[row]:
            raise PipelineError(
                f"{image_id} and {labels.image_ids[row]} would both be {image.with_suffix('')} in this format. Rename "
                "one, or export another format."
            )
        kept[image] = row
    with replacing_folder(out) as folder:
        for image, row in kept.items():
            photo, source = folder / "images" / image, Path(labels.manifest.paths[row])
            photo.parent.mkdir(parents=True, exist_ok=True)
            if export.copy_images:
                shutil.copyfile(source, photo)
            else:
                photo.symlink_to(source)
            if labels.splits[row] == "train":
                path = folder / "labels" / image.with_suffix(".txt")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(box_lines(export, row)))
        note = f"# {ROUGH_BOXES}\n"
        if has_test:
            note += "# The test photos have no boxes: put your own text files into labels/test to measure on them.\n"
        places = {"train": "images/train", "val": "images/test" if has_test else "images/val"}
        content = {**places, "names": dict(enumerate(labels.class_names))}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (folder / "data.yaml").write_text(note + text, encoding="utf-8")
    log(f"{len(labels.image_ids) - len(kept)} train photos are left out because one of their labels has no box.")


def box_lines(export: Export, row: int) -> list[str]:
    """One line per box: class number, and centre, width and height as shares of the photo's sides."""
    height, width = export.size(row)
    lines = []
    for c, (x1, y1, x2, y2) in export.boxes_of(row):
        values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(f"{c} {' '.join(f'{value:.6f}' for value in values)}\n")
    return lines


def yolo_path(export: Export, row: int) -> PurePosixPath:
    """Path of a photo below its split, with its own suffix or, if that is uncommon, the suffix of its format."""
    path = Path(export.labels.manifest.paths[row])
    name, suffix = export.labels.image_ids[row], path.suffix
    if suffix.lower() not in COMMON_SUFFIXES:
        try:
            with regular_file(path).open("rb") as file:
                suffix = suffix_of(file.read(HEAD)) or suffix
        except OSError as error:
            raise PipelineError(f"{path} can no longer be read ({error.strerror}). Run `ccd prepare` again.") from error
    if not name.lower().endswith(suffix.lower()):
        name += suffix
    parts = [re.sub(r"^\.|\.$", "_", part) for part in PurePosixPath(name).parts if part not in ("/", "..")]
    # `images_` becomes `images__`, so that different names stay different
    return PurePosixPath(*(f"{part}_" if re.fullmatch("images_*", part) else part for part in parts))
