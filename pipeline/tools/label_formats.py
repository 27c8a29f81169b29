"""A set of labels to the files that other tools read."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipeline.machine.errors import PipelineError
from pipeline.runs.artifacts import Boxes
from pipeline.runs.files import replacing_folder, write_text
from pipeline.runs.score_table import prediction_frame, write_predictions
from pipeline.tools import label_studio
from pipeline.tools.label_sets import LabelSet
from pipeline.tools.read import read


@dataclass(frozen=True)
class Export:
    """What a format may need to know."""

    labels: LabelSet
    boxes: Boxes | None
    """Of these images, where there are any."""
    copy_images: bool
    """Copy the photos into a folder export; else they are symbolic links."""
    image_prefix: str
    """Address that an absolute path is appended to, for Label Studio."""

    def names(self, row: int) -> list[str]:
        """Classes of an image."""
        return [self.labels.class_names[c] for c in np.flatnonzero(self.labels.present[row])]

    def boxes_of(self, row: int) -> Iterator[tuple[int, list[float]]]:
        """Class and xyxy of the boxes of an image whose class is one of its labels."""
        if self.boxes is None:
            return
        start, stop = np.searchsorted(self.boxes.image_index, [row, row + 1])
        for m in range(start, stop):
            c = int(self.boxes.class_index[m])
            if c >= 0 and self.labels.present[row, c]:
                yield c, [float(v) for v in self.boxes.box[m]]


def prepare(labels: LabelSet, *, copy_images: bool = False, image_prefix: str = label_studio.LOCAL_FILES) -> Export:
    """A set of labels with the boxes of its images where the run has them."""
    path = labels.path.with_name("boxes.h5")
    boxes = read(path) if path.exists() else None
    if boxes is not None and boxes.image_ids != labels.image_ids:
        boxes = None
    return Export(labels, boxes, copy_images, image_prefix)


def write_table(export: Export, out: Path) -> None:
    """CSV or Parquet: image_id, labels, a column of scores a class."""
    labels = export.labels
    frame = prediction_frame(labels.image_ids, labels.labels, labels.thresholds, labels.class_names, key="image_id")
    write_predictions(out, frame)


def write_coco(export: Export, out: Path) -> None:
    """COCO JSON: an annotation a box; a label without a box has the whole image, and says so under "source"."""
    labels = export.labels
    images, annotations = [], []
    for row, (image_id, path) in enumerate(zip(labels.image_ids, labels.manifest.paths, strict=True)):
        height, width = (int(side) for side in labels.manifest.sizes[row])
        images.append({"id": row + 1, "file_name": path, "height": height, "width": width, "image_id": image_id})
        found = [(c, box, "cam") for c, box in export.boxes_of(row)]
        bare = set(np.flatnonzero(labels.present[row]).tolist()) - {c for c, *_ in found}
        found += [(c, [0.0, 0.0, float(width), float(height)], "image") for c in sorted(bare)]
        for c, (x1, y1, x2, y2), source in found:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": row + 1,
                    "category_id": c + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": float(labels.labels[row, c]),
                    "source": source,
                }
            )
    categories = [{"id": c + 1, "name": name, "supercategory": ""} for c, name in enumerate(labels.class_names)]
    info = {"description": f"labels of {labels.path.name}, made by ccd"}
    write_text(out, json.dumps({"info": info, "images": images, "annotations": annotations, "categories": categories}))


def write_label_studio(export: Export, out: Path) -> None:
    """Label Studio tasks with predictions; the labelling interface is written beside them, with the ending .xml."""
    write_text(out, json.dumps([studio_task(export, row) for row in range(len(export.labels.image_ids))], indent=1))
    write_text(out.with_suffix(".xml"), label_studio.interface(export.labels.class_names))


def studio_task(export: Export, row: int, hint: str = "") -> dict[str, Any]:
    """The task of one image; its score is how far its least certain label is from its threshold, in [0, 1]."""
    labels = export.labels
    boxes = [(labels.class_names[c], box) for c, box in export.boxes_of(row)]
    score = float(np.abs(labels.labels[row] - labels.thresholds).min())
    place = labels.image_ids[row], labels.manifest.paths[row], tuple(int(v) for v in labels.manifest.sizes[row])
    return label_studio.task(*place, export.names(row), boxes, score, export.image_prefix, hint)


def write_fiftyone(export: Export, out: Path) -> None:
    """FiftyOne's labels.json (FiftyOneImageClassificationDataset): absolute path to labels with confidences."""
    labels = export.labels
    targets = {
        path: [{"label": int(c), "confidence": float(values[c])} for c in np.flatnonzero(present)]
        for path, values, present in zip(labels.manifest.paths, labels.labels, labels.present, strict=True)
    }
    write_text(out, json.dumps({"classes": labels.class_names, "labels": targets}))


