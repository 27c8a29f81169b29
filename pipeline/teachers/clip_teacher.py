"""CLIP teachers: embeddings of texts, and of views from an image tower that a classifier may share."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.classifier.backbones import Tower, backbone_of_map
from pipeline.classifier.towers.embedding_map import EmbeddingMap, embedding_map
from pipeline.teachers.encoding import EncodedViews, ViewRules, encode_in_chunks
from pipeline.teachers.package import Package

TEXTS_PER_CALL = 256


class ClipTeacher:
    """Embeddings of views and texts.

    A subclass has the `model` with both towers, `pixels` and `tokens`, and `statistics`, the mean and standard deviation of
    the pixels.

    Args:
        tower_map: the image tower in eval mode, on its device and in its precision.
        architecture: `backbone` and `tower` of a classifier with this tower, see `backbones.tower_backbone`; None if the
            tower takes no square images.
        rules: how it prepares views.
        device: of the tower.
        dtype: of the tower.
        package: loads the model as its package does; None where there is no file to load.
    """

    def __init__(
        self,
        tower_map: EmbeddingMap,
        architecture: dict[str, Any] | None,
        rules: ViewRules,
        device: torch.device,
        dtype: torch.dtype,
        package: Callable[[], Package] | None,
    ) -> None:
        self.package = package
        # as a frozen backbone: with gradients, torch's attention takes a path of other last digits
        self._map = tower_map.requires_grad_(False)
        self.architecture = architecture
        self._rules = rules
        self.device = device
        self.dtype = dtype

    def encode_images(self, images: Tensor) -> Tensor:
        """Embed uint8 RGB Tensor[B, 3, H, W] of any H and W as float32 Tensor[B, D] with unit rows."""
        return encode_in_chunks(self._encode_images, images, self.device)

    def encode_views(self, images: Tensor) -> EncodedViews:
        """`encode_images`, and the cells of the tower's grid where it has some."""
        return encode_in_chunks(self._encode_views, images, self.device)

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embed C texts as float32 Tensor[C, D] with unit rows.

        Raises:
            LongTextError: a text has more tokens than the model takes.
        """
        parts = self.tokens(texts).to(self.device).split(TEXTS_PER_CALL)
        return F.normalize(torch.cat([self.model.encode_text(part).float() for part in parts]), dim=1)

    @torch.inference_mode()
    def _encode_images(self, images: Tensor) -> Tensor:
        return F.normalize(self._map.embed(self.pixels(images)).float(), dim=1)

    @torch.inference_mode()
    def _encode_views(self, images: Tensor) -> EncodedViews:
        return EncodedViews(*self._map.encode(self.pixels(images)))

    def pixels(self, images: Tensor) -> Tensor:
        """Views of any size as normalised pixels of a size that the tower takes, Tensor[B, 3, h, w]."""
        raise NotImplementedError

    @cached_property
    def tower(self) -> Tower | None:
        """The image tower as a backbone of a classifier, with which it shares weights; None without `architecture`."""
        if self.architecture is None:
            return None
        backbone = backbone_of_map(self._map, self.architecture["tower"])
        tower = Tower(backbone, self._rules.resize_filter_of(self))
        return tower.to(self.device).eval()

    @staticmethod
    def maps_of(encoded: EncodedViews) -> Tensor:
        """The feature maps of views that `tower` gives."""
        return embedding_map(encoded.images, encoded.cells)


def architecture_of(
    package: str,
    visual: dict[str, Any],
    cells: dict[str, Any],
    statistics: tuple[Sequence[float], Sequence[float]],
    *,
    stride: int = 1,
    side: int = 0,
) -> dict[str, Any]:
    """`backbone` and `tower` of a classifier with an image tower.

    Args:
        package: one of `backbones.TOWERS`.
        visual: arguments of the package's `build`.
        cells: arguments of the package's `map_of`.
        statistics: mean and standard deviation per channel.
        stride: see `Backbone`.
        side: see `Backbone`.
    """
    mean, std = map(list, statistics)
    tower = {"visual": visual, "cells": cells, "mean": mean, "std": std, "stride": stride, "side": side}
    return {"backbone": package, "tower": tower}
