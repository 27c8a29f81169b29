"""What `prepare` takes from the command line, and what it says of the photos."""

import shutil

import numpy as np
import pytest
from colours import invoke
from PIL import Image

from pipeline.runs.manifest import read_manifest
from pipeline.runs.settings import read_run


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The working directory, with the photos 0.png to 3.png in `a` and others of these names in `b`."""
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            pixels = generator.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare(*arguments):
    code, output = invoke("prepare", "--classes", "cat,dog", *arguments)
    return code, " ".join(output.split())


def test_a_repeated_source_is_added(folders):
    code, output = prepare("--images", "a", "--images", "b", "--exclude", "0.png", "--exclude", "1.png")
    assert code == 0, output
    assert read_manifest(folders / "artifacts" / "a").image_ids == ["a/2.png", "a/3.png", "b/2.png", "b/3.png"]
    assert read_run(folders / "artifacts" / "a").tables["prepare"]["images"] == ["a", "b"]
    code, output = invoke("prepare", "--run", "a")
    assert code == 0 and "up to date" in output  # the settings come back from run.toml
    code, output = prepare("--images", "a")
    assert code == 1 and "is the run of" in output
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
    code, output = prepare("--images", ".", "--run", "artifacts/second")
    assert code == 0 and "1 with a run of ccd (artifacts/first)" in output
    assert len(read_manifest(folders / "artifacts" / "second").image_ids) == 8
