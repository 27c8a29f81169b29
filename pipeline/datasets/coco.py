"""COCO instances to a Dataset of 80 classes."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.checks import check_unique, missing_files
from pipeline.datasets.class_names import check_class_names
from pipeline.datasets.dataset import Dataset, Objects, without_images
from pipeline.system.errors import PipelineError
from pipeline.system.progress import log


@dataclass(frozen=True)
class _Instances:
    """One annotation file: images by number, and the objects in them."""

    path: Path
    categories: dict[int, str]
    images: dict[int, dict[str, Any]]
    annotations: list[dict[str, Any]]


def load(
    root: Path,
    train_split: str = "train2014",
    test_split: str | None = "val2014",
    keep_unannotated: bool = False,
    *,
    skip_missing: bool = False,
) -> Dataset:
    """Images of two splits with labels and boxes; a crowd counts as its class, and its box as difficult.

    Args:
        root: folder with annotations/instances_<split>.json and, for each split, the images in <split>,
            images/<split> or images.
        train_split: for training.
        test_split: for testing; None for no test images. Where annotations has one file alone and it is that of the
            train split, there are none either.
        keep_unannotated: keep images without any annotation (COCO 2014: 82,783 / 40,504 images; without them
            82,081 / 40,137, as in most of the literature).
        skip_missing: leave out images without a file, instead of refusing the data set.

    Returns:
        Image ids are file names without suffix, classes stand in the order of their COCO numbers. Boxes
        without area within their image are left out, and counted; others are cut to it.

    Raises:
        PipelineError: a file is missing or broken; the splits' categories differ; an image is listed
            twice or has no file; an annotation names an unknown image or category.
    """
    root = root.absolute()
    if test_split is not None and _is_only_file(root, train_split):
        log(f"{root / 'annotations'} has {train_split} alone, so there are no test images.")
        test_split = None
    parts = {"train": _read_instances(root, train_split)}
    if test_split is not None:
        parts["test"] = _read_instances(root, test_split)
    categories = parts["train"].categories
    image_ids, paths, splits, labels, objects = [], [], [], [], []
    for split, part in parts.items():
        if part.categories != categories:
            raise PipelineError(f"{part.path} has other categories than {parts['train'].path}, expected the same.")
        numbers = _kept_images(part, keep_unannotated)
        folder = _image_folder(root, part.path.stem.removeprefix("instances_"))
        files = [Path(part.images[number]["file_name"]) for number in numbers]
        objects.append(_objects(part, numbers, offset=len(image_ids)))
        labels.append(_labels(part, numbers))
        image_ids += [file.stem for file in files]
        paths += [folder / file.name for file in files]
        splits += [split] * len(numbers)
    check_unique(image_ids, root / "annotations")
    left_out = missing_files(image_ids, paths, root / "annotations", skip=skip_missing)
    class_names = [categories[number] for number in sorted(categories)]
    check_class_names(class_names)
    name = f"coco-{train_split}"
    found = Dataset(name, class_names, image_ids, paths, splits, np.concatenate(labels), _concatenate(objects))
    return without_images(found, left_out)


def _is_only_file(root: Path, split: str) -> bool:
    return [path.name for path in (root / "annotations").glob("instances_*.json")] == [f"instances_{split}.json"]


def _read_instances(root: Path, split: str) -> _Instances:
    path = root / "annotations" / f"instances_{split}.json"
    try:
        with path.open(encoding="utf-8") as file:
            # Outlines are most of the file, and gigabytes as Python objects.
            content = json.load(file, object_hook=_without_outline)
        _check_fields(content["categories"], "categories", {"id": int, "name": str})
        _check_fields(content["images"], "images", {"id": int, "file_name": str})
        _check_fields(content["annotations"], "annotations", {"image_id": int, "category_id": int, "bbox": list})
        categories = {category["id"]: category["name"] for category in content["categories"]}
        images = {image["id"]: image for image in content["images"]}
        files = [image["file_name"] for image in content["images"]]
        annotations = content["annotations"]
        for number, annotation in enumerate(annotations):
            if len(annotation["bbox"]) != 4 or not all(_is_finite(side) for side in annotation["bbox"]):
                raise ValueError(f"annotation {number} has the bbox {annotation['bbox']}, expected four finite numbers")
        unknown_image = next((a for a in annotations if a["image_id"] not in images), None)
        unknown_category = next((a for a in annotations if a["category_id"] not in categories), None)
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}. Complete the dataset.") from error
    except (KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise PipelineError(f"{path} is not a file of COCO instances ({error!r}). Replace it.") from error
    check_unique(files, path)
    if len(categories) < len(content["categories"]):
        raise PipelineError(
            f"{path} defines {len(content['categories'])} categories by {len(categories)} ids. Mend it."
        )
    if len(images) < len(files):
        raise PipelineError(f"{path} gives {len(files)} images {len(images)} different ids. Replace it.")
    for annotation, key in ((unknown_image, "image_id"), (unknown_category, "category_id")):
        if annotation is not None:
            raise PipelineError(
                f"{path} has an annotation with {key} {annotation[key]}, which it does not define. Mend it."
            )
    return _Instances(path, categories, images, annotations)


def _check_fields(entries: Any, kind: str, fields: dict[str, type]) -> None:
    """Raise ValueError unless it is a list of objects that have fields of these types."""
    if not isinstance(entries, list):
        raise ValueError(f"{kind} is no list")
    for number, entry in enumerate(entries):
        for field, wanted in fields.items():
            value = entry.get(field) if isinstance(entry, dict) else None
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise ValueError(f"{kind} {number} has {field} {value!r}, expected {wanted.__name__}")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _without_outline(value: dict[str, Any]) -> dict[str, Any]:
    value.pop("segmentation", None)
    return value


def _kept_images(part: _Instances, keep_unannotated: bool) -> list[int]:
    annotated = {annotation["image_id"] for annotation in part.annotations}
    return [number for number in sorted(part.images) if keep_unannotated or number in annotated]


def _image_folder(root: Path, split: str) -> Path:
    for folder in (root / split, root / "images" / split, root / "images"):
        if folder.is_dir():
            return folder
    raise PipelineError(f"there are no images of {split} in {root}, expected them in the folder {root / split}.")


def _columns(part: _Instances) -> dict[int, int]:
    """Column by category number; COCO's numbers have gaps."""
    return {number: column for column, number in enumerate(sorted(part.categories))}


