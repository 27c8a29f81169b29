"""OpenAI's image towers at any input size: the package's modules with interpolated positional embeddings."""

import warnings
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.classifier.towers.cells import CellHead, attention_pool_cells, transformer_cells
from pipeline.classifier.towers.embedding_map import EmbeddingMap

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package imports pkg_resources, which warns that it is deprecated
    from clip.model import AttentionPool2d, ModifiedResNet, VisionTransformer

REMEMBERED_GRIDS = 32
"""Grids whose positions are cached; crops come in batches of one shape, so few are in use at a time."""
HEAD = 64
"""Width of an attention head in OpenAI's towers."""


def any_size_tower(visual: ModifiedResNet | VisionTransformer, positions: str = "bicubic") -> nn.Module:
    """An image tower for any multiples of `stride_of` as sides.

    A ViT shares the weights of `visual`; a ResNet is changed in place. At the native size the result is that of `visual` up
    to rounding.

    Args:
        visual: the package's image tower.
        positions: see `GridPositions`.
    """
    if isinstance(visual, VisionTransformer):
        return AnySizeViT(visual, positions)
    fold_batch_norms(visual)
    visual.attnpool = AnySizeAttentionPool(visual.attnpool, positions)
    return visual


def stride_of(visual: ModifiedResNet | VisionTransformer) -> int:
    """Pixels per cell of the last grid."""
    return visual.conv1.stride[0] if isinstance(visual, VisionTransformer) else 32


class GridPositions(nn.Module):
    """Positional embeddings of one global token and of a grid of any size, interpolated from a square one.

    The interpolation is not antialiased: an average of positions would have a smaller norm than any position in training.

    Args:
        embedding: Tensor[1 + G * G, E], the global token's first, the grid's row by row.
        mode: "bicubic", or "bilinear".
    """

    def __init__(self, embedding: Tensor, mode: str = "bicubic") -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer("embedding", embedding.detach())
        self.for_grid = lru_cache(REMEMBERED_GRIDS)(self._for_grid)

    def forward(self, height: int, width: int) -> Tensor:
        """Tensor[1 + height * width, E]; the original for the original grid."""
        # an export traces the computation; the tensors of a trace are invalid after it
        compute = self._for_grid if torch.compiler.is_compiling() else self.for_grid
        return compute(height, width)

    def _for_grid(self, height: int, width: int) -> Tensor:
        token, cells = self.embedding[:1], self.embedding[1:]
        side = round(len(cells) ** 0.5)
        if (height, width) == (side, side):
            return self.embedding
        grid = cells.float().T.reshape(1, -1, side, side)
        grid = F.interpolate(grid, (height, width), mode=self.mode, align_corners=False)
        return torch.cat([token, grid[0].flatten(1).T.to(token.dtype)])


class AnySizeAttentionPool(nn.Module):
    """The attention pool of the ResNets for any grid; the mean cell is the only query.

    With one query per head, keys and values of the cells need not be computed: q . (K x) is (K^T q) . x, and the weighted
    mean of V x is V times the weighted mean of x. The bias of the keys shifts all scores of a head equally, which the softmax
    ignores.

    Args:
        pool: the package's pool, whose weights are shared.
        positions: see `GridPositions`.
    """

    def __init__(self, pool: AttentionPool2d, positions: str = "bicubic") -> None:
        super().__init__()
        self.positions = GridPositions(pool.positional_embedding, positions)
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = (
            pool.q_proj,
            pool.k_proj,
            pool.v_proj,
            pool.c_proj,
        )
        self.num_heads = pool.num_heads

    def forward(self, features: Tensor) -> Tensor:
        """Tensor[B, E, h, w] to Tensor[B, D]."""
        cells = features.flatten(2).transpose(1, 2)  # [B, hw, E]
        tokens = torch.cat([cells.mean(1, keepdim=True), cells], 1)  # [B, 1 + hw, E]
        tokens = tokens + self.positions(*features.shape[-2:])
        query, key_weight, value_weight, value_bias = (
            flat.unflatten(dim, (self.num_heads, -1))  # E into heads of size E / heads
            for flat, dim in (
                (self.q_proj(tokens[:, 0]), 1),
                (self.k_proj.weight, 0),
                (self.v_proj.weight, 0),
                (self.v_proj.bias, 0),
            )
        )
        head = torch.einsum("bhd,hde->bhe", query, key_weight) * query.shape[-1] ** -0.5
        attention = (head @ tokens.transpose(1, 2)).softmax(-1)  # [B, heads, 1 + hw]
        pooled = torch.einsum("bhe,hde->bhd", attention @ tokens, value_weight) + value_bias
        return self.c_proj(pooled.flatten(1))