def write_cleanlab(export: Export, out: Path) -> None:
    """JSON with labels (lists of class numbers) and pred_probs [N, C], for cleanlab's multi-label functions."""
    labels = export.labels
    content = {
        "image_ids": labels.image_ids,
        "class_names": labels.class_names,
        "labels": [np.flatnonzero(present).tolist() for present in labels.present],
        "pred_probs": labels.labels.astype(float).tolist(),
    }
    write_text(out, json.dumps(content))


def write_yolo(export: Export, out: Path) -> None:
    """YOLO folder: images/, labels/ with a text file an image, data.yaml."""
    labels = export.labels
    with replacing_folder(out) as folder:
        images = place_images(export, folder / "images" / export.labels.split)
        check_unique([str(image.with_suffix("")) for image in images], labels.path)
        for row, image in enumerate(images):
            height, width = (int(side) for side in labels.manifest.sizes[row])
            lines = []
            for c, (x1, y1, x2, y2) in export.boxes_of(row):
                centre, sides = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height), ((x2 - x1) / width, (y2 - y1) / height)
                lines.append(f"{c} " + " ".join(f"{v:.6f}" for v in (*centre, *sides)))
            path = folder / "labels" / export.labels.split / image.with_suffix(".txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines))
        names = "".join(f"  {c}: {json.dumps(name)}\n" for c, name in enumerate(labels.class_names))
        place = f"images/{export.labels.split}"
        (folder / "data.yaml").write_text(f"train: {place}\nval: {place}\nnames:\n{names}")


def write_imagefolder(export: Export, out: Path) -> None:
    """Folder of Hugging Face datasets: the photos of a split and metadata.jsonl with labels and scores."""
    labels = export.labels
    with replacing_folder(out) as folder:
        images = place_images(export, folder / export.labels.split)
        rows = [
            {
                "file_name": str(image),
                "image_id": labels.image_ids[row],
                "labels": export.names(row),
                "scores": dict(zip(labels.class_names, labels.labels[row].astype(float).tolist(), strict=True)),
            }
            for row, image in enumerate(images)
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / export.labels.split / "metadata.jsonl").write_text(text, encoding="utf-8")


FORMATS: dict[str, Callable[[Export, Path], None]] = {
    "csv": write_table,
    "parquet": write_table,
    "coco": write_coco,
    "label-studio": write_label_studio,
    "fiftyone": write_fiftyone,
    "cleanlab": write_cleanlab,
    "yolo": write_yolo,
    "imagefolder": write_imagefolder,
}

ENDINGS = {
    "csv": ".csv",
    "parquet": ".parquet",
    "coco": ".json",
    "label-studio": ".json",
    "fiftyone": ".json",
    "cleanlab": ".json",
}
"""Of the formats that are one file; the others are folders."""


def place_images(export: Export, folder: Path) -> list[PurePosixPath]:
    """Photos as links or copies below a folder, and their N paths from there: the image id, with the photo's ending."""
    placed = []
    for image_id, source in zip(export.labels.image_ids, map(Path, export.labels.manifest.paths), strict=True):
        name = image_id if image_id.lower().endswith(source.suffix.lower()) else image_id + source.suffix
        relative = PurePosixPath(*(part for part in PurePosixPath(name).parts if part not in ("/", "..")))
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if export.copy_images:
            shutil.copyfile(source, target)
        else:
            target.symlink_to(source)
        placed.append(relative)
    return placed


def check_unique(names: list[str], path: Path) -> None:
    """Raise if two images would share a file."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise PipelineError(
            f"{path} has {len(twice)} images whose names differ in their ending alone (first: {twice[0]}), "
            "but YOLO keeps one text file a name. Rename them, or export another format."
        )
