import shutil

import h5py
import numpy as np
import pytest
from worlds.commands import ccd, refused

from pipeline.datasets.label_file import read_soft_labels
from pipeline.evaluation.read import read
from pipeline.runs.options import InitLabelsConfig
from pipeline.system.errors import PipelineError

LABELS = np.array([[1.0, 0.25], [0.0, 0.75], [1.0, 0.5]], np.float16)
SCORES = np.array([[1.5, 0.25], [0.0, 0.75], [3.0, 0.5]], np.float32)


def write(path, **changes):
    datasets = {"image_ids": ["a.jpg", "b.jpg", "c.jpg"], "classes": ["cat", "dog"], "labels": LABELS} | changes
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            if values is not None:
                file[name] = values
    return path


def test_rows_and_columns_are_found_by_name(tmp_path):
    labels, scores = read_soft_labels(write(tmp_path / "l.h5"), ["c", "b"], ["dog", "cat"])
    assert labels.dtype == np.float32 and labels.tolist() == scores.tolist() == [[0.5, 1.0], [0.75, 0.0]]
    labels, scores = read_soft_labels(write(tmp_path / "s.h5", scores=SCORES), ["c.jpg", "a.jpg"], ["cat"])
    assert labels.tolist() == [[1.0], [1.0]] and scores.tolist() == [[3.0], [1.5]]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"labels": None}, "contains classes, image_ids, expected .* Rename or add labels"),
        ({"labels": LABELS.T}, r"labels of shape \(2, 3\), expected \(3, 2\)"),
        ({"labels": LABELS * 2}, "labels from 0 to 2, expected 0 to 1"),
        ({"labels": LABELS * np.nan}, "expected 0 to 1"),
        ({"labels": LABELS.astype("S8")}, "labels of .*, expected real numbers"),
        ({"classes": ["cat", "cat"]}, "classes 'cat' more than once"),
        ({"scores": SCORES[:2]}, r"scores of shape \(2, 2\)"),
        ({"scores": SCORES - 1}, "scores that are not its labels before clamping"),
        ({"scores": SCORES + 0.1}, "scores that are not its labels before clamping"),
        ({"scores": np.full((3, 2), np.inf)}, "scores that are not its labels before clamping"),
        ({"labels": h5py.SoftLink("/classes")}, "labels that is not a dataset of its own"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, changes, match):
    with pytest.raises(PipelineError, match=match):
        read_soft_labels(write(tmp_path / "l.h5", **changes), ["a"], ["cat"])


@pytest.mark.parametrize(
    ("images", "classes", "match"),
    [
        (["a", "x"], ["cat"], "lack 1 of 2 images, the first 'x'"),
        (["a"], ["cat", "horse"], "lack 1 of 2 class names, the first 'horse'"),
    ],
)
def test_labels_of_other_photos_or_classes_are_refused(tmp_path, images, classes, match):
    with pytest.raises(PipelineError, match=match):
        read_soft_labels(write(tmp_path / "l.h5"), images, classes)


def test_a_run_trains_on_the_labels_of_a_file(small_run, tmp_path):
    before = read(small_run / "initial_labels.h5")
    scores = before.scores[::-1, ::-1] / 2 + 0.6
    path = write(
        tmp_path / "labels.h5",
        image_ids=before.image_ids[::-1],
        classes=before.class_names[::-1],
        labels=scores.clip(max=1),
        scores=scores,
    )
    ccd("init-labels", "--run", small_run, "--labels-file", path)
    now = read(small_run / "initial_labels.h5")
    np.testing.assert_allclose(now.scores, before.scores / 2 + 0.6, rtol=1e-6)
    np.testing.assert_array_equal(now.labels, now.scores.clip(max=1))
    assert "is up to date" in ccd("init-labels", "--run", small_run)
    write(path, image_ids=before.image_ids[1:], classes=before.class_names, labels=before.labels[1:])
    assert before.image_ids[0] in refused("init-labels", "--run", small_run)


def test_two_sources_of_labels_are_refused():
    with pytest.raises(PipelineError, match="remove labels_file"):
        InitLabelsConfig(source="ground-truth", labels_file="l.h5")


def test_a_run_trains_on_the_labels_of_another_run(finished, run):
    other = read(finished / "final_labels.h5")
    assert np.abs(other.scores.clip(max=1) - other.labels).max() > 0.1  # labels of their own, not clamped scores
    ccd("init-labels", "--run", run, "--labels-file", finished / "final_labels.h5")
    now = read(run / "initial_labels.h5")
    np.testing.assert_array_equal(now.labels, other.labels)
    np.testing.assert_array_equal(now.scores, other.scores)


def test_labels_that_have_seen_ground_truth_are_refused(finished, run, tmp_path):
    ccd("init-labels", "--run", run, "--source", "ground-truth")
    path = shutil.copy(run / "initial_labels.h5", tmp_path / "labels.h5")
    shutil.copytree(finished, tmp_path / "other")
    assert "was made with ground truth" in refused("init-labels", "--run", tmp_path / "other", "--labels-file", path)
