import json

import numpy as np
import pytest
import torch
from worlds.commands import ccd, invoke
from worlds.photos import noise_photos

from pipeline import Classifier
from pipeline.artifacts.checkpoints import read_checkpoint
from pipeline.artifacts.manifest import read_manifest
from pipeline.deploy.calibrate import read_labelled
from pipeline.method.extras.thresholds import better_thresholds
from pipeline.system.errors import PipelineError


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight photos."""
    folder = tmp_path_factory.mktemp("photos")
    noise_photos(folder, [(40, 56)] * 8)
    return folder


@pytest.fixture
def labelled(photos, tiny_classifier, tmp_path):
    """A table where a photo shows the classes whose score is above the median, and the same labels as int8 [8, 3]."""
    scores = Classifier.load(tiny_classifier).scores(sorted(photos.iterdir()))
    truth = (scores > np.median(scores, axis=0)).astype(np.int8)
    names = np.array(["cat", "dog", "cow"], dtype=object)
    lines = [f"{photos}/{n}.png,{';'.join(names[row == 1])}" for n, row in enumerate(truth)]
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["image,labels", *lines]) + "\n")
    return path, truth


def calibrate(*arguments):
    return invoke("calibrate", *arguments, "--device", "cpu")


def test_thresholds_are_the_out_of_fold_ones_and_the_weights_stay(labelled, photos, tiny_classifier, tmp_path):
    before = tiny_classifier.read_bytes()
    code, output = calibrate(tiny_classifier, labelled[0], "--out", tmp_path / "better.pt", "--folds", 4, "--seed", 1)
    assert code == 0, output
    old, new = read_checkpoint(tiny_classifier), read_checkpoint(tmp_path / "better.pt")
    scores = Classifier.load(tiny_classifier).scores(sorted(photos.iterdir()))
    expected = better_thresholds(scores, labelled[1], np.array(old.thresholds), folds=4, seed=1)
    assert new.thresholds == expected.thresholds.tolist() and not expected.kept.all()
    assert all(torch.equal(old.weights[key], new.weights[key]) for key in old.weights)
    assert tiny_classifier.read_bytes() == before
    assert "on 8 photos. With the new thresholds" in output


def test_the_file_says_that_labels_were_used_and_which(labelled, tiny_classifier, tmp_path):
    fingerprints = []
    for text in (labelled[0].read_text(), labelled[0].read_text().replace("cat", "cow;cat", 1)):
        labelled[0].write_text(text)
        calibrate(tiny_classifier, labelled[0], "--out", tmp_path / "better.pt", "--folds", 2, "--force")
        provenance = read_checkpoint(tmp_path / "better.pt").provenance
        assert provenance.uses_ground_truth
        assert "USED" in ccd("inspect", tmp_path / "better.pt")
        assert provenance.inputs == {"classifier.pt": read_checkpoint(tiny_classifier).provenance.fingerprint}
        fingerprints.append(provenance.fingerprint)
    assert fingerprints[0] != fingerprints[1]


def test_a_threshold_that_is_no_better_is_kept_and_a_class_predicted_everywhere_is_named(
    photos, tiny_classifier, tmp_path
):
    scores = Classifier.load(tiny_classifier).scores(sorted(photos.iterdir()))
    # cats where the scores say the opposite: the best that a threshold can do is to predict them in every photo
    cats = scores[:, 0] <= np.sort(scores[:, 0])[3]
    lines = [f"{photos}/{n}.png,{'cat' if cat else ''}" for n, cat in enumerate(cats)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,labels", *lines]) + "\n")
    code, output = calibrate(tiny_classifier, tmp_path / "labels.csv", "--out", tmp_path / "better.pt", "--folds", 2)
    assert code == 0, output
    new, old = (read_checkpoint(path).thresholds for path in (tmp_path / "better.pt", tiny_classifier))
    assert new[1:] == old[1:] and "thresholds are kept" in output  # no dog and no cow to choose by
    assert (scores[:, 0] >= new[0]).mean() > 0.9
    assert "'cat' is predicted in 100% of these photos and present in 4 of 8" in " ".join(output.split())


def test_unreadable_photos_are_left_out(labelled, tiny_classifier, tmp_path):
    (tmp_path / "broken.png").touch()
    with labelled[0].open("a") as file:
        file.write("broken.png,cat\n")
    code, output = calibrate(tiny_classifier, labelled[0], "--out", tmp_path / "better.pt")
    assert code == 0 and "1 of 9 images cannot be read" in output and "on 8 photos" in output


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image\n{photo}\n", "has no labels"),
        ("image,labels\n{photo},horse\n", "names class 'horse'"),
        ("image,labels\n{photo},cat\n{photo},dog\n", "has 1 labelled photos"),  # one row for each label
        ("image,labels\nnothing.png,cat\n", r"nothing.png"),
        ("image,labels\n{photo},cat\n", "has 1 labelled photos, expected at least 5"),
    ],
)
def test_tables_that_do_not_suffice_are_refused(photos, tiny_classifier, tmp_path, table, message):
    (tmp_path / "labels.csv").write_text(table.format(photo=photos / "0.png"))
    code, output = calibrate(tiny_classifier, tmp_path / "labels.csv", "--out", tmp_path / "better.pt")
    assert code == 1 and message in output
    assert not (tmp_path / "better.pt").exists()


def test_the_classifier_itself_is_not_written_over(labelled, tiny_classifier):
    code, output = calibrate(tiny_classifier, labelled[0], "--out", tiny_classifier, "--force")
    assert code == 1 and "is the classifier itself" in output


def test_the_table_may_name_photos_as_the_run_of_the_classifier_does(small_run, tmp_path):
    (tmp_path / "labels.csv").write_text("image_id,labels\ntest/1.png,cat\ntrain/0.png,\n")
    manifest = read_manifest(small_run)
    paths, truth = read_labelled(tmp_path / "labels.csv", manifest.class_names, manifest)
    path_of = dict(zip(manifest.image_ids, manifest.paths, strict=True))
    assert [str(path) for path in paths] == [path_of["test/1.png"], path_of["train/0.png"]]
    assert truth.tolist() == [[1, 0, 0], [0, 0, 0]]
    (tmp_path / "labels.csv").write_text("image_id,labels\nelsewhere.png,cat\n")
    with pytest.raises(PipelineError, match=r"row 2 of .*labels\.csv names image elsewhere\.png"):
        read_labelled(tmp_path / "labels.csv", manifest.class_names, manifest)


def test_thresholds_of_the_report_are_taken(tiny_classifier, tmp_path):
    path, out = tmp_path / "thresholds.json", tmp_path / "own.pt"
    path.write_text(json.dumps({"dog": 0.4, "cow": 0.25, "cat": 0.5}))
    code, output = calibrate(tiny_classifier, path, "--out", out)
    assert code == 0 and "1 of 3 thresholds" in output
    made = read_checkpoint(out)
    assert list(made.thresholds) == [0.5, 0.4, 0.25] and made.provenance.uses_ground_truth
    assert Classifier.load(out).thresholds[2] == 0.25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "could not be read as JSON"),
        ("[" * 100_000, "could not be read as JSON"),
        ("[0.5]", "other classes than the classifier"),
        ('{"cat": 0.5, "dog": 0.5}', "only in one of them: cow"),
        ('{"cat": 0.5, "dog": 0.5, "cow": true}', "has True for cow"),
        ('{"cat": 0.5, "dog": 0.5, "cow": NaN}', "has nan for cow"),
    ],
)
def test_other_thresholds_are_refused(tiny_classifier, tmp_path, text, message):
    (tmp_path / "thresholds.json").write_text(text)
    code, output = calibrate(tiny_classifier, tmp_path / "thresholds.json", "--out", tmp_path / "own.pt")
    assert code == 1 and message in output and not (tmp_path / "own.pt").exists()


def test_photos_with_unknown_labels_are_not_counted(labelled, tiny_classifier, tmp_path):
    table, truth = labelled
    columns = "\n".join(",".join(["", "1" if row[1] else "0", "1" if row[2] else "0"]) for row in truth)
    photos = [line.split(",")[0] for line in table.read_text().splitlines()[1:]]
    rows = [f"{photo},{cells}" for photo, cells in zip(photos, columns.splitlines(), strict=True)]
    table.write_text("\n".join(["image,cat,dog,cow", *rows]) + "\n")
    code, output = calibrate(tiny_classifier, table, "--out", tmp_path / "better.pt", "--folds", 2)
    assert code == 0, output
    counts = {
        line.split()[1]: line.split()[3]
        for line in output.splitlines()
        if line.startswith("│ ") and "photos" not in line
    }
    assert counts["cat"] == "0" and counts["dog"] == str(truth[:, 1].sum())
