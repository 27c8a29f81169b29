"""Sources of `prepare` on the command line, and its messages about photos."""

import shutil

import pandas as pd
import pytest
from worlds.commands import ccd, invoke, refused
from worlds.photos import write_photo

from pipeline.artifacts.manifest import read_manifest
from pipeline.runs.settings import read_run
from pipeline.stages.prepare import copies_in_test


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The working directory, with different photos 0.png to 3.png in `a` and in `b`."""
    for seed, name in enumerate(f"{folder}/{number}.png" for folder in "ab" for number in range(4)):
        write_photo(tmp_path / name, seed=seed)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare(*arguments):
    code, output = invoke("prepare", "--classes", "cat,dog", *arguments)
    return code, " ".join(output.split())


def test_photos_that_are_in_train_and_test_are_named_and_left_out_of_test(folders):
    shutil.copy("a/1.png", "b/same.png")
    code, output = prepare("--images", "a", "--test-images", "b")
    assert code == 0 and "1 test photos are also train photos" in output and "test/same.png is 1.png" in output
    manifest = read_manifest(folders / "artifacts" / "a")
    assert manifest.image_ids[4:] == [f"test/{n}.png" for n in range(4)]
    assert "same file as train photo 1.png" in manifest.skipped["test/same.png"]
    code, output = prepare("--images", "a", "--test-images", "b", "--keep-test-copies")
    assert code == 0 and "they stay in both" in output
    assert "test/same.png" in read_manifest(folders / "artifacts" / "a").image_ids


def test_ground_truth_stays_with_its_photo_when_copies_leave_test(folders):
    shutil.copy("a/1.png", "b/00.png")
    (folders / "labels.csv").write_text("image,labels\ntest/00.png,cat\ntest/0.png,dog\ntest/1.png,cat\n")
    assert prepare("--images", "a", "--test-images", "b", "--labels", "labels.csv")[0] == 0
    from pipeline.evaluation.read import read

    truth = read(folders / "artifacts" / "a" / "ground_truth.h5")
    rows = dict(zip(truth.image_ids, truth.labels.tolist(), strict=True))
    assert (rows["test/0.png"], rows["test/1.png"]) == ([0, 1], [1, 0]) and "test/00.png" not in rows


def test_copies_are_counted(folders):
    for number in range(3):
        shutil.copy("a/1.png", f"a/copy{number}.png")
    code, output = prepare("--images", "a")
    assert code == 0 and "3 of 7 photos are byte-for-byte copies (first: copy0.png of 1.png)" in output
    assert "copies" not in prepare("--images", "b")[1]


def test_copies_in_test_are_those_of_train():
    images = pd.DataFrame(
        [("a", "train", "1"), ("b", "train", "1"), ("c", "test", "1"), ("d", "test", "2"), ("e", "test", "2")],
        columns=["image_id", "split", "sha256"],
    )
    assert copies_in_test(images) == {"c": "a"}
    assert copies_in_test(images[:2]) == copies_in_test(images[3:]) == {}


def test_a_repeated_source_is_added_and_any_other_repeated_option_is_refused(folders):
    code, output = prepare("--images", "a", "--images", "b", "--exclude", "0.png", "--exclude", "1.png")
    assert code == 0, output
    assert read_manifest(folders / "artifacts" / "a").image_ids == ["a/2.png", "a/3.png", "b/2.png", "b/3.png"]
    assert read_run(folders / "artifacts" / "a").tables["prepare"]["images"] == [f"{folders}/a", f"{folders}/b"]
    assert "up to date" in ccd("prepare", "--run", "a")  # the settings come back from run.toml
    code, output = prepare("--images", "a")
    assert code == 1 and "is the run of" in output
    code, output = prepare("--images", "a", "--labels", "x.csv", "--labels=y.csv")
    assert code == 1 and "--labels is given 2 times" in output
    assert "--epochs is given 2 times" in refused("train", "--run", "a", "--epochs", "1", "--epochs", "2")
    code, output = invoke("prepare", "--preset", "nuswide", "--root", "a", "--images", "a", "--images", "b")
    assert code == 1 and "--images is given 2 times" in output


@pytest.mark.parametrize(("source", "run"), [(".", "a"), ("../a/", "a"), ("../b/..", None), ("../link/", "link")])
def test_a_run_is_called_like_its_photos_however_they_are_named(folders, monkeypatch, source, run):
    (folders / "link").symlink_to("a")
    monkeypatch.chdir(folders / "a")
    assert prepare("--images", source)[0] == 0
    assert (folders / "a" / "artifacts" / (run or folders.name) / "manifest.csv").exists()


def test_the_root_of_the_disk_needs_a_name(folders):
    code, output = prepare("--images", "/")
    assert code == 1 and "--run" in output and not (folders / "artifacts").exists()


def test_what_a_run_holds_is_not_taken_for_photos(folders):
    assert prepare("--images", "a", "--run", "artifacts/first")[0] == 0
    shutil.copytree("b", "artifacts/first/scenes")
    shutil.copytree("b", "artifacts/started/scenes")
    (folders / "artifacts/started/run.toml").touch()
    code, output = prepare("--images", ".", "--run", "artifacts/second")
    assert code == 0 and "2 with a run of ccd (artifacts/first, artifacts/started)" in output
    assert len(read_manifest(folders / "artifacts" / "second").image_ids) == 8
