"""COCO instances to a Dataset of 80 classes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.checks import check_files, check_unique
from pipeline.datasets.dataset import Dataset, Objects
from pipeline.machine.errors import PipelineError


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
) -> Dataset:
    """Images of two splits with labels and boxes; a crowd counts as its class, and its box as difficult.

    Args:
        root: folder with annotations/instances_<split>.json and, for each split, the images in <split>,
            images/<split> or images.
        train_split: for training.
        test_split: for testing; None for no test images.
        keep_unannotated: keep images without any annotation (COCO 2014: 82,783 / 40,504 images; without them
            82,081 / 40,137, as in most of the literature).

    Returns:
        Image ids are file names without suffix, classes stand in the order of their COCO numbers. Boxes
        without area are left out.

    Raises:
        PipelineError: a file is missing or broken; the splits' categories differ; an image is listed
            twice or has no file; an annotation names an unknown image or category.
    """
    root = root.absolute()
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
    check_files(image_ids, paths, root / "annotations")
    class_names = [categories[number] for number in sorted(categories)]
    name = f"coco-{train_split}"
    return Dataset(name, class_names, image_ids, paths, splits, np.concatenate(labels), _concatenate(objects))


def _read_instances(root: Path, split: str) -> _Instances:
    path = root / "annotations" / f"instances_{split}.json"
    try:
        with path.open(encoding="utf-8") as file:
            # Outlines are most of the file, and gigabytes as Python objects.
            content = json.load(file, object_hook=_without_outline)
        categories = {category["id"]: category["name"] for category in content["categories"]}
        images = {image["id"]: image for image in content["images"]}
        files = [image["file_name"] for image in content["images"]]
        annotations = content["annotations"]
        if any(len(annotation["bbox"]) != 4 for annotation in annotations):
            raise ValueError("a bbox is not four numbers")
        unknown_image = next((a for a in annotations if a["image_id"] not in images), None)
        unknown_category = next((a for a in annotations if a["category_id"] not in categories), None)
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}. Complete the dataset.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise PipelineError(f"{path} is no file of COCO instances ({error!r}). Replace it.") from error
    check_unique(files, path)
    if len(images) < len(files):
        raise PipelineError(f"{path} gives {len(files)} images {len(images)} different ids. Replace it.")
    for annotation, key in ((unknown_image, "image_id"), (unknown_category, "category_id")):
        if annotation is not None:
            raise PipelineError(
                f"{path} has an annotation with {key} {annotation[key]}, which it does not define. Mend it."
            )
    return _Instances(path, categories, images, annotations)


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
    """Boxes from COCO's x, y, width, height; image rows count from `offset`."""
    row = {number: index + offset for index, number in enumerate(numbers)}
    column = _columns(part)
    kept = [a for a in part.annotations if a["bbox"][2] > 0 and a["bbox"][3] > 0]
    boxes = np.array([a["bbox"] for a in kept], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Objects(
        image_index=np.array([row[a["image_id"]] for a in kept], dtype=np.int64),
        class_index=np.array([column[a["category_id"]] for a in kept], dtype=np.int64),
        box=boxes.astype(np.float32),
        difficult=np.array([a.get("iscrowd", 0) == 1 for a in kept], dtype=bool),
    )


def _concatenate(parts: list[Objects]) -> Objects:
    return Objects(
        image_index=np.concatenate([part.image_index for part in parts]),
        class_index=np.concatenate([part.class_index for part in parts]),
        box=np.concatenate([part.box for part in parts]),
        difficult=np.concatenate([part.difficult for part in parts]),
    )
