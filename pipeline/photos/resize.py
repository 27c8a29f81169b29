"""Pixels as the authors' code resizes them, in addition to the ways of `images.py`: Pillow's bilinear squash, bilinear crops."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.photos.images import load_image, squash


def pillow_bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 Tensor[3, h, w] to uint8 Tensor[3, *size], (H, W), with Pillow's bilinear filter, antialiased."""
    resized = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).resize(size[::-1], Image.Resampling.BILINEAR)
    return torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).view(*size, 3).permute(2, 0, 1)


def load_view(source: Path | bytes, size: tuple[int, int], rule: str = "bicubic") -> Tensor:
    """A photo, decoded at its full size, squashed to exactly (H, W): uint8 Tensor[3, H, W].

    Args:
        source: as of `load_image`.
        size: (H, W) in pixels.
        rule: "bicubic" (`images.squash`), or "pillow-bilinear" (the authors').

    Raises:
        UnreadableImage: as of `load_image`.
    """
    return squash_image(load_image(source), size, rule)


def squash_image(image: Tensor, size: tuple[int, int], rule: str) -> Tensor:
    """uint8 Tensor[3, h, w] squashed to uint8 Tensor[3, *size]; see `load_view`."""
    return squash(image, size) if rule == "bicubic" else pillow_bilinear(image, size)


def cut_bilinear(view: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """The part of a view inside a box, resized bilinearly and not antialiased, without rounding to whole values.

    Args:
        view: uint8 Tensor[3, H, W].
        box: Tensor[4], xyxy; its edges are rounded outwards to whole pixels, at least one.
        size: (H, W) of the result.

    Returns:
        float32 Tensor[3, *size] in [0, 255].
    """
    height, width = view.shape[1:]
    x1, y1 = (min(max(int(edge), 0), limit - 1) for edge, limit in zip(box[:2].tolist(), (width, height), strict=True))
    x2, y2 = (-int(-edge // 1) for edge in box[2:].tolist())
    y2, x2 = max(min(y2, height), y1 + 1), max(min(x2, width), x1 + 1)
    return interpolate(view[None, :, y1:y2, x1:x2].float(), size, mode="bilinear", align_corners=False)[0]
