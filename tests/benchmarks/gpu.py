"""What only a GPU can show: checks, and rates against plain loops, in one table; exit status 1 if any failed.

    python tests/benchmarks/gpu.py [--device cpu]

Needs no download. On a CPU everything is rehearsed with sizes so small that its rates say nothing.
"""

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import gpu_checks
import torch
from benchmarks.teacher import flops
from benchmarks.train import Task, in_own_process, our_loop, plain_loop, random_labels, write_noise
from gpu_checks import FULL, REHEARSAL, NotHere, Rig, ccd
from random_clip import random_clip
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pipeline.artifacts.manifest import Manifest, read_manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.classifier.network import build_classifier
from pipeline.classifier.training import Consistency, losses_of
from pipeline.photos.resize import load_view
from pipeline.runs.partial_results import PartialResults
from pipeline.stages.embed import embed_images
from pipeline.stages.score_crops import CropRules, CropTeacher, crops_of, score_crops
from pipeline.teachers.embedding_cache import ImageStore, StoreKey
from pipeline.teachers.encoding import find_batch_size
from pipeline.teachers.openai_clip import OpenaiClip
from pipeline.teachers.zero_shot_head import ZeroShotHead

CLASSES = 20
CROPS = 3
"""Boxes of a photo."""


@dataclass(frozen=True)
class Load:
    """What rates are measured on."""

    shape: str
    """Of the teacher, see `random_clip`."""
    side: int
    """Of global views, and the long side of crops, pixels (paper: 640)."""
    photos: int
    plain: int
    """Of these, those that the plain loops are measured on."""
    backbone: str
    input: int
    """Side of the classifier's input, pixels."""
    matrix: int
    """Side of the matrices whose product is taken for the device's peak."""


GPU_LOAD = Load("RN50x64", 640, 512, 64, "resnet50", 448, 16384)
CPU_LOAD = Load("small resnet", 64, 8, 8, "timm:test_resnet", 32, 512)


@dataclass(frozen=True)
class Bench:
    """A rig, and what rates are measured on."""

    rig: Rig
    load: Load

    @cached_property
    def photos(self) -> Manifest:
        """Photos of noise, prepared."""
        folder = self.rig.folder / "noise"
        folder.mkdir()
        write_noise(folder, self.load.photos)
        ccd("prepare", "--images", folder, "--classes", "cat,dog", "--run", self.rig.folder / "rates")
        return read_manifest(self.rig.folder / "rates")

    @cached_property
    def teacher(self) -> OpenaiClip:
        """The teacher in half precision, with random weights."""
        return OpenaiClip(random_clip(self.load.shape), self.load.shape, "", self.rig.device, "float16")

    def pieces(self, name: str) -> PartialResults:
        """New ones."""
        return PartialResults(self.rig.folder / name, Provenance("embeddings", 1, {}, {}), fresh=True)

    def peak(self, dtype: torch.dtype) -> float:
        """Operations per second of a large matrix product."""
        side = self.load.matrix
        matrix = torch.randn(side, side, device=self.rig.device, dtype=dtype)
        return 2 * side**3 / seconds_of(lambda: (matrix @ matrix)[0, 0].item())

    def compare(self, ours: float, plain: float, operations: float, dtype: torch.dtype) -> str:
        """Both rates in images per second, and how much of the peak ours makes use of at so many operations an image."""
        peak = self.peak(dtype)
        share = ours * operations / peak
        return f"{ours:.1f} images/s, {plain:.1f} one by one: x {ours / plain:.2f}; {share:.0%} of {peak / 1e12:.3g} TFLOP/s"


