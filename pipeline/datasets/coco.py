"""Adapter for COCO instances."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.checks import check_unique, first_folder
from pipeline.datasets.dataset import Dataset, Objects, check_dataset
from pipeline.system.errors import PipelineError
from pipeline.system.files import regular_file
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
        test_split: for testing; None for no test images. If annotations contains only the file of the train split,
            there are no test images either.
        keep_unannotated: keep images without any annotation (COCO 2014: 82,783 / 40,504 images; without them
            82,081 / 40,137, as in most of the literature).
        skip_missing: leave out images without a file, instead of refusing the dataset.

    Returns:
        Image ids are file names without suffix; classes are in the order of their COCO numbers. Boxes without area
        within their image are left out and counted; all other boxes are clipped to it.

    Raises:
        PipelineError: a file is missing or broken; the splits' categories differ; an image is listed
            twice or has no file; an annotation names an unknown image or category.
    """
    root = root.absolute()
    if test_split is not None and _is_only_file(root, train_split):
        log(f"{root / 'annotations'} contains only {train_split}, so there are no test images.")
        test_split = None
    parts = {"train": _read_instances(root, train_split)}
    if test_split is not None:
        parts["test"] = _read_instances(root, test_split)
    categories = parts["train"].categories
    image_ids, paths, splits, labels, objects = [], [], [], [], []
    for split, part in parts.items():
        if part.categories != categories:
            raise PipelineError(
                f"{part.path} has different categories from {parts['train'].path}, expected the same. Replace one."
            )
        annotated = {annotation["image_id"] for annotation in part.annotations}
        numbers = [number for number in sorted(part.images) if keep_unannotated or number in annotated]
        name = part.path.stem.removeprefix("instances_")
        folder = first_folder(
            (root / name, root / "images" / name, root / "images"),
            f"there are no images of {name} in {root}, expected them in the folder {root / name}.",
        )
        part_labels, part_objects = _labels_and_objects(part, numbers, offset=len(image_ids))
        labels.append(part_labels)
        objects.append(part_objects)
        files = [Path(part.images[number]["file_name"]) for number in numbers]
        image_ids += [file.stem for file in files]
        paths += [folder / file.name for file in files]
        splits += [split] * len(numbers)
    class_names = [categories[number] for number in sorted(categories)]
    joined = Objects(*map(np.concatenate, zip(*(vars(part).values() for part in objects), strict=True)))
    dataset = Dataset(f"coco-{train_split}", class_names, image_ids, paths, splits, np.concatenate(labels), joined)
    return check_dataset(dataset, root / "annotations", skip_missing=skip_missing)


def _is_only_file(root: Path, split: str) -> bool:
    return [path.name for path in (root / "annotations").glob("instances_*.json")] == [f"instances_{split}.json"]


def _read_instances(root: Path, split: str) -> _Instances:
    path = root / "annotations" / f"instances_{split}.json"
    try:
        with regular_file(path).open(encoding="utf-8") as file:
            # outlines are most of the file, and gigabytes as Python objects
            content = json.load(file, object_hook=_without_outline)
        _check_fields(content["categories"], "categories", {"id": int, "name": str})
        _check_fields(content["images"], "images", {"id": int, "file_name": str})
        _check_fields(content["annotations"], "annotations", {"image_id": int, "category_id": int, "bbox": list})
        categories = {category["id"]: category["name"] for category in content["categories"]}
        images = {image["id"]: image for image in content["images"]}
        annotations = content["annotations"]
        for number, annotation in enumerate(annotations):
            if len(annotation["bbox"]) != 4 or not all(_is_finite(side) for side in annotation["bbox"]):
                raise ValueError(f"annotation {number} has the bbox {annotation['bbox']}, expected four finite numbers")
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}. Complete the dataset.") from error
    except (KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise PipelineError(f"{path} is not a file of COCO instances ({error!r}). Replace it.") from error
    check_unique([image["file_name"] for image in content["images"]], path)
    for kind, by_id in (("categories", categories), ("images", images)):
        if len(by_id) < len(content[kind]):
            raise PipelineError(f"{path} has {len(content[kind])} {kind} with {len(by_id)} different ids. Replace it.")
    for key, known in (("image_id", images), ("category_id", categories)):
        unknown = next((a[key] for a in annotations if a[key] not in known), None)
        if unknown is not None:
            raise PipelineError(f"{path} has an annotation with {key} {unknown}, which it does not define. Correct it.")
    return _Instances(path, categories, images, annotations)


def _check_fields(entries: Any, kind: str, fields: dict[str, type]) -> None:
    """Raise ValueError unless it is a list of objects that have fields of these types."""
    if not isinstance(entries, list):
        raise ValueError(f"{kind} is not a list")
    for number, entry in enumerate(entries):
        for field, expected in fields.items():
            value = entry.get(field) if isinstance(entry, dict) else None
            if not isinstance(value, expected) or isinstance(value, bool):
                raise ValueError(f"{kind} {number} has {field} {value!r}, expected {expected.__name__}")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _without_outline(value: dict[str, Any]) -> dict[str, Any]:
    value.pop("segmentation", None)
    return value


def _labels_and_objects(part: _Instances, numbers: list[int], offset: int) -> tuple[np.ndarray, Objects]:
    """Labels int8 [N, C] of the images with these numbers, and their objects, whose rows count from `offset`."""
    row = {number: index for index, number in enumerate(numbers)}
    column = {number: index for index, number in enumerate(sorted(part.categories))}  # COCO's numbers have gaps
    image_index = np.array([row[a["image_id"]] for a in part.annotations], dtype=np.int64)
    class_index = np.array([column[a["category_id"]] for a in part.annotations], dtype=np.int64)
    labels = np.zeros((len(numbers), len(column)), dtype=np.int8)
    labels[image_index, class_index] = 1
    boxes = np.array([a["bbox"] for a in part.annotations], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # from x, y, width, height
    sizes = np.array([_size(part.images[a["image_id"]]) for a in part.annotations], dtype=np.float64).reshape(-1, 2)
    boxes = np.clip(boxes, 0, np.where(sizes > 0, sizes, np.inf)[:, [0, 1, 0, 1]])
    solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    if not solid.all():
        log(f"{part.path}: {np.count_nonzero(~solid)} boxes without area within their image are left out.")
    crowd = np.array([a.get("iscrowd", 0) == 1 for a in part.annotations], dtype=bool)
    return labels, Objects(
        image_index[solid] + offset, class_index[solid], boxes[solid].astype(np.float32), crowd[solid]
    )


def _size(image: dict[str, Any]) -> tuple[float, float]:
    """Width and height of an image's record, or 0 if they are missing."""
    width, height = (image.get(side) for side in ("width", "height"))
    return (width, height) if _is_finite(width) and _is_finite(height) else (0.0, 0.0)
