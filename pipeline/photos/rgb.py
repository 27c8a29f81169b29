"""An opened photo to upright 8-bit RGB, with only Pillow and numpy.

Exports of a classifier include this file, so that their users prepare photos exactly as ccd does.
"""

import struct
from collections.abc import Mapping

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that makes an image upright, by its EXIF orientation."""
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
FROM_THE_END = (3, 4, 6, 7)
"""EXIF orientations that turn the first row into the last row or column."""
STRIP_PIXELS = 2**20
"""Pixels that are converted at once."""
# Pillow refuses a PNG with more than 1 MB of text or colour profile, which do not change the pixels.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 64 * 2**20

PHOTOMETRIC, BITS, HIGHEST, SAMPLE_FORMAT = 262, 258, 281, 339
"""TIFF tags: whether 0 is white, bits per sample, largest sample value, number format."""
SIGNED = 2
"""`SAMPLE_FORMAT` of signed integers."""


def orientation(image: Image.Image) -> int:
    """EXIF orientation that is not applied yet, 1 to 8; 1 for a broken EXIF block."""
    if image.format == "TIFF":
        return 1  # Pillow rotates a TIFF itself, and reports the rotated size
    if image.format == "PNG":
        image.load()  # its EXIF block may follow the pixels
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, TypeError, IndexError, KeyError, struct.error):
        return 1


def upright_pixels(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3] in RGB, with the EXIF rotation applied, transparency over white, and grey of more than 8 bits scaled.

    Converted strip by strip, because a conversion keeps several copies of the pixels in memory.

    Raises:
        ValueError: the range of its pixels is unknown.
    """
    turn = orientation(image)
    image.load()
    width, height = image.size
    pixels = np.empty((width, height, 3) if turn in SIDEWAYS else (height, width, 3), np.uint8)
    rows = max(STRIP_PIXELS // width, 1)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = to_rgb(image.crop((0, top, width, bottom)), image.format, getattr(image, "tag_v2", {}))
        start, end = (height - bottom, height - top) if turn in FROM_THE_END else (top, bottom)
        place = pixels[:, start:end] if turn in SIDEWAYS else pixels[start:end]
        place[:] = np.asarray(strip.transpose(TURNS[turn]) if turn in TURNS else strip)
    return pixels


def to_rgb(image: Image.Image, file_format: str | None, tags: Mapping) -> Image.Image:
    """An image or a part of it in mode RGB, as stored; see `upright_pixels`.

    Args:
        image: its pixels.
        file_format: of its file.
        tags: of its file if it is a TIFF, else empty.
    """
    if SIGNED in tags.get(SAMPLE_FORMAT, ()):
        raise ValueError("its pixels are signed integers of unknown range")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return grey_to_8_bits(image, file_format, tags).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # of a PNG of 16 bits; Pillow keeps only the high byte
        image.info["transparency"] = tuple(value >> 8 for value in key)
    # Pillow converts premultiplied grey only to LA
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


def grey_to_8_bits(image: Image.Image, file_format: str | None, tags: Mapping) -> Image.Image:
    """Grey of more than 8 bits as mode L; Pillow's own conversion would clip at 255. See `to_rgb` for the arguments.

    Raises:
        ValueError: the pixels are floating-point numbers or 32-bit integers, whose range is not in the file.
    """
    # Pillow reads a PGM of 16 bits as 32-bit integers from 0 to 65535
    if image.mode == "F" or (image.mode == "I" and file_format != "PPM"):
        kind = "floating-point numbers" if image.mode == "F" else "32-bit integers"
        raise ValueError(f"its pixels are {kind} of unknown range")
    bits = int(np.max(tags.get(BITS, 16)))
    highest = int(np.max(tags.get(HIGHEST, 2**bits - 1)))
    stored = np.asarray(image)
    values = stored.astype(np.int64).clip(0, highest)
    values = values >> (bits - 8) if highest == 2**bits - 1 else values * 255 // max(highest, 1)
    if tags.get(PHOTOMETRIC) == 0:
        values = 255 - values
    if "transparency" in image.info:  # one value of a PNG
        values[stored == image.info["transparency"]] = 255
    return Image.fromarray(values.astype(np.uint8))


def load_square(path, size: int, resample: str) -> np.ndarray:  # noqa: ANN001 - whatever Pillow opens
    """The classifier's input for a photo, float32 [3, size, size], RGB in [0, 1].

    Args:
        path: file of a photo.
        size: side of the square in pixels; the aspect is not kept.
        resample: name of a `PIL.Image.Resampling` filter, "BICUBIC" or "BILINEAR".
    """
    with Image.open(path) as image:
        square = Image.fromarray(upright_pixels(image)).resize((size, size), Image.Resampling[resample])
    return np.asarray(square, np.float32).transpose(2, 0, 1) / 255
