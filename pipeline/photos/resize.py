"""Photos resized to exactly (H, W), whole or inside a box; the aspect is not kept.

`resize_filter` names the filter of whole photos: "bicubic", or the authors' "pillow-bilinear".
"""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.photos.images import decoded
from pipeline.runs.options import ResizeFilter


def load_view(source: str | Path | bytes, size: tuple[int, int], resize_filter: ResizeFilter = "bicubic") -> Tensor:
    """`load_image` at its full size and `resize` to (H, W), as uint8 Tensor[3, H, W]."""
    with decoded(source) as image:
        return resize(image, size, resize_filter)


def resize(image: Tensor, size: tuple[int, int], resize_filter: ResizeFilter = "bicubic") -> Tensor:
    """Resize uint8 Tensor[3, h, w] on the CPU, a crop of another tensor too, to uint8 Tensor[3, *size].

    "bicubic" is torch's, antialiased. Pillow's bicubic gives other pixels at sharp edges: on 60 photos at 224 to 640 px, 0.01 %
    of the values differed by more than 1/255, the most by 16/255.
    """
    if resize_filter == "pillow-bilinear":
        return pillow_bilinear(image, size)
    return interpolate(image[None], size, mode="bicubic", antialias=True)[0]


def crop(image: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """The part of an image inside a box, resized by torch's bicubic filter.

    Args:
        image: uint8 Tensor[3, H, W].
        box: Tensor[4], xyxy; its edges are rounded outwards to whole pixels, at least one.
        size: (H, W) of the result.

    Returns:
        uint8 Tensor[3, *size].
    """
    return resize(inside(image, box), size)


def inside(image: Tensor, box: Tensor) -> Tensor:
    """The whole pixels of Tensor[3, H, W] that a box touches; see `crop`."""
    height, width = image.shape[1:]
    x1, y1 = (min(max(int(edge), 0), limit - 1) for edge, limit in zip(box[:2].tolist(), (width, height), strict=True))
    x2, y2 = (-int(-edge // 1) for edge in box[2:].tolist())
    return image[:, y1 : max(min(y2, height), y1 + 1), x1 : max(min(x2, width), x1 + 1)]


# The filters of the authors' code, for the recipes ccd*.


def pillow_bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """`resize` with Pillow's bilinear filter, antialiased."""
    resized = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).resize(size[::-1], Image.Resampling.BILINEAR)
    return torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).view(*size, 3).permute(2, 0, 1)


def crop_bilinear(image: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """`crop` with torch's bilinear filter, not antialiased and not rounded: float32 Tensor[3, *size] in [0, 255]."""
    return interpolate(inside(image, box)[None].float(), size, mode="bilinear", align_corners=False)[0]
