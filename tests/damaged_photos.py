"""Photos of every format that can be read, and seeded damage to their bytes."""

import io
import zlib

import numpy as np
from PIL import ExifTags, Image, features

from pipeline.photos.formats import readable_formats

PNG = b"\x89PNG\r\n\x1a\n"
INTEGERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "P", "L", "LA", "I;16", "1"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("P", "L"),
    "TIFF": ("RGB", "RGBA", "L", "I;16", "1", "P", "CMYK", "F", "LAB", "YCbCr"),
    "BMP": ("RGB", "P", "1", "RGBA"),
    "PPM": ("RGB", "L", "1", "I;16"),
    "AVIF": ("RGB", "RGBA"),
    "JPEG2000": ("RGB", "RGBA", "L", "I;16"),
    "HEIF": ("RGB", "RGBA", "L"),
    # not read, whatever their names: nothing of them may reach a decoder
    "ICO": ("RGBA",),
    "TGA": ("RGB",),
    "PCX": ("RGB",),
    "DDS": ("RGBA",),
    "ICNS": ("RGBA",),
    "SGI": ("RGB",),
    "IM": ("RGB",),
    "QOI": ("RGB",),
    "EPS": ("RGB",),
    "PDF": ("RGB",),
}
"""Formats that Pillow writes, and modes of its images."""
OPTIONS = {
    "JPEG": ({}, {"progressive": True}, {"subsampling": 0, "quality": 95}, {"optimize": True}),
    "PNG": ({}, {"compress_level": 0}),
    "WEBP": ({"lossless": True}, {"quality": 70}, {"save_all": True}),
    "GIF": ({}, {"interlace": 0}, {"save_all": True}),
    "TIFF": tuple(
        {"compression": each}
        for each in (
            None,
            "tiff_lzw",
            "tiff_deflate",
            "tiff_adobe_deflate",
            "packbits",
            "jpeg",
            "group4",
            "zstd",
            "webp",
        )
    ),
    "JPEG2000": ({}, {"irreversible": True}, {"tile_size": (16, 16)}, {"no_jp2": True}),
    "AVIF": ({"speed": 10}, {"quality": 100, "speed": 10, "subsampling": "4:4:4"}, {"save_all": True, "speed": 10}),
    "ICO": ({"sizes": [(16, 16)]},),
}
KINDS = (
    "flip",
    "flip",
    "bytes",
    "integers",
    "integers",
    "cut",
    "blank",
    "insert",
    "remove",
    "swap",
    "repeat",
    "splice",
)


def sound_photos(kind, rng):
    """Photos of a format as bytes: each mode that it takes, with each option, some with an EXIF block."""
    found = []
    for mode in MODES[kind]:
        pixels = rng.integers(0, 256, (33, 47, 3), dtype=np.uint8)
        pixels[8:24, 8:40] = (200, 40, 90)
        image = Image.fromarray(pixels)
        if mode == "I;16":
            image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
        elif mode in ("LA", "RGBA"):
            image.putalpha(Image.fromarray(pixels[..., 1]))
            image = image.convert(mode)
        elif mode == "LAB":
            image = Image.frombytes("LAB", image.size, image.tobytes())
        elif mode != "RGB":
            image = image.convert(mode)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = int(rng.integers(1, 9))
        for option in OPTIONS.get(kind, ({},)):
            for more in ({}, {"exif": exif.tobytes()}):
                if option.get("save_all") and more:
                    continue  # Pillow's writer of AVIF crashes
                frames = {"append_images": [image.rotate(180)]} if option.get("save_all") else {}
                buffer = io.BytesIO()
                try:
                    image.save(buffer, kind, **option, **more, **frames)
                except (OSError, ValueError, KeyError, TypeError, RuntimeError):
                    continue  # the format has no such combination
                found.append(buffer.getvalue())
    return list(dict.fromkeys(found))


def damaged(content, rng, other=b""):
    """The bytes with one to four faults, and their names.

    Args:
        content: of a file.
        rng: numpy generator.
        other: content to splice in.
    """
    content = bytearray(content)
    names = []
    for _ in range(int(rng.integers(1, 5))):
        kind = KINDS[rng.integers(len(KINDS))]
        # half of the damage is to the header
        size = max(min(len(content), 400) if rng.random() < 0.5 else len(content), 1)
        place = int(rng.integers(size))
        length = int(rng.integers(1, 1 + min(64, len(content) or 1)))
        end = place + length
        names.append(f"{kind} {length} bytes at {place}")
        if kind == "flip" and content:
            content[place] ^= 1 << int(rng.integers(8))
        elif kind == "bytes":
            content[place : place + min(length, 8)] = rng.bytes(min(length, 8))
        elif kind == "integers":
            width = int(rng.choice([1, 2, 4, 8]))
            value = INTEGERS[rng.integers(len(INTEGERS))] & ((1 << 8 * width) - 1)
            content[place : place + width] = value.to_bytes(width, "big" if rng.random() < 0.5 else "little")
        elif kind == "cut":
            del content[max(place, 12) :]
        elif kind == "blank":
            content[place:end] = bytes([int(rng.choice([0, 255]))]) * (end - place)
        elif kind == "insert":
            content[place:place] = rng.bytes(length)
        elif kind == "remove":
            del content[place:end]
        elif kind == "swap":
            target = int(rng.integers(size))
            first, second = content[place:end], content[target : target + length]
            content[place:end], content[target : target + length] = second, first
        elif kind == "repeat":
            content[place:place] = content[place:end] * int(rng.integers(1, 20))
        elif kind == "splice":
            content[place:] = other[place:]
    if content[:8] == PNG and rng.random() < 0.7:
        content, names = with_checksums(content), [*names, "checksums"]
    return bytes(content), names


def with_checksums(content):
    """A PNG whose chunks have the right checksums, so that readers look at the damage behind them."""
    content, place = bytearray(content), 8
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        content[end : end + 4] = zlib.crc32(content[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return content


def formats():
    """Formats to try: those that are read, and others that Pillow would open."""
    readable_formats()  # registers HEIF
    Image.init()
    return [kind for kind in MODES if kind in Image.SAVE and (kind != "AVIF" or features.check("avif"))]
