import json
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from colours import invoke
from PIL import Image
from runs import CLASSES, HEIGHT, TRAIN, WIDTH

from pipeline.machine.errors import PipelineError
from pipeline.tools import export_labels
from pipeline.tools.label_formats import ENDINGS, FORMATS
from pipeline.tools.read import read

PRESENT = [["dog"], ["cat", "dog"], ["dog"], [CLASSES[2]]] * 2  # the final labels call the first image a dog
PRESENT[4] = ["cat"]


def exported(run, format, tmp_path):
    return export_labels.run(run, format, tmp_path / f"out{ENDINGS.get(format, '')}")


def test_labels_of_the_run_are_as_written_above(small_run):
    labels = read(small_run / "final_labels.h5")
    assert [[CLASSES[c] for c in np.flatnonzero(row >= 0.5)] for row in labels.labels] == PRESENT


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_tables_hold_labels_and_scores(small_run, tmp_path, format):
    path = exported(small_run, format, tmp_path)
    frame = pd.read_csv(path) if format == "csv" else pd.read_parquet(path)
    assert list(frame.columns) == ["image_id", "labels", *CLASSES]
    assert [list(v.split(";")) if format == "csv" else list(v) for v in frame["labels"]] == PRESENT
    np.testing.assert_allclose(frame[CLASSES], read(small_run / "final_labels.h5").labels, atol=1e-6)


