"""Teachers with small random image towers of every family, saved as their packages save them."""

import json

import timm
import torch
from safetensors.torch import save_file

from worlds.random_clip import random_clip

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
OPEN_CLIP = {
    "ViT": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "ResNet": {"image_size": 96, "layers": [1, 1, 1, 1], "width": 8},
    "SigLIP": {"image_size": 32, "timm_model_name": "small siglip", "timm_pool": "map", "timm_proj": "none"},
    "MobileCLIP": {"image_size": 64, "timm_model_name": "fastvit_t8", "timm_pool": "avg", "timm_proj": None},
    "CoCa": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8}
    | {"attentional_pool": True, "attn_pooler_heads": 8, "output_tokens": True},
}
"""Configs of open_clip's towers by family; CoCa has no cells."""
FAMILIES = ("openai ResNet", "openai ViT", *OPEN_CLIP)
PREPROCESSING = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bicubic", "resize_mode": "squash"}


def with_small_siglip(patch):
    """Let timm know a ViT of SigLIP's kind that is small, until `patch`, a monkeypatch, is undone."""
    from timm.models.vision_transformer import VisionTransformer

    create, is_model = timm.create_model, timm.is_model

    def create_small(name, **options):
        if name != "small siglip":
            return create(name, **options)
        size = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
        return VisionTransformer(**size, num_classes=0, global_pool="map", class_token=False)

    patch.setattr(timm, "create_model", create_small)
    patch.setattr(timm, "is_model", lambda name: name == "small siglip" or is_model(name))


def save_teacher(family, folder, **changes):
    """The spec of a teacher of one of `FAMILIES` that is saved in a folder; `changes` of an open_clip tower's config."""
    folder.mkdir(exist_ok=True)
    if family.startswith("openai"):
        path = folder / "model.pt"
        torch.save(random_clip(f"small {family.split()[1].lower()}").state_dict(), path)
        return f"openai:{path}"
    import open_clip

    torch.manual_seed(0)
    sigmoid = {"init_logit_bias": -2.0} if family == "SigLIP" else {}
    towers = {"embed_dim": 24, "vision_cfg": OPEN_CLIP[family] | changes, "text_cfg": TEXT} | sigmoid
    model = open_clip.CustomTextCLIP(**towers)
    for name, tensor in model.visual.state_dict().items():
        # neither the identity nor zero, as after training
        if "running_var" in name or (tensor.ndim == 1 and name.endswith(("weight", "gamma"))):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point() and (tensor.ndim == 1 or "latent" in name or "layer_scale" in name):
            tensor.normal_(std=0.3)
        elif tensor.ndim == 4 and family == "ResNet":
            torch.nn.init.kaiming_normal_(tensor)  # its own loses the image on the way
    config = {"model_cfg": towers | {"custom_text": True}, "preprocess_cfg": PREPROCESSING}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"open_clip:local-dir:{folder}"
