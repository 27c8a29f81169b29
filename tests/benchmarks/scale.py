"""Milliseconds a photo and peak memory of each stage, by the number of photos.

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
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Console
from rich.table import Table

from pipeline.artifacts.boxes import CropScores
from pipeline.artifacts.checkpoints import Checkpoint, write_checkpoint
from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.epoch_scores import EpochScores
from pipeline.artifacts.hdf5 import read_arrays, write
from pipeline.artifacts.labels import Labels
from pipeline.artifacts.manifest import COLUMNS, Manifest, manifest_provenance, write_manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.state import check_up_to_date
from pipeline.evaluation.ground_truth import GroundTruth
from pipeline.runs.graph import MAKERS, VERSIONS, find_stage, options_of

SIDE = 64
BLOCK = 50_000
ALL = ("prepare", "embed", "init-labels", "warmup", "boxes", "score-crops", "fuse", "train", "evaluate")


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    seconds: float
    """Of the processor, over all threads: other programs do not lengthen it."""
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
    """Photos of noise, in folders of a thousand, and a table that names them with labels; returns the table."""
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
    """Cost of every stage on really decoded photos."""
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
    costs["plan"] = measure("plan", *run)
    return costs


def without_networks(root: Path, count: int, class_names: list[str]) -> dict[str, Cost]:
    """Cost of what asks no network, on made-up artifacts."""
    run = root / "run"
    run.mkdir(parents=True)
    begun = time.perf_counter()
    apart(write_made_up, run, count, class_names)
    Console().print(f"{count:,} images of {len(class_names)} classes made up in {time.perf_counter() - begun:.0f} s")
    costs = {"init-labels": measure("init-labels", "--run", run)}
    apart(write_made_up_crops, run, count, class_names)
    costs["fuse"] = measure("fuse", "--run", run)
    costs["fuse, up to date"] = measure("fuse", "--run", run)
    apart(write_made_up_scores, run, count, class_names)
    costs["evaluate"] = measure("evaluate", "--run", run)
    costs["inspect"] = measure("inspect", run / "final_labels.h5")
    return costs


def apart(function: Callable[..., None], *arguments: object) -> None:
    """Call a function in a process of its own: what this one holds would count as held by the commands that it starts.

    Raises:
        SystemExit: it failed.
    """
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


def origin(run: Path, name: str, inputs: list[str]) -> Provenance:
    """Provenance of a made-up artifact, as if its stage had made it with the default options."""
    schema, stage = Path(name).stem, MAKERS[name]
    config = {} if stage == "prepare" else options_of(find_stage(stage))().identity()
    made_from = {each: check_up_to_date(run / each).fingerprint for each in inputs}
    return Provenance(schema, VERSIONS[schema], config, made_from)


def is_test(count: int) -> np.ndarray:
    """Every tenth image."""
    return np.arange(count) % 10 == 0


def softmax_rows(count: int, classes: int, seed: int) -> np.ndarray:
    """Random probabilities float32 [count, classes], peaked, made block by block."""
    rng = np.random.default_rng(seed)
    found = np.empty((count, classes), np.float32)
    for start in range(0, count, BLOCK):
        block = np.exp(3 * rng.standard_normal((min(BLOCK, count - start), classes), np.float32))
        found[start : start + BLOCK] = block / block.sum(axis=1, keepdims=True)
    return found


def ids_of(count: int) -> list[str]:
    """Ids of images."""
    return [f"{n // 1000:04d}/{n:07d}.jpg" for n in range(count)]


def write_made_up(run: Path, count: int, class_names: list[str]) -> None:
    """Manifest, ground truth and embeddings."""
    ids, test = ids_of(count), is_test(count)
    images = pd.DataFrame(
        {
            "image_id": ids,
            "path": [f"/photos/{each}" for each in ids],
            "split": np.where(test, "test", "train"),
            "height": SIDE,
            "width": SIDE,
            "sha256": [f"{n:064x}" for n in range(count)],
        }
    )[COLUMNS]
    names = {name: [name] for name in class_names}
    made = manifest_provenance(images, names)
    write_manifest(
        run,
        Manifest(
            provenance=made, dataset="made up", class_names=class_names, display_names=names, images=images, skipped={}
        ),
    )
    common = {"image_ids": ids, "class_names": class_names}
    labels = (np.random.default_rng(1).random((count, len(class_names)), np.float32) < 0.03).astype(np.int8)
    none = np.zeros(0, np.int64)
    truth = GroundTruth(
        provenance=origin(run, "ground_truth.h5", ["manifest.csv"]),
        **common,
        labels=labels,
        object_image_index=none,
        object_class_index=none,
        object_box=np.zeros((0, 4), np.float32),
        object_difficult=np.zeros(0, bool),
    )
    write(run / "ground_truth.h5", truth)
    probabilities = softmax_rows(count, len(class_names), 2)
    embeddings = Embeddings(
        provenance=origin(run, "embeddings.h5", ["manifest.csv"]),
        **common,
        is_train=~test,
        probabilities=probabilities,
        entropy=np.full(count, 1.0, np.float32),
        bias=np.full(len(class_names), 0.7, np.float32),
        bias_counts=np.full(len(class_names), count // len(class_names)),
        class_is_top1=np.ones(count, bool),
        logit_scale=10.0,
        outcomes=len(class_names),
        image_size=SIDE,
        teacher="none",
        teacher_fingerprint="none",
    )
    write(run / "embeddings.h5", embeddings)


def write_made_up_crops(run: Path, count: int, class_names: list[str]) -> None:
    """Warm-up classifier and the scores of two crops per train image."""
    ids = [each for each, test in zip(ids_of(count), is_test(count), strict=True) if not test]
    write_weights(run, "warmup.pt", ["manifest.csv", "initial_labels.h5"], ids, class_names)
    crops = CropScores(
        provenance=origin(run, "crop_scores.h5", ["manifest.csv", "embeddings.h5"]),
        image_ids=ids,
        class_names=class_names,
        image_index=np.repeat(np.arange(len(ids)), 2),
        class_index=np.random.default_rng(3).integers(0, len(class_names), 2 * len(ids)),
        probabilities=softmax_rows(2 * len(ids), len(class_names), 4),
        entropy=np.ones(2 * len(ids), np.float32),
        class_is_top1=np.ones(2 * len(ids), bool),
        outcomes=len(class_names),
    )
    write(run / "crop_scores.h5", crops)


def write_made_up_scores(run: Path, count: int, class_names: list[str]) -> None:
    """Final classifier, and scores of the test images before and after it."""
    ids, test = ids_of(count), is_test(count)
    sources = ["manifest.csv", "warmup.pt", "final_labels.h5"]
    write_weights(run, "classifier.pt", sources, [e for e, t in zip(ids, test, strict=True) if not t], class_names)
    scores = softmax_rows(2 * test.sum(), len(class_names), 5).reshape(2, -1, len(class_names))
    epochs = EpochScores(
        provenance=origin(run, "epoch_scores.h5", sources),
        image_ids=[each for each, t in zip(ids, test, strict=True) if t],
        class_names=class_names,
        epochs=np.arange(2),
        scores=scores,
        chosen_epoch=1,
    )
    write(run / "epoch_scores.h5", epochs)
    final: Labels = read_arrays(run / "final_labels.h5")
    write(run / "cross_fitted_labels.h5", replace(final, provenance=origin(run, "cross_fitted_labels.h5", sources)))


def write_weights(run: Path, name: str, inputs: list[str], ids: list[str], class_names: list[str]) -> None:
    """A classifier file without weights: who asks no network does not look at them."""
    architecture = {"backbone": "lite0", "class_count": len(class_names), "boost": 3.0, "resize_filter": "bicubic"}
    write_checkpoint(
        run / name,
        Checkpoint(
            provenance=origin(run, name, inputs),
            class_names=class_names,
            architecture=architecture,
            image_size=SIDE,
            thresholds=[0.5] * len(class_names),
            steps=1,
            image_ids=ids,
            weights={},
            training={},
        ),
    )


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
