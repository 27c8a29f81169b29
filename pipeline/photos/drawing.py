"""Pictures of photos with their boxes, and thumbnails."""

import colorsys
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.photos.images import decoded, load_image
from pipeline.photos.resize import resize

SMALLEST = 720
"""Smallest width of a picture in pixels, so that a line of text fits."""
JPEG_QUALITY = 72


def class_colour(index: int, count: int) -> tuple[int, int, int]:
    """A bright RGB colour for a class; white for -1, no class."""
    if index < 0:
        return 255, 255, 255
    return tuple(round(255 * v) for v in colorsys.hsv_to_rgb(index / count, 0.75, 1.0))


def draw_boxes(
    photo: Path, boxes: np.ndarray, class_index: np.ndarray, class_names: Sequence[str], caption: Sequence[str]
) -> Image.Image:
    """The photo with its boxes, named and coloured by class, and lines of text below it.

    Args:
        photo: image file.
        boxes: float [M, 4], xyxy in pixels of the photo.
        class_index: int [M], -1 for a box without a class.
        class_names: C names.
        caption: lines of text.
    """
    image = Image.fromarray(load_image(photo).permute(1, 2, 0).numpy())
    scale = max(1.0, SMALLEST / image.width)
    image = image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.BICUBIC)
    boxes = scale * boxes
    size = max(14, round(min(image.size) / 36))
    font = ImageFont.load_default(size)
    line = round(1.5 * size)
    canvas = Image.new("RGB", (image.width, image.height + line * len(caption)), "white")
    canvas.paste(image)
    draw = ImageDraw.Draw(canvas)
    for box, index in zip(boxes.tolist(), class_index.tolist(), strict=True):
        colour = class_colour(index, len(class_names))
        draw.rectangle(box, outline=colour, width=max(2, size // 6))
        if index >= 0:
            # inside the photo even if the box starts above it
            corner = (box[0], max(box[1] - line, 0.0))
            draw.rectangle(draw.textbbox(corner, class_names[index], font=font), fill=colour)
            draw.text(corner, class_names[index], fill="black", font=font)
    for row, text in enumerate(caption):
        draw.text((size // 2, image.height + row * line + size // 5), text, fill="black", font=font)
    return canvas


def jpeg(path: Path, side: int) -> bytes:
    """A photo as a JPEG whose longest side is at most `side` pixels.

    Raises:
        PipelineError: it cannot be read.
    """
    with decoded(path, (2 * side, 2 * side)) as image:
        height, width = image.shape[1:]
        scale = min(1.0, side / max(height, width))
        small = resize(image, (max(1, round(height * scale)), max(1, round(width * scale))))
    buffer = io.BytesIO()
    Image.fromarray(small.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()
