"""Cells of open_clip's towers against plain loops, on small random models of every family."""

import json
import math

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F
from worlds.slow_cells import last_block, pooled_values

from pipeline.teachers.encoding import ViewRules
from pipeline.teachers.teacher import load_teacher

open_clip = pytest.importorskip("open_clip")

from pipeline.classifier.towers.open_clip import cell_head_of  # noqa: E402

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
MEAN, STD = [0.5, 0.4, 0.3], [0.5, 0.6, 0.7]
VIT = {"image_size": [24, 40], "layers": 2, "width": 64, "head_width": 16, "patch_size": 8}
CLIPA = VIT | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
RESNET = {"image_size": 96, "layers": [1, 1, 1, 1], "width": 8}
FAMILIES = {
    "ViT": VIT,
    "CLIPA": CLIPA,
    "LayerScale": VIT | {"ls_init_value": 0.5},
    "ResNet": RESNET,
    "SigLIP": {"image_size": [24, 40], "timm_model_name": "small siglip", "timm_pool": "map", "timm_proj": "none"},
    "MobileCLIP": {"image_size": [64, 96], "timm_model_name": "fastvit_t8", "timm_pool": "avg", "timm_proj": None},
    "ConvNeXt": {"image_size": [64, 96], "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "mlp"},
    "timm ResNet": {
        "image_size": [64, 96],
        "timm_model_name": "test_resnet",
        "timm_pool": "avg",
        "timm_proj": "linear",
    },
}

TRANSFORMERS = ("ViT", "CLIPA", "LayerScale")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def saved(family, tmp_path_factory):
    """The model, and the spec of its folder."""
    folder = tmp_path_factory.mktemp("model")
    towers = {"embed_dim": 24, "vision_cfg": FAMILIES[family], "text_cfg": TEXT}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", with_small_siglip(timm.create_model))
        torch.manual_seed(0)
        model = randomised(open_clip.CustomTextCLIP(**towers))
        config = {"model_cfg": towers | {"custom_text": True}, "preprocess_cfg": {"mean": MEAN, "std": STD}}
        config["preprocess_cfg"] |= {"interpolation": "bicubic", "resize_mode": "squash"}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
        yield model, f"open_clip:local-dir:{folder}"


def with_small_siglip(create_model):
    """timm's `create_model` with a ViT of SigLIP's kind that is small."""

    def create(name, **options):
        if name != "small siglip":
            return create_model(name, **options)
        assert (options["num_classes"], options["global_pool"]) == (0, "map")
        size = {"img_size": (24, 40), "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
        return VisionTransformer(**size, num_classes=0, global_pool="map", class_token=False)

    return create


def randomised(model):
    """Norms and scales that are neither the identity nor tiny, as after training."""
    for name, tensor in model.visual.state_dict().items():
        if "running_var" in name or (tensor.ndim == 1 and name.endswith(("weight", "gamma"))):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point() and (tensor.ndim == 1 or "latent" in name or "layer_scale" in name):
            tensor.normal_(std=0.3)
    return model.eval()


def random_images(*shape):
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def normalised(images):
    return (images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def slow_cells(family, visual, pixels, attention):
    """[h, w, D] of one view [3, H, W], straight from the formulas."""
    if family in TRANSFORMERS:
        grid = [side // 8 for side in pixels.shape[1:]]
        tokens = torch.cat([visual.class_embedding[None], visual.conv1(pixels[None])[0].flatten(1).T])
        tokens = visual.ln_pre(tokens + visual.positional_embedding)
        tokens = visual.transformer.resblocks[0](tokens[None])[0]
        cells = last_block(visual.transformer.resblocks[1], tokens, attention)
        return (visual.ln_post(cells) @ visual.proj).unflatten(0, grid)
    if family == "ResNet":
        features = visual.stem(pixels[None])
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            features = layer(features)
        return pooled_values(visual.attnpool, features[0])
    if family == "SigLIP":
        trunk, pool = visual.trunk, visual.trunk.attn_pool
        cells = []
        for token in trunk.forward_features(pixels[None])[0]:
            # with one token the weight of the query's only key is 1
            cells.append(pool(token[None, None])[0])
        return torch.stack(cells).unflatten(0, (3, 5))
    features = visual.trunk.forward_features(pixels[None])
    rows = [[features[:, :, y : y + 1, x : x + 1] for x in range(features.shape[3])] for y in range(features.shape[2])]
    return torch.stack([torch.stack([visual.head(visual.trunk.forward_head(cell))[0] for cell in row]) for row in rows])


@pytest.mark.parametrize("attention", ["values", "sclip"])
def test_cells_equal_plain_loops(family, saved, attention):
    model, spec = saved
    teacher = load_teacher(spec, rules=ViewRules(cell_attention=attention))
    size = teacher._size
    images = random_images(2, 3, *size)
    views = teacher.encode_views(images)
    assert torch.equal(views.images, teacher.encode_images(images))
    assert (views.cells.norm(dim=3) - 1).abs().max() < 1e-5 and views.cells.dtype == torch.float32
    with torch.no_grad():
        expected = torch.stack([slow_cells(family, model.visual, image, attention) for image in normalised(images)])
    assert expected.std(dim=(1, 2)).max() > 1e-3  # cells that differ
    torch.testing.assert_close(views.cells, F.normalize(expected, dim=3), atol=2e-5, rtol=0)
    if family not in TRANSFORMERS:  # nor does another attention change it
        other = load_teacher(spec).encode_views(images)
        assert torch.equal(other.cells, views.cells)


def test_views_of_another_size_have_the_towers_own_grid(saved):
    teacher = load_teacher(saved[1])
    images = random_images(18, 3, 70, 51)
    views = teacher.encode_views(images)
    assert torch.equal(views.images, teacher.encode_images(images))
    assert views.cells.shape[:3] == (18, *teacher.encode_views(random_images(1, 3, *teacher._size)).cells.shape[1:3])
    for n in (0, 15, 16, 17):
        torch.testing.assert_close(views.cells[n], teacher.encode_views(images[n : n + 1]).cells[0], atol=2e-5, rtol=0)


def test_half_precision_keeps_the_cells(family, saved, monkeypatch):
    if family == "LayerScale":
        pytest.skip("open_clip's own pass fails: it leaves the scales in float32")
    exact = load_teacher(saved[1])
    images = random_images(2, 3, *exact._size)
    expected = exact.encode_views(images)
    # as on CUDA: on a CPU every precision is float32
    monkeypatch.setattr("pipeline.teachers.open_clip.compute_dtype", lambda *_: torch.bfloat16)
    rough = load_teacher(saved[1], precision="bfloat16")
    views = rough.encode_views(images)
    assert torch.equal(views.images, rough.encode_images(images)) and views.cells.dtype == torch.float32
    assert not torch.equal(views.cells, expected.cells)
    assert F.cosine_similarity(views.cells, expected.cells, dim=3).min() > 0.99


def test_the_mean_of_the_cells_of_a_linear_head_is_the_global_embedding(family, saved):
    if family not in ("MobileCLIP", "timm ResNet"):
        pytest.skip("its pooling is not linear")
    visual = saved[0].visual
    head = cell_head_of(visual, "values")
    pixels = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        cells = head.embed(visual.trunk.forward_features(pixels), (64, 96))
        torch.testing.assert_close(cells.mean(dim=(1, 2)), visual(pixels), atol=1e-5, rtol=1e-4)


WITHOUT = {
    "CoCa": VIT | {"attentional_pool": True, "attn_pooler_heads": 8},
    "other blocks": VIT | {"block_type": "custom"},
    "PE": {"timm_model_name": "vit_pe_core_tiny_patch16_384", "image_size": 384, "timm_pool": "map", "timm_proj": None},
    "EVA": {"timm_model_name": "eva02_tiny_patch14_224", "image_size": 224, "timm_pool": "token", "timm_proj": None},
    "class token": {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": "token", "timm_proj": None},
    "channels last": {"timm_model_name": "swin_tiny_patch4_window7_224", "image_size": 224, "timm_proj": "linear"},
    "own pool": {"timm_model_name": "resnet10t", "image_size": 224, "timm_pool": "abs_attn", "timm_proj": ""},
    "maximum": {"timm_model_name": "test_resnet", "image_size": 160, "timm_pool": "max", "timm_proj": "linear"},
}


@pytest.mark.parametrize("name", WITHOUT)
def test_other_towers_have_no_cells(name):
    with torch.device("meta"):
        visual = open_clip.model._build_vision_tower(24, open_clip.CLIPVisionCfg(**WITHOUT[name]))
    assert cell_head_of(visual, "values") is None


def test_a_teacher_without_cells_gives_its_global_embeddings(tmp_path):
    towers = {"embed_dim": 24, "vision_cfg": WITHOUT["other blocks"], "text_cfg": TEXT}
    model = open_clip.CLIP(**towers, init_logit_scale=math.log(10))
    preprocessing = {"mean": MEAN, "std": STD, "interpolation": "bicubic"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": towers, "preprocess_cfg": preprocessing}))
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    teacher = load_teacher(f"open_clip:local-dir:{tmp_path}")
    images = random_images(17, 3, 30, 30)
    views = teacher.encode_views(images)
    assert views.cells is None and torch.equal(views.images, teacher.encode_images(images))


def test_another_attention_is_part_of_the_fingerprint(family, saved):
    teachers = [load_teacher(saved[1], rules=ViewRules(cell_attention=each)) for each in ("values", "sclip")]
    assert teachers[0].fingerprint == load_teacher(saved[1]).fingerprint != teachers[1].fingerprint
