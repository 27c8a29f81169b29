"""Exports of a run whose names have a special meaning for readers, read back by the rules of each reader."""

import json
import os
import runpy
from glob import glob
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from test_exports import fiftyone_stand_in
from worlds.photos import HEIGHT, WIDTH
from worlds.runs import TRAIN, TRUTH, write_run

from pipeline.datasets import folder
from pipeline.exchange import export_labels
from pipeline.exchange.formats import FORMATS
from pipeline.review.corrections import read_corrected_rows
from pipeline.system.errors import PipelineError

CLASSES = ["hot dog", "🐶 #1: 'dog'", 'train "test" €']
IDS = [
    *("images/a.png", "b/images/c.png", "labels/d.png", "train/val/e.png", "val/f g.png", "test/🐶 1.png"),
    *("eval-7/images/images/labels/h.png", "dev/v1.2 of 3/i  j.png"),
    *("train/k.png", "images/test/labels/l.png", "val/m.png", "😀 n/train/images_/o%20+#?.png"),
]
FINAL = TRUTH[:TRAIN].copy()
FINAL[0] = [0, 1, 0]  # see `write_run`
WANTED = {i: [CLASSES[c] for c in np.flatnonzero(row)] for i, row in zip(IDS, [*FINAL, *TRUTH[TRAIN:]], strict=True)}
GREY = {i: 20 * n for n, i in enumerate(IDS)}
"""The colour of each photo's corner, by which a reader's photo is known."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("odd names") / "a run", IDS, CLASSES)


def exported(run, format, out, **options):
    return export_labels.run(run, format, out / f"labels{FORMATS[format].suffix}", **options)


def corner(photo):
    photo = Image.open(photo) if not isinstance(photo, Image.Image) else photo
    assert photo.size == (WIDTH, HEIGHT)
    return photo.convert("RGB").getpixel((0, 0))[0]


def which(photo):
    """The id of a photo, found by its corner."""
    return next(i for i, grey in GREY.items() if grey == corner(photo))


def test_every_format_is_read_back_below():
    asked = {"csv", "parquet", "coco", "label-studio", "fiftyone", "cleanlab", "yolo", "huggingface", "cvat"}
    assert set(FORMATS) == asked


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_tables(run, tmp_path, format):
    path = exported(run, format, tmp_path, part="both")
    frame = pd.read_csv(path) if format == "csv" else pd.read_parquet(path)
    labels = [row.split(";") if format == "csv" else list(row) for row in frame["labels"]]
    assert dict(zip(frame["image_id"], labels, strict=True)) == WANTED
    assert list(frame.columns[4:]) == CLASSES and [which(p) for p in frame["path"]] == IDS
    said = read_corrected_rows(path, CLASSES)
    assert {row.name: [CLASSES[c] for c in np.flatnonzero(row.labels)] for row in said} == WANTED


def test_coco(run, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    data = coco.COCO(str(exported(run, "coco", tmp_path, part="both")))
    names = {c["id"]: c["name"] for c in data.loadCats(data.getCatIds())}
    found = {}
    for image in data.loadImgs(data.getImgIds()):
        assert which(image["file_name"]) == image["image_id"]
        found[image["image_id"]] = [names[a["category_id"]] for a in data.loadAnns(data.getAnnIds(image["id"]))]
    assert found == WANTED


def test_label_studio(run, tmp_path):
    path = exported(run, "label-studio", tmp_path, boxes=True)
    offered = [e.get("value") for e in ElementTree.parse(path.with_suffix(".xml")).iter("Choice")]
    assert offered == CLASSES
    found = {}
    for task in json.loads(path.read_text(encoding="utf-8")):
        address = urlsplit(task["data"]["image"])  # Label Studio looks for the file as Django reads the query
        (place,) = parse_qs(address.query)["d"]
        assert which(f"/{place}") == task["data"]["image_id"]
        found[task["data"]["image_id"]] = task["predictions"][0]["result"][0]["value"]["choices"]
    assert found == {i: WANTED[i] for i in IDS[:TRAIN]}


def test_fiftyone(run, tmp_path, monkeypatch):
    folder = exported(run, "fiftyone", tmp_path, part="both")
    fiftyone_stand_in(monkeypatch)
    samples = runpy.run_path(str(folder / "load.py"))["load"]()
    assert [which(s.filepath) for s in samples] == [s.image_id for s in samples] == IDS
    assert {s.image_id: [c.label for c in s.pseudo_labels.classifications] for s in samples} == WANTED


def test_fiftyone_reads_names_with_line_ends_of_unicode(run, tmp_path, monkeypatch):
    """A JSON line ends at a line feed alone; Python's `splitlines` cuts at these as well."""
    named = write_run(tmp_path / "run", [f"{n}.png" for n in range(12)], ["a\x85b", "c\u2028d", "e\u2029f"])
    folder = exported(named, "fiftyone", tmp_path)
    fiftyone_stand_in(monkeypatch)
    assert list(runpy.run_path(str(folder / "load.py"))["load"]()[0].scores) == ["a\x85b", "c\u2028d", "e\u2029f"]


