import re
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from PIL import Image
from worlds.commands import ccd, invoke, refused
from worlds.photos import HEIGHT, WIDTH
from worlds.runs import CLASSES

from pipeline.artifacts.corrections import Corrections
from pipeline.artifacts.hdf5 import write
from pipeline.artifacts.provenance import Provenance
from pipeline.datasets.dataset import DIFFICULT, UNKNOWN
from pipeline.evaluation.read import read
from pipeline.exchange.label_sets import read_label_set
from pipeline.report.compare import compare
from pipeline.runs.graph import VERSIONS
from pipeline.system.errors import PipelineError


def squeezed(output):
    """Output of a table without its borders and line breaks."""
    return re.sub(r"[\s│┃]+", " ", output)


def test_class_lists_top_and_doubtful_images_with_the_truth(small_run):
    code, output = invoke("inspect", small_run, "--class", "dog")
    assert code == 0
    top, doubtful = squeezed(output).split("dog: nearest to 0.5")
    first = "train/1.png 0.900 present"
    assert first in top and top.index(first) < top.index("train/0.png 0.700 absent")
    assert doubtful.index("train/0.png 0.700 absent") < doubtful.index(first)


def test_only_difficult_and_not_labelled_are_told_apart(small_run):
    truth = read(small_run / "ground_truth.h5")
    labels = truth.labels.copy()
    labels[0], labels[1, 1] = [UNKNOWN, DIFFICULT, 0], UNKNOWN
    write(small_run / "ground_truth.h5", replace(truth, labels=labels))
    assert read(small_run / "ground_truth.h5").labels[:2].tolist() == [[-1, -2, 0], [1, -1, 0]]
    code, output = invoke("inspect", small_run / "ground_truth.h5", "--image", "train/0.png")
    assert code == 0
    whole, image = squeezed(output).rsplit("train/0.png", 1)
    assert "cat 5 0 1" in whole and "dog 5 1 1" in whole  # positives, only difficult, not labelled
    assert "cat not labelled" in image and "dog only difficult" in image


def test_class_of_the_classifiers_scores(small_run):
    code, output = invoke("inspect", small_run / "epoch_scores.h5", "--class", "cat")
    assert code == 0 and "nearest to 0.5" in squeezed(output) and "test/0.png 0.800 present" in squeezed(output)


def test_unknown_class_names_the_nearest(small_run):
    code, output = invoke("inspect", small_run, "--class", "dogs")
    assert code == 1 and "no class 'dogs'" in output and "dog" in output


def test_picture_shows_the_boxes_and_the_labels(small_run, tmp_path):
    out = tmp_path / "picture.png"
    code, _ = invoke("inspect", small_run, "--image", "train/0.png", "--show", "--out", out)
    assert code == 0
    picture = np.asarray(Image.open(out).convert("RGB")).astype(int)
    scale = picture.shape[1] / WIDTH
    photo = round(scale * HEIGHT)
    assert picture.shape[0] > photo  # lines of text below
    edge = picture[round(24 * scale), round(8 * scale) - 4 : round(8 * scale) + 5]  # left edge of the box of class 0
    assert (np.abs(edge - (255, 64, 64)).sum(1) < 60).any()
    assert (picture[photo:].min(2) < 100).any()


def test_picture_of_an_unknown_image_names_the_nearest(small_run, tmp_path):
    code, output = invoke("inspect", small_run, "--image", "train/00.png", "--show", "--out", tmp_path / "x.png")
    assert code == 1 and "train/0.png" in output and not (tmp_path / "x.png").exists()


