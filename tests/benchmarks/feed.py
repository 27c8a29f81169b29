"""Share of the ideal rate at which photos reach the device, with a decoder and a teacher that only sleep.

    python tests/benchmarks/feed.py [--decode-ms 10 --workers 8]

Decoding sleeps, which releases the interpreter lock as Pillow does; so does the teacher, which is twice as fast as all
decoders together. The ideal is that of decoders that never wait. Crops come three to a photo, in six shapes.
"""

import argparse
import time
from collections.abc import Iterator

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pipeline.photos.prefetch import Prefetch, Stream, chunks
from pipeline.teachers.encoding import encode_stream

BATCH_SIZES = (16, 32, 64, 128, 256, 512)
CROPS = 3
"""Crops of a photo."""


class Stub:
    """A decoder and a teacher.

    Args:
        seconds: of a decode.
        workers: decoding threads.
    """

    def __init__(self, seconds: float, workers: int) -> None:
        self.seconds, self.workers = seconds, workers
        self.ideal = workers / seconds
        """Photos per second that all threads decode."""

    def decode(self, row: int) -> Tensor:
        """A tiny photo, after the time for a large one."""
        time.sleep(self.seconds)
        return torch.zeros(3, 1, 1, dtype=torch.uint8)

    def crops(self, row: int) -> list[Tensor]:
        """Crops of a photo, in the time of one decode."""
        time.sleep(self.seconds)
        return [torch.zeros(3, 1, 1 + (row * CROPS + n) % 6, dtype=torch.uint8) for n in range(CROPS)]

    def encode(self, images: Tensor, per_photo: int = 1) -> Tensor:
        """Embeddings, in half the time that decoding takes."""
        time.sleep(len(images) / per_photo / self.ideal / 2)
        return images.flatten(1)[:, :1].float()

    def photo_rate(self, count: int, batch_size: int) -> float:
        """Photos per second of the whole views of `count` photos."""
        start = time.perf_counter()
        for images in Stream(self.decode, chunks(count, batch_size), self.workers):
            self.encode(torch.stack(images))
        return count / (time.perf_counter() - start)

    def crop_rate(self, count: int, batch_size: int) -> float:
        """Photos per second of the crops of `count` photos."""

        def views() -> Iterator[tuple[int, Tensor]]:
            ahead = self.workers + batch_size // CROPS
            for row, crops in enumerate(Prefetch(self.crops, range(count), self.workers, ahead)):
                yield from ((row, crop) for crop in crops)

        start = time.perf_counter()
        for _ in encode_stream(lambda images: self.encode(images, CROPS), views(), batch_size):
            pass
        return count / (time.perf_counter() - start)


def main() -> None:
    """Measure every batch size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decode-ms", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=8, help="decoding threads")
    parser.add_argument("--batches", type=int, default=24, help="of each size, at least 1024 photos")
    options = parser.parse_args()
    stub = Stub(options.decode_ms / 1e3, options.workers)
    table = Table("batch", "photos/s", "of the ideal", "photos/s, crops", "of the ideal")
    table.title = f"{options.workers} threads, {options.decode_ms:g} ms a decode: {stub.ideal:.0f} photos/s at best"
    for size in BATCH_SIZES:
        count = max(options.batches * size, 1024)
        rates = (stub.photo_rate(count, size), stub.crop_rate(count, size))
        table.add_row(str(size), *(text for rate in rates for text in (f"{rate:.0f}", f"{rate / stub.ideal:.2f}")))
    Console().print(table)


if __name__ == "__main__":
    main()
