"""open_clip's image towers: their cells, and how they are rebuilt from a description."""

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import timm
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers import AttentionPoolLatent, SelectAdaptivePool2d
from timm.models.vision_transformer import VisionTransformer as TimmTransformer
from torch import nn

from pipeline.classifier.towers.cells import (
    CellHead,
    attention_pool_cells,
    latent_pool_cells,
    mean_pool_cells,
    transformer_cells,
)
from pipeline.classifier.towers.embedding_map import EmbeddingMap


def cell_head_of(visual: nn.Module, attention: str) -> CellHead | None:
    """How the cells of an image tower are embedded; None for one that has none here.

    These have cells: CLIP's ResNets and ViTs, timm's ViTs with an attention pool of one query (SigLIP), and timm's
    convolutional towers that pool their last map by the mean (MobileCLIP-S, ConvNeXt). Others do not, such as CoCa's
    attention pools of many queries, PE, EVA, Swin, and timm's ViTs with a class token.
    """
    if isinstance(visual, ModifiedResNet):
        return attention_pool_cells(visual.attnpool)
    if isinstance(visual, VisionTransformer):
        block = visual.transformer.resblocks[-1]
        # a block with another attention is of another class
        if visual.attn_pool is not None or type(block) is not ResidualAttentionBlock:
            return None
        batch_first = visual.transformer.batch_first
        return transformer_cells(
            block, visual.ln_post, visual.proj, visual.patch_size, attention, batch_first=batch_first
        )
    trunk = getattr(visual, "trunk", None)
    pool = getattr(trunk, "attn_pool", None)
    if type(trunk) is TimmTransformer and isinstance(pool, AttentionPoolLatent):
        single = pool.latent_len == 1 and pool.pool == "token" and pool.pos_embed is None
        return latent_pool_cells(trunk, visual.head) if single and not trunk.num_prefix_tokens else None
    pool = getattr(getattr(trunk, "head", trunk), "global_pool", None)
    # the mean over channels-last maps is another module
    if isinstance(pool, SelectAdaptivePool2d) and isinstance(pool.pool, nn.AdaptiveAvgPool2d):
        return mean_pool_cells(trunk, pool, visual.head)
    return None


def describe(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `build`, from the config of a model."""
    return {
        "embedding_size": config["embed_dim"],
        "vision": {**config["vision_cfg"], "timm_model_pretrained": False},
        "quick_gelu": config["quick_gelu"],
    }


def build(embedding_size: int, vision: Mapping[str, Any], quick_gelu: bool) -> nn.Module:
    """The image tower with random weights.

    Args:
        embedding_size: D.
        vision: fields of `CLIPVisionCfg`.
        quick_gelu: whether its GELU is QuickGELU.

    Raises:
        ValueError: there is no such tower, or it has weights of its own.
    """
    unknown = set(vision) - {item.name for item in fields(CLIPVisionCfg)}
    name = vision.get("timm_model_name")
    if unknown or vision.get("timm_model_pretrained") or (name and not timm.is_model(name)):
        raise ValueError(f"open_clip has no image tower {name or sorted(unknown)}")
    return _build_vision_tower(embedding_size, CLIPVisionCfg(**vision), quick_gelu)


def map_of(visual: nn.Module, attention: str) -> EmbeddingMap:
    """A tower as a backbone; `attention` is that of its cells, see `transformer_cells`."""
    return EmbeddingMap(visual, partial(cell_head_of, attention=attention))
