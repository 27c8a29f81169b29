"""Photos of a few pixels."""

import io

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}
HEIGHT, WIDTH = 48, 64
SQUARES = [(8, 8, 32, 40), (40, 4, 60, 20)]
"""Boxes xyxy in pixels of the first and second square of a photo."""


def photo_bytes(size=(8, 8), kind="PNG", seed=0):
    """A photo of noise, (H, W), as the bytes of a file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_photo(path, size=(8, 8), seed=0):
    """The path of a new photo of noise, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(photo_bytes(size, Image.registered_extensions()[path.suffix.lower()], seed))
    return path


def noise_photos(folder, sizes):
    """Paths of different PNG photos of noise, (H, W) each."""
    return [write_photo(folder / f"{n}.png", size, seed=n) for n, size in enumerate(sizes)]


def square_photos(folder, colours):
    """Paths of photos of grey noise with one or two coloured squares.

    Args:
        folder: created if missing.
        colours: relative path to names of `COLOURS`, of at most twelve photos. The corner of photo n has the grey 20 n.
            A file is a JPEG if its suffix is .jpg or .jfif, else a PNG.
    """
    generator = np.random.default_rng(0)
    paths = [folder / name for name in colours]
    for n, (path, names) in enumerate(zip(paths, colours.values(), strict=True)):
        pixels = generator.integers(90, 130, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        for name, (left, top, right, bottom) in zip(names, SQUARES, strict=False):
            pixels[top:bottom, left:right] = COLOURS[name]
        pixels[:4, :4] = 20 * n
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, "JPEG" if path.suffix in (".jpg", ".jfif") else "PNG")
    return paths


def labelled_photos(root):
    """The folder, with eight photos in `train`, four in `test` and their colours in `labels.csv`."""
    names, colours = list(COLOURS), {}
    for split, count in (("train", 8), ("test", 4)):
        for n in range(count):
            second = [names[(n + 1) % 3]] if n % 3 == 0 else []
            colours[f"{split}/{'deep/' if n % 2 else ''}{n}.png"] = [names[n % 3], *second]
    square_photos(root, colours)
    rows = [f"{name.removeprefix('train/')},{';'.join(present)}" for name, present in colours.items()]
    (root / "labels.csv").write_text("\n".join(["image,labels", *rows]) + "\n")
    return root
