"""Names in composed (NFC) and decomposed (NFD) Unicode are equal; macOS writes the latter."""

import json
import unicodedata

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from worlds.commands import ccd

from pipeline.artifacts.manifest import read_manifest
from pipeline.deploy.calibrate import read_thresholds
from pipeline.evaluation.read import read
from pipeline.review.corrections import read_corrected_rows

NFC, NFD = (lambda text, form=form: unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
CLASSES = ["h\u00f6hle", "\u00e9t\u00e9"]
PHOTO = "caf\u00e9.png"


@pytest.fixture(params=[(NFC, NFD), (NFD, NFC)], ids=["disk NFC", "disk NFD"])
def prepared(request, tmp_path):
    """A run whose photo and classes are written in one form, and a table of labels in the other."""
    disk, other = request.param
    (tmp_path / "photos").mkdir()
    for name in (disk(PHOTO), "b.png"):
        Image.fromarray(np.full((40, 40, 3), len(name), np.uint8)).save(tmp_path / "photos" / name)
    (tmp_path / "labels.csv").write_text(f"image,labels\n{other(PHOTO)},{other(CLASSES[0])}\n")
    given = (
        "--images",
        tmp_path / "photos",
        "--classes",
        ",".join(map(disk, CLASSES)),
        "--labels",
        tmp_path / "labels.csv",
    )
    ccd("prepare", tmp_path / "run", *given)
    return tmp_path / "run", disk, other


def test_label_tables_name_photos_and_classes_in_either_form(prepared):
    run, disk, _ = prepared
    truth = read(run / "ground_truth.h5")
    assert truth.class_names == [NFC(name) for name in CLASSES]
    assert truth.labels[truth.image_ids.index(disk(PHOTO))].tolist() == [1, 0]


@pytest.mark.parametrize("form", [NFC, NFD])
def test_corrections_thresholds_and_tables_of_columns_in_either_form(prepared, tmp_path, form):
    run, disk, _ = prepared
    classes = read_manifest(run).class_names
    names = [form(name) for name in CLASSES]
    (tmp_path / "a.csv").write_text(f"image,{names[0]},{names[1]}\n{form(PHOTO)},0,1\n")
    assert [row.labels.tolist() for row in read_corrected_rows(tmp_path / "a.csv", classes)] == [[0, 1]]
    pd.DataFrame({"image": [form(PHOTO)], "labels": [[names[1]]]}).to_parquet(tmp_path / "a.parquet")
    assert [row.labels.tolist() for row in read_corrected_rows(tmp_path / "a.parquet", classes)] == [[0, 1]]
    result = {"type": "choices", "from_name": "labels", "value": {"choices": [names[1]]}}
    tasks = [{"data": {"image_id": form(PHOTO)}, "annotations": [{"result": [result]}]}]
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    for name in ("a.csv", "a.parquet", "a.json"):
        ccd("import-labels", run, tmp_path / name, "--replace")
        corrections = read(run / "corrections.h5")
        assert corrections.labels[corrections.image_ids.index(disk(PHOTO))].tolist() == [0, 1]
    (tmp_path / "t.json").write_text(json.dumps(dict.fromkeys(names, 0.25)))
    assert read_thresholds(tmp_path / "t.json", classes).tolist() == [0.25, 0.25]


@pytest.mark.parametrize("form", [NFC, NFD])
def test_words_of_classes_and_precomputed_scores_in_either_form(prepared, tmp_path, form):
    run, disk, _ = prepared
    (run / "run.toml").write_text((run / "run.toml").read_text() + f'[classes]\n"{form(CLASSES[0])}" = ["cave"]\n')
    ccd("prepare", run)
    assert read_manifest(run).display_names[NFC(CLASSES[0])] == {"cave": 1}
    with h5py.File(tmp_path / "scores.h5", "w") as file:
        file["image_ids"], file["classes"] = [form(PHOTO), "b.png"], [form(CLASSES[1]), form(CLASSES[0])]
        file["probabilities"] = np.float32([[0.9, 0.1], [0.2, 0.8]])
    ccd("embed", run, "--precomputed", tmp_path / "scores.h5", "--device", "cpu")
    found = read(run / "embeddings.h5")
    assert found.probabilities[found.image_ids.index(disk(PHOTO))].tolist() == pytest.approx([0.1, 0.9])
    ccd("inspect", run, "--image", form(PHOTO))
