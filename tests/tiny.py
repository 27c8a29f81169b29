"""Runs that begin at the labels of eight tiny photos, and commands in processes of their own."""

import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.artifacts.hdf5 import write
from pipeline.artifacts.labels import Labels
from pipeline.artifacts.manifest import COLUMNS, Manifest, manifest_provenance, read_manifest, write_manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.state import origin_of
from pipeline.classifier.features import FeatureStore
from pipeline.runs.graph import find_stage, module_of
from pipeline.runs.options import FuseConfig, InitLabelsConfig
from pipeline.system.files import sha256_of

CLASSES = ["red", "green", "blue"]
TRAIN, TEST = 8, 4

# The server imports the program once, and every command is a fork of it.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["pipeline.cli"])


def write_photos(folder):
    """Twelve JPEG photos of noise, each tinted red, green or blue."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    paths = [folder / f"{n:02d}.jpg" for n in range(TRAIN + TEST)]
    for n, path in enumerate(paths):
        pixels = generator.integers(0, 160, (48, 48, 3))
        pixels[:, :, n % 3] += 95
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return paths


def write_run(folder):
    """Manifest, initial and final labels of a run."""
    paths = write_photos(folder / "photos")
    splits = ["train"] * TRAIN + ["test"] * TEST
    rows = [(p.stem, str(p), split, 48, 48, sha256_of(p)) for p, split in zip(paths, splits, strict=True)]
    images = pd.DataFrame(rows, columns=COLUMNS)
    names = {name: [name] for name in CLASSES}
    write_manifest(
        folder,
        Manifest(
            provenance=manifest_provenance(images, names),
            dataset="tiny",
            class_names=CLASSES,
            display_names=names,
            images=images,
            skipped={},
        ),
    )
    scores = np.random.default_rng(1).uniform(0, 0.4, (TRAIN, len(CLASSES))).astype(np.float32)
    scores[np.arange(TRAIN), np.arange(TRAIN) % 3] += 0.6
    for name, config in (("initial_labels.h5", InitLabelsConfig()), ("final_labels.h5", FuseConfig())):
        write(
            folder / name,
            Labels(
                provenance=Provenance(Path(name).stem, 1, config.identity(), {}),
                image_ids=read_manifest(folder).split("train").image_ids,
                class_names=CLASSES,
                labels=scores.clip(0, 1),
                scores=scores,
                confident=np.arange(TRAIN) % 2 == 0,
            ),
        )
    return folder


def run_stage(name, folder, config):
    """Run one stage with these options, whether it has been or not."""
    stage = find_stage(name)
    network = {"manifest": read_manifest(folder), "device": "cpu", "fresh": False} if stage.asks else {}
    network |= {"store": FeatureStore()} if stage.asks == "classifier" else {}
    module_of(stage).run(folder, config, origin_of(stage, folder, config), **network)


def start(target, *arguments, log, **environment):
    """A process that calls `target`; what it prints goes to the file `log`."""
    process = processes.Process(target=run_logged, args=(target, arguments, log, environment))
    process.start()
    return process


def run_logged(target, arguments, log, environment):
    """Body of a process of `start`."""
    os.environ.update({name: str(value) for name, value in environment.items()})
    with Path(log).open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        target(*arguments)


def command(*arguments):
    """What `ccd` does with these arguments."""
    from pipeline import cli

    sys.argv = ["ccd", *map(str, arguments)]
    cli.main()
