"""Fixtures that several test modules use."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from colours import COLOURS, ColourTeacher, invoke, options
from PIL import Image
from runs import write_run
from small import ARCHITECTURE, small_net

from pipeline.runs.artifacts import Provenance
from pipeline.runs.checkpoints import Checkpoint, write_checkpoint


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
    net = small_net(head_std=2.0)  # scores that differ from image to image
    write_checkpoint(
        path,
        Checkpoint(
            provenance=Provenance("classifier", 2, {"seed": 0}, {}),
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
    """The run of `tests.runs`; not to be changed."""
    return write_run(tmp_path_factory.mktemp("written") / "squares")


@pytest.fixture
def small_run(written_run, tmp_path) -> Path:
    """A copy of it, with the photos inside."""
    return shutil.copytree(written_run, tmp_path / "squares")


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Twelve photos, each with a square of one colour on grey and, on every third, a second one; labelled."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    names = list(COLOURS)
    lines = ["image,labels"]
    for split, count in (("train", 8), ("test", 4)):
        (root / split / "deep").mkdir(parents=True)
        for n in range(count):
            pixels = generator.integers(90, 130, (48, 64, 3)).astype(np.uint8)
            present = [names[n % 3]] + ([names[(n + 1) % 3]] if n % 3 == 0 else [])
            pixels[8:40, 4:30] = COLOURS[present[0]]
            if len(present) > 1:
                pixels[20:36, 40:56] = COLOURS[present[1]]
            path = root / split / ("deep" if n % 2 else "") / f"{n}.png"
            Image.fromarray(pixels).save(path)
            image_id = path.relative_to(root / split).as_posix()
            lines.append(f"{'test/' if split == 'test' else ''}{image_id},{';'.join(present)}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    """Weights of a tiny backbone."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    return path


@pytest.fixture
def colour_teacher(monkeypatch):
    """Every stage that loads a teacher gets the colour teacher."""
    for stage in ("embed", "score_crops"):
        monkeypatch.setattr(
            f"pipeline.stages.{stage}.load_teacher", lambda spec, device="cpu", precision="float32": ColourTeacher()
        )


@pytest.fixture(scope="session")
def finished(photos, backbone, tmp_path_factory):
    """A run of all stages; not to be changed."""
    folder = tmp_path_factory.mktemp("run") / "colours"
    with pytest.MonkeyPatch.context() as patch:
        for stage in ("embed", "score_crops"):
            patch.setattr(
                f"pipeline.stages.{stage}.load_teacher", lambda spec, device="cpu", precision="float32": ColourTeacher()
            )
        code, output = invoke(*options(photos, backbone, folder))
    assert code == 0, output
    return folder
