import json
import runpy

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from worlds.runs import CLASSES

from pipeline import Classifier
from pipeline.classifier.network import build_classifier
from pipeline.deploy import hub
from pipeline.evaluation.run_files import read_run
from pipeline.system.errors import PipelineError
from pipeline.system.files import LIST


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    Image.fromarray(pixels).resize((140, 90), Image.Resampling.BICUBIC).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_torch_and_timm_alone_give_the_classifiers_scores(tiny_classifier, tmp_path, photo):
    folder = hub.run(tiny_classifier, tmp_path / "hub")
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors",
        "config.json",
        "load.py",
        "README.md",
        "DATA.md",
        LIST,
    }
    assert "pipeline." not in (folder / "load.py").read_text()
    found = runpy.run_path(str(folder / "load.py"))["scores"](photo)
    (wanted,) = Classifier.load(tiny_classifier).predict(photo)
    assert list(found) == list(wanted.scores)
    np.testing.assert_allclose(list(found.values()), list(wanted.scores.values()), atol=2e-3)
    assert json.loads((folder / "config.json").read_text())["thresholds"] == {"cat": 0.5, "dog": 0.4, "cow": 0.6}


@pytest.mark.parametrize("backbone", ["lite0", "resnet50", "timm:test_resnet", "timm:test_convnext", "timm:lcnet_050"])
def test_every_backbone_has_timms_names(backbone):
    torch.manual_seed(0)
    net = build_classifier(backbone, 3, boost=3.0, pretrained=False).eval()
    architecture = hub.architecture_of(net, backbone)
    assert timm.is_model(architecture)
    weights = hub.named_weights(net, architecture)
    rebuilt = hub.Rebuilt(hub.rebuilt_backbone(architecture, weights), weights, net).eval()
    assert hub.largest_difference(hub.Scorer(net), rebuilt, 64) < 1e-5


def test_a_backbone_whose_head_cannot_be_left_out_is_refused():
    net = build_classifier("timm:efficientvit_b0", 3, boost=3.0, pretrained=False)
    with pytest.raises(PipelineError, match="Export to ONNX instead"):
        hub.named_weights(net, "efficientvit_b0")


def test_weights_of_another_network_are_refused():
    with pytest.raises(PipelineError, match="not those of timm's test_vit"):
        hub.named_weights(build_classifier("timm:test_resnet", 3, boost=3.0, pretrained=False), "test_vit")


def test_cards_tell_figures_labels_and_origin(small_run):
    files = read_run(small_run)
    config = {"architecture": "x", "class_names": CLASSES, "thresholds": dict.fromkeys(CLASSES, 0.5), "size": [32, 32]}
    card = hub.model_card({**config, "fingerprint": "f"}, files)
    for figures in files.metrics["test"].values():
        assert f"| {100 * figures['mAP']:.1f} |" in card
    assert "</script>" not in card  # a class name is no markup
    data = hub.data_card(files)
    assert "8 train and 4 test photos of squares; 1 could not be read" in data
    assert files.provenances["final_labels.h5"].fingerprint in data
    assert "has not been evaluated" in hub.model_card({**config, "fingerprint": "f"}, None)


def test_an_existing_folder_is_kept(tiny_classifier, tmp_path):
    (tmp_path / "hub").mkdir()
    with pytest.raises(PipelineError, match="exists already"):
        hub.run(tiny_classifier, tmp_path / "hub")
    assert list((tmp_path / "hub").iterdir()) == []
