"""A stage whose teacher runs out of memory gives the result of one that does not."""

import shutil

import pytest
from worlds.commands import ccd
from worlds.teachers import ColourTeacher, use_teacher


@pytest.mark.parametrize(("stage", "name"), [("embed", "embeddings.h5"), ("score-crops", "crop_scores.h5")])
def test_a_stage_goes_on_with_smaller_batches(stage, name, run, monkeypatch):
    shutil.rmtree(run / "image_embeddings")
    before = (run / name).read_bytes()
    (run / name).unlink()
    use_teacher(ColourTeacher(room=2), monkeypatch)
    assert "views no longer fit" in ccd(stage, "--run", run, "--device", "cpu")
    assert (run / name).read_bytes() == before
