"""Views per second of the `openai:` teacher against batch-1 calls of the package, for a random RN50.

Run as `python tests/benchmarks/teacher.py [--device cuda --precision float16]`.
"""

import argparse
import copy
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pipeline.method.snapping import snapped_size
from pipeline.teachers.encoding import encode_stream, find_batch_size
from pipeline.teachers.openai_clip import CLIP, MEAN, STD, OpenaiClip

SIZE = 224


def rn50() -> CLIP:
    """CLIP of the shape of OpenAI's RN50, with random weights."""
    return CLIP(1024, SIZE, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12).eval()


def package_encoder(model: CLIP, device: str) -> Callable[[list[Tensor]], None]:
    """Encode as the package does: one image per call, resized to 224 px, in half precision on CUDA."""
    model = model.to(device)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    if device != "cpu":
        model = model.half()

    @torch.no_grad()
    def encode(views: list[Tensor]) -> None:
        for view in views:
            pixels = view[None].to(device).float() / 255
            if pixels.shape[-2:] != (SIZE, SIZE):
                pixels = F.interpolate(pixels, (SIZE, SIZE), mode="bicubic", antialias=True)
            F.normalize(model.encode_image((pixels - mean) / std), dim=1).cpu()

    return encode


def batched_encoder(teacher: OpenaiClip, batch_size: int) -> Callable[[list[Tensor]], None]:
    """Encode as ccd does: views of one shape share a batch."""

    def encode(views: list[Tensor]) -> None:
        for _ in encode_stream(teacher.encode_images, enumerate(views), batch_size):
            pass

    return encode


def random_crops(count: int, generator: torch.Generator) -> list[Tensor]:
    """Crops with the long side 224 and an aspect from 1:3 to 3:1, cut to multiples of the stride."""
    crops = []
    for aspect in torch.empty(count).uniform_(-1.1, 1.1, generator=generator).exp().tolist():
        height, width = snapped_size(round(SIZE * min(1, aspect)), round(SIZE * min(1, 1 / aspect)), 32)
        crops.append(torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator))
    return crops


def median_seconds(runs: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each run after a first call; in turns, so that a busy machine slows all alike."""
    times = []
    for _ in range(repeats + 1):
        for run in runs:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    rounds = [times[i :: len(runs)][1:] for i in range(len(runs))]
    return [sorted(of_run)[repeats // 2] for of_run in rounds]


def flops(teacher: OpenaiClip, views: list[Tensor]) -> int:
    """Operations of convolutions and matrix products for these views."""
    total = 0
    for shape, count in Counter(view.shape for view in views).items():
        with FlopCounterMode(display=False) as counter:
            teacher.encode_images(torch.zeros(1, *shape, dtype=torch.uint8))
        total += count * counter.get_total_flops()
    return total


def main() -> None:
    """Measure both ways in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", default="float32", help="float32, bfloat16 or float16; float32 on a cpu")
    parser.add_argument("--images", type=int, default=16, help="views of each kind")
    parser.add_argument("--repeats", type=int, default=3, help="the median of so many runs counts")
    args = parser.parse_args()

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = rn50()
    teacher = OpenaiClip(copy.deepcopy(model), "openai:random RN50", "", args.device, args.precision)
    batch_size = find_batch_size(teacher.encode_images, (SIZE, SIZE), args.device)
    package, batched = package_encoder(model, args.device), batched_encoder(teacher, batch_size)
    side = 2048 if args.device == "cpu" else 8192
    matrix = torch.randn(side, side, device=args.device, dtype=teacher.dtype)

    headings = ("package, batch 1", f"ours, batch {batch_size}", "ratio", "of the peak matmul rate")
    table = Table("views", *headings, title=f"RN50-shaped CLIP on {args.device}, {teacher.dtype}, views per second")
    kinds = {
        f"global {SIZE}x{SIZE}": list(
            torch.randint(256, (args.images, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
        ),
        f"crops, long side {SIZE}": random_crops(args.images, generator),
    }
    for name, views in kinds.items():
        runs = [partial(package, views), partial(batched, views), lambda: (matrix @ matrix)[0, 0].item()]
        before, after, product = median_seconds(runs, args.repeats)
        peak = 2 * side**3 / product
        share = flops(teacher, views) / after / peak
        rates = (f"{len(views) / before:.1f}", f"{len(views) / after:.1f}", f"{before / after:.2f}")
        table.add_row(name, *rates, f"{share:.0%} of {peak / 1e9:.0f} GFLOP/s")
    Console().print(table)


if __name__ == "__main__":
    main()
