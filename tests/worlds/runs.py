"""Runs written by hand, in a second and without a model."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.artifacts.boxes import Boxes, CropScores
from pipeline.artifacts.checkpoints import Checkpoint, write_checkpoint
from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.epoch_scores import EpochScores
from pipeline.artifacts.hdf5 import write
from pipeline.artifacts.labels import Labels
from pipeline.artifacts.manifest import COLUMNS, Manifest, manifest_provenance, write_csv, write_manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.state import check_up_to_date
from pipeline.evaluation.ground_truth import GroundTruth
from pipeline.evaluation.read import read
from pipeline.runs.graph import MAKERS, VERSIONS, find_stage, options_of
from pipeline.runs.options import EvaluateConfig, FuseConfig, InitLabelsConfig
from pipeline.runs.settings import Settings
from pipeline.runs.settings import write_run as write_settings
from pipeline.stages.evaluate import conventions, measure_labels, measure_test
from pipeline.system.files import sha256_of, write_json
from worlds.photos import COLOURS, HEIGHT, SQUARES, WIDTH, square_photos

CLASSES = ["cat", "dog", 'cow </script> "&']
TRAIN, TEST = 8, 4
IDS = [f"train/{n}.png" for n in range(TRAIN)] + [f"test/{n}.png" for n in range(TEST)]
TRUTH = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]] * 3, dtype=np.int8)  # train, then test


def begin_run(folder: Path, ids: list[str], classes: list[str]) -> Path:
    """The folder of a run of twelve photos and their manifest."""
    present = [[colour for colour, shown in zip(COLOURS, row, strict=True) if shown] for row in TRUTH]
    paths = square_photos(folder / "photos", dict(zip(ids, present, strict=True)))
    splits = ["train"] * TRAIN + ["test"] * TEST
    rows = [
        (i, str(path), split, HEIGHT, WIDTH, sha256_of(path)) for i, path, split in zip(ids, paths, splits, strict=True)
    ]
    images = pd.DataFrame(rows, columns=COLUMNS)
    names = {name: [name] for name in classes}
    manifest = Manifest(
        provenance=manifest_provenance(images, names),
        dataset="squares",
        class_names=classes,
        display_names=names,
        images=images,
        skipped={"bad": "bad.jpg is empty"},
    )
    write_manifest(folder, manifest)
    return folder


def write_labelled_run(folder: Path) -> Path:
    """A run with photos of colours, and with initial and final labels that are near the truth."""
    begin_run(folder, IDS, list(COLOURS))
    scores = np.random.default_rng(1).uniform(0, 0.4, (TRAIN, len(COLOURS))).astype(np.float32)
    scores += 0.6 * TRUTH[:TRAIN]
    for name, config in (("initial_labels.h5", InitLabelsConfig()), ("final_labels.h5", FuseConfig())):
        labels = Labels(
            provenance=Provenance(Path(name).stem, 1, config.identity(), {}),
            image_ids=IDS[:TRAIN],
            class_names=list(COLOURS),
            labels=scores.clip(0, 1),
            scores=scores,
            confident=np.arange(TRAIN) % 2 == 0,
        )
        write(folder / name, labels)
    return folder


def write_run(folder: Path, ids: list[str] = IDS, classes: list[str] = CLASSES) -> Path:
    """A run with every artifact, whose final labels are right except for the first image."""
    begin_run(folder, ids, classes)
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1.0] * 3, TRAIN + TEST).astype(np.float32)
    truth = TRUTH.astype(np.float32)
    common = {"image_ids": ids, "class_names": classes}
    train = {"image_ids": ids[:TRAIN], "class_names": classes}
    entropy = -(probabilities * np.log(probabilities)).sum(1)

    def put(name: str, kind: type, inputs: list[str], **values: object) -> None:
        write(folder / name, kind(provenance=origin(folder, name, inputs), **values))

    index = np.arange(TRAIN + TEST)
    put(
        "ground_truth.h5",
        GroundTruth,
        ["manifest.csv"],
        **common,
        labels=TRUTH,
        object_image_index=np.repeat(index, TRUTH.sum(1)),
        object_class_index=np.nonzero(TRUTH)[1].astype(np.int64),
        object_box=np.tile(np.float32(SQUARES[0]), (TRUTH.sum(), 1)),
        object_difficult=np.zeros(TRUTH.sum(), bool),
    )
    put(
        "embeddings.h5",
        Embeddings,
        ["manifest.csv"],
        **common,
        is_train=index < TRAIN,
        probabilities=probabilities,
        entropy=entropy,
        class_is_top1=np.ones(TRAIN + TEST, bool),
        outcomes=3,
        bias=np.float32([0.9, 0.5, 0.7]),
        bias_counts=np.array([4, 3, 0]),
        logit_scale=100.0,
        image_size=32,
        teacher="none",
        teacher_fingerprint="none",
    )
    initial = (0.6 * truth[:TRAIN] + 0.3 * probabilities[:TRAIN]).astype(np.float32)
    put_labels = {**train, "confident": entropy[:TRAIN] < 0.7}
    plain = InitLabelsConfig(debias=False)
    write_settings(folder, Settings({"init-labels": {"debias": False}}))
    write(
        folder / "initial_labels.h5",
        Labels(
            provenance=replace(origin(folder, "initial_labels.h5", ["embeddings.h5"]), config=plain.identity()),
            **put_labels,
            labels=initial,
            scores=initial,
        ),
    )
    write_weights(folder, "warmup.pt", ["manifest.csv", "initial_labels.h5"], ids[:TRAIN], classes)
    owner = np.repeat(np.arange(TRAIN), 2)
    put(
        "boxes.h5",
        Boxes,
        ["manifest.csv", "warmup.pt"],
        **train,
        image_index=owner,
        class_index=np.array([0, 1] * TRAIN),
        box=np.tile(np.float32(SQUARES), (TRAIN, 1)),
        cam_peak=np.ones(2 * TRAIN, np.float32),
        cam=np.tile(np.uint8([[0, 255], [10, 0]]), (2 * TRAIN, 1, 1)),
        tau=0.5,
    )
    crops = rng.dirichlet([1.0] * 3, 2 * TRAIN).astype(np.float32)
    put(
        "crop_scores.h5",
        CropScores,
        ["manifest.csv", "embeddings.h5", "boxes.h5"],
        **train,
        image_index=owner,
        class_index=np.array([0, 1] * TRAIN),
        probabilities=crops,
        entropy=-(crops * np.log(crops)).sum(1),
        class_is_top1=np.ones(2 * TRAIN, bool),
        outcomes=3,
    )
    final = 0.1 + 0.8 * truth[:TRAIN]
    final[0] = [0.4, 0.7, 0.1]  # the truth is cat
    sources = ["embeddings.h5", "initial_labels.h5", "crop_scores.h5"]
    put("final_labels.h5", Labels, sources, **put_labels, labels=final, scores=final)
    sources = ["manifest.csv", "warmup.pt", "final_labels.h5"]
    write_weights(folder, "classifier.pt", sources, ids[:TRAIN], classes)
    scores = [probabilities[TRAIN:], probabilities[TRAIN:], 0.2 + 0.6 * truth[TRAIN:]]
    put(
        "epoch_scores.h5",
        EpochScores,
        sources,
        image_ids=ids[TRAIN:],
        class_names=classes,
        epochs=np.arange(3),
        scores=np.stack(scores).astype(np.float32),
        chosen_epoch=2,
    )
    write_epochs(folder)
    write_figures(folder)
    return folder


def origin(folder: Path, name: str, inputs: list[str]) -> Provenance:
    schema = Path(name).stem
    stage = MAKERS[name]
    config = {} if stage == "prepare" else options_of(find_stage(stage))().identity()
    fingerprints = {i: check_up_to_date(folder / i).fingerprint for i in inputs}
    return Provenance(schema, VERSIONS[schema], config, fingerprints)


def write_weights(folder: Path, name: str, inputs: list[str], image_ids: list[str], classes: list[str]) -> None:
    write_checkpoint(
        folder / name,
        Checkpoint(
            provenance=origin(folder, name, inputs),
            image_ids=image_ids,
            class_names=classes,
            architecture={"backbone": "none", "class_count": 3, "boost": 3.0, "resize_filter": "bicubic"},
            image_size=32,
            weights={},
            training={},
            steps=0,
            thresholds=[0.5] * 3,
        ),
    )


def write_epochs(folder: Path) -> None:
    row = {
        "loss": 0.7,
        "bce": 0.5,
        "consistency": 0.2,
        "pseudo_label_mAP": 0.6,
        "images_per_second": 4.0,
        "data_wait": 0.0,
    }
    rows = pd.DataFrame([{"epoch": e, **row} for e in (1, 2)]).assign(pseudo_label_mAP=[0.5, math.nan])
    write_csv(folder / "warmup.csv", rows)
    write_csv(folder / "train.csv", rows.assign(chosen=[False, True]))


def write_figures(folder: Path) -> None:
    config = EvaluateConfig()
    train, test = np.arange(TRAIN), np.arange(TEST)
    labels = {
        name: measure_labels(folder / f"{name}_labels.h5", train, TRUTH[:TRAIN], config)
        for name in ("initial", "final")
    }
    embeddings, epochs = read(folder / "embeddings.h5"), read(folder / "epoch_scores.h5")
    figures = measure_test(embeddings, epochs, test, TRUTH[TRAIN:], config)
    provenance = origin(folder, "metrics.json", ["classifier.pt", "ground_truth.h5"])
    content = {"attributes": provenance.to_attributes(), "conventions": conventions(config), "not_measured": []}
    write_json(folder / "metrics.json", content | {"labels": labels} | figures)
