import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds.photos import write_photo

from pipeline.datasets import coco
from pipeline.system.errors import PipelineError

CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}]


def instances(first: int, boxes: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """One image per list of boxes, numbered from `first`."""
    images = [{"id": first + i, "file_name": f"{first + i:06}.jpg"} for i in range(len(boxes))]
    annotations = [{"image_id": first + i, "segmentation": [[0.5]], **a} for i, each in enumerate(boxes) for a in each]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def box(category: int, x: float, y: float, w: float, h: float, iscrowd: int = 0) -> dict[str, Any]:
    return {"category_id": category, "bbox": [x, y, w, h], "iscrowd": iscrowd}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    parts = {
        "train2014": instances(7, [[box(13, 1, 2, 3, 4), box(90, 0, 0, 5, 5, 1)], []]),
        "val2014": instances(20, [[box(1, 2, 2, 0, 3)]]),
    }
    (tmp_path / "annotations").mkdir()
    for split, content in parts.items():
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        for image in content["images"]:
            write_photo(tmp_path / split / image["file_name"])
    return tmp_path


def test_labels_and_boxes(root: Path):
    dataset = coco.load(root)
    assert dataset.class_names == ["person", "stop sign", "toothbrush"]
    assert dataset.image_ids == ["000007", "000020"]
    assert dataset.splits == ["train", "test"]
    assert dataset.labels.tolist() == [[0, 1, 1], [1, 0, 0]]
    assert dataset.labels.dtype == np.int8
    # The person's box has no width: it labels the image, but is no box.
    assert dataset.objects.box.tolist() == [[1, 2, 4, 6], [0, 0, 5, 5]]
    assert dataset.objects.image_index.tolist() == [0, 0]
    assert dataset.objects.class_index.tolist() == [1, 2]
    assert dataset.objects.difficult.tolist() == [False, True]


def test_unannotated_images_are_kept_when_asked_for(root: Path):
    dataset = coco.load(root, keep_unannotated=True)
    assert dataset.image_ids == ["000007", "000008", "000020"]
    assert dataset.labels.sum(axis=1).tolist() == [2, 0, 1]


def test_boxes_of_the_second_split_follow_the_first(root: Path):
    dataset = coco.load(root, train_split="val2014", test_split="train2014")
    assert dataset.image_ids == ["000020", "000007"]
    assert dataset.objects.image_index.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c["annotations"][0].update(category_id=2), "category_id 2, which it does not define"),
        (lambda c: c["annotations"][0].update(image_id=99), "image_id 99, which it does not define"),
        (lambda c: c["images"].append(c["images"][0]), r"lists image 000007\.jpg 2 times"),
        (lambda c: c["images"][1].update(id=7), "2 images with 1 different ids"),
        (lambda c: c.pop("categories"), "not a file of COCO instances.*categories"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2]), "not a file of COCO instances.*bbox"),
        (lambda c: c["images"][0].update(file_name="9.jpg"), r"lists image 9, but there is no file .*9\.jpg"),
        (lambda c: c["categories"].append({"id": 2, "name": "bicycle"}), "different categories from"),
        (lambda c: c["categories"].append({"id": 1, "name": "bicycle"}), "4 categories with 3 different ids"),
        (lambda c: c["annotations"][0].update(bbox=[0, 0, float("inf"), 2]), "annotation 0 has the bbox .*finite"),
        (lambda c: c["annotations"][0].update(bbox=[0, float("nan"), 1, 2]), "annotation 0 has the bbox .*finite"),
        (lambda c: c["annotations"][0].update(bbox=["1", 0, 1, 2]), "annotation 0 has the bbox .*finite"),
        (lambda c: c["annotations"][0].update(bbox=[10**400, 0, 1, 2]), "not a file of COCO instances"),
        (lambda c: c["annotations"].append(7), "annotations 2 has image_id None, expected int"),
        (lambda c: c["annotations"][0].update(image_id=[]), r"annotations 0 has image_id \[\], expected int"),
        (lambda c: c["categories"][0].update(name=3), "categories 0 has name 3, expected str"),
        (lambda c: c["images"][0].update(file_name=None), "images 0 has file_name None, expected str"),
        (lambda c: c.update(images={"id": 1}), "images is not a list"),
    ],
)
def test_broken_annotations(root: Path, damage: Callable[[dict[str, Any]], object], message: str):
    path = root / "annotations" / "instances_train2014.json"
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(PipelineError, match=message):
        coco.load(root)


def test_missing_files(root: Path):
    with pytest.raises(PipelineError, match=r"instances_test2014\.json cannot be read: No such file"):
        coco.load(root, test_split="test2014")
    for text in ('{"images": [', "[]", "3", '{"images": ' + "[" * 100_000):
        (root / "annotations" / "instances_val2014.json").write_text(text)
        with pytest.raises(PipelineError, match=r"instances_val2014\.json .*COCO instances"):
            coco.load(root)


def test_boxes_are_cut_to_their_image_and_those_outside_are_counted(root: Path, capsys: pytest.CaptureFixture):
    path = root / "annotations" / "instances_train2014.json"
    content = json.loads(path.read_text())
    content["images"][0].update(width=8, height=6)
    content["annotations"][0]["bbox"] = [-1, 2, 30, 30]
    content["annotations"][1]["bbox"] = [8, 0, 3, 3]
    path.write_text(json.dumps(content))
    dataset = coco.load(root)
    assert dataset.objects.box.tolist() == [[0, 2, 8, 6]]
    assert dataset.labels.tolist() == [[0, 1, 1], [1, 0, 0]]  # what has no box is labelled all the same
    assert "instances_train2014.json: 1 boxes without area" in " ".join(capsys.readouterr().err.split())


def test_one_annotation_file_needs_no_test_split(root: Path):
    (root / "annotations" / "instances_val2014.json").unlink()
    assert coco.load(root).splits == ["train"]


def test_missing_photos_can_be_skipped(root: Path):
    (root / "train2014" / "000007.jpg").unlink()
    with pytest.raises(PipelineError, match=r"1 of 2 are missing.*--skip-missing"):
        coco.load(root)
    dataset = coco.load(root, skip_missing=True)
    assert (dataset.image_ids, dataset.left_out) == (["000020"], {"000007": "it is missing"})
    assert len(dataset.objects.box) == 0 and dataset.labels.tolist() == [[1, 0, 0]]


def test_real_photos(shared_data: Path):
    dataset = coco.load(shared_data / "coco", train_split="sample", test_split=None)
    assert len(dataset.image_ids) == 94
    assert len(dataset.class_names) == 80
    assert dataset.class_names[:2] == ["person", "bicycle"]
    assert (dataset.labels.sum(), len(dataset.objects.box), dataset.objects.difficult.sum()) == (336, 835, 9)