def test_cleanlab(run, tmp_path):
    content = json.loads(exported(run, "cleanlab", tmp_path).read_text(encoding="utf-8"))
    names = content["class_names"]
    labels = [[names[c] for c in row] for row in content["labels"]]
    assert dict(zip(content["image_ids"], labels, strict=True)) == {i: WANTED[i] for i in IDS[:TRAIN]}


def ultralytics(yaml_path, split):
    """Photo to class names, by the rules of ultralytics/data/utils.py and base.py."""
    text = yaml_path.read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    pattern = f"{yaml_path.parent}/{config[split]}/**/*.*"
    files = glob(pattern, recursive=True)  # noqa: PTH207 - which passes over hidden files, as theirs does
    files = [f for f in files if f.split(".")[-1].lower() in ("bmp", "jpeg", "jpg", "png", "tif", "tiff", "webp")]
    sa, sb = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
    found = {}
    for file in files:
        path = Path(sb.join(file.rsplit(sa, 1)).rsplit(".", 1)[0] + ".txt")
        lines = path.read_text().splitlines() if path.exists() else None
        found[which(file)] = None if lines is None else [config["names"][int(line.split()[0])] for line in lines]
    return found


def test_yolo(run, tmp_path):
    folder = exported(run, "yolo", tmp_path, boxes=True, part="both")
    boxed = {i: WANTED[i] for i in IDS[:TRAIN] if CLASSES[2] not in WANTED[i]}  # the third class has no box
    assert ultralytics(folder / "data.yaml", "train") == boxed
    assert ultralytics(folder / "data.yaml", "val") == dict.fromkeys(IDS[TRAIN:])  # without text files, see data.yaml


def test_yolo_below_a_folder_that_is_called_images(run, tmp_path):
    (tmp_path / "images" / "labels").mkdir(parents=True)
    folder = exported(run, "yolo", tmp_path / "images" / "labels", boxes=True, part="both")
    assert None not in ultralytics(folder / "data.yaml", "train").values()


def test_huggingface(run, tmp_path):
    datasets = pytest.importorskip("datasets")
    export = exported(run, "huggingface", tmp_path, part="both")
    loaded = datasets.load_dataset(str(export), cache_dir=str(tmp_path / "cache"))
    assert {split: rows["image_id"] for split, rows in loaded.items()} == {"train": IDS[:TRAIN], "test": IDS[TRAIN:]}
    names = loaded["train"].features["labels"].feature
    for row in (row for rows in loaded.values() for row in rows):
        assert which(row["image"]) == row["image_id"]
        assert [names.int2str(c) for c in row["labels"]] == WANTED[row["image_id"]]
    dataset = folder.load(export, CLASSES)
    assert sorted(zip(dataset.image_ids, dataset.splits, strict=True)) == sorted(
        (i, "train" if n < TRAIN else "test") for n, i in enumerate(IDS)
    )


def test_huggingface_features_are_of_a_kind_that_every_release_of_datasets_has(run, tmp_path):
    """`List` came with datasets 4; `Sequence` is read by all of them."""
    parquet = pytest.importorskip("pyarrow.parquet")
    file = next((exported(run, "huggingface", tmp_path) / "data").glob("*.parquet"))
    features = json.loads(parquet.read_schema(file).metadata[b"huggingface"])["info"]["features"]

    def kinds(feature):
        return {feature["_type"]} | (kinds(feature["feature"]) if "feature" in feature else set())

    assert set().union(*map(kinds, features.values())) == {"Image", "Value", "Sequence", "ClassLabel"}


def test_cvat(run, tmp_path):
    root = ElementTree.parse(exported(run, "cvat", tmp_path, boxes=True)).getroot()
    assert [e.text for e in root.iter("name")] == CLASSES
    found = {i.get("name"): [tag.get("label") for tag in i.findall("tag")] for i in root.findall("image")}
    assert found == {i: WANTED[i] for i in IDS[:TRAIN]}


def test_names_that_would_share_a_file_are_refused(tmp_path):
    ids = [f"{n}.png" for n in range(10)] + ["a.png", "a.jpg"]
    run = write_run(tmp_path / "run", ids, CLASSES)
    with pytest.raises(PipelineError, match=r"a\.png and a\.jpg would both be test/a"):
        exported(run, "yolo", tmp_path, part="both", boxes=True)


def test_a_photo_without_the_suffix_of_its_format_gets_it(tmp_path):
    """Readers of folders go by suffixes; `prepare` goes by content."""
    ids = ["a.jfif", "b", *(f"{n}.png" for n in range(10))]
    run = write_run(tmp_path / "run", ids, CLASSES)
    yolo = exported(run, "yolo", tmp_path, boxes=True)
    found = sorted(path.name for path in (yolo / "images/train").iterdir())
    assert found[-2:] == ["a.jfif.jpg", "b.png"]
    assert (yolo / "labels/train/a.jfif.txt").exists() and (yolo / "labels/train/b.txt").exists()
