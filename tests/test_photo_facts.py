"""Photos that are missing, changed, moved or already known."""

import os
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from worlds.commands import ccd, invoke, options

from pipeline.artifacts import photo_facts
from pipeline.artifacts.manifest import read_manifest
from pipeline.artifacts.photo_facts import KnownPhotos, check_photos, read_facts
from pipeline.artifacts.state import file_states
from pipeline.photos import image_cache
from pipeline.stages import prepare
from pipeline.system.errors import PipelineError


@pytest.fixture
def begun(photos, tmp_path):
    """A prepared run with photos that a test may damage."""
    shutil.copytree(photos / "train", tmp_path / "photos")
    ccd("prepare", "--run", tmp_path / "run", "--images", tmp_path / "photos", "--classes", "red,green,blue")
    return tmp_path / "run"


def another(path):
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(path)


def looked_at(monkeypatch):
    """Photos that `prepare` reads from now on."""
    seen = []
    verify = prepare.verify
    monkeypatch.setattr(prepare, "verify", lambda path: seen.append(path.name) or verify(path))
    return seen


def test_a_photo_that_is_gone_is_one_error_of_every_stage_that_looks_at_photos(begun, tmp_path, colour_teacher):
    (tmp_path / "photos" / "0.png").unlink()
    (tmp_path / "photos" / "2.png").unlink()
    code, output = invoke("embed", "--run", begun, "--device", "cpu")
    assert code == 1 and "2 of the 8 photos" in output and "first: 0.png" in output
    assert f"`ccd prepare {begun}`" in output and f"`ccd prepare {begun} --images DIR`" in output
    ccd("prepare", "--run", begun)
    ccd("embed", "--run", begun, "--device", "cpu")


def test_a_photo_of_other_content_is_one_error_and_prepare_takes_it(begun, tmp_path, colour_teacher):
    another(tmp_path / "photos" / "0.png")
    code, output = invoke("embed", "--run", begun, "--device", "cpu")
    assert code == 1 and "1 of the 8 photos" in output and "have changed" in output and "first: 0.png" in output
    assert not (begun / "embeddings.h5").exists()
    before = read_manifest(begun).provenance
    ccd("prepare", "--run", begun)
    assert read_manifest(begun).provenance != before
    ccd("embed", "--run", begun, "--device", "cpu")


def test_a_finished_run_needs_no_photos(begun, tmp_path, colour_teacher):
    ccd("embed", "--run", begun, "--device", "cpu")
    shutil.rmtree(tmp_path / "photos")
    assert "up to date" in ccd("embed", "--run", begun)


def test_a_stage_reads_the_manifest_once(begun, monkeypatch, colour_teacher):
    read, from_csv = [], pd.read_csv
    monkeypatch.setattr(pd, "read_csv", lambda path, **how: read.append(path.name) or from_csv(path, **how))
    ccd("embed", "--run", begun, "--device", "cpu")
    assert read.count("manifest.csv") == 1


@pytest.fixture
def looks(monkeypatch):
    """How often the file of each photo was looked at before it was decoded."""
    found = Counter()
    status, key = photo_facts.file_status, image_cache.file_key
    monkeypatch.setattr(photo_facts, "file_status", lambda path: found.update([str(path)]) or status(path))
    monkeypatch.setattr(image_cache, "file_key", lambda path: found.update([str(path)]) or key(path))
    return found


def test_a_command_looks_at_the_file_of_each_photo_once(photos, backbone, tmp_path, looks, colour_teacher):
    arguments = options(photos, backbone, tmp_path / "run")
    for force in ([], ["--force"]):
        looks.clear()
        ccd(*arguments, *force)
        assert max(looks.values(), default=0) <= 1
    for stage in ("boxes", "train"):
        looks.clear()
        ccd(stage, "--run", tmp_path / "run", "--device", "cpu", "--force")
        assert sorted(looks.values()) == [1] * 12


def test_a_photo_with_another_time_is_hashed_once(begun, tmp_path, monkeypatch):
    manifest = read_manifest(begun)
    for path in manifest.paths[:3]:
        os.utime(path, ns=(5, 5))
    hashed = []
    real = check_photos.__globals__["sha256_of"]
    monkeypatch.setattr("pipeline.artifacts.photo_facts.sha256_of", lambda path: hashed.append(path.name) or real(path))
    for _ in range(2):
        check_photos(begun, manifest)
    assert len(hashed) == 3


def test_the_table_may_be_deleted_or_damaged(begun, monkeypatch):
    manifest = read_manifest(begun)
    for damage in (lambda path: path.unlink(), lambda path: path.write_text("image_id\n\x00"), another_table):
        damage(begun / "photos.csv")
        check_photos(begun, manifest)
        assert len(read_facts(begun)) == 8


def another_table(path):
    path.write_text(path.read_text().replace("bytes", "size"))


def test_prepare_reads_no_photo_twice(begun, tmp_path, monkeypatch):
    seen = looked_at(monkeypatch)
    assert "up to date" in ccd("prepare", "--run", begun) and seen == []
    another(tmp_path / "photos" / "0.png")
    another(tmp_path / "photos" / "new.png")
    (tmp_path / "photos" / "2.png").unlink()
    ccd("prepare", "--run", begun)
    assert sorted(seen) == ["0.png", "new.png"]
    assert "2.png" not in read_facts(begun).index and len(read_facts(begun)) == 8
    seen.clear()
    ccd("prepare", "--run", begun, "--force")
    assert len(seen) == 8


def test_an_interrupted_prepare_goes_on_where_it_was(begun, tmp_path, monkeypatch):
    (begun / "photos.csv").unlink()
    seen = looked_at(monkeypatch)
    add = KnownPhotos.add

    def interrupted(self, image_id, facts):
        add(self, image_id, facts)
        if len(self._now) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KnownPhotos, "add", interrupted)
        assert invoke("prepare", "--run", begun)[0] != 0
    assert len(read_facts(begun)) == 5
    seen.clear()
    ccd("prepare", "--run", begun)
    assert len(seen) == 3


def test_moved_photos_make_nothing_stale(begun, tmp_path, colour_teacher):
    ccd("embed", "--run", begun, "--device", "cpu")
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    code, output = invoke("prepare", "--run", begun, "--images", tmp_path / "elsewhere")
    assert code == 0 and f"the same images, now in {tmp_path}/elsewhere" in output
    assert file_states(begun)["embeddings.h5"].state == "up to date"
    assert read_manifest(begun).paths[0].startswith(str(tmp_path / "elsewhere"))
    ccd("embed", "--run", begun, "--device", "cpu", "--force")


def test_a_photo_that_cannot_be_read_any_more_is_an_error(begun, tmp_path):
    manifest = read_manifest(begun)
    (tmp_path / "photos" / "0.png").unlink()
    (tmp_path / "photos" / "0.png").mkdir()
    with pytest.raises(PipelineError, match="have changed"):
        check_photos(begun, manifest)