def test_an_image_of_a_run_fits_a_terminal_of_80_columns(small_run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    image_id = read(small_run / "final_labels.h5").image_ids[0]
    code, output = invoke("inspect", small_run, "--image", image_id)
    table = output[output.rindex(image_id) :]
    words = set(re.findall(r"[\w-]+", table[: table.index("┡")]))
    assert code == 0 and {"truth", "teacher", "whole", "photo", "initial", "final", "label", "crops"} <= words
    assert max(map(len, output.splitlines())) <= 80


def test_a_file_of_another_program_is_not_called_damaged_first(tmp_path):
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["labels"] = [1.0]
    assert "mine.h5 is not an artifact of this tool" in refused("inspect", tmp_path / "mine.h5")


def test_box_quality_is_shown_with_the_boxes(small_run):
    assert "centre of an object of their class" in ccd("inspect", small_run / "boxes.h5")
    (small_run / "ground_truth.h5").unlink()
    assert "centre of an object" not in ccd("inspect", small_run / "boxes.h5")


def test_compare_counts_lost_and_gained(small_run):
    initial, final = read_label_set(small_run / "initial_labels.h5"), read_label_set(small_run)
    found = compare(initial, final)
    columns = {name: values.tolist() for name, values in found.class_columns().items()}
    assert columns["lost"][0] == 1 and columns["gained"] == [0, 1, 0]  # the first image: no cat any more, but a dog
    assert columns["both"] == [3, 4, 2]
    assert found.agreement == pytest.approx(1 - 2 / 24)
    assert found.most_changed(1)[0][0] == 0 and found.image_ids[0] == "train/0.png"


def test_compare_joins_by_name_and_not_by_place(small_run, tmp_path):
    other = shutil.copytree(small_run, tmp_path / "other")
    labels = read(other / "final_labels.h5")
    shuffled = replace(labels, class_names=labels.class_names[::-1], labels=labels.labels[:, ::-1].copy())
    a = read_label_set(small_run)
    display_names = dict(reversed(a.manifest.display_names.items()))
    b = replace(a, labels=shuffled.labels, manifest=replace(a.manifest, display_names=display_names))
    assert compare(a, b).agreement == 1 and compare(a, b).most_changed(5) == []


def test_compare_of_runs_names_the_options_that_differ(small_run, tmp_path):
    other = shutil.copytree(small_run, tmp_path / "other")
    labels = read(other / "final_labels.h5")
    config = {**labels.provenance.config, "ratio": 0.2}
    write(other / "final_labels.h5", replace(labels, provenance=replace(labels.provenance, config=config)))
    (other / "run.toml").write_text((other / "run.toml").read_text() + "[fuse]\nratio = 0.2\n")
    code, output = invoke("inspect", small_run, "--compare", other)
    assert code == 0 and "100.0%" in squeezed(output) and "final_labels.h5 ratio 0.8 0.2" in squeezed(output)


def test_compare_of_disjoint_images_is_refused(small_run):
    code, output = invoke("inspect", small_run / "final_labels.h5", "--compare", small_run / "epoch_scores.h5")
    assert code == 1 and "no image in common" in output


def test_a_file_without_labels_is_refused(small_run):
    with pytest.raises(PipelineError, match=r"boxes\.h5 has no labels\. Give a run"):
        read_label_set(small_run / "boxes.h5")


def test_every_array_artifact_opens_as_a_frame(small_run):
    shapes = {
        "ground_truth.h5": (12, 3),
        "embeddings.h5": (12, 3),
        "initial_labels.h5": (8, 3),
        "boxes.h5": (16, 7),
        "crop_scores.h5": (16, 3),
        "epoch_scores.h5": (4, 3),
    }
    assert {name: read(small_run / name).frame().shape for name in shapes} == shapes
    assert read(small_run / "boxes.h5").frame().iloc[1].tolist() == ["train/0.png", "dog", 40, 4, 60, 20, 1]
    assert read(small_run / "final_labels.h5").frame().loc["train/0.png", "dog"] == pytest.approx(0.7)
    assert len(read(small_run / "manifest.csv").images) == 12
    assert read(small_run / "metrics.json")["test"]["final classifier"]["mAP"] == 1
    assert read(small_run / "classifier.pt").thresholds == [0.5] * 3


def test_corrections_are_inspected(small_run):
    labels = np.full((8, 3), -1, np.int8)
    labels[0] = [1, 0, 0]
    ids = read(small_run / "final_labels.h5").image_ids
    corrections = Corrections(
        provenance=Provenance("corrections", VERSIONS["corrections"], {}, {}),
        image_ids=ids,
        class_names=CLASSES,
        labels=labels,
    )
    write(small_run / "corrections.h5", corrections)
    assert "cat 1 0" in squeezed(ccd("inspect", small_run / "corrections.h5", "--image", "train/0.png"))


def test_without_ground_truth_the_metrics_are_not_missing(small_run):
    for name in ("ground_truth.h5", "metrics.json"):
        (small_run / name).unlink()
    lines = invoke("inspect", small_run)[1].splitlines()
    [line] = [line for line in lines if "metrics.json" in line]
    assert "not made" in line and "missing" not in line


def test_a_run_ends_with_its_result_and_the_next_command(small_run):
    code, output = invoke("inspect", small_run)
    *_, result, following = output.strip().splitlines()
    assert code == 0 and "…" not in output
    # this run has no warmup.pt
    assert "teacher" in result and f"ccd all {small_run}" in following
    (small_run / "final_labels.h5").unlink()
    code, output = invoke("inspect", small_run)
    *_, reason, following = output.strip().splitlines()
    assert code == 0 and "final_labels.h5 is missing" in reason and f"ccd all {small_run}" in following
