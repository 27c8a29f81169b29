"""Stages whose teacher runs out of memory in the middle end where one ends that does not."""

import shutil

import pytest
import torch
from colours import ColourTeacher, invoke

from pipeline.stages import embed, score_crops


class CrampedTeacher(ColourTeacher):
    """Has room for two views."""

    def encode_images(self, images):
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().encode_images(images)


@pytest.mark.parametrize(("stage", "name"), [("embed", "embeddings.h5"), ("score-crops", "crop_scores.h5")])
def test_a_stage_goes_on_with_smaller_batches(stage, name, finished, tmp_path, monkeypatch):
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "image_embeddings")
    before = (run / name).read_bytes()
    (run / name).unlink()
    for module in (embed, score_crops):
        monkeypatch.setattr(module, "load_teacher", lambda *spec, **how: CrampedTeacher())
    code, said = invoke(stage, "--run", run, "--device", "cpu")
    assert code == 0 and "no longer fit the memory" in said
    assert (run / name).read_bytes() == before
