from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from timm.layers import convert_sync_batchnorm
from worlds.networks import small_net

from pipeline.artifacts.checkpoints import read_checkpoint, write_checkpoint
from pipeline.classifier import network, training
from pipeline.classifier.inference import load_classifier
from pipeline.deploy import export
from pipeline.deploy.classifier import Classifier
from pipeline.photos.resize import load_view
from pipeline.runs.options import WarmupConfig
from pipeline.system import distributed
from pipeline.system.errors import PipelineError


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
    with pytest.raises(PipelineError, match=r"IMAGENET1K_V1 .*resnet50 and resnet101.*lite0"):
        network.build_backbone("lite0", "IMAGENET1K_V1")


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("mobilenetv3_small_050", 1024),
        ("mobilenetv4_conv_small", 1280),
        ("ghostnet_050", 1280),
        ("lcnet_050", 1280),
        ("hgnetv2_b0", 2048),
        ("efficientvit_b0", 128),
        ("vgg11", 512),
        ("convnext_atto", 320),
    ],
)
def test_convolutional_timm_models_make_maps_and_take_weights_of_a_whole_model(tmp_path, name, channels):
    torch.manual_seed(1)
    whole = timm.create_model(name, pretrained=False).eval()
    torch.save(whole.state_dict(), tmp_path / "weights.pt")
    net = network.build_classifier(f"timm:{name}", 3, boost=3.0, weights=str(tmp_path / "weights.pt"))
    assert net.training and net.head.in_channels == channels
    state = net.stages[0].state_dict()
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in state.items())
    with torch.no_grad():
        assert net.head(net.eval().features(torch.rand(1, 3, 96, 160))).shape == (1, 3, 3, 5)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("swin_tiny_patch4_window7_224", "does not accept images of any size"),
        ("levit_128s", "does not accept images of any size"),
        ("mambaout_femto", r"returns \[1, 3, 3, 1152\] for an image of 96 px"),  # channels last
    ],
)
def test_timm_models_without_a_map_are_refused_before_anything_is_downloaded(monkeypatch, name, match):
    create, asked = timm.create_model, []
    monkeypatch.setattr(
        timm, "create_model", lambda *a, pretrained, **k: asked.append(pretrained) or create(*a, pretrained=False, **k)
    )
    with pytest.raises(PipelineError, match=match):
        network.build_backbone(f"timm:{name}")
    assert asked == [False]


def test_the_check_of_a_timm_model_changes_no_draw(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, pretrained, **k: create(*a, pretrained=False, **k))
    heads = []
    for pretrained in (True, False):
        torch.manual_seed(0)
        heads.append(network.build_classifier("timm:test_resnet", 3, boost=3.0, pretrained=pretrained).head.weight)
    assert torch.equal(*heads)


def test_a_classifier_gets_photos_resized_as_it_was_trained(tiny_classifier, photos, tmp_path):
    checkpoint = read_checkpoint(tiny_classifier)
    assert load_classifier(checkpoint).resize_filter == "bicubic"
    other = replace(checkpoint, architecture=checkpoint.architecture | {"resize_filter": "pillow-bilinear"})
    write_checkpoint(tmp_path / "classifier.pt", other)
    classifier = Classifier.load(tmp_path / "classifier.pt")
    photo = photos / "train" / "0.png"
    view = load_view(photo, (32, 32), "pillow-bilinear")
    assert torch.equal(torch.from_numpy(classifier.scores(photo)), torch.from_numpy(classifier.score_batch(view[None])))
    assert (classifier.scores(photo) != Classifier.load(tiny_classifier).scores(photo)).any()


def test_an_unknown_resize_filter_is_refused(tiny_classifier, tmp_path):
    checkpoint = read_checkpoint(tiny_classifier)
    odd = replace(checkpoint, architecture=checkpoint.architecture | {"resize_filter": "nearest"})
    write_checkpoint(tmp_path / "classifier.pt", odd)
    with pytest.raises(PipelineError, match="resize filter is 'nearest'"):
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


VITS = {
    "test_vit": 16,  # a class token
    "vit_small_patch14_dinov2": 14,
    "vit_small_patch14_reg4_dinov2": 14,
    "vit_small_patch16_dinov3": 16,
    "vit_base_patch16_siglip_224": 16,
    "vit_base_patch16_siglip_gap_256.v2_webli": 16,
    "beit_base_patch16_224": 16,  # one size alone
}
"""ViTs of timm, and the side of their patches."""


@pytest.fixture(scope="module", params=VITS)
def vit(request):
    """Name of a ViT, timm's model, the backbone with its weights, and the side of the patches; all have one block."""
    create = timm.create_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", lambda *a, pretrained, **k: create(*a, pretrained=False, depth=1, **k))
        torch.manual_seed(0)
        whole = timm.create_model(request.param, pretrained=False).eval()
        net = network.build_classifier(f"timm:{request.param}", 3, boost=3.0).eval().requires_grad_(False)
        weights = {name.removeprefix("0.model."): value for name, value in net.stages.state_dict().items()}
        assert all("attn_pool" in name or "head" in name for name in whole.load_state_dict(weights, strict=False)[0])
        yield request.param, whole, net, VITS[request.param]


def test_the_map_of_a_vit_has_the_tokens_of_its_patches(vit):
    name, whole, net, patch = vit
    side = whole.pretrained_cfg["input_size"][1]
    if "dinov2" not in name:  # whose tokens at 518 px are many
        images = torch.randn(2, 3, side, side)
        with torch.no_grad():
            tokens, maps = whole.forward_features(images), net.stages(images)
        cells = side // patch
        assert maps.shape == (2, net.head.in_channels, cells, cells)
        for y in range(cells):
            for x in range(cells):
                torch.testing.assert_close(maps[:, :, y, x], tokens[:, whole.num_prefix_tokens + y * cells + x])
    assert net.takes(side) and not net.takes(side + 1)
    if name.startswith("beit"):
        assert not net.takes(side + patch)
        with pytest.raises(PipelineError, match=f"is 320, but the backbone takes images of {side} px alone"):
            net.check_side(320, "warmup.image_size")
    else:
        assert net.features(torch.rand(1, 3, 3 * patch, 3 * patch)).shape[2:] == (3, 3)


def test_a_side_between_two_patches_is_refused_with_the_nearest_one():
    net = network.build_classifier("timm:test_vit", 3, boost=3.0, pretrained=False)
    with pytest.raises(PipelineError, match=r"is 330, .* takes sides that are multiples of 16 px\. Set it to 336"):
        net.check_side(330, "warmup.image_size")


def test_a_vit_is_exported_at_another_size_than_its_own(vit, tmp_path):
    name, whole, net, patch = vit
    side = whole.pretrained_cfg["input_size"][1] if name.startswith("beit") else 6 * patch
    torch.nn.init.normal_(net.head.weight, std=0.1)
    scorer = export.Scorer(net)
    export.write_onnx(export.trace(scorer, side), {}, tmp_path / "onnx")
    assert export.largest_difference(scorer, export.load_onnx(tmp_path / "onnx"), side) < export.TOLERANCE
