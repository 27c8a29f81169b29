import csv
import json
import runpy
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from worlds.commands import ccd, invoke, refused
from worlds.photos import HEIGHT, WIDTH
from worlds.runs import CLASSES, TRAIN

from pipeline.artifacts.hdf5 import write
from pipeline.artifacts.manifest import read_manifest
from pipeline.evaluation.read import read
from pipeline.exchange import export_labels
from pipeline.exchange.formats import FORMATS
from pipeline.exchange.formats.export import prepare
from pipeline.exchange.formats.tables import write as write_table
from pipeline.exchange.label_sets import read_label_set
from pipeline.review.corrections import read_corrected_rows
from pipeline.system.errors import PipelineError
from pipeline.system.files import LIST
from pipeline.teachers.embedding_cache import ImageStore, StoreKey

PRESENT = [["dog"], ["cat", "dog"], ["dog"], [CLASSES[2]]] * 2  # the final labels call the first image a dog
PRESENT[4] = ["cat"]


def exported(run, format, tmp_path, **options):
    return export_labels.run(run, format, tmp_path / f"out{FORMATS[format].suffix}", **options)


def fiftyone_stand_in(monkeypatch):
    """A module fiftyone with the classes that the loader uses; FiftyOne itself needs a database."""

    class Thing(SimpleNamespace):
        def __setitem__(self, name, value):
            setattr(self, name, value)

    class Dataset(list):
        add_sample = list.append

        def __init__(self, name, overwrite):
            super().__init__()

    made = dict.fromkeys(("Sample", "Classification", "Classifications", "Detection", "Detections"), Thing)
    monkeypatch.setitem(sys.modules, "fiftyone", SimpleNamespace(Dataset=Dataset, **made))


def test_labels_of_the_run_are_as_written_above(small_run):
    labels = read(small_run / "final_labels.h5")
    assert [[CLASSES[c] for c in np.flatnonzero(row >= 0.5)] for row in labels.labels] == PRESENT


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_tables_hold_labels_and_scores(small_run, tmp_path, format):
    path = exported(small_run, format, tmp_path)
    frame = pd.read_csv(path) if format == "csv" else pd.read_parquet(path)
    assert list(frame.columns) == ["image_id", "path", "split", "labels", *CLASSES]
    assert frame["split"].unique().tolist() == ["train"] and Image.open(frame["path"][0]).size == (WIDTH, HEIGHT)
    assert [list(v.split(";")) if format == "csv" else list(v) for v in frame["labels"]] == PRESENT
    np.testing.assert_allclose(frame[CLASSES], read(small_run / "final_labels.h5").labels, atol=1e-6)