class AnySizeViT(nn.Module):
    """The package's VisionTransformer for any grid of patches.

    Args:
        visual: the package's tower, whose modules are shared.
        positions: see `GridPositions`.
    """

    def __init__(self, visual: VisionTransformer, positions: str = "bicubic") -> None:
        super().__init__()
        self.visual = visual
        self.positions = GridPositions(visual.positional_embedding, positions)

    def forward(self, pixels: Tensor) -> Tensor:
        """Tensor[B, 3, H, W], H and W multiples of the patch, to Tensor[B, D]."""
        visual = self.visual
        patches = visual.conv1(pixels)  # [B, E, h, w]
        token = visual.class_embedding.expand(pixels.shape[0], 1, -1)
        tokens = torch.cat([token, patches.flatten(2).transpose(1, 2)], 1)  # [B, 1 + hw, E]
        tokens = visual.ln_pre(tokens + self.positions(*patches.shape[-2:]))
        tokens = visual.transformer(tokens.transpose(0, 1))  # the package's blocks take [tokens, B, E]
        return visual.ln_post(tokens[0]) @ visual.proj


def cell_head_of(tower: nn.Module, attention: str) -> CellHead:
    """How the cells of a tower of `any_size_tower` are embedded."""
    if not isinstance(tower, AnySizeViT):
        return attention_pool_cells(tower.attnpool)
    visual = tower.visual
    block, patch = visual.transformer.resblocks[-1], visual.conv1.kernel_size
    return transformer_cells(block, visual.ln_post, visual.proj, patch, attention, batch_first=False)


def describe(visual: ModifiedResNet | VisionTransformer) -> dict[str, Any]:
    """Arguments of `build` for the package's image tower, before or after `any_size_tower`."""
    size = {"embedding_size": visual.output_dim, "image_size": visual.input_resolution}
    if isinstance(visual, VisionTransformer):
        width, patch = visual.conv1.out_channels, visual.conv1.stride[0]
        return size | {"layers": visual.transformer.layers, "width": width, "patch_size": patch}
    layers = [len(layer) for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4)]
    return size | {"layers": layers, "width": visual.conv3.out_channels, "patch_size": None}


def build(
    embedding_size: int, image_size: int, layers: int | list[int], width: int, patch_size: int | None
) -> ModifiedResNet | VisionTransformer:
    """The package's image tower with random weights; a ResNet where there is no patch size."""
    if patch_size is None:
        return ModifiedResNet(layers, embedding_size, width * 32 // HEAD, image_size, width)
    return VisionTransformer(image_size, patch_size, width, layers, width // HEAD, embedding_size)


def map_of(visual: ModifiedResNet | VisionTransformer, positions: str, attention: str) -> EmbeddingMap:
    """A tower as a backbone.

    Args:
        visual: the package's image tower in eval mode, which is changed.
        positions: see `GridPositions`.
        attention: of the cells, see `transformer_cells`.
    """
    return EmbeddingMap(any_size_tower(visual, positions), partial(cell_head_of, attention=attention))


def fold_batch_norms(visual: ModifiedResNet) -> None:
    """Merge each BatchNorm in eval mode into the convolution before it, which saves a pass over the activations."""
    for block in list(visual.modules()):
        for i in (1, 2, 3):
            if hasattr(block, f"bn{i}"):
                fused = fuse_conv_bn_eval(getattr(block, f"conv{i}"), getattr(block, f"bn{i}"))
                setattr(block, f"conv{i}", fused)
                setattr(block, f"bn{i}", nn.Identity())
        if getattr(block, "downsample", None) is not None:  # AvgPool2d, Conv2d, BatchNorm2d
            block.downsample[1] = fuse_conv_bn_eval(block.downsample[1], block.downsample[2])
            block.downsample[2] = nn.Identity()
