import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from worlds.photos import write_photo

from pipeline.datasets import voc
from pipeline.datasets.dataset import DIFFICULT, UNKNOWN
from pipeline.datasets.voc import CLASS_NAMES
from pipeline.system.errors import PipelineError


def annotation(*objects: tuple[str, int, tuple[float, float, float, float]]) -> str:
    body = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        "</object>"
        for name, difficult, (x1, y1, x2, y2) in objects
    )
    return f"<annotation><size><width>32</width><height>24</height></size>{body}</annotation>"


ANNOTATIONS = {
    "a1": annotation(("cat", 0, (1, 1, 32, 24)), ("cat", 1, (5, 5, 9, 9)), ("dog", 1, (2, 3, 4, 5))),
    "a2": annotation(),
    "b1": annotation(("train", 0, (1.5, 2, 3, 4))),
}


@pytest.fixture
def year_folder(tmp_path: Path) -> Path:
    """VOC2012 with train a1 and a2, val b1."""
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for image_id, text in ANNOTATIONS.items():
        (folder / "Annotations" / f"{image_id}.xml").write_text(text)
        write_photo(folder / "JPEGImages" / f"{image_id}.jpg", (24, 32))
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a1\na2\n")
    (folder / "ImageSets" / "Main" / "val.txt").write_text("b1\n")
    return folder


def test_labels_and_boxes(year_folder: Path):
    dataset = voc.load(year_folder.parent)
    assert dataset.name == "voc2012"
    assert dataset.image_ids == ["a1", "a2", "b1"]
    assert dataset.splits == ["train", "train", "test"]
    assert dataset.labels.dtype == np.int8
    expected = np.zeros((3, 20), dtype=np.int8)
    expected[0, CLASS_NAMES.index("cat")] = 1
    expected[0, CLASS_NAMES.index("dog")] = DIFFICULT
    expected[2, CLASS_NAMES.index("train")] = 1
    assert np.array_equal(dataset.labels, expected)
    assert dataset.objects.box.tolist() == [[0, 0, 32, 24], [4, 4, 9, 9], [1, 2, 4, 5], [0.5, 1, 3, 4]]
    assert dataset.objects.image_index.tolist() == [0, 0, 0, 2]
    assert dataset.objects.difficult.tolist() == [False, True, True, False]


@pytest.mark.parametrize("up", [0, 1, 2])
def test_root_may_be_the_year_the_devkit_or_what_holds_it(year_folder: Path, up: int):
    root = [year_folder, *year_folder.parents][up]
    assert [path.is_absolute() and path.is_file() for path in voc.load(root).paths] == [True] * 3


def test_2007_trains_on_trainval_and_tests_on_test(year_folder: Path):
    folder = year_folder.rename(year_folder.with_name("VOC2007"))
    lists = folder / "ImageSets" / "Main"
    (lists / "train.txt").rename(lists / "trainval.txt")
    (lists / "val.txt").rename(lists / "test.txt")
    assert voc.load(folder.parent, year=2007).splits == ["train", "train", "test"]


def test_labels_come_from_the_class_lists_without_annotations(year_folder: Path):
    for path in (year_folder / "Annotations").iterdir():
        path.unlink()
    lists = year_folder / "ImageSets" / "Main"
    for name in CLASS_NAMES:
        (lists / f"{name}_train.txt").write_text("a1 -1\na2 -1\n")
        (lists / f"{name}_val.txt").write_text("b1 -1\n")
    (lists / "cat_train.txt").write_text("a1  1\na2  0\n")
    dataset = voc.load(year_folder)
    assert dataset.objects is None
    assert dataset.labels[:, CLASS_NAMES.index("cat")].tolist() == [1, DIFFICULT, 0]
    assert np.count_nonzero(dataset.labels) == 2
    (lists / "cat_train.txt").write_text("a1  1\n")  # a2 is not listed
    assert voc.load(year_folder).labels[:, CLASS_NAMES.index("cat")].tolist() == [1, UNKNOWN, 0]


def lose_list(folder: Path) -> None:
    (folder / "ImageSets/Main/val.txt").unlink()


def unknown_class(folder: Path) -> None:
    (folder / "Annotations/b1.xml").write_text(annotation(("tvmonitors", 0, (1, 1, 2, 2))))


def list_twice(folder: Path) -> None:
    (folder / "ImageSets/Main/val.txt").write_text("b1\na2\n")


def lose_image(folder: Path) -> None:
    (folder / "JPEGImages/b1.jpg").unlink()


def lose_annotation(folder: Path) -> None:
    (folder / "Annotations/a2.xml").unlink()


def cut_annotation(folder: Path) -> None:
    (folder / "Annotations/a1.xml").write_text(ANNOTATIONS["a1"][:90])


def lose_corner(folder: Path) -> None:
    (folder / "Annotations/a1.xml").write_text(ANNOTATIONS["a1"].replace("xmin", "left"))


def infinite_box(folder: Path) -> None:
    (folder / "Annotations/a1.xml").write_text(annotation(("cat", 0, (1, 1, float("inf"), 9))))


def box_of_nan(folder: Path) -> None:
    (folder / "Annotations/a1.xml").write_text(annotation(("cat", 0, (1, float("nan"), 3, 9))))


