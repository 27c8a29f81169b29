"""Images per second of one consistency epoch: our loop against a plain one of the same model and batch, in one run.

    python tests/benchmarks/train.py [FOLDER] [--backbone resnet50 --device cuda --size 448 --count 512]

FOLDER is searched for photos to any depth; without one, photos of noise are made. The plain loop is what one writes
first: a DataLoader whose processes decode every photo twice with Pillow and jitter it with torchvision, then float32
in NCHW. Each training runs in a process of its own, so that its peak memory is its own; the ways take turns and the
medians count.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from pipeline.classifier.network import build_classifier
from pipeline.classifier.training import Consistency, TrainingSet, start_training, train_one_epoch, view_source
from pipeline.datasets.scan import scan
from pipeline.runs.options import TrainingConfig
from pipeline.system.memory import keep_freed_memory
from pipeline.system.progress import bar

CLASSES = 20
WARM_UP = 2
"""Batches before the clock starts."""


@dataclass(frozen=True)
class Task:
    """Settings of a training."""

    paths: list[Path]
    backbone: str
    frozen: bool
    """Train the head alone."""
    epochs: int
    size: int
    batch_size: int
    device: str


@dataclass(frozen=True)
class Measured:
    """Result of a training."""

    rate: float
    """Images per second."""
    memory: float
    """Peak in MB, of the GPU's or the process's; without the plain loop's workers."""


class PlainPhotos(Dataset):
    """Two views of each photo, each decoded for itself."""

    def __init__(self, paths: list[Path], labels: torch.Tensor, size: int) -> None:
        self.paths, self.labels = paths, labels
        usual = [
            v2.Resize((size, size)),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
        ]
        self.first = v2.Compose(usual)
        self.second = v2.Compose([*usual[:2], v2.ColorJitter(0.5, 0.5, 0.5, 0.5), *usual[2:]])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        views = [view(Image.open(self.paths[index]).convert("RGB")) for view in (self.first, self.second)]
        return *views, self.labels[index]


def random_labels(count: int) -> torch.Tensor:
    """Soft labels float32 Tensor[N, C]."""
    return torch.rand(count, CLASSES, generator=torch.Generator().manual_seed(0))


def plain_loop(task: Task) -> float:
    """Seconds of the plain loop."""
    device = torch.device(task.device)
    model = build_classifier(task.backbone, CLASSES, boost=3.0, pretrained=False).to(device).train()
    if task.frozen:
        model.freeze(True, norms=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)

    def train(paths: list[Path], epochs: int) -> None:
        photos = PlainPhotos(paths, random_labels(len(paths)), task.size)
        # forked, as by default on Linux outside a spawned process
        loader = DataLoader(
            photos, task.batch_size, shuffle=True, num_workers=os.cpu_count() or 1, multiprocessing_context="fork"
        )
        for first, second, labels in (batch for _ in range(epochs) for batch in loader):
            logits = model(first.to(device))
            target = logits.detach().sigmoid()
            loss = F.binary_cross_entropy_with_logits(logits, labels.to(device))
            loss = loss + F.binary_cross_entropy_with_logits(model(second.to(device)), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return timed(train, task)


def our_loop(task: Task) -> float:
    """Seconds of our loop."""
    keep_freed_memory()  # as the command line does
    frozen = {"freeze_backbone": task.frozen, "freeze_norms": task.frozen}
    config = TrainingConfig(image_size=task.size, batch_size=task.batch_size, **frozen)
    model = build_classifier(task.backbone, CLASSES, boost=3.0, pretrained=False)
    state = start_training(model, config, torch.device(task.device))
    consistency = Consistency(1.0, 0.5)

    def train(paths: list[Path], epochs: int) -> None:
        data = TrainingSet(paths, random_labels(len(paths)), torch.ones(len(paths)))
        source = view_source(state, data, config, consistency, "train")
        with bar("train", len(paths) * epochs) as progress:
            for epoch in range(epochs):
                train_one_epoch(state, data, config, source, consistency, epoch + 1, progress)

    return timed(train, task)


def timed(train: Callable[[list[Path], int], None], task: Task) -> float:
    """Seconds of the epochs over all photos, after a short one."""
    train(task.paths[: WARM_UP * task.batch_size], 1)
    start = time.perf_counter()
    train(task.paths, task.epochs)
    return time.perf_counter() - start


def measure(way: Callable[[Task], float], task: Task) -> Measured:
    """Run one loop in this process, which has to be new."""
    seconds = way(task)
    if torch.device(task.device).type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1e6
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return Measured(len(task.paths) * task.epochs / seconds, peak)


def in_own_process(way: Callable[[Task], float], task: Task) -> Measured:
    """`measure` in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, way, task).result()


def write_noise(folder: Path, count: int) -> list[Path]:
    """JPEG photos of 500x375 pixels, as in VOC, with something to decode."""
    generator = np.random.default_rng(0)
    paths = [folder / f"{n}.jpg" for n in range(count)]
    for path in paths:
        coarse = Image.fromarray(generator.integers(0, 256, (47, 63, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def main() -> None:
    """Measure both ways in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=160, help="photos of an epoch")
    parser.add_argument("--backbone", default="lite0")
    parser.add_argument(
        "--frozen", action="store_true", help="train the head alone; our loop then computes features once"
    )
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--size", type=int, default=224, help="pixels, of the square view")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.folder is None:
            paths = write_noise(Path(folder), options.count)
        else:
            paths = list(scan(options.folder).photos.values())[: options.count]
        task = Task(
            paths, options.backbone, options.frozen, options.epochs, options.size, options.batch_size, options.device
        )
        ways = {"plain loop": plain_loop, "ours": our_loop}
        rounds = [{name: in_own_process(way, task) for name, way in ways.items()} for _ in range(options.rounds)]
    title = f"{len(paths)} photos, {task.epochs} epochs, {task.backbone}, {task.size} px, batches of {task.batch_size} on {task.device}, {os.cpu_count()} cores"
    table = Table("way", "images/s", "ratio", "peak memory (without workers)", title=title)
    rates = {name: statistics.median(each[name].rate for each in rounds) for name in ways}
    for name, rate in rates.items():
        memory = statistics.median(each[name].memory for each in rounds)
        table.add_row(name, f"{rate:.1f}", f"{rate / rates['plain loop']:.2f}", f"{memory:.0f} MB")
    Console().print(table)


if __name__ == "__main__":
    main()
