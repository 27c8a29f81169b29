from dataclasses import replace

import pytest
import torch
import torchvision
from small import small_net
from timm.layers import convert_sync_batchnorm

from pipeline.classifier import network, training
from pipeline.classifier.api import Classifier
from pipeline.classifier.inference import load_classifier
from pipeline.machine import distributed
from pipeline.machine.errors import PipelineError
from pipeline.photos.squash import load_view
from pipeline.runs.checkpoints import read_checkpoint, write_checkpoint
from pipeline.runs.options import WarmupConfig


@pytest.mark.parametrize(
    ("weights", "loaded"),
    [
        ("IMAGENET1K_V1", torchvision.models.ResNet50_Weights.IMAGENET1K_V1),
        ("IMAGENET1K_V2", torchvision.models.ResNet50_Weights.IMAGENET1K_V2),
        ("", torchvision.models.ResNet50_Weights.DEFAULT),
    ],
)
def test_weights_of_torchvision_are_asked_for_by_name(monkeypatch, weights, loaded):
    asked = []
    build = torchvision.models.resnet50
    monkeypatch.setattr(torchvision.models, "resnet50", lambda weights=None: asked.append(weights) or build())
    network.build_backbone("resnet50", weights)
    assert asked == [loaded]
    assert WarmupConfig(weights="IMAGENET1K_V1").identity()["weights"] == "IMAGENET1K_V1"


def test_weights_of_torchvision_fit_its_resnets_alone():
    with pytest.raises(PipelineError, match="IMAGENET1K_V1 are of resnet50 and resnet101, not of lite0"):
        network.build_backbone("lite0", "IMAGENET1K_V1")


def test_a_classifier_gets_photos_squashed_as_it_was_trained(tiny_classifier, photos, tmp_path):
    checkpoint = read_checkpoint(tiny_classifier)
    assert load_classifier(checkpoint).squash == "bicubic"
    other = replace(checkpoint, architecture=checkpoint.architecture | {"squash": "pillow-bilinear"})
    write_checkpoint(tmp_path / "classifier.pt", other)
    classifier = Classifier.load(tmp_path / "classifier.pt")
    photo = photos / "train" / "0.png"
    view = load_view(photo, (32, 32), "pillow-bilinear")
    assert torch.equal(torch.from_numpy(classifier.scores(photo)), torch.from_numpy(classifier.score_batch(view[None])))
    assert (classifier.scores(photo) != Classifier.load(tiny_classifier).scores(photo)).any()


def test_an_unknown_way_to_squash_is_refused(tiny_classifier, tmp_path):
    checkpoint = read_checkpoint(tiny_classifier)
    odd = replace(checkpoint, architecture=checkpoint.architecture | {"squash": "nearest"})
    write_checkpoint(tmp_path / "classifier.pt", odd)
    with pytest.raises(PipelineError, match="squashed by 'nearest'"):
        read_checkpoint(tmp_path / "classifier.pt")


@pytest.mark.parametrize(
    ("options", "processes", "device", "wanted"),
    [
        ({"freeze_backbone": False, "freeze_norms": False}, 2, "cuda", True),
        ({"freeze_backbone": False, "freeze_norms": False}, 1, "cuda", False),
        ({"freeze_backbone": False, "freeze_norms": False}, 2, "cpu", False),
        ({"freeze_backbone": False, "freeze_norms": True}, 2, "cuda", False),
        ({}, 2, "cuda", False),
    ],
)
def test_trained_norms_see_the_whole_batch_of_several_gpus(monkeypatch, options, processes, device, wanted):
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    assert training.norms_see_parts(WarmupConfig(**options), torch.device(device)) == wanted


def test_synchronised_norms_compute_and_are_kept_as_before():
    net = small_net(head_std=2.0)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before, weights = net(images), {name: value.clone() for name, value in net.state_dict().items()}
    norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    net.stages = convert_sync_batchnorm(net.stages)
    assert sum(isinstance(m, torch.nn.SyncBatchNorm) for m in net.modules()) == norms > 0
    torch.testing.assert_close(net(images), before)
    assert net.state_dict().keys() == weights.keys()
    assert all(torch.equal(net.state_dict()[name], value) for name, value in weights.items())
