"""Fixtures that several test modules use."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from runs import write_run

from pipeline.artifacts import Checkpoint, Provenance, write_checkpoint
from pipeline.classifier import build_classifier


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real photos that does not ship with the project; a test that needs it is skipped without."""
    beside_the_project = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("CCD_SHARED_DATA", beside_the_project))
    if not folder.is_dir():
        pytest.skip(f"no shared data in {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory) -> Path:
    """An untrained classifier of cat, dog and cow at 32 px; not to be changed."""
    path = tmp_path_factory.mktemp("classifier") / "classifier.pt"
    architecture = {"backbone": "timm:test_resnet", "class_count": 3, "boost": 3.0}
    torch.manual_seed(0)
    net = build_classifier(**architecture, pretrained=False)
    torch.nn.init.normal_(net.head.weight, std=2.0)  # scores that differ from image to image
    write_checkpoint(
        path,
        Checkpoint(
            provenance=Provenance(Checkpoint.SCHEMA, Checkpoint.VERSION, {"seed": 0}, {}),
            image_ids=["0.png"],
            class_names=["cat", "dog", "cow"],
            architecture=architecture,
            image_size=32,
            weights=net.state_dict(),
            training={"steps": 0},
            thresholds=[0.5, 0.4, 0.6],
        ),
    )
    return path


@pytest.fixture(scope="session")
def written_run(tmp_path_factory) -> Path:
    """The run of `tests.runs`; not to be changed."""
    return write_run(tmp_path_factory.mktemp("written") / "squares")


@pytest.fixture
def small_run(written_run, tmp_path) -> Path:
    """A copy of it, with the photos inside."""
    return shutil.copytree(written_run, tmp_path / "squares")
