"""A dataset to the run's manifest and, where it is labelled, ground truth."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from pipeline.artifacts import (
    MANIFEST_COLUMNS,
    GroundTruth,
    Manifest,
    Provenance,
    digest_images,
    is_current,
    write,
    write_manifest,
)
from pipeline.config import Config, option
from pipeline.datasets import Dataset, demo, folder, voc
from pipeline.errors import PipelineError
from pipeline.images import UnreadableImage, verify_image
from pipeline.loader import Prefetch
from pipeline.progress import bar, say


@dataclass(frozen=True)
class PrepareConfig(Config):
    """Which dataset, and where it lies."""

    kind: Literal["demo", "voc", "folder"] = option("demo", "adapter that reads the dataset")
    root: str = option("", "folder of the dataset; for the demo, where the scenes are written (default: the run's)")
    year: int = option(2012, "VOC year", min=2007, max=2012)
    train_split: str = option("train", "VOC split to train on")
    test_split: str = option("val", "VOC split to evaluate on; its labels are used by `evaluate` alone")
    images: str = option("", "folder of photos of any depth (kind folder)")
    test_images: str = option("", "second folder of photos, kept for evaluation (kind folder)")
    classes: str = option("", "class names, joined by commas, or a text file with one a line (kind folder)")
    labels: str = option("", "CSV with columns image and labels (joined by ';') for evaluation (kind folder)")
    train_scenes: int = option(400, "scenes of the demo's train split", min=1, max=100_000)
    test_scenes: int = option(200, "scenes of the demo's test split", min=0, max=100_000)
    seed: int = option(0, "seed of the demo scenes", min=0)


def load_dataset(config: PrepareConfig, run_folder: Path) -> Dataset:
    """The dataset that the options name."""
    if config.kind == "demo":
        root = Path(config.root) if config.root else run_folder / "scenes"
        settings = demo.DemoConfig(seed=config.seed, train_scenes=config.train_scenes, test_scenes=config.test_scenes)
        demo.compose(root, settings)
        return demo.load(root)
    if config.kind == "voc":
        return voc.load(need(config.root, "root"), config.year, config.train_split, config.test_split)
    return folder.load(
        need(config.images, "images"),
        read_class_names(config.classes),
        test_images=Path(config.test_images) if config.test_images else None,
        labels=Path(config.labels) if config.labels else None,
    )


def need(value: str, name: str) -> Path:
    """The value as a path; raises if it is empty."""
    if not value:
        raise PipelineError(f"the dataset needs --{name.replace('_', '-')}; see `ccd prepare --help`.")
    return Path(value)


def read_class_names(text: str) -> list[str]:
    """Class names from "dog,cat,car" or from a text file with one a line."""
    if Path(text).suffix == ".txt":
        if not Path(text).exists():
            raise PipelineError(f"{text} is missing; --classes takes names joined by commas or a file with one a line.")
        lines = Path(text).read_text().splitlines()
    else:
        lines = text.split(",")
    return [line.strip() for line in lines if line.strip()]


def verify(path: Path) -> tuple[tuple[int, int], str] | str:
    """(H, W) and SHA-256 of a readable image, or the reason why it is none."""
    try:
        size = verify_image(path)
        with path.open("rb") as file:
            return size, hashlib.file_digest(file, "sha256").hexdigest()
    except UnreadableImage as error:
        return str(error)


def run(
    run_folder: Path, config: PrepareConfig, display_names: Mapping[str, list[str]], *, force: bool = False
) -> None:
    """Check every image and write `manifest.csv`, `manifest.json` and, where there are labels, `ground_truth.h5`.

    Raises:
        PipelineError: the dataset is not what its adapter expects, or none of its images can be read.
    """
    dataset = load_dataset(config, run_folder)
    rows, kept, skipped = [], [], {}
    with bar("prepare", len(dataset.paths)) as progress:
        for index, found in enumerate(Prefetch(verify, dataset.paths, ahead=64)):
            image_id = dataset.image_ids[index]
            if isinstance(found, str):
                skipped[image_id] = found
            else:
                (height, width), digest = found
                rows.append(
                    (image_id, str(dataset.paths[index].resolve()), dataset.splits[index], height, width, digest)
                )
                kept.append(index)
            progress.advance(1)
    report_skipped(skipped)
    if not rows:
        raise PipelineError(
            f"none of the {len(dataset.paths)} images of {dataset.name} can be read; see the list above."
        )
    images = pd.DataFrame(rows, columns=MANIFEST_COLUMNS)
    names = {name: list(display_names.get(name, [name])) for name in dataset.class_names}
    content = {"images": digest_images(images), "classes": hashlib.sha256(repr(names).encode()).hexdigest()[:16]}
    # what was found decides, not where: the same photos elsewhere are the same manifest
    provenance = Provenance(Manifest.SCHEMA, Manifest.VERSION, {"dataset": dataset.name, **content}, {})
    manifest = Manifest(
        provenance=provenance,
        class_names=dataset.class_names,
        display_names=names,
        images=images,
        skipped=skipped,
    )
    if not force and is_current(run_folder / "manifest.csv", provenance):
        (run_folder / "manifest.csv").touch()
        say(f"{run_folder / 'manifest.csv'} is up to date.")
    else:
        write_manifest(run_folder, manifest)
        counts = images["split"].value_counts()
        say(
            f"{run_folder / 'manifest.csv'}: {counts.get('train', 0)} train and {counts.get('test', 0)} test images, "
            f"{len(dataset.class_names)} classes."
        )
    if dataset.labels is not None:
        write(run_folder / "ground_truth.h5", ground_truth(dataset, np.array(kept), provenance))


def report_skipped(skipped: Mapping[str, str]) -> None:
    """Say which images are left out and why."""
    if skipped:
        say(f"{len(skipped)} images cannot be read and are skipped:")
        for reason in skipped.values():
            say(f"  {reason}")


def ground_truth(dataset: Dataset, kept: np.ndarray, manifest: Provenance) -> GroundTruth:
    """Labels and boxes of the images that are kept, at their new rows."""
    row_of = np.full(len(dataset.image_ids), -1)
    row_of[kept] = np.arange(len(kept))
    objects = dataset.objects
    known = objects is not None
    here = row_of[objects.image_index] >= 0 if known else np.zeros(0, bool)
    return GroundTruth(
        provenance=Provenance(GroundTruth.SCHEMA, GroundTruth.VERSION, {}, {"manifest.csv": manifest.fingerprint}),
        image_ids=[dataset.image_ids[i] for i in kept],
        class_names=dataset.class_names,
        labels=dataset.labels[kept].astype(np.int8),
        object_image_index=row_of[objects.image_index[here]] if known else np.zeros(0, np.int64),
        object_class_index=objects.class_index[here].astype(np.int64) if known else np.zeros(0, np.int64),
        object_box=objects.box[here].astype(np.float32) if known else np.zeros((0, 4), np.float32),
        object_difficult=objects.difficult[here] if known else np.zeros(0, bool),
    )
