"""Files of a run are readable only if they fit its photos, classes and settings."""

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from worlds.commands import ccd, invoke

import pipeline
from pipeline.artifacts.hdf5 import write
from pipeline.artifacts.manifest import read_manifest
from pipeline.artifacts.state import file_states
from pipeline.evaluation.read import read
from pipeline.exchange.label_sets import read_label_set
from pipeline.report.compare import compare
from pipeline.runs.settings import read_run
from pipeline.system.errors import PipelineError

READERS = [
    ("export-labels", "--out", "OUT/labels.csv"),
    ("export-labels", "--split", "test", "--out", "OUT/labels.csv"),
    ("export-labels", "--format", "coco", "--boxes", "--out", "OUT/labels.json"),
    ("export-labels", "--format", "cleanlab", "--out", "OUT/labels.json"),
    ("export-review", "--out", "OUT/review.json"),
    ("inspect", "--class", "red"),
    ("inspect", "--image", "IMAGE", "--show", "--out", "OUT/photo.png"),
]


@pytest.fixture
def run(finished, photos, tmp_path):
    """A copy of the finished run, with photos of its own."""
    shutil.copytree(photos, tmp_path / "photos")
    run = shutil.copytree(finished, tmp_path / "run")
    options = ("--images", tmp_path / "photos/train", "--test-images", tmp_path / "photos/test")
    ccd("prepare", run, *options, "--labels", tmp_path / "photos/labels.csv")
    return run


def ask(run, tmp_path, command, *rest):
    image = read_manifest(run).split("train").image_ids[0]
    return invoke(command, run, *(text.replace("OUT", str(tmp_path)).replace("IMAGE", image) for text in rest))


@pytest.mark.parametrize("reader", READERS)
def test_readers_take_an_up_to_date_run(run, tmp_path, reader):
    code, output = ask(run, tmp_path, *reader)
    assert code == 0, output


@pytest.mark.parametrize("reader", READERS)
def test_readers_refuse_labels_of_other_photos_under_the_same_names(run, tmp_path, reader):
    first = read_manifest(run).split("test" if "test" in reader else "train").paths[0]
    Image.fromarray(np.full((64, 64, 3), 7, np.uint8)).save(first)
    code, output = ask(run, tmp_path, *reader)
    if reader[:2] != ("inspect", "--class"):  # shows no photo
        assert code == 1 and "have changed since they were prepared" in output, output
    ccd("prepare", run)
    code, output = ask(run, tmp_path, *reader)
    assert code == 1 and "is out of date" in output and "Rebuild it with `ccd" in output, output


@pytest.mark.parametrize("reader", READERS)
def test_readers_refuse_a_file_of_another_run_with_the_same_images(run, tmp_path, reader):
    for name in ("final_labels.h5", "epoch_scores.h5", "boxes.h5"):
        found = read(run / name)
        changed = {**found.provenance.inputs, "manifest.csv" if name == "boxes.h5" else "final_labels.h5": "0" * 16}
        if name == "final_labels.h5":
            changed = {**found.provenance.inputs, "initial_labels.h5": "0" * 16}
        object.__setattr__(found.provenance, "inputs", changed)
        write(run / name, found)
    code, output = ask(run, tmp_path, *reader)
    assert code == 1 and "is out of date" in output, output


@pytest.mark.parametrize("reader", READERS)
def test_readers_refuse_what_was_made_with_other_settings(run, tmp_path, reader):
    changed = ("fuse.ratio=0.2", "boxes.threshold=0.9", "train.epochs=1")
    assert invoke("prepare", run, *(word for text in changed for word in ("--set", text)))[0] == 0
    code, output = ask(run, tmp_path, *reader)
    assert code == 1 and "is out of date" in output and "->" in output, output


def test_a_file_of_a_run_with_other_settings_is_found_out(run, tmp_path):
    """Only an option differs: images, classes and inputs are the same."""
    other = shutil.copytree(run, tmp_path / "other")
    ccd("fuse", other, "--ratio", 0.2)
    shutil.copy(other / "final_labels.h5", run)
    code, output = invoke("export-labels", run, "--out", tmp_path / "labels.csv")
    assert code == 1 and "ratio 0.2 -> 0.8" in output and "--to fuse`" in output
    assert file_states(run)["final_labels.h5"].state != "up to date"


def test_a_stage_does_not_read_what_was_made_with_other_settings(run):
    ccd("prepare", run, "--set", "boxes.threshold=0.9")
    code, output = invoke("score-crops", run)
    assert code == 1 and "boxes.h5 is out of date" in output and "threshold 0.95 -> 0.9" in output


def test_a_classifier_of_other_settings_predicts_with_a_warning(run, tmp_path):
    ccd("prepare", run, "--set", "train.epochs=1")
    code, output = invoke("predict", run, tmp_path / "photos/test", "--device", "cpu")
    assert code == 0 and "warning" in output and "epochs 3 -> 1" in output


