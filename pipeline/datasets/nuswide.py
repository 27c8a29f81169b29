"""NUS-WIDE's official text files, or the lists of a re-crawl, to a Dataset of 81 concepts.

The concepts are no partition, as a teacher's softmax would have it: bear, birds, cat, cow, dog, elk, fish, fox, horses,
tiger, whales and zebra are kinds of animal, and boats, cars, plane and train of vehicle. A concept and the one that it is
a kind of share the probability of one object, which dividing by the teacher's bias makes up for in part only.
"""

from pathlib import Path, PureWindowsPath

import numpy as np

from pipeline.datasets.checks import check_unique, missing_files, read_lines
from pipeline.datasets.class_names import check_class_names
from pipeline.datasets.dataset import Dataset, without_images
from pipeline.system.errors import PipelineError

LISTS = {"train": "Train", "test": "Test"}
"""What the official files call the splits."""


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
        train_list: a path a line, instead of the official training images, as of a re-crawl (150,000 images).
            The labels are found by file name among the official ones of either split.
        test_list: the same for testing (60,260 images). Give both or none.
        keep_unannotated: keep the images of the official split that show none of the concepts. The literature trains
            and tests without them: of 269,648 images 209,347 show one (Gong et al., Deep Convolutional Ranking for
            Multilabel Image Annotation, 2014, arXiv 1312.4894), and re-crawls begin with these. Images of two lists are
            all kept.
        skip_missing: leave out images without a file (Flickr's links die), instead of refusing the data set.

    Returns:
        Image ids are paths from `images`. Concepts stand in the order of Concepts81.txt if it is there, else
        sorted by name.

    Raises:
        PipelineError: a file is missing; a label file is not as long as its image list; a listed image is
            none of the official ones, is listed twice or has no file.
    """
    if (train_list is None) != (test_list is None):
        raise PipelineError("one of the two lists of a re-crawl is given, expected both or none.")
    root = root.absolute()
    folder = _image_folder(root) if images is None else images.absolute()
    official = {split: _read_list(root / "ImageList" / f"{name}Imagelist.txt") for split, name in LISTS.items()}
    label_folder = _label_folder(root)
    class_names = _concepts(root, label_folder)
    check_class_names(class_names)
    labels = np.concatenate([_read_labels(label_folder, class_names, split, official[split]) for split in LISTS])
    official_ids = official["train"] + official["test"]
    if train_list is None or test_list is None:
        listed, source = official, root / "ImageList"
        if not keep_unannotated:
            shown = labels.any(axis=1)
            first = len(official["train"])
            listed = {
                "train": _chosen(official["train"], shown[:first]),
                "test": _chosen(official["test"], shown[first:]),
            }
            labels = labels[shown]
    else:
        listed, source = {"train": _read_list(train_list), "test": _read_list(test_list)}, train_list.parent
        labels = labels[_rows_by_file_name(listed["train"] + listed["test"], official_ids, source)]
    image_ids = listed["train"] + listed["test"]
    check_unique(image_ids, source)
    paths = [folder / image_id for image_id in image_ids]
    left_out = missing_files(image_ids, paths, source, skip=skip_missing)
    splits = ["train"] * len(listed["train"]) + ["test"] * len(listed["test"])
    return without_images(Dataset("nuswide", class_names, image_ids, paths, splits, labels), left_out)


def _chosen(image_ids: list[str], chosen: np.ndarray) -> list[str]:
    return [image_id for image_id, keep in zip(image_ids, chosen, strict=True) if keep]


def _read_list(path: Path) -> list[str]:
    return [PureWindowsPath(line).as_posix() for line in read_lines(path)]


def _image_folder(root: Path) -> Path:
    for folder in (root / "Flickr", root / "images"):
        if folder.is_dir():
            return folder
    raise PipelineError(f"there is neither Flickr nor images in {root}, expected one with the photos in it.")


def _label_folder(root: Path) -> Path:
    for folder in (root / "TrainTestLabels", root / "Groundtruth" / "TrainTestLabels"):
        if folder.is_dir():
            return folder
    raise PipelineError(f"there is no TrainTestLabels in {root} or its Groundtruth. Complete the dataset.")


def _concepts(root: Path, label_folder: Path) -> list[str]:
    for path in (root / "Concepts81.txt", root / "ConceptsList" / "Concepts81.txt"):
        if path.is_file():
            return read_lines(path)
    names = sorted(p.stem[len("Labels_") : -len("_Train")] for p in label_folder.glob("Labels_*_Train.txt"))
    if not names:
        raise PipelineError(f"{label_folder} has no Labels_<concept>_Train.txt. Complete the dataset.")
    return names


def _read_labels(folder: Path, class_names: list[str], split: str, image_ids: list[str]) -> np.ndarray:
    """The int8 [N, C] labels of an official split: a file a concept, a line of 0 or 1 an image."""
    columns = []
    for name in class_names:
        path = folder / f"Labels_{name}_{LISTS[split]}.txt"
        lines = read_lines(path)
        if len(lines) != len(image_ids) or not set(lines) <= {"0", "1"}:
            raise PipelineError(
                f"{path} has {len(lines)} lines, expected {len(image_ids)} of 0 or 1, one an image. Mend it."
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
