"""Milliseconds per photo and peak memory of each stage, by the number of photos.

    python tests/benchmarks/scale.py [--photos 1000 10000] [--classes 80] [--without-networks 1000000]

Photos of noise, 64 px, are generated and really run on the CPU, from `prepare` to `evaluate`, with the embedded teacher at
64 px. With --without-networks, artifacts of so many images are made up, and the stages run that ask no network. Every
stage is a process of its own; the memory is the most that it held.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from worlds.runs import write_large_run

SIDE = 64
ALL = ("prepare", "embed", "init-labels", "warmup", "boxes", "score-crops", "fuse", "train", "evaluate")


@dataclass(frozen=True)
class Cost:
    """Cost of a command."""

    seconds: float
    """Of the processor, over all threads."""
    megabytes: float


def measure(*arguments: object) -> Cost:
    """Run `ccd` with these arguments in a process of its own.

    Raises:
        SystemExit: it failed.
    """
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    with tempfile.TemporaryFile() as log:
        child = os.posix_spawn(
            sys.executable,
            command,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, log.fileno(), fd) for fd in (1, 2)],
        )
        _, status, used = os.wait4(child, 0)
        log.seek(0)
        if status:
            sys.exit(log.read().decode())
    cost = Cost(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
    Console(stderr=True).print(f"{arguments[0]}: {cost.seconds:.1f} s, {cost.megabytes:.0f} MB", markup=False)
    return cost


def write_photos(folder: Path, count: int, class_names: list[str]) -> Path:
    """Photos of noise in folders of a thousand; returns a table of their paths and labels."""
    rng = np.random.default_rng(0)
    lines = ["image,split,labels"]
    for n in range(count):
        path = folder / f"{n // 1000:04d}" / f"{n:07d}.jpg"
        if n % 1000 == 0:
            path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path, quality=60)
        split = "test" if n % 10 == 0 else "train"
        lines.append(f"{path.relative_to(folder)},{split},{class_names[rng.integers(len(class_names))]}")
    table = folder / "photos.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def with_networks(root: Path, count: int, class_names: list[str]) -> dict[str, Cost]:
    """Cost of every stage on photos that are decoded."""
    table = write_photos(root / "photos", count, class_names)
    run = ["--run", root / "run"]
    small = [
        *("embed.image_size=64", "warmup.image_size=64", "warmup.predict_size=64", "warmup.backbone=lite0"),
        *("boxes.image_size=64", "boxes.classes_per_image=1", "train.image_size=64", "train.predict_size=64"),
        "train.epochs=2",
    ]
    given = [*run, "--images", table, "--classes", ",".join(class_names)]
    costs = {"prepare": measure("all", "--to", "prepare", *given, *(x for s in small for x in ("--set", s)))}
    for stage in ALL[1:]:
        device = [] if stage in ("init-labels", "fuse", "evaluate") else ["--device", "cpu"]
        costs[stage] = measure(stage, *run, *device)
    costs["status"] = measure("status", *run)
    return costs


def without_networks(root: Path, count: int, class_names: list[str]) -> dict[str, Cost]:
    """Cost of the commands that run no network, on made-up artifacts."""
    run = root / "run"
    begun = time.perf_counter()
    apart(write_large_run, run, count, class_names)
    Console().print(f"{count:,} images of {len(class_names)} classes made up in {time.perf_counter() - begun:.0f} s")
    commands = {
        "init-labels": ("init-labels", "--run", run, "--force"),
        "fuse": ("fuse", "--run", run, "--force"),
        "fuse, up to date": ("fuse", "--run", run),
        "evaluate": ("evaluate", "--run", run),
        "inspect": ("inspect", run / "final_labels.h5"),
    }
    return {name: measure(*command) for name, command in commands.items()}


def apart(function: Callable[..., None], *arguments: object) -> None:
    """Call a function in a new process, as commands that this one starts would inherit its peak memory.

    Raises:
        SystemExit: it failed.
    """
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


def main() -> None:
    """Run all sizes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", nargs="*", type=int, default=[1000, 10_000], help="photos that really run")
    parser.add_argument("--without-networks", type=int, default=1_000_000, help="images made up; 0: none")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--folder", type=Path, default=None, help="for what is made; by default a temporary one")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    nouns = [f"thing {chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(options.classes)]
    try:
        columns = {f"{n:,}": (n, with_networks(folder / str(n), n, nouns)) for n in options.photos}
        if options.without_networks:
            n = options.without_networks
            columns[f"{n:,}, no networks"] = (n, without_networks(folder / "made-up", n, nouns))
    finally:
        shutil.rmtree(folder)
    table = Table("stage", *columns, title="CPU milliseconds per photo, peak memory in MB")
    for stage in dict.fromkeys(stage for _, costs in columns.values() for stage in costs):
        cells = []
        for n, costs in columns.values():
            cost = costs.get(stage)
            cells.append("" if cost is None else f"{1e3 * cost.seconds / n:.3g}, {cost.megabytes:.0f}")
        table.add_row(stage, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
