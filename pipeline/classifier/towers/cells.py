"""Embeddings of the cells of image towers: what the last module reads, taken through its value path cell by cell.

The tower's own forward pass runs unchanged and gives the global embedding. A hook keeps the input of the module that mixes the
cells, and the formulas below give the embeddings of the cells from it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class CellHead:
    """How the cells of a tower are embedded."""

    module: nn.Module
    """The module whose input has the cells."""
    embed: Callable[[Tensor, tuple[int, int]], Tensor]
    """That input, and the size (H, W) of the pixels, to Tensor[B, h, w, D] of any norm."""


def encode_with_cells(
    encode: Callable[[Tensor], Tensor], pixels: Tensor, head: CellHead | None
) -> tuple[Tensor, Tensor | None]:
    """Embeddings of images and of their cells from one pass: float32 Tensor[B, D] and Tensor[B, h, w, D], unit vectors.

    Args:
        encode: the tower, Tensor[B, 3, H, W] to Tensor[B, D].
        pixels: Tensor[B, 3, H, W].
        head: of the tower; None for one without cells, which then are None too.
    """
    if head is None:
        return F.normalize(encode(pixels).float(), dim=1), None
    inputs: list[Tensor] = []
    hook = head.module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        images = F.normalize(encode(pixels).float(), dim=1)
    finally:
        hook.remove()
    cells = head.embed(inputs[0], tuple(pixels.shape[-2:]))
    return images, F.normalize(cells.float(), dim=3)


def attention_pool_cells(pool: nn.Module) -> CellHead:
    """Cells of a CLIP ResNet: c_proj(v_proj(x)) of each vector x of the last map, as in TaI-DPT's dense inference.

    They have neither the positional embedding nor the query of the pool.
    """

    def embed(maps: Tensor, _: tuple[int, int]) -> Tensor:
        return pool.c_proj(pool.v_proj(maps.permute(0, 2, 3, 1)))

    return CellHead(pool, embed)


def transformer_cells(
    block: nn.Module, norm: nn.Module, projection: Tensor, patch: tuple[int, int], attention: str, *, batch_first: bool
) -> CellHead:
    """Cells of a CLIP ViT: the patches behind the last block with another attention, then the final norm and projection.

    With x the tokens before the block: y = x + attention(ln_1(x)), z = y + mlp(ln_2(y)), cell = ln_post(z) projection. Residual
    and feed-forward stay, as in the code of both papers (ClearCLIP leaves them out).

    Args:
        block: the last block, with the modules of CLIP's blocks, of the package or of open_clip.
        norm: the final norm.
        projection: Tensor[E, D].
        patch: its height and width in pixels.
        attention: "values": each patch's own value and output projection (MaskCLIP); "sclip": see `sclip_attention`.
        batch_first: whether the block takes [B, 1 + hw, E] instead of [1 + hw, B, E].
    """
    mix = {"values": own_values, "sclip": sclip_attention}[attention]
    first_scale, second_scale = (getattr(block, name, nn.Identity()) for name in ("ls_1", "ls_2"))  # of open_clip

    def embed(tokens: Tensor, size: tuple[int, int]) -> Tensor:
        tokens = tokens if batch_first else tokens.transpose(0, 1)
        mixed = mix(block.attn, block.ln_1(tokens))[:, 1:]
        cells = tokens[:, 1:] + first_scale(mixed)  # [B, hw, E]
        cells = cells + second_scale(block.mlp(block.ln_2(cells)))
        return (norm(cells) @ projection).unflatten(1, (size[0] // patch[0], size[1] // patch[1]))

    return CellHead(block, embed)


def own_values(attention: nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    """Output projection of each token's own value, Tensor[B, L, E]: attention of weight 1 to itself."""
    weight, bias = attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2]
    return attention.out_proj(F.linear(tokens, weight, bias))


def sclip_attention(attention: nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    """SCLIP's attention, softmax(q q^T / sqrt d) + softmax(k k^T / sqrt d) per head over all L tokens, Tensor[B, L, E].

    The weights of a token sum to 2, as in the authors' code.
    """
    heads = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias).unflatten(
        2, (3, attention.num_heads, -1)
    )
    query, key, value = heads.permute(2, 0, 3, 1, 4)  # each [B, heads, L, E / heads]
    mixed = F.scaled_dot_product_attention(query, query, value) + F.scaled_dot_product_attention(key, key, value)
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


def latent_pool_cells(trunk: nn.Module, head: nn.Module) -> CellHead:
    """Cells of a timm ViT with an attention pool of one latent query (SigLIP): each patch's own value.

    y = proj(value(x)), z = y + mlp(norm(y)), then the heads after the pool: what the pool gives if all patches are alike.

    Args:
        trunk: with `attn_pool`.
        head: of open_clip, after the trunk.
    """
    pool = trunk.attn_pool

    def embed(tokens: Tensor, size: tuple[int, int]) -> Tensor:
        weight = pool.kv.weight.chunk(2)[1]
        bias = None if pool.kv.bias is None else pool.kv.bias.chunk(2)[1]
        cells = pool.proj(F.linear(tokens, weight, bias))  # [B, hw, E]
        cells = cells if pool.mlp is None else cells + pool.mlp(pool.norm(cells))
        cells = head(trunk.head(trunk.fc_norm(cells)))
        return cells.unflatten(1, trunk.patch_embed.dynamic_feat_size(size))

    return CellHead(pool, embed)


def mean_pool_cells(trunk: nn.Module, pool: nn.Module, head: nn.Module) -> CellHead:
    """Cells of a timm tower that pools its last map by the mean: its heads applied to each cell instead of the mean.

    Where the heads are linear (MobileCLIP), the mean of the cells is the global embedding before its normalisation.

    Args:
        trunk: the convolutional tower.
        pool: the module in it that computes the mean.
        head: of open_clip, after the trunk.
    """

    def embed(maps: Tensor, _: tuple[int, int]) -> Tensor:
        cells = maps.permute(0, 2, 3, 1)  # [B, h, w, E]
        return head(trunk.forward_head(cells.flatten(0, 2)[:, :, None, None])).unflatten(0, cells.shape[:3])

    return CellHead(pool, embed)