def box_elsewhere(folder: Path) -> None:
    (folder / "Annotations/a1.xml").write_text(annotation(("cat", 0, (40, 1, 50, 9))))


def box_turned_round(folder: Path) -> None:
    (folder / "Annotations/a1.xml").write_text(annotation(("cat", 0, (9, 1, 3, 9))))


def annotation_is_a_folder(folder: Path) -> None:
    (folder / "Annotations/b1.xml").unlink()
    (folder / "Annotations/b1.xml").mkdir()


def nested_annotation(folder: Path) -> None:
    (folder / "Annotations/a1.xml").write_text("<a>" * 200_000)


def empty_lists(folder: Path) -> None:
    (folder / "ImageSets/Main/val.txt").write_text("")
    (folder / "ImageSets/Main/train.txt").write_text("\n")


def no_text(folder: Path) -> None:
    (folder / "ImageSets/Main/val.txt").write_bytes(b"\xff\xfe\x00")


def overlong_id(folder: Path) -> None:
    (folder / "ImageSets/Main/val.txt").write_text("x" * 300)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_list, r"val\.txt is missing; lists there are: train\."),
        (unknown_class, r"b1\.xml names class 'tvmonitors'.*Did you mean 'tvmonitor'"),
        (list_twice, "lists image a2 2 times"),
        (lose_image, r"lists image b1, but there is no file .*b1\.jpg \(1 of 3 are missing\)"),
        (lose_annotation, r"a2\.xml is missing"),
        (cut_annotation, r"a1\.xml is not a VOC annotation"),
        (lose_corner, r"a1\.xml is not a VOC annotation"),
        (infinite_box, r"a1\.xml is not a VOC annotation \(the box .*inf.* is not finite"),
        (box_of_nan, r"a1\.xml is not a VOC annotation \(the box .*nan.* is not finite"),
        (box_elsewhere, r"a1\.xml is not a VOC annotation \(the box .* has no part within its image of 32x24"),
        (box_turned_round, r"a1\.xml is not a VOC annotation \(the box .* has no part within"),
        (annotation_is_a_folder, r"b1\.xml could not be read \(Is a directory\)"),
        (nested_annotation, r"a1\.xml is not a VOC annotation"),
        (empty_lists, "lists no image"),
        (no_text, r"val\.txt is not UTF-8 text"),
        (overlong_id, r"no file .*xxx\.jpg"),
    ],
)
def test_broken_trees(year_folder: Path, damage: Callable[[Path], None], message: str):
    damage(year_folder)
    with pytest.raises(PipelineError, match=message):
        voc.load(year_folder)


def test_boxes_are_cut_to_their_image(year_folder: Path):
    (year_folder / "Annotations/b1.xml").write_text(annotation(("cat", 0, (0, 1, 32.5, 99))))
    assert voc.load(year_folder).objects.box[-1].tolist() == [0, 0, 32, 24]


def test_missing_photos_can_be_skipped(year_folder: Path):
    (year_folder / "JPEGImages/a1.jpg").unlink()
    dataset = voc.load(year_folder, skip_missing=True)
    assert (dataset.image_ids, dataset.splits) == (["a2", "b1"], ["train", "test"])
    assert dataset.left_out == {"a1": "it is missing"}
    assert dataset.objects.image_index.tolist() == [1] and len(dataset.labels) == 2


def test_wrong_root_or_year(year_folder: Path):
    with pytest.raises(PipelineError, match=r"there is no VOC2012 in .*JPEGImages, expected VOCdevkit"):
        voc.load(year_folder / "JPEGImages")
    with pytest.raises(PipelineError, match="there is no VOC2007"):
        voc.load(year_folder, year=2007)


def test_real_photos(shared_data: Path):
    dataset = voc.load(shared_data / "VOCdevkit")
    assert (dataset.splits.count("train"), dataset.splits.count("test")) == (700, 300)
    lists = voc._labels_from_lists(shared_data / "VOCdevkit" / "VOC2012", dataset, ["train", "val"])
    assert np.array_equal(dataset.labels, lists)
    assert len(dataset.objects.box) == 2343
    assert dataset.objects.box.min() == 0


PHOTO_LISTS = Path(__file__).resolve().parents[1] / "benchmarks" / "photos"


def test_the_lists_of_v_and_t_do_not_overlap():
    lists = {path.stem: path.read_text().split() for path in PHOTO_LISTS.glob("*.txt")}
    assert {name: len(ids) for name, ids in lists.items()} == {
        "V-train": 700,
        "V-test": 300,
        "T-train": 1697,
        "T-test": 600,
    }
    assert len({image_id for ids in lists.values() for image_id in ids}) == 700 + 300 + 1697 + 600


def test_the_lists_of_v_next_to_the_official_ones_select_its_photos(shared_data: Path, tmp_path: Path):
    source = shared_data / "VOCdevkit" / "VOC2012"
    folder = tmp_path / "VOC2012"
    shutil.copytree(PHOTO_LISTS, folder / "ImageSets" / "Main")
    for name in ("JPEGImages", "Annotations"):
        (folder / name).symlink_to(source / name)
    ours, theirs = voc.load(tmp_path, train_split="V-train", test_split="V-test"), voc.load(shared_data / "VOCdevkit")
    assert ours.image_ids == theirs.image_ids and ours.splits == theirs.splits
    np.testing.assert_array_equal(ours.labels, theirs.labels)
