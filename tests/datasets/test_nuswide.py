from pathlib import Path

import pytest
from worlds.photos import write_photo

from pipeline.datasets import nuswide
from pipeline.system.errors import PipelineError

TRAIN = [r"actor\0001_11.jpg", r"actor\0002_12.jpg"]
TEST = [r"zoo\0001_13.jpg"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    labels = tmp_path / "Groundtruth" / "TrainTestLabels"
    labels.mkdir(parents=True)
    (tmp_path / "ImageList").mkdir()
    for split, images in (("Train", TRAIN), ("Test", TEST)):
        (tmp_path / "ImageList" / f"{split}Imagelist.txt").write_text("\r\n".join(images) + "\r\n")
    for name, train, test in (("sky", "1\n0\n", "1\n"), ("airport", "0\n1\n", "0\n")):
        (labels / f"Labels_{name}_Train.txt").write_text(train)
        (labels / f"Labels_{name}_Test.txt").write_text(test)
    for image in TRAIN + TEST:
        path = tmp_path / "Flickr" / image.replace("\\", "/")
        write_photo(path)
    return tmp_path


def test_official_lists_with_backslashes(root: Path):
    dataset = nuswide.load(root)
    assert dataset.class_names == ["airport", "sky"]
    assert dataset.image_ids == ["actor/0001_11.jpg", "actor/0002_12.jpg", "zoo/0001_13.jpg"]
    assert dataset.splits == ["train", "train", "test"]
    assert dataset.labels.tolist() == [[0, 1], [1, 0], [0, 1]]


def test_concept_list_gives_the_order(root: Path):
    (root / "Concepts81.txt").write_text("sky\nairport\n")
    assert nuswide.load(root).labels.tolist() == [[1, 0], [0, 1], [1, 0]]


def test_recrawl_lists_take_the_official_labels_of_either_split(root: Path):
    (root / "train.txt").write_text("zoo/0001_13.jpg\n")
    (root / "test.txt").write_text("actor\\0002_12.jpg\n")
    dataset = nuswide.load(root, train_list=root / "train.txt", test_list=root / "test.txt")
    assert dataset.image_ids == ["zoo/0001_13.jpg", "actor/0002_12.jpg"]
    assert dataset.splits == ["train", "test"]
    assert dataset.labels.tolist() == [[0, 1], [1, 0]]


def test_recrawl_in_one_flat_folder(root: Path):
    write_photo(root / "0001_11.jpg")
    write_photo(root / "0001_13.jpg")
    (root / "train.txt").write_text("0001_11.jpg\n")
    (root / "test.txt").write_text("0001_13.jpg\n")
    dataset = nuswide.load(root, images=root, train_list=root / "train.txt", test_list=root / "test.txt")
    assert dataset.labels.tolist() == [[0, 1], [0, 1]]


def test_broken_trees(root: Path):
    (root / "other.txt").write_text("0009_99.jpg\n")
    with pytest.raises(PipelineError, match=r"2 images listed in .* first 0009_99\.jpg"):
        nuswide.load(root, train_list=root / "other.txt", test_list=root / "other.txt")
    with pytest.raises(PipelineError, match="expected both or none"):
        nuswide.load(root, train_list=root / "other.txt")
    (root / "ImageList" / "TestImagelist.txt").write_text(TEST[0] + "\n" + TRAIN[0] + "\n")
    with pytest.raises(PipelineError, match=r"Labels_airport_Test\.txt has 1 lines, expected 2"):
        nuswide.load(root)
    (root / "ImageList" / "TestImagelist.txt").write_text(TRAIN[0] + "\n")
    with pytest.raises(PipelineError, match=r"lists image actor/0001_11\.jpg 2 times"):
        nuswide.load(root)
    (root / "ImageList" / "TestImagelist.txt").unlink()
    with pytest.raises(PipelineError, match=r"TestImagelist\.txt cannot be read: No such file"):
        nuswide.load(root)


def test_missing_photo(root: Path):
    (root / "Flickr" / "zoo" / "0001_13.jpg").unlink()
    with pytest.raises(PipelineError, match=r"lists image zoo/0001_13\.jpg, but there is no file"):
        nuswide.load(root)
    dataset = nuswide.load(root, skip_missing=True)
    assert dataset.splits == ["train", "train"] and dataset.labels.tolist() == [[0, 1], [1, 0]]
    assert dataset.left_out == {"zoo/0001_13.jpg": "it is missing"}
    for path in (root / "Flickr").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(PipelineError, match="3 of 3 are missing"):
        nuswide.load(root, skip_missing=True)


def test_images_without_a_concept_are_left_out_as_in_the_literature(root: Path):
    (root / "Groundtruth/TrainTestLabels/Labels_sky_Train.txt").write_text("0\n0\n")
    dataset = nuswide.load(root)
    assert (dataset.image_ids, dataset.splits) == (["actor/0002_12.jpg", "zoo/0001_13.jpg"], ["train", "test"])
    assert dataset.labels.tolist() == [[1, 0], [0, 1]]
    assert nuswide.load(root, keep_unannotated=True).labels.tolist() == [[0, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("Groundtruth/TrainTestLabels/Labels_sky_Train.txt", "1\nnan\n", "has 2 lines, expected 2 of 0 or 1"),
        ("Groundtruth/TrainTestLabels/Labels_sky_Test.txt", "2\n", "has 1 lines, expected 1 of 0 or 1"),
        ("Concepts81.txt", "sky\nsky\n", "'sky' and 'sky' are the same"),
        ("Concepts81.txt", "sky\nairprot\n", r"Labels_airprot_Train\.txt cannot be read"),
    ],
)
def test_lists_of_labels_that_are_wrong_inside(root: Path, name: str, text: str, message: str):
    (root / name).write_text(text)
    with pytest.raises(PipelineError, match=message):
        nuswide.load(root)
