from pathlib import Path

import pytest
import torch
from timm.data import ImageNetInfo

from pipeline.classifier import lite
from pipeline.classifier.engines import run_of
from pipeline.photos.resize import load_view

CUTOUTS = Path(__file__).resolve().parents[1] / "pipeline/datasets/cutouts"
SEEN = {"fruit/banana": "banana", "big cat/tiger": "tiger", "truck/garbagetruck": "garbage truck"}


@pytest.mark.parametrize("name", lite.WHEELS)
def test_the_wheels_weights_know_what_pictures_show(name):
    pictures = [load_view(CUTOUTS / f"{path}.webp", (224, 224)) for path in SEEN]
    with torch.no_grad():
        logits = lite.load_lite(name)(torch.stack(pictures) / 127.5 - 1)
    info = ImageNetInfo()
    assert [info.index_to_description(i).split(",")[0] for i in logits.argmax(1).tolist()] == list(SEEN.values())


@pytest.mark.parametrize("name", lite.WHEELS)
def test_the_engine_changes_no_output(name):
    images = torch.rand(2, 3, 96, 127, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model = lite.load_lite(name)
    with torch.no_grad():
        torch.testing.assert_close(run_of(model, torch.device("cpu"))(images), model(images), atol=1e-4, rtol=1e-4)