def _labels(part: _Instances, numbers: list[int]) -> np.ndarray:
    row = {number: index for index, number in enumerate(numbers)}
    column = _columns(part)
    labels = np.zeros((len(numbers), len(column)), dtype=np.int8)
    for annotation in part.annotations:
        labels[row[annotation["image_id"]], column[annotation["category_id"]]] = 1
    return labels


def _objects(part: _Instances, numbers: list[int], offset: int) -> Objects:
    """Boxes from COCO's x, y, width, height, cut to their image; image rows count from `offset`."""
    row = {number: index + offset for index, number in enumerate(numbers)}
    column = _columns(part)
    boxes = np.array([a["bbox"] for a in part.annotations], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    sizes = np.array([_size(part.images[a["image_id"]]) for a in part.annotations], dtype=np.float64).reshape(-1, 2)
    boxes = np.clip(boxes, 0, np.where(sizes > 0, sizes, np.inf)[:, [0, 1, 0, 1]])
    solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    if not solid.all():
        log(f"{part.path}: {np.count_nonzero(~solid)} boxes without area within their image are left out.")
    kept = [a for a, keep in zip(part.annotations, solid, strict=True) if keep]
    boxes = boxes[solid]
    return Objects(
        image_index=np.array([row[a["image_id"]] for a in kept], dtype=np.int64),
        class_index=np.array([column[a["category_id"]] for a in kept], dtype=np.int64),
        box=boxes.astype(np.float32),
        difficult=np.array([a.get("iscrowd", 0) == 1 for a in kept], dtype=bool),
    )


def _size(image: dict[str, Any]) -> tuple[float, float]:
    """Width and height of an image's record; 0 where it has none."""
    width, height = (image.get(side) for side in ("width", "height"))
    return (width, height) if _is_finite(width) and _is_finite(height) else (0.0, 0.0)


def _concatenate(parts: list[Objects]) -> Objects:
    return Objects(
        image_index=np.concatenate([part.image_index for part in parts]),
        class_index=np.concatenate([part.class_index for part in parts]),
        box=np.concatenate([part.box for part in parts]),
        difficult=np.concatenate([part.difficult for part in parts]),
    )