def seconds_of(work: Callable[[], object], repeats: int = 3) -> float:
    """The least of some runs, after a first one."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def one_by_one(teacher: OpenaiClip, views: Iterable[Tensor]) -> None:
    """The plain loop: a view a call, and its embedding back before the next."""
    for view in views:
        teacher.encode_images(view[None]).cpu()


def rate_embed(bench: Bench) -> str:
    """`embed` of whole photos, decoded and squashed."""
    teacher, manifest, side = bench.teacher, bench.photos, bench.load.side
    batch_size = find_batch_size(teacher.encode_images, (side, side), bench.rig.device)

    def ours() -> None:
        store = ImageStore(bench.rig.folder / str(time.perf_counter_ns()), StoreKey("", side, "float16"))
        embed_images(teacher, manifest, store, side, "bicubic", batch_size, bench.pieces("embed.h5"))

    def plain() -> None:
        one_by_one(teacher, (load_view(Path(path), (side, side)) for path in manifest.paths[: bench.load.plain]))

    operations = flops(teacher, [torch.empty(()).expand(3, side, side)])
    rates = len(manifest.paths) / seconds_of(ours, 1), bench.load.plain / seconds_of(plain, 1)
    return bench.compare(*rates, operations, teacher.dtype)


def rate_crops(bench: Bench) -> str:
    """`score-crops`, three boxes of random shape in each photo."""
    teacher, manifest, side = bench.teacher, bench.photos, bench.load.side
    generator = torch.Generator().manual_seed(0)
    height, width = manifest.sizes[0]
    corners = torch.rand(len(manifest.paths) * CROPS, 2, 2, generator=generator).sort(dim=1).values
    boxes = (corners * torch.tensor([float(width), float(height)])).flatten(1)
    owner = torch.arange(len(manifest.paths)).repeat_interleave(CROPS)
    text = F.normalize(torch.randn(CLASSES, teacher.encode_texts(["a"]).shape[1], generator=generator), dim=1)
    rules = CropRules(side, 0, "bicubic", "bicubic", "snapped")
    asked = CropTeacher(teacher, ZeroShotHead(text, torch.arange(CLASSES), text[:0], 100.0), rules)
    batch_size = find_batch_size(teacher.encode_images, (side, side), bench.rig.device)

    def ours() -> None:
        score_crops(asked, manifest.paths, owner, boxes, batch_size, bench.pieces("crops.h5"))

    def plain() -> None:
        for photo, path in enumerate(manifest.paths[: bench.load.plain]):
            one_by_one(teacher, crops_of(path, boxes[owner == photo], rules))

    views = [torch.empty(()).expand(3, *rules.size_of(box)) for box in boxes]
    operations = flops(teacher, views) / len(views)
    rates = len(views) / seconds_of(ours, 1), CROPS * bench.load.plain / seconds_of(plain, 1)
    return bench.compare(*rates, operations, teacher.dtype)


def rate_training(bench: Bench) -> str:
    """Consistency epochs against a plain loop of the same batch, each in a process of its own."""
    load, device = bench.load, bench.rig.device
    paths = [Path(path) for path in bench.photos.paths]
    task = Task(paths, load.backbone, frozen=False, epochs=2, size=load.input, batch_size=16, device=device)
    ours, plain = (in_own_process(way, task).rate for way in (our_loop, plain_loop))
    model = build_classifier(load.backbone, CLASSES, boost=3.0, pretrained=False).to(device).train()
    view, labels = torch.rand(2, 3, load.input, load.input, device=device), random_labels(2).to(device)
    with FlopCounterMode(display=False) as counter:
        ones = torch.ones(2, device=device)
        losses_of(model, (view, view), labels, ones, Consistency(1.0, 0.5))[1].sum().backward()
    dtype = torch.float32 if bench.rig.is_cpu else torch.bfloat16
    figure = bench.compare(ours, plain, counter.get_total_flops() / 2, dtype)
    return figure.replace("one by one", "a plain loop")


CHECKS: dict[str, Callable[[Rig], str]] = {
    "towers in half precision": gpu_checks.check_half_precision,
    "training in bfloat16": gpu_checks.check_bfloat16_training,
    "pinned copies": gpu_checks.check_pinned_copies,
    "processes of torchrun": gpu_checks.check_processes,
    "too little memory in embed": gpu_checks.check_memory_of_embed,
    "too little memory in score-crops": gpu_checks.check_memory_of_crops,
    "interrupted training": gpu_checks.check_resumed_training,
    "boxes as on the CPU": gpu_checks.check_boxes,
    "the demo": gpu_checks.check_demo,
}
RATES: dict[str, Callable[[Bench], str]] = {
    "rate of embed": rate_embed,
    "rate of score-crops": rate_crops,
    "rate of training": rate_training,
}


def run_all(work: dict[str, Callable[[], str]], title: str) -> bool:
    """Do everything, print the table, and return whether nothing failed."""
    table = Table("check", "result", "figure", "seconds", title=title)
    passed = True
    progress = Console(stderr=True)
    for name, do in work.items():
        progress.print(f"{name} ...")
        start = time.perf_counter()
        try:
            row = ("passed", do())
        except NotHere as reason:
            row = ("not here", str(reason))
        except Exception as error:
            passed = False
            traceback.print_exc()
            row = ("FAILED", f"{type(error).__name__}: {error}"[:300])
        table.add_row(name, *row, f"{time.perf_counter() - start:.1f}")
    Console().print(table)
    return passed


def main() -> None:
    """Check and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a rehearsal")
    device = parser.parse_args().device
    if device != "cpu" and not torch.cuda.is_available():
        sys.exit("no CUDA device; `make check-gpu DEVICE=cpu` rehearses the checks in a few minutes")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS adds up in no fixed order
    rehearsed = device == "cpu"
    title = "rehearsal on a CPU" if rehearsed else torch.cuda.get_device_name(device)
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(device, REHEARSAL if rehearsed else FULL, Path(folder))
        bench = Bench(rig, CPU_LOAD if rehearsed else GPU_LOAD)
        work = {name: partial(check, rig) for name, check in CHECKS.items()}
        work |= {name: partial(rate, bench) for name, rate in RATES.items()}
        sys.exit(0 if run_all(work, title) else 1)


if __name__ == "__main__":
    main()