def test_weights_that_are_gone_make_no_label_out_of_date(run, tmp_path):
    """Reading labels hashes nothing; `plan` and the stages check the weights."""
    weights = shutil.copy(read_run(run).tables["warmup"]["weights"], tmp_path / "weights.pt")
    ccd("warmup", run, "--weights", weights, "--device", "cpu")
    (tmp_path / "weights.pt").unlink()
    ccd("export-labels", run, "--out", tmp_path / "labels.csv")


def test_the_report_shows_no_photo_beside_the_labels_of_another(run):
    first = read_manifest(run).split("train").paths[0]
    assert "warning" not in ccd("report", run)
    whole = (run / "report.html").read_text().count('"thumb":"/9j/')
    Image.fromarray(np.full((64, 64, 3), 7, np.uint8)).save(first)
    code, output = invoke("report", run)
    assert code == 0 and "1 photos have changed" in output and "ccd prepare" in output
    assert (run / "report.html").read_text().count('"thumb":"/9j/') == whole - 1 == 11


def test_a_corrected_photo_that_changes_is_named(run, tmp_path):
    photos = read_manifest(run).split("train")
    (tmp_path / "said.csv").write_text(f"image_id,labels\n{photos.image_ids[0]},red\n")
    ccd("import-labels", run, tmp_path / "said.csv")
    Image.fromarray(np.full((48, 64, 3), 7, np.uint8)).save(photos.paths[1])
    assert "warning" not in ccd("prepare", run)
    Image.fromarray(np.full((48, 64, 3), 7, np.uint8)).save(photos.paths[0])
    code, output = invoke("prepare", run)
    assert code == 0 and "1 corrected photos have changed" in output and photos.image_ids[0] in output


def test_read_warns_of_a_stale_file(run, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pipeline.read(run / "final_labels.h5").class_names == ["red", "green", "blue"]
        assert pipeline.read(run / "manifest.csv").class_names == ["red", "green", "blue"]
    ccd("prepare", run, "--set", "fuse.ratio=0.2")
    with pytest.warns(UserWarning, match="ratio 0.8 -> 0.2.*--to fuse`"):
        pipeline.read(run / "final_labels.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.read(shutil.copy(run / "final_labels.h5", tmp_path))  # alone, it belongs to no run


def test_runs_are_compared_on_the_photos_that_both_have(run, tmp_path):
    """One photo of the other run has the same name and shows something else."""
    other = shutil.copytree(run, tmp_path / "other")
    manifest = read_manifest(other)
    images = manifest.images.assign(sha256=["0" * 64, *manifest.images["sha256"][1:]])
    first, second = (
        replace(read_label_set(run), manifest=m.split("train")) for m in (manifest, replace(manifest, images=images))
    )
    assert compare(first, second).image_ids == first.image_ids[1:]
    with pytest.raises(PipelineError, match="no image in common"):
        gone = replace(second, manifest=replace(second.manifest, images=second.manifest.images.assign(sha256="0" * 64)))
        compare(first, gone)


@pytest.mark.parametrize("command", [("predict", "PHOTOS"), ("export", "--format", "hub"), ("calibrate", "LABELS")])
def test_a_classifier_of_other_classes_is_refused(run, tmp_path, command):
    photos = tmp_path / "photos"
    name, *rest = (text.replace("PHOTOS", str(photos / "test")).replace("LABELS", "x.csv") for text in command)
    ccd("prepare", run, "--classes", "red,blue", "--labels", "")
    code, output = invoke(name, run, *rest)
    assert code == 1 and "the run now has the classes red, blue" in output and "`ccd all " in output
    if name == "predict":
        code, output = invoke(name, run / "classifier.pt", *rest, "--device", "cpu")
        assert code == 0 and "green" in output  # named by its file, it is used as it is


def test_a_classifier_of_fewer_photos_predicts_with_a_warning(run, tmp_path):
    (tmp_path / "photos" / "train").joinpath("new.png").write_bytes(
        sorted((tmp_path / "photos" / "test").iterdir())[0].read_bytes()
    )
    ccd("prepare", run)
    code, output = invoke("predict", run, tmp_path / "photos/test", "--device", "cpu")
    assert code == 0 and "warning" in output and "is out of date" in output


def test_corrections_that_wait_do_not_keep_labels_back(run, tmp_path):
    image = read_manifest(run).split("train").image_ids[0]
    (tmp_path / "said.csv").write_text(f"image_id,labels\n{image},red\n")
    ccd("import-labels", run, tmp_path / "said.csv")
    code, output = ask(run, tmp_path, "export-labels", "--out", "OUT/labels.csv")
    assert code == 0 and "is not in these labels yet" in output


def test_the_end_of_a_started_run_names_what_comes_next(photos, tmp_path, backbone, colour_teacher):
    run = tmp_path / "run"
    options = ("--images", photos / "train", "--classes", "red,green,blue", "--device", "cpu")
    code, output = invoke("all", run, *options, "--to", "prepare")
    assert code == 0 and "ccd predict" not in output and f"ccd all {run}" in " ".join(output.split())
