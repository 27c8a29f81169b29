"""Adapter for NUS-WIDE's official text files, or the lists of a re-crawl: 81 concepts.

The concepts overlap, although a teacher's softmax assumes that they don't: bear, birds, cat, cow, dog, elk, fish, fox,
horses, tiger, whales and zebra are kinds of animal; boats, cars, plane and train are kinds of vehicle. A concept and its
kind share the probability of one object. Dividing by the teacher's bias corrects this only in part.
"""

from pathlib import Path, PureWindowsPath

import numpy as np

from pipeline.datasets.checks import first_folder, read_lines
from pipeline.datasets.dataset import Dataset, check_dataset
from pipeline.system.errors import PipelineError

LISTS = {"train": "Train", "test": "Test"}
"""Names of the splits in the official files."""


def load(
    root: Path,
    images: Path | None = None,
    train_list: Path | None = None,
    test_list: Path | None = None,
    *,
    keep_unannotated: bool = False,
    skip_missing: bool = False,
) -> Dataset:
    """Images of the official split or of two lists, with the official labels of the 81 concepts.

    Args:
        root: folder with ImageList/TrainImagelist.txt and TestImagelist.txt, and TrainTestLabels (or
            Groundtruth/TrainTestLabels) with Labels_<concept>_Train.txt and _Test.txt. Paths may have
            backslashes.
        images: folder that the listed paths start from; None for Flickr or images in `root`.
        train_list: one path per line, instead of the official training images, for a re-crawl (150,000 images).
            Labels are found by file name among the official ones of both splits.
        test_list: the same for testing (60,260 images). Give both or none.
        keep_unannotated: keep the images of the official split that show none of the concepts. The literature trains
            and tests without them: of 269,648 images 209,347 show one (Gong et al., Deep Convolutional Ranking for
            Multilabel Image Annotation, 2014, arXiv 1312.4894), and re-crawls begin with these. Images of two lists are
            all kept.
        skip_missing: leave out images without a file (Flickr's links die), instead of refusing the dataset.

    Returns:
        Image ids are paths from `images`. Concepts are in the order of Concepts81.txt if it exists, else sorted by name.

    Raises:
        PipelineError: a file is missing; a label file is not as long as its image list; a listed image is
            not one of the official ones, is listed twice or has no file.
    """
    if (train_list is None) != (test_list is None):
        raise PipelineError("one of the two lists of a re-crawl is given, expected both or none.")
    root = root.absolute()
    folder = (
        images
        or first_folder(
            (root / "Flickr", root / "images"),
            f"there is neither Flickr nor images in {root}, expected one with the photos in it.",
        )
    ).absolute()
    label_folder = first_folder(
        (root / "TrainTestLabels", root / "Groundtruth" / "TrainTestLabels"),
        f"there is no TrainTestLabels in {root} or its Groundtruth. Complete the dataset.",
    )
    class_names = _concepts(root, label_folder)
    source = root / "ImageList"
    official = {split: _read_list(source / f"{name}Imagelist.txt") for split, name in LISTS.items()}
    labels = np.concatenate([_read_labels(label_folder, class_names, split, official[split]) for split in LISTS])
    image_ids, splits = _joined(official)
    if train_list is not None and test_list is not None:
        source = train_list.parent
        official_ids = image_ids
        image_ids, splits = _joined({"train": _read_list(train_list), "test": _read_list(test_list)})
        labels = labels[_rows_by_file_name(image_ids, official_ids, source)]
    elif not keep_unannotated:
        rows = np.flatnonzero(labels.any(axis=1))
        image_ids, splits, labels = [image_ids[row] for row in rows], [splits[row] for row in rows], labels[rows]
    paths = [folder / image_id for image_id in image_ids]
    return check_dataset(
        Dataset("nuswide", class_names, image_ids, paths, splits, labels), source, skip_missing=skip_missing
    )


def _joined(lists: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """Ids and splits of two lists."""
    return lists["train"] + lists["test"], ["train"] * len(lists["train"]) + ["test"] * len(lists["test"])


def _read_list(path: Path) -> list[str]:
    return [PureWindowsPath(line).as_posix() for line in read_lines(path)]


def _concepts(root: Path, label_folder: Path) -> list[str]:
    for path in (root / "Concepts81.txt", root / "ConceptsList" / "Concepts81.txt"):
        if path.is_file():
            return read_lines(path)
    names = sorted(p.stem[len("Labels_") : -len("_Train")] for p in label_folder.glob("Labels_*_Train.txt"))
    if not names:
        raise PipelineError(f"{label_folder} has no Labels_<concept>_Train.txt. Complete the dataset.")
    return names


def _read_labels(folder: Path, class_names: list[str], split: str, image_ids: list[str]) -> np.ndarray:
    """The int8 [N, C] labels of an official split: one file per concept, one line of 0 or 1 per image."""
    columns = []
    for name in class_names:
        path = folder / f"Labels_{name}_{LISTS[split]}.txt"
        lines = read_lines(path)
        if len(lines) != len(image_ids) or not set(lines) <= {"0", "1"}:
            raise PipelineError(
                f"{path} has {len(lines)} lines, expected {len(image_ids)} of 0 or 1, one per image. Correct it."
            )
        columns.append(np.array(lines, dtype=np.int8))
    return np.stack(columns, axis=1)


def _rows_by_file_name(image_ids: list[str], official_ids: list[str], source: Path) -> list[int]:
    """Rows of the official labels; a re-crawl may sort the photos into other folders."""
    row = {image_id.rpartition("/")[2]: index for index, image_id in enumerate(official_ids)}
    names = [image_id.rpartition("/")[2] for image_id in image_ids]
    unknown = [name for name in names if name not in row]
    if unknown:
        raise PipelineError(
            f"{len(unknown)} images listed in {source} are none of the {len(row)} official ones, "
            f"first {unknown[0]}. Correct the list."
        )
    return [row[name] for name in names]
