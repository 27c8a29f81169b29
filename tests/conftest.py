"""Fixtures that several test modules use."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from worlds.commands import invoke, options
from worlds.networks import ARCHITECTURE, small_net, write_backbone
from worlds.photos import labelled_photos
from worlds.runs import write_run
from worlds.teachers import ColourTeacher, use_teacher

from pipeline.artifacts.checkpoints import Checkpoint, write_checkpoint
from pipeline.artifacts.provenance import Provenance
from pipeline.runs.graph import VERSIONS


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real photos that does not ship with the project; tests that need it are skipped without it."""
    beside_the_project = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("CCD_SHARED_DATA", beside_the_project))
    if not folder.is_dir():
        pytest.skip(f"no shared data in {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory) -> Path:
    """An untrained classifier of cat, dog and cow at 32 px; not to be changed."""
    path = tmp_path_factory.mktemp("classifier") / "classifier.pt"
    net = small_net(head_std=2.0)  # scores that differ from image to image
    net.scale.copy_(torch.tensor([2.0, 0.5, 1.0]))  # calibrated, so that whoever leaves that out is found
    net.offset.copy_(torch.tensor([0.3, -0.2, 0.0]))
    write_checkpoint(
        path,
        Checkpoint(
            provenance=Provenance("classifier", VERSIONS["classifier"], {"seed": 0}, {}),
            image_ids=["0.png"],
            class_names=["cat", "dog", "cow"],
            architecture=ARCHITECTURE,
            image_size=32,
            weights=net.state_dict(),
            training={},
            steps=0,
            thresholds=[0.5, 0.4, 0.6],
        ),
    )
    return path


@pytest.fixture(scope="session")
def written_run(tmp_path_factory) -> Path:
    """The run of `write_run`; not to be changed."""
    return write_run(tmp_path_factory.mktemp("written") / "squares")


@pytest.fixture
def small_run(written_run, tmp_path) -> Path:
    """A copy of `written_run` with its photos, which a test may change."""
    return shutil.copytree(written_run, tmp_path / "squares")


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Twelve photos of coloured squares with their labels; not to be changed."""
    return labelled_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    """File with the weights of a small backbone."""
    return write_backbone(tmp_path_factory.mktemp("weights") / "tiny.pt")


@pytest.fixture
def colour_teacher(monkeypatch):
    """The colour teacher, which every stage that loads a teacher gets."""
    return use_teacher(ColourTeacher(), monkeypatch)


@pytest.fixture(scope="session")
def finished(photos, backbone, tmp_path_factory):
    """A run of all stages; not to be changed."""
    folder = tmp_path_factory.mktemp("run") / "colours"
    with pytest.MonkeyPatch.context() as patch:
        use_teacher(ColourTeacher(), patch)
        code, output = invoke(*options(photos, backbone, folder))
    assert code == 0, output
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run, which a test may change."""
    return shutil.copytree(finished, tmp_path / "run")
