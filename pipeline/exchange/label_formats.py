"""A set of labels to the files that other tools read."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from pipeline.artifacts.boxes import Boxes
from pipeline.artifacts.predictions import prediction_frame, write_predictions
from pipeline.artifacts.state import up_to_date
from pipeline.datasets.image_names import without_suffix
from pipeline.evaluation.read import read
from pipeline.exchange import label_studio
from pipeline.exchange.label_sets import LabelSet
from pipeline.method.extras.thresholds import PRESENT
from pipeline.photos.formats import HEAD, suffix_of
from pipeline.system.errors import PipelineError
from pipeline.system.files import replacing_folder, write_text
from pipeline.system.progress import say
from pipeline.teachers.embedding_cache import ImageStore, StoreKey

NO_OBJECTS = "Labels are of whole images; no object was located."
ROUGH_BOXES = "Boxes are where a classifier looked, not the extent of objects."
HELD_OUT = 10
"""One in so many train photos is held out where a format needs photos to validate on and has no test photos."""

SHARD = 1000
"""Photos in a Parquet file."""


@dataclass(frozen=True)
class Export:
    """What a format may need to know."""

    labels: LabelSet
    boxes: Boxes | None
    """Of the first of these images, where they are asked for."""
    copy_images: bool = False
    """Copy the photos into a folder export; else they are symbolic links."""
    image_prefix: str = label_studio.LOCAL_FILES
    """Address that an absolute path is appended to, for Label Studio."""

    def names(self, row: int) -> list[str]:
        """Classes of an image."""
        return [self.labels.class_names[c] for c in np.flatnonzero(self.labels.present[row])]

    def size(self, row: int) -> tuple[int, int]:
        """Height and width of a photo."""
        height, width = self.labels.manifest.sizes[row]
        return int(height), int(width)

    def scores(self, row: int) -> dict[str, float]:
        """Class name to label or score of an image."""
        return dict(zip(self.labels.class_names, self.labels.labels[row].astype(float).tolist(), strict=True))

    def boxes_of(self, row: int) -> Iterator[tuple[int, list[float]]]:
        """Class and xyxy of the boxes of an image whose class is one of its labels."""
        if self.boxes is None:
            return
        start, stop = np.searchsorted(self.boxes.image_index, [row, row + 1])
        for m in range(start, stop):
            c = int(self.boxes.class_index[m])
            if c >= 0 and self.labels.present[row, c]:
                yield c, [float(v) for v in self.boxes.box[m]]

    @property
    def note(self) -> str:
        """What a reader of the file must know of its boxes."""
        return NO_OBJECTS if self.boxes is None else ROUGH_BOXES


def prepare(labels: LabelSet, *, boxes: bool = False, **options: Any) -> Export:
    """A set of labels, with the boxes of its images where they are asked for.

    Args:
        labels: the set.
        boxes: take the run's boxes along.
        options: further fields of `Export`.

    Raises:
        PipelineError: boxes are asked for, and there are none of these images.
    """
    if not boxes:
        return Export(labels, None, **options)
    path = labels.path.with_name("boxes.h5")
    found: Boxes | None = read(up_to_date(path)) if path.exists() else None
    if found is None or found.image_ids != labels.image_ids[: len(found.image_ids)]:
        raise PipelineError(f"{path} is missing or about other images; leave out --boxes, or run `ccd boxes`.")
    return Export(labels, found, **options)


def write_table(export: Export, out: Path) -> None:
    """CSV or Parquet: image_id, path, split, labels, one column of scores per class."""
    labels = export.labels
    taken = ("path", "split")
    names = [f"{name} score" if name in taken else name for name in labels.class_names]
    frame = prediction_frame(labels.image_ids, labels.labels, [PRESENT] * len(names), names, key="image_id")
    called = [export.names(row) for row in range(len(labels.image_ids))]
    frame["labels"] = called  # classes under their own names, whatever their columns are called
    frame.insert(1, "path", labels.manifest.paths)
    frame.insert(2, "split", labels.splits)
    write_predictions(out, frame)


def write_coco(export: Export, out: Path) -> None:
    """COCO JSON: an annotation a label, of the whole image; with boxes an annotation a box where a label has one."""
    labels = export.labels
    images, annotations = [], []
    for row, (image_id, path) in enumerate(zip(labels.image_ids, labels.manifest.paths, strict=True)):
        height, width = export.size(row)
        place = {"file_name": path, "height": height, "width": width}
        images.append({"id": row + 1, **place, "image_id": image_id, "split": labels.splits[row]})
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
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": float(labels.labels[row, c]),
                    "source": source,
                }
            )
    categories = [{"id": c + 1, "name": name, "supercategory": ""} for c, name in enumerate(labels.class_names)]
    info = {"description": f"Labels of {labels.path.name}, made by ccd. {export.note}"}
    write_text(out, json.dumps({"info": info, "images": images, "annotations": annotations, "categories": categories}))


def write_label_studio(export: Export, out: Path) -> None:
    """Label Studio tasks with predictions; the labelling interface is written beside them, with the ending .xml."""
    write_text(out, json.dumps([studio_task(export, row) for row in range(len(export.labels.image_ids))], indent=1))
    write_text(label_studio.interface_path(out), label_studio.interface(export.labels.class_names))
    say(label_studio.storage_advice(export.labels.manifest.paths, export.image_prefix))


def studio_task(export: Export, row: int, hint: str = "") -> dict[str, Any]:
    """The task of one image; its score is how far its least certain label is from 0.5."""
    labels = export.labels
    boxes = [(labels.class_names[c], box) for c, box in export.boxes_of(row)]
    score = float(np.abs(labels.labels[row] - PRESENT).min())
    place = labels.image_ids[row], labels.manifest.paths[row], export.size(row)
    return label_studio.task(*place, export.names(row), boxes, score, export.image_prefix, hint)


FIFTYONE_LOADER = '''\
"""Makes a FiftyOne dataset of samples.jsonl beside it: `python load.py [NAME]`, then open it in the app."""

import json
import sys
from pathlib import Path

import fiftyone as fo
import numpy as np


def load(name=None):
    """The dataset: field pseudo_labels, all scores, boxes and embeddings where there are any; the split is a tag."""
    here = Path(__file__).parent
    with (here / "samples.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    vectors = np.load(here / "embeddings.npy") if (here / "embeddings.npy").exists() else [None] * len(rows)
    dataset = fo.Dataset(name, overwrite=name is not None)
    for row, vector in zip(rows, vectors):
        found = [fo.Classification(label=name, confidence=row["scores"][name]) for name in row["labels"]]
        sample = fo.Sample(filepath=row["path"], tags=[row["split"]], image_id=row["image_id"])
        sample["pseudo_labels"] = fo.Classifications(classifications=found)
        sample["scores"] = row["scores"]
        if vector is not None:
            sample["embedding"] = vector
        if "boxes" in row:
            boxes = [fo.Detection(label=name, bounding_box=box) for name, box in row["boxes"]]
            sample["looked_at"] = fo.Detections(detections=boxes)
        dataset.add_sample(sample)
    return dataset


if __name__ == "__main__":
    made = load(*sys.argv[1:2])
    made.persistent = True
    print(made)
'''


def write_fiftyone(export: Export, out: Path) -> None:
    """Folder of samples.jsonl, embeddings.npy and load.py, which makes a FiftyOne dataset of them."""
    embeddings = teacher_embeddings(export.labels)
    lines = []
    for row, path in enumerate(export.labels.manifest.paths):
        height, width = export.size(row)
        sample = {"path": path, **described(export, row)}
        if export.boxes is not None:
            found = export.boxes_of(row)
            sample["boxes"] = [
                [
                    export.labels.class_names[c],
                    [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
                ]
                for c, (x1, y1, x2, y2) in found
            ]
        lines.append(json.dumps(sample, ensure_ascii=False))
    with replacing_folder(out) as folder:
        (folder / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        (folder / "load.py").write_text(FIFTYONE_LOADER, encoding="utf-8")
        if embeddings is not None:
            np.save(folder / "embeddings.npy", embeddings)


def teacher_embeddings(labels: LabelSet) -> np.ndarray | None:
    """What the teacher said of the images, float32 [N, D] of unit rows; None where the run does not have it of them all."""
    path = labels.path.with_name("embeddings.h5")
    if not path.exists():
        return None
    found = read(up_to_date(path))
    asked = found.provenance.config.get("precision", "float32")
    for precision in (asked, "float32"):  # which a CPU takes, whatever was asked for
        store = ImageStore(path.parent, StoreKey(found.teacher_fingerprint, found.image_size, precision))
        if not store.missing(labels.manifest.digests):
            return np.concatenate(list(store.blocks(labels.manifest.digests)))
    return None


def described(export: Export, row: int) -> dict[str, Any]:
    """What is known of an image, for a JSON line."""
    labels = export.labels
    return {
        "image_id": labels.image_ids[row],
        "split": labels.splits[row],
        "labels": export.names(row),
        "scores": export.scores(row),
    }


def write_cleanlab(export: Export, out: Path) -> None:
    """JSON for cleanlab's multi-label functions: labels (lists of class numbers) and pred_probs [N, C].

    The probabilities are the teacher's of the whole images, not those that the labels were made from by a threshold:
    with these, cleanlab could never find a label that they deny.
    """
    labels = export.labels
    path = labels.path.with_name("embeddings.h5")
    embeddings = read(up_to_date(path))
    rows = {image_id: row for row, image_id in enumerate(embeddings.image_ids)}
    missing = [image_id for image_id in labels.image_ids if image_id not in rows]
    if missing or embeddings.class_names != labels.class_names:
        raise PipelineError(f"{path} is about other images or classes than {labels.path}. Run the stages again.")
    probabilities = embeddings.probabilities[[rows[image_id] for image_id in labels.image_ids]]
    content = {
        "image_ids": labels.image_ids,
        "class_names": labels.class_names,
        "labels": [np.flatnonzero(present).tolist() for present in labels.present],
        "pred_probs": probabilities.astype(float).tolist(),
        "pred_probs_source": "the teacher's probabilities of the whole images",
    }
    write_text(out, json.dumps(content))


def write_yolo(export: Export, out: Path) -> None:
    """YOLO folder: images/, labels/ with a text file an image, data.yaml.

    A photo has its image id as its name; a part `images` of it becomes `images_`, as readers find a photo's text file
    by writing `labels` in the place of the last `/images/` of its path, and a dot in front of a part becomes `_`, as
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
    say(f"{len(labels.image_ids) - len(kept)} train photos are left out: a label of theirs has no box.")


