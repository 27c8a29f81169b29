"""A PASCAL VOC year in its official layout to a Dataset."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from pipeline.datasets.checks import check_boxes, check_unique, class_index, missing_files, read_lines
from pipeline.datasets.dataset import DIFFICULT, UNKNOWN, Dataset, Objects, without_images
from pipeline.system.errors import PipelineError

CLASS_NAMES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *(
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
    ),
]

BENCHMARK_SPLITS = {2007: ("trainval", "test"), 2012: ("train", "val")}
"""What the literature trains and tests on: 5,011 / 4,952 and 5,717 / 5,823 images."""


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
        root: folder VOCdevkit, the folder it is in, or the folder of the year, as VOC2012.
        year: four digits.
        train_split: list in ImageSets/Main for training; None for the year's of BENCHMARK_SPLITS, else train.
        test_split: list for testing; None for the year's, else val.
        skip_missing: leave out images without a file, instead of refusing the data set.

    Returns:
        A class all of whose objects are marked difficult has label DIFFICULT. Without Annotations, the labels are of
        the lists `<class>_<split>.txt` and there are no objects.

    Raises:
        PipelineError: no such year in `root`; a list or annotation is missing or broken; an image is listed
            twice or has no file; an annotation names a class that is none of the 20.
    """
    folder = _year_folder(root, year)
    benchmark = BENCHMARK_SPLITS.get(year, ("train", "val"))
    lists = {"train": train_split or benchmark[0], "test": test_split or benchmark[1]}
    image_ids: list[str] = []
    splits: list[str] = []
    for split, name in lists.items():
        ids = _read_split(folder, name)
        image_ids += ids
        splits += [split] * len(ids)
    source = folder / "ImageSets" / "Main"
    check_unique(image_ids, source)
    paths = [folder / "JPEGImages" / f"{image_id}.jpg" for image_id in image_ids]
    left_out = missing_files(image_ids, paths, source, skip=skip_missing)
    annotations = [folder / "Annotations" / f"{image_id}.xml" for image_id in image_ids]
    if any(annotation.is_file() for annotation in annotations):
        objects = _read_objects(annotations)
        labels = _labels_from_objects(objects, len(image_ids))
    else:
        objects = None
        labels = _labels_from_lists(folder, image_ids, list(lists.values()))
    found = Dataset(f"voc{year}", list(CLASS_NAMES), image_ids, paths, splits, labels, objects)
    return without_images(found, left_out)


def _year_folder(root: Path, year: int) -> Path:
    root = root.absolute()
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
        # An underscore tells the lists of one class: cat_train.txt.
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt") if "_" not in p.stem)) or "none"
        raise PipelineError(f"{path} is missing; lists there are: {known}. Name one of them or complete the dataset.")
    return [line.split()[0] for line in read_lines(path)]


def _read_objects(annotations: list[Path]) -> Objects:
    rows = [(index, *found) for index, path in enumerate(annotations) for found in _read_annotation(path)]
    image_index, class_indices, boxes, difficult = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Objects(
        image_index=np.array(image_index, dtype=np.int64),
        class_index=np.array(class_indices, dtype=np.int64),
        box=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        difficult=np.array(difficult, dtype=bool),
    )


def _read_annotation(path: Path) -> list[tuple[int, tuple[float, ...], bool]]:
    """Class, xyxy box and difficult flag of every object; VOC counts pixels from 1 and includes the last.

    A box that reaches beyond the image is cut, as those of VOC 2011 by a fraction of a pixel.
    """
    try:
        root = ET.parse(path).getroot()
        width, height = (float(root.findtext(f"size/{side}") or "0") for side in ("width", "height"))
        objects = []
        for element in root.findall("object"):
            name = needed(element, "name")
            x1, y1, x2, y2 = (float(needed(element, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
            difficult = int(element.findtext("difficult") or "0") == 1
            (box,) = check_boxes(np.array([[x1 - 1, y1 - 1, x2, y2]]), np.array([[width, height]]))
            objects.append((class_index(name, CLASS_NAMES, path), tuple(box.tolist()), difficult))
    except FileNotFoundError as error:
        raise PipelineError(f"{path} is missing, expected one for every image. Complete them.") from error
    except OSError as error:
        raise PipelineError(f"{path} could not be read ({error.strerror}). Check the file.") from error
    except (ET.ParseError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise PipelineError(f"{path} is not a VOC annotation ({error}). Replace it.") from error
    return objects


def needed(element: ET.Element, tag: str) -> str:
    """The text of a tag; raises ValueError where the tag is missing or empty."""
    found = element.find(tag)
    text = "" if found is None else (found.text or "").strip()
    if not text:
        raise ValueError(f"an object has {'no' if found is None else 'an empty'} {tag}")
    return text


def _labels_from_objects(objects: Objects, images: int) -> np.ndarray:
    labels = np.zeros((images, len(CLASS_NAMES)), dtype=np.int8)
    labels[objects.image_index, objects.class_index] = DIFFICULT
    easy = ~objects.difficult
    labels[objects.image_index[easy], objects.class_index[easy]] = 1
    return labels


def _labels_from_lists(folder: Path, image_ids: list[str], names: list[str]) -> np.ndarray:
    """Labels of the lists `<class>_<split>.txt`, where 1 is present, 0 only difficult, -1 absent."""
    ours = {"1": 1, "0": DIFFICULT, "-1": 0}
    row = {image_id: index for index, image_id in enumerate(image_ids)}
    labels = np.full((len(image_ids), len(CLASS_NAMES)), UNKNOWN, dtype=np.int8)
    for column, class_name in enumerate(CLASS_NAMES):
        for name in names:
            path = folder / "ImageSets" / "Main" / f"{class_name}_{name}.txt"
            for line in read_lines(path):
                image_id, *flags = line.split()
                if image_id not in row or len(flags) != 1 or flags[0] not in ours:
                    raise PipelineError(f"{path} has line {line!r}, expected a listed image and 1, 0 or -1. Mend it.")
                labels[row[image_id], column] = ours[flags[0]]
    return labels