def test_coco_is_read_by_pycocotools(small_run, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    data = coco.COCO(str(exported(small_run, "coco", tmp_path, boxes=True)))
    assert len(data.getImgIds()) == TRAIN
    assert "not the extent of objects" in data.dataset["info"]["description"]
    for annotation in data.loadAnns(data.getAnnIds()):  # what pycocotools draws and measures
        assert data.annToMask(annotation).sum() == pytest.approx(annotation["area"], rel=0.01)
    found = data.loadAnns(data.getAnnIds(imgIds=[2]))  # cat and dog, each with a box
    assert [(a["category_id"], a["bbox"], a["source"]) for a in found] == [
        (1, [8, 8, 24, 32], "cam"),
        (2, [40, 4, 20, 16], "cam"),
    ]
    (cow,) = data.loadAnns(data.getAnnIds(imgIds=[4]))  # a class without box
    assert cow["bbox"] == [0, 0, WIDTH, HEIGHT] and cow["source"] == "image"
    assert cow["score"] == pytest.approx(0.9) and data.loadCats([cow["category_id"]])[0]["name"] == CLASSES[2]
    assert len(data.loadRes(data.dataset["annotations"]).getAnnIds()) == len(data.getAnnIds())


def test_coco_without_boxes_is_about_whole_images(small_run, tmp_path):
    content = json.loads(exported(small_run, "coco", tmp_path).read_text())
    assert {a["source"] for a in content["annotations"]} == {"image"}
    assert len(content["annotations"]) == sum(map(len, PRESENT))
    assert "not the places of objects" in content["info"]["description"]


def test_label_studio_tasks_fit_their_interface(small_run, tmp_path):
    path = exported(small_run, "label-studio", tmp_path, boxes=True)
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


def test_fiftyone_gets_a_folder_with_its_loader(small_run, tmp_path, monkeypatch):
    manifest = read_manifest(small_run)
    digests = manifest.digests
    vectors = np.random.default_rng(0).random((len(digests), 5)).astype(np.float32)
    ImageStore(small_run, StoreKey("none", 32, "float32")).add(digests[::-1], [vectors[::-1]])
    folder = exported(small_run, "fiftyone", tmp_path, boxes=True)

    fiftyone_stand_in(monkeypatch)
    samples = runpy.run_path(str(folder / "load.py"))["load"]()
    assert [[c.label for c in s.pseudo_labels.classifications] for s in samples] == PRESENT
    assert all(0.5 <= c.confidence <= 1 for s in samples for c in s.pseudo_labels.classifications)
    assert [list(s.scores) for s in samples] == [CLASSES] * TRAIN
    assert samples[1].looked_at.detections[0].bounding_box == pytest.approx([8 / 64, 8 / 48, 24 / 64, 32 / 48])
    assert [s.embedding.tolist() for s in samples] == vectors[:TRAIN].tolist()
    assert samples[0].tags == ["train"] and Image.open(samples[0].filepath).size == (WIDTH, HEIGHT)


def test_fiftyone_without_embeddings_of_the_teacher(small_run, tmp_path):
    folder = exported(small_run, "fiftyone", tmp_path)
    assert {path.name for path in folder.iterdir()} == {"samples.jsonl", "load.py", LIST}


def test_cleanlab_is_given_other_probabilities_than_the_labels_came_from(small_run, tmp_path):
    """Cleanlab finds no error in labels that are thresholds of the same probabilities."""
    cleanlab = pytest.importorskip("cleanlab.multilabel_classification.filter")
    embeddings = read(small_run / "embeddings.h5")
    labels = read(small_run / "final_labels.h5")
    said = np.where(labels.labels >= 0.5, 0.9, 0.05).astype(np.float32)
    said[0] = [0.9, 0.05, 0.05]  # the teacher knows the cat that the labels call a dog
    probabilities = embeddings.probabilities.copy()
    probabilities[:TRAIN] = said
    write(small_run / "embeddings.h5", replace(embeddings, probabilities=probabilities))
    content = json.loads(exported(small_run, "cleanlab", tmp_path).read_text())
    np.testing.assert_allclose(content["pred_probs"], said, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        issues = cleanlab.find_label_issues(
            labels=content["labels"],
            pred_probs=np.array(content["pred_probs"]),
            return_indices_ranked_by="self_confidence",
            n_jobs=1,
        )
    assert [content["image_ids"][row] for row in issues] == ["train/0.png"]


def test_yolo_boxes_have_their_documented_form(small_run, tmp_path):
    folder = exported(small_run, "yolo", tmp_path, boxes=True)
    config = yaml.safe_load((folder / "data.yaml").read_text())
    assert config == {"train": "images/train", "val": "images/val", "names": dict(enumerate(CLASSES))}
    for n, names in enumerate(PRESENT):
        if CLASSES[2] in names:  # it has a label without a box, and is no background
            assert not list(folder.rglob(f"{n}.png")) and not list(folder.rglob(f"{n}.txt"))
            continue
        assert Image.open(folder / f"images/train/train/{n}.png").size == (WIDTH, HEIGHT)
        rows = [line.split() for line in (folder / f"labels/train/train/{n}.txt").read_text().splitlines()]
        assert [CLASSES[int(row[0])] for row in rows] == names
        for _, *numbers in rows:
            assert all(0 <= float(v) <= 1 for v in numbers)
    row = (folder / "labels/train/train/1.txt").read_text().split()
    assert [float(v) for v in row[1:5]] == pytest.approx([20 / 64, 24 / 48, 24 / 64, 32 / 48], abs=1e-6)


def test_yolo_validates_on_the_test_photos_where_they_are_exported(small_run, tmp_path):
    folder = exported(small_run, "yolo", tmp_path, boxes=True, part="both")
    assert "val: images/test\n" in (folder / "data.yaml").read_text()
    assert len(list((folder / "images/test").rglob("*.png"))) == 4 and not (folder / "labels/test").exists()


@pytest.mark.parametrize("split", ["train", "both"])
def test_a_split_that_a_file_does_not_have_is_refused(small_run, tmp_path, split):
    other = {"train": "epoch_scores.h5", "both": "final_labels.h5"}[split]
    code, output = invoke("export-labels", small_run / other, "--split", split, "--out", tmp_path / "out.csv")
    assert code == 1 and f"not of --split {split}" in " ".join(output.split()) and not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("option", [["--copy"], ["--image-prefix", "http://x/"], ["--boxes"]])
def test_an_option_that_the_format_has_no_use_for_is_refused(small_run, tmp_path, option):
    code, output = invoke("export-labels", small_run, *option, "--out", tmp_path / "out.csv")
    assert code == 1 and option[0] in output and not (tmp_path / "out.csv").exists()


def test_boxes_are_asked_for(small_run, tmp_path):
    with pytest.raises(PipelineError, match=r"not the extent of objects.*Give --boxes"):
        exported(small_run, "yolo", tmp_path)
    with pytest.raises(PipelineError, match="csv cannot contain boxes"):
        exported(small_run, "csv", tmp_path, boxes=True)


def test_cvat_has_tags_and_asked_for_boxes(small_run, tmp_path):
    root = ElementTree.parse(exported(small_run, "cvat", tmp_path, boxes=True)).getroot()
    assert root.findtext("version") == "1.1" and [e.text for e in root.iter("name")] == CLASSES
    images = root.findall("image")
    assert [[tag.get("label") for tag in image.findall("tag")] for image in images] == PRESENT
    assert images[0].get("width") == str(WIDTH) and images[0].get("name") == "train/0.png"
    box = images[1].find("box")
    assert [float(box.get(key)) for key in ("xtl", "ytl", "xbr", "ybr")] == [8, 8, 32, 40]
    plain = ElementTree.parse(export_labels.run(small_run, "cvat", tmp_path / "plain.xml")).getroot()
    assert not list(plain.iter("box"))


def test_huggingface_is_read_by_datasets_with_names_and_photos(small_run, tmp_path):
    folder = exported(small_run, "huggingface", tmp_path, part="both")
    assert "A program made the labels, not people" in (folder / "README.md").read_text()
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "test"}
    names = loaded["train"].features["labels"].feature
    assert [[names.int2str(c) for c in row] for row in loaded["train"]["labels"]] == PRESENT
    assert loaded["test"][0]["image"].size == (WIDTH, HEIGHT)
    np.testing.assert_allclose(loaded["train"]["scores"], read(small_run / "final_labels.h5").labels, atol=1e-6)


def test_train_and_test_in_one_table(small_run, tmp_path):
    frame = pd.read_csv(exported(small_run, "csv", tmp_path, part="both"))
    assert frame["split"].tolist() == ["train"] * TRAIN + ["test"] * 4
    assert [row.split(";") for row in frame["labels"][:TRAIN]] == PRESENT
    assert frame["labels"].tolist()[TRAIN:] == ["cat", "cat;dog", "dog", CLASSES[2]]


def test_a_table_holds_nothing_that_a_spreadsheet_computes_and_comes_back(small_run, tmp_path):
    labels = read_label_set(small_run)
    names = ["=cmd|' /C calc'!A0", "-dog", "'=cow"]
    images = labels.manifest.images.copy()
    images["image_id"] = [f"@{n}.png" for n in range(TRAIN)]
    display_names = {name: {name: 1.0} for name in names}
    odd = replace(labels, manifest=replace(labels.manifest, display_names=display_names, images=images))
    write_table(prepare(odd), tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    said = read_corrected_rows(tmp_path / "out.csv", names)
    assert [row.name for row in said] == images["image_id"].tolist()
    assert [[CLASSES[c] for c in np.flatnonzero(row.labels)] for row in said] == PRESENT


def test_labels_that_people_corrected_since_are_told(small_run, tmp_path, capfd):
    (tmp_path / "a.csv").write_text("image_id,labels\ntrain/0.png,cat\n")
    ccd("import-labels", tmp_path / "a.csv", "--run", small_run)
    _, output = invoke("export-labels", small_run, "--out", tmp_path / "labels.csv")
    told = output + capfd.readouterr().err
    assert "corrections.h5 is not in these labels yet" in told.replace("\n", " ")


def test_copies_outlive_the_photos(small_run, tmp_path):
    folder = export_labels.run(small_run, "yolo", tmp_path / "out", boxes=True, copy_images=True)
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_scores_of_the_test_images_are_exported_too(small_run, tmp_path):
    path = export_labels.run(small_run / "epoch_scores.h5", "csv", tmp_path / "out.csv")
    frame = pd.read_csv(path)
    assert frame["image_id"].tolist() == [f"test/{n}.png" for n in range(4)]
    assert frame["labels"].tolist() == ["cat", "cat;dog", "dog", CLASSES[2]]
    with pytest.raises(PipelineError, match=r"has other images\. Leave out --boxes"):
        export_labels.run(small_run / "epoch_scores.h5", "yolo", tmp_path / "yolo", boxes=True)


def test_a_file_of_another_format_is_refused(small_run, tmp_path):
    output = refused("export-labels", small_run, "--out", tmp_path / "labels.jsonl")
    assert "csv writes a .csv file, not labels.jsonl" in output and not (tmp_path / "labels.jsonl").exists()


def test_an_existing_folder_is_kept(small_run, tmp_path):
    (tmp_path / "out").mkdir()
    code, output = invoke("export-labels", small_run, "--format", "huggingface", "--out", tmp_path / "out")
    assert code == 1 and "exists already" in output and list((tmp_path / "out").iterdir()) == []
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.parametrize("format", sorted({*FORMATS} - {"yolo"}))
def test_command_writes_beside_the_labels_by_default(small_run, format):
    ccd("export-labels", small_run, "--format", format)
    ending = f".{format}" if format in ("csv", "parquet") else f"-{format}{FORMATS[format].suffix}"
    assert (small_run / f"final_labels{ending}").exists()
