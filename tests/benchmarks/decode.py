"""Images per second of our loading against plain Pillow on the same files, in one run.

    python tests/benchmarks/decode.py FOLDER [--count 200] [--side 448]

FOLDER is searched for images to any depth. Each way loads all of them, ways take turns, the median of the rounds counts.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.datasets.scan import scan
from pipeline.photos.image_cache import ImageCache, cache_bytes
from pipeline.photos.images import verify_image
from pipeline.photos.resize import load_view


def plain_pillow(path: Path, size: tuple[int, int]) -> torch.Tensor:
    """Decode the whole photo, convert it and resize it bicubically."""
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def rate(load: Callable[[Path, tuple[int, int]], object], paths: list[Path], size: tuple[int, int]) -> float:
    """Images per second of one pass on one thread."""
    start = time.perf_counter()
    for path in paths:
        load(path, size)
    return len(paths) / (time.perf_counter() - start)


def main() -> None:
    """Print a table of the ways and their rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200, help="images")
    parser.add_argument("--side", type=int, default=448, help="pixels, of the square view")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = list(scan(options.folder).photos.values())[: options.count]
    size = (options.side, options.side)
    with tempfile.TemporaryDirectory() as folder:
        cache = ImageCache(Path(folder))
        ways = {
            "plain Pillow": plain_pillow,
            "load_view": load_view,
            "ImageCache, filled": cache.load_view,
            "verify_image": lambda path, _: verify_image(path),
        }
        for path in paths:  # fills our cache and the system's
            cache.load_view(path, size)
        rounds = [{name: rate(way, paths, size) for name, way in ways.items()} for _ in range(options.rounds)]
    medians = {name: statistics.median(each[name] for each in rounds) for name in ways}
    print(
        f"{len(paths)} images to {size[0]}x{size[1]}, 1 thread; the cache takes {cache_bytes(len(paths), size) / 1e6:.0f} MB"
    )
    for name, value in medians.items():
        print(f"{name:<20} {value:8.0f} images/s {value / medians['plain Pillow']:6.2f} x")


if __name__ == "__main__":
    main()
