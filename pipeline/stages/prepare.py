"""A dataset to the run's manifest and, where it is labelled, ground truth."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from pipeline.datasets import Dataset, coco, demo, folder, nuswide, voc
from pipeline.machine.errors import PipelineError
from pipeline.machine.progress import bar, say
from pipeline.photos.images import UnreadableImage, verify_image
from pipeline.photos.prefetch import Prefetch
from pipeline.runs.artifacts import (
    MANIFEST_COLUMNS,
    GroundTruth,
    Manifest,
    Provenance,
    digest_images,
    is_current,
    write,
    write_manifest,
)
from pipeline.runs.config import Config, option


@dataclass(frozen=True)
class PrepareConfig(Config):
    """Which dataset, and where it lies."""

    kind: Literal["demo", "voc", "coco", "nuswide", "folder"] = option("demo", "adapter that reads the dataset")
    root: str = option("", "folder of the dataset; of the demo, where its scenes are written (default: in the run)")
    year: int = option(2012, "VOC: year", min=2005, max=2012)
    train_split: str = option("", "VOC, COCO: split to train on, without its labels (default: the literature's)")
    test_split: str = option("", "VOC, COCO: split that `evaluate` measures on (default: the literature's)")
    keep_unannotated: bool = option(False, "COCO: keep images without any annotation")
    train_list: str = option("", "NUS-WIDE: list of a re-crawl to train on")
    test_list: str = option("", "NUS-WIDE: list of a re-crawl to evaluate on")
    images: str = option(
        "", "folder of photos, CSV, Parquet or WebDataset tars; NUS-WIDE: folder that paths start from"
    )
    test_images: str = option("", "folder: the same, for evaluation alone")
    classes: str = option("", "folder: class names joined by commas, or a text file with one a line")
    labels: str = option("", "folder: CSV or Parquet with columns image and labels (joined by ;) for evaluation")
    train_scenes: int = option(400, "demo: scenes of the train split", min=1, max=100_000)
    test_scenes: int = option(200, "demo: scenes of the test split", min=0, max=100_000)
    seed: int = option(0, "demo: seed of the scenes", min=0)


def load_dataset(config: PrepareConfig, run_folder: Path) -> Dataset:
    """The dataset that the options name; nothing is decoded yet.

    Raises:
        PipelineError: an option that the adapter needs is missing, or the dataset is not as the adapter expects.
    """
    match config.kind:
        case "demo":
            root = Path(config.root) if config.root else run_folder / "scenes"
            demo.compose(root, demo.DemoConfig(config.seed, config.train_scenes, config.test_scenes))
            return demo.load(root)
        case "voc":
            return voc.load(need(config, "root"), config.year, config.train_split or None, config.test_split or None)
        case "coco":
            splits = config.train_split or "train2014", config.test_split or "val2014"
            return coco.load(need(config, "root"), *splits, config.keep_unannotated)
        case "nuswide":
            return nuswide.load(need(config, "root"), *map(given, (config.images, config.train_list, config.test_list)))
        case "folder":
            names = read_class_names(config)
            return folder.load(need(config, "images"), names, given(config.test_images), given(config.labels))


def given(value: str) -> Path | None:
    """A path option, None where it is empty."""
    return Path(value) if value else None


def need(config: PrepareConfig, name: str) -> Path:
    """A path option that the adapter cannot do without."""
    value = getattr(config, name)
    if not value:
        raise PipelineError(
            f"a dataset of kind {config.kind} needs --{name}; give it to `ccd all` or `ccd prepare`, or in run.toml."
        )
    return Path(value)


def read_class_names(config: PrepareConfig) -> list[str]:
    """Class names from "dog,cat,car" or from a text file with one a line."""
    need(config, "classes")
    if config.classes.endswith(".txt"):
        return folder.read_class_names(Path(config.classes))
    return [name.strip() for name in config.classes.split(",") if name.strip()]


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
