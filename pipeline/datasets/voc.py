"""Adapter for a PASCAL VOC year in its official layout."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.datasets.checks import class_index, read_lines
from pipeline.datasets.dataset import DIFFICULT, UNKNOWN, Dataset, Objects, check_dataset
from pipeline.system.errors import PipelineError

CLASS_NAMES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]

BENCHMARK_SPLITS = {2007: ("trainval", "test"), 2012: ("train", "val")}
"""Train and test lists of the literature: 5,011 / 4,952 and 5,717 / 5,823 images."""


def load(
    root: Path,
    year: int = 2012,
    train_split: str | None = None,
    test_split: str | None = None,
    *,
    skip_missing: bool = False,
) -> Dataset:
    """Images of two splits with the labels and boxes of their annotations.

    Args:
        root: folder VOCdevkit, the folder that contains it, or the folder of the year, such as VOC2012.
        year: four digits.
        train_split: list in ImageSets/Main for training; None for the year's list in BENCHMARK_SPLITS, else train.
        test_split: list for testing; None for the year's list, else val.
        skip_missing: leave out images without a file, instead of refusing the dataset.

    Returns:
        A class whose objects are all marked difficult has label DIFFICULT. If there are no Annotations, the labels
        come from the lists `<class>_<split>.txt` and there are no objects.

    Raises:
        PipelineError: `root` does not contain the year; a list or annotation is missing or broken; an image is
            listed twice or has no file; an annotation names a class that is not one of the 20.
    """
    folder = _year_folder(root.absolute(), year)
    benchmark = BENCHMARK_SPLITS.get(year, ("train", "val"))
    lists = {"train": train_split or benchmark[0], "test": test_split or benchmark[1]}
    listed = [(image_id, split) for split, name in lists.items() for image_id in _read_split(folder, name)]
    image_ids, splits = [image_id for image_id, _ in listed], [split for _, split in listed]
    paths = [folder / "JPEGImages" / f"{image_id}.jpg" for image_id in image_ids]
    dataset = Dataset(f"voc{year}", CLASS_NAMES, image_ids, paths, splits)
    dataset = check_dataset(dataset, folder / "ImageSets" / "Main", skip_missing=skip_missing)
    annotations = [folder / "Annotations" / f"{image_id}.xml" for image_id in dataset.image_ids]
    if any(annotation.is_file() for annotation in annotations):
        objects = Objects.of([(row, *each) for row, path in enumerate(annotations) for each in _read_annotation(path)])
        labels = np.zeros((len(annotations), len(CLASS_NAMES)), dtype=np.int8)
        labels[objects.image_index, objects.class_index] = DIFFICULT
        easy = ~objects.difficult
        labels[objects.image_index[easy], objects.class_index[easy]] = 1
    else:
        objects = None
        labels = _labels_from_lists(folder, dataset, list(lists.values()))
    return replace(dataset, labels=labels, objects=objects)


def _year_folder(root: Path, year: int) -> Path:
    for folder in (root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}"):
        if folder.is_dir():
            return folder
    other_year = root.name.startswith("VOC2") and root.name != f"VOC{year}"
    if (root / "ImageSets").is_dir() and not other_year:
        return root
    raise PipelineError(f"there is no VOC{year} in {root}, expected VOCdevkit with VOC{year}/ImageSets/Main in it.")


def _read_split(folder: Path, name: str) -> list[str]:
    path = folder / "ImageSets" / "Main" / f"{name}.txt"
    if not path.is_file():
        # a list of one class has an underscore in its name: cat_train.txt
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt") if "_" not in p.stem)) or "none"
        raise PipelineError(f"{path} is missing; lists there are: {known}. Name one of them or complete the dataset.")
    return [line.split()[0] for line in read_lines(path)]


def _read_annotation(path: Path) -> list[tuple[int, list[float], bool]]:
    """Class, xyxy box and difficult flag of every object; VOC counts pixels from 1 and includes the last."""
    try:
        root = ET.parse(path).getroot()
        size = [float(root.findtext(f"size/{side}") or "0") for side in ("width", "height")]
        objects = []
        for element in root.findall("object"):
            name = _needed(element, "name")
            x1, y1, x2, y2 = (float(_needed(element, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
            difficult = int(element.findtext("difficult") or "0") == 1
            objects.append((class_index(name, CLASS_NAMES, path), clipped([x1 - 1, y1 - 1, x2, y2], size), difficult))
    except FileNotFoundError as error:
        raise PipelineError(f"{path} is missing, expected one annotation per image. Complete the dataset.") from error
    except OSError as error:
        raise PipelineError(f"{path} could not be read ({error.strerror}). Check the file.") from error
    except (ET.ParseError, LookupError, OverflowError, RecursionError, TypeError, ValueError) as error:
        # LookupError: an encoding that Python does not know
        raise PipelineError(f"{path} is not a VOC annotation ({error}). Replace it.") from error
    return objects


def clipped(box: list[float], size: list[float]) -> list[float]:
    """An xyxy box clipped to its image of this width and height, or 0 for unknown; raises ValueError if nothing is left.

    Boxes of VOC 2011 exceed their image by a fraction of a pixel.
    """
    if not np.isfinite(box).all():
        raise ValueError(f"the box {box} is not finite")
    inside = np.clip(box, 0, [side if side > 0 else np.inf for side in (*size, *size)]).tolist()
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        raise ValueError(f"the box {box} has no part within its image of {size[0]:g}x{size[1]:g}")
    return inside


def _needed(element: ET.Element, tag: str) -> str:
    """The text of a tag; raises ValueError if the tag is missing or empty."""
    child = element.find(tag)
    text = "" if child is None else (child.text or "").strip()
    if not text:
        raise ValueError(f"an object has {'no' if child is None else 'an empty'} {tag}")
    return text


def _labels_from_lists(folder: Path, dataset: Dataset, names: list[str]) -> np.ndarray:
    """Labels of the lists `<class>_<split>.txt`, where 1 is present, 0 only difficult, -1 absent."""
    ours = {"1": 1, "0": DIFFICULT, "-1": 0}
    row = {image_id: index for index, image_id in enumerate(dataset.image_ids)}
    labels = np.full((len(row), len(CLASS_NAMES)), UNKNOWN, dtype=np.int8)
    for column, class_name in enumerate(CLASS_NAMES):
        for name in names:
            path = folder / "ImageSets" / "Main" / f"{class_name}_{name}.txt"
            for line in read_lines(path):
                image_id, *flags = line.split()
                if image_id in dataset.left_out:
                    continue
                if image_id not in row or len(flags) != 1 or flags[0] not in ours:
                    raise PipelineError(
                        f"{path} has line {line!r}, expected a listed image and 1, 0 or -1. Correct it."
                    )
                labels[row[image_id], column] = ours[flags[0]]
    return labels