def yolo_path(export: Export, row: int) -> PurePosixPath:
    """Where a photo of a YOLO folder is below its split."""
    name = with_format_suffix(export, row, export.labels.image_ids[row])
    parts = [re.sub(r"^\.|\.$", "_", part) for part in PurePosixPath(name).parts if part not in ("/", "..")]
    # `images_` becomes `images__`, so that no two names become one
    return PurePosixPath(*(f"{part}_" if re.fullmatch("images_*", part) else part for part in parts))


def yaml_text(text: str) -> str:
    """A text as a double-quoted scalar of YAML."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in quoted) + '"'


def write_imagefolder(export: Export, out: Path) -> None:
    """Folder of Hugging Face datasets: the photos of each split and metadata.jsonl with labels and scores.

    The photos are numbered: datasets reads a split out of every `train`, `val` or `test` in a path.
    """
    labels = export.labels
    rows = range(len(labels.image_ids))
    placed = [with_format_suffix(export, row, f"{row:08d}") for row in rows]
    with replacing_folder(out) as folder:
        for row, split in enumerate(labels.splits):
            place_one(export, row, folder / split / placed[row])
        for split in dict.fromkeys(labels.splits):
            found = [
                {"file_name": placed[row], **described(export, row)} for row in rows if labels.splits[row] == split
            ]
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in found)
            (folder / split / "metadata.jsonl").write_text(text, encoding="utf-8")


def write_huggingface(export: Export, out: Path) -> None:
    """Folder that `datasets.load_dataset` reads: Parquet files with the photos inside, and a README.md that describes it.

    Raises:
        PipelineError: pyarrow is missing, or a photo can no longer be read.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise PipelineError("huggingface needs pyarrow: `pip install 'ccd-pipeline[parquet]'`.") from error
    labels = export.labels
    # `Sequence` and not `List`, which datasets has from its version 4 on
    features = {
        "image": {"_type": "Image"},
        "image_id": {"dtype": "string", "_type": "Value"},
        "labels": {"feature": {"names": labels.class_names, "_type": "ClassLabel"}, "_type": "Sequence"},
        "scores": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"},
    }
    schema = pa.schema(
        {
            "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            "image_id": pa.string(),
            "labels": pa.list_(pa.int64()),
            "scores": pa.list_(pa.float32()),
        },
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    with replacing_folder(out) as folder:
        (folder / "data").mkdir()
        for split in dict.fromkeys(labels.splits):
            rows = [row for row, own in enumerate(labels.splits) if own == split]
            shards = [rows[start : start + SHARD] for start in range(0, len(rows), SHARD)]
            for number, shard in enumerate(shards):
                table = pa.Table.from_pylist([photo_row(export, row) for row in shard], schema=schema)
                pq.write_table(table, folder / "data" / f"{split}-{number:05d}-of-{len(shards):05d}.parquet")
        (folder / "README.md").write_text(data_card(export), encoding="utf-8")


def photo_row(export: Export, row: int) -> dict[str, Any]:
    """A photo with its labels, as it stands in a Parquet file."""
    path = Path(export.labels.manifest.paths[row])
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PipelineError(f"{path} can no longer be read ({error.strerror}). Run `ccd prepare` again.") from error
    return {
        "image": {"bytes": content, "path": path.name},
        "image_id": export.labels.image_ids[row],
        "labels": np.flatnonzero(export.labels.present[row]).tolist(),
        "scores": export.labels.labels[row].astype(float).tolist(),
    }


def data_card(export: Export) -> str:
    """A README.md for the folder of a dataset."""
    labels = export.labels
    counts = labels.present.sum(0)
    lines = [f"| {markdown(name)} | {counts[c]:,} |" for c, name in enumerate(labels.class_names)]
    sizes = ", ".join(f"{size:,} {split}" for split, size in Counter(labels.splits).items())
    return (
        "---\ntask_categories:\n- image-classification\n---\n\n# Photos with pseudo-labels\n\n"
        f"{sizes} photos, {len(labels.class_names)} classes; a photo can have several. {NO_OBJECTS}\n\n"
        "The labels were made by a program (ccd: classifier-guided CLIP distillation), not by people: expect errors. "
        "`labels` are the classes called present, `scores` the soft labels of all classes in the order of the names.\n\n"
        "| class | photos |\n|---|---|\n" + "\n".join(lines) + "\n"
    )


def markdown(name: str) -> str:
    """A name as plain text in Markdown."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]()<>#+-.!|&~" else letter for letter in name)


def write_cvat(export: Export, out: Path) -> None:
    """CVAT for images 1.1: a tag a label; with boxes also rectangles."""
    labels = export.labels
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    listed = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    for name in labels.class_names:
        label = ElementTree.SubElement(listed, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "type").text = "any"
        ElementTree.SubElement(label, "attributes")
    for row, image_id in enumerate(labels.image_ids):
        height, width = export.size(row)
        place = {"id": str(row), "name": image_id, "subset": labels.splits[row]}
        image = ElementTree.SubElement(root, "image", **place, width=str(width), height=str(height))
        for name in export.names(row):
            ElementTree.SubElement(image, "tag", label=name, source="auto")
        for c, corners in export.boxes_of(row):
            values = dict(zip(("xtl", "ytl", "xbr", "ybr"), (f"{v:.2f}" for v in corners), strict=True))
            rectangle = {"label": labels.class_names[c], "source": "auto", "occluded": "0", "z_order": "0"}
            ElementTree.SubElement(image, "box", **rectangle, **values)
    write_text(out, xml_text(root))


def write_voc(export: Export, out: Path) -> None:
    """PASCAL VOC folder: JPEGImages, ImageSets/Main with a list a class and split (1 or -1), Annotations.

    An annotation has an object a box; without boxes, the lists alone tell the labels. A photo's name is its image id
    with `_` for slashes and white space, at which readers cut the lines of the lists. It ends in .jpg whatever the
    format, as readers look for that ending alone and recognise the format by content.
    """
    labels = export.labels
    rows = list(range(len(labels.image_ids)))
    stems = [
        "".join("_" if letter == "/" or letter.isspace() else letter for letter in without_suffix(image_id))
        for image_id in labels.image_ids
    ]
    check_shared(labels.image_ids, stems)
    odd = [name for name in labels.class_names if not name.strip() or any(letter in name for letter in "/\\\0")]
    if odd:
        raise PipelineError(f"voc has a file a class, which {odd[0]!r} cannot name. Choose another format.")
    with replacing_folder(out) as folder:
        lists = folder / "ImageSets" / "Main"
        for path in (lists, folder / "Annotations", folder / "JPEGImages"):
            path.mkdir(parents=True)
        for row in rows:
            place_one(export, row, folder / "JPEGImages" / f"{stems[row]}.jpg")
            write_annotation(export, row, stems[row], folder)
        for split in dict.fromkeys(labels.splits):
            own = [row for row in rows if labels.splits[row] == split]
            (lists / f"{split}.txt").write_text("".join(f"{stems[row]}\n" for row in own), encoding="utf-8")
            for c, name in enumerate(labels.class_names):
                lines = [f"{stems[row]} {'1' if labels.present[row, c] else '-1'}\n" for row in own]
                (lists / f"{name}_{split}.txt").write_text("".join(lines), encoding="utf-8")


def write_annotation(export: Export, row: int, stem: str, folder: Path) -> None:
    """The annotation of one image in a VOC folder; none where boxes are not asked for."""
    if export.boxes is None:
        return
    height, width = export.size(row)
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = f"{stem}.jpg"
    size = ElementTree.SubElement(root, "size")
    for name, value in (("width", width), ("height", height), ("depth", 3)):
        ElementTree.SubElement(size, name).text = str(value)
    for c, (x1, y1, x2, y2) in export.boxes_of(row):
        found = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(found, "name").text = export.labels.class_names[c]
        ElementTree.SubElement(found, "difficult").text = "0"
        corners = ElementTree.SubElement(found, "bndbox")
        # VOC counts pixels from 1 and includes the last
        for name, value in (("xmin", x1 + 1), ("ymin", y1 + 1), ("xmax", x2), ("ymax", y2)):
            ElementTree.SubElement(corners, name).text = str(round(value))
    (folder / "Annotations" / f"{stem}.xml").write_text(xml_text(root), encoding="utf-8")


def xml_text(root: ElementTree.Element) -> str:
    """An XML document, indented.

    Raises:
        PipelineError: a name has a character that XML cannot contain.
    """
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
    if found := re.search(r".{0,40}[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", text):
        raise PipelineError(f"XML cannot contain the last character of {found[0]!r}. Rename the photo or the class.")
    return text


FORMATS: dict[str, Callable[[Export, Path], None]] = {
    "csv": write_table,
    "parquet": write_table,
    "coco": write_coco,
    "label-studio": write_label_studio,
    "fiftyone": write_fiftyone,
    "cleanlab": write_cleanlab,
    "yolo": write_yolo,
    "imagefolder": write_imagefolder,
    "huggingface": write_huggingface,
    "cvat": write_cvat,
    "voc": write_voc,
}

WITH_BOXES = ("coco", "label-studio", "fiftyone", "yolo", "cvat", "voc")
"""Formats that have a place for boxes."""

WITH_PHOTOS = ("yolo", "imagefolder", "voc", "huggingface")
"""Formats that contain the photos, as links or copies; huggingface has copies always."""

ENDINGS = {
    "csv": ".csv",
    "parquet": ".parquet",
    "coco": ".json",
    "label-studio": ".json",
    "cleanlab": ".json",
    "cvat": ".xml",
}
"""Of the formats that are one file; the others are folders."""


COMMON_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""Of photos that readers of folders take for photos."""


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