def test_coco_is_read_by_pycocotools(small_run, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    data = coco.COCO(str(exported(small_run, "coco", tmp_path)))
    assert len(data.getImgIds()) == TRAIN
    found = data.loadAnns(data.getAnnIds(imgIds=[2]))  # cat and dog, each with a box
    assert [(a["category_id"], a["bbox"], a["source"]) for a in found] == [
        (1, [8, 8, 24, 32], "cam"),
        (2, [40, 4, 20, 16], "cam"),
    ]
    (cow,) = data.loadAnns(data.getAnnIds(imgIds=[4]))  # a class without box
    assert cow["bbox"] == [0, 0, WIDTH, HEIGHT] and cow["source"] == "image"
    assert cow["score"] == pytest.approx(0.9) and data.loadCats([cow["category_id"]])[0]["name"] == CLASSES[2]
    assert len(data.loadRes(data.dataset["annotations"]).getAnnIds()) == len(data.getAnnIds())


def test_label_studio_tasks_fit_their_interface(small_run, tmp_path):
    path = exported(small_run, "label-studio", tmp_path)
    view = ElementTree.parse(path.with_suffix(".xml")).getroot()
    controls = {e.get("name"): e for e in view if e.get("toName")}
    offered = {name: [child.get("value") for child in control] for name, control in controls.items()}
    assert offered == {"labels": CLASSES, "boxes": CLASSES}
    tasks = json.loads(path.read_text())
    assert len(tasks) == TRAIN
    for task, wanted in zip(tasks, PRESENT, strict=True):
        assert set(task) == {"data", "predictions"}
        for e in view.iter():
            if (e.get("value") or "").startswith("$"):
                assert e.get("value")[1:] in task["data"]
        (prediction,) = task["predictions"]
        assert 0 <= prediction["score"] <= 1
        choices, *boxes = prediction["result"]
        assert choices["type"] == "choices" and choices["value"]["choices"] == wanted
        for result in prediction["result"]:
            control = controls[result["from_name"]]
            assert result["to_name"] == control.get("toName") and result["type"] == control.tag.lower()
            assert set(result["value"][result["type"]]) <= set(CLASSES)
        for box in boxes:
            value = box["value"]
            assert (box["original_width"], box["original_height"]) == (WIDTH, HEIGHT)
            assert 0 <= value["x"] < value["x"] + value["width"] <= 100 and value["y"] + value["height"] <= 100
    first = tasks[1]["predictions"][0]["result"][1]["value"]
    assert [first[key] for key in ("x", "y", "width", "height")] == pytest.approx([12.5, 100 / 6, 37.5, 200 / 3])
    assert tasks[0]["data"]["image"].startswith("/data/local-files/?d=") and "//" not in tasks[0]["data"]["image"]


def test_label_studio_sdk_accepts_the_tasks(small_run, tmp_path):
    sdk = pytest.importorskip("label_studio_sdk.label_interface")
    path = exported(small_run, "label-studio", tmp_path)
    interface = sdk.LabelInterface(path.with_suffix(".xml").read_text())
    for task in json.loads(path.read_text()):
        assert interface.validate_task({"data": task["data"]})
        assert all(interface.validate_prediction(prediction) for prediction in task["predictions"])


def test_fiftyone_labels_have_its_documented_form(small_run, tmp_path):
    """FiftyOneImageClassificationDataset: classes, and labels of absolute paths to lists of id and confidence."""
    content = json.loads(exported(small_run, "fiftyone", tmp_path).read_text())
    assert list(content) == ["classes", "labels"] and content["classes"] == CLASSES
    assert [Image.open(path).size for path in content["labels"]] == [(WIDTH, HEIGHT)] * TRAIN
    found = [[CLASSES[t["label"]] for t in targets] for targets in content["labels"].values()]
    assert found == PRESENT
    assert all(0.5 <= t["confidence"] <= 1 for targets in content["labels"].values() for t in targets)


@pytest.mark.filterwarnings("ignore:May not flag all label issues")
def test_cleanlab_finds_the_label_that_its_scores_deny(small_run, tmp_path):
    content = json.loads(exported(small_run, "cleanlab", tmp_path).read_text())
    assert [[CLASSES[c] for c in row] for row in content["labels"]] == PRESENT
    probabilities = np.array(content["pred_probs"])
    assert probabilities.shape == (TRAIN, 3)
    cleanlab = pytest.importorskip("cleanlab.multilabel_classification.filter")
    given = [list(row) for row in content["labels"]]
    given[3] = [0]  # someone says that the cow is a cat
    issues = cleanlab.find_label_issues(
        labels=given, pred_probs=probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    assert 3 in issues.tolist()


def test_yolo_boxes_have_their_documented_form(small_run, tmp_path):
    folder = exported(small_run, "yolo", tmp_path)
    config = dict(line.split(": ", 1) for line in (folder / "data.yaml").read_text().splitlines() if ": " in line)
    assert config["train"] == "images/train"
    assert [json.loads(config[f"  {c}"]) for c in range(3)] == CLASSES
    for n, names in enumerate(PRESENT):
        assert Image.open(folder / f"images/train/train/{n}.png").size == (WIDTH, HEIGHT)
        rows = [line.split() for line in (folder / f"labels/train/train/{n}.txt").read_text().splitlines()]
        assert [CLASSES[int(row[0])] for row in rows] == [name for name in names if name in CLASSES[:2]]
        for _, *numbers in rows:
            assert all(0 <= float(v) <= 1 for v in numbers)
    row = (folder / "labels/train/train/1.txt").read_text().split()
    assert [float(v) for v in row[1:5]] == pytest.approx([20 / 64, 24 / 48, 24 / 64, 32 / 48], abs=1e-6)


def test_imagefolder_is_read_by_datasets(small_run, tmp_path, monkeypatch):
    folder = exported(small_run, "imagefolder", tmp_path)
    rows = [json.loads(line) for line in (folder / "train/metadata.jsonl").read_text().splitlines()]
    assert [row["labels"] for row in rows] == PRESENT
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    by_id = {row["image_id"]: row for row in loaded}
    assert [by_id[f"train/{n}.png"]["labels"] for n in range(TRAIN)] == PRESENT
    assert by_id["train/0.png"]["image"].size == (WIDTH, HEIGHT)
    assert by_id["train/0.png"]["scores"]["dog"] == pytest.approx(0.7)


def test_copies_outlive_the_photos(small_run, tmp_path):
    folder = export_labels.run(small_run, "imagefolder", tmp_path / "out", copy_images=True)
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_scores_of_the_test_images_are_exported_too(small_run, tmp_path):
    path = export_labels.run(small_run / "epoch_scores.h5", "csv", tmp_path / "out.csv")
    frame = pd.read_csv(path)
    assert frame["image_id"].tolist() == [f"test/{n}.png" for n in range(4)]
    assert frame["labels"].tolist() == ["cat", "cat;dog", "dog", CLASSES[2]]
    with pytest.raises(PipelineError, match="yolo needs boxes"):
        export_labels.run(small_run / "epoch_scores.h5", "yolo", tmp_path / "yolo")


def test_an_existing_folder_is_kept(small_run, tmp_path):
    (tmp_path / "out").mkdir()
    code, output = invoke("export-labels", small_run, "--format", "yolo", "--out", tmp_path / "out")
    assert code == 1 and "exists already" in output and list((tmp_path / "out").iterdir()) == []
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.parametrize("format", FORMATS)
def test_command_writes_beside_the_labels_by_default(small_run, format):
    code, output = invoke("export-labels", small_run, "--format", format)
    assert code == 0, output
    assert (small_run / f"final_labels-{format}{ENDINGS.get(format, '')}").exists()
