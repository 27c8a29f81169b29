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
from pipeline.artifacts.manifest import COLUMNS, Manifest, manifest_provenance, read_manifest, write_csv, write_manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.state import check_up_to_date, origin_of, settings_of
from pipeline.evaluation.ground_truth import GroundTruth
from pipeline.evaluation.read import read
from pipeline.evaluation.tables import write_metrics
from pipeline.runs.graph import MAKERS, VERSIONS, find_stage, options_of
from pipeline.runs.options import EvaluateConfig, FuseConfig, InitLabelsConfig
from pipeline.runs.settings import Settings
from pipeline.runs.settings import write_run as write_settings
from pipeline.stages.evaluate import conventions, measure_labels, measure_test
from pipeline.system.files import sha256_of
from worlds.photos import COLOURS, HEIGHT, SQUARES, WIDTH, square_photos

CLASSES = ["cat", "dog", 'cow </script> "&']
TRAIN, TEST = 8, 4
IDS = [f"train/{n}.png" for n in range(TRAIN)] + [f"test/{n}.png" for n in range(TEST)]
TRUTH = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]] * 3, dtype=np.int8)  # train, then test


def begin_run(folder: Path, ids: list[str], classes: list[str]) -> Path:
    """The folder of a run of twelve photos and their manifest."""
    present = [[colour for colour, shown in zip(COLOURS, row, strict=True) if shown] for row in TRUTH]
    paths = square_photos(folder / "photos", dict(zip(ids, present, strict=True)))
    return begin_run_of(folder, ids, classes, paths, [sha256_of(path) for path in paths], TRAIN)


def begin_run_of(
    folder: Path, ids: list[str], classes: list[str], paths: list[Path], hashes: list[str], train: int
) -> Path:
    """The folder with a manifest of these photos, of which the first `train` are train photos."""
    splits = np.where(np.arange(len(ids)) < train, "train", "test")
    columns = [ids, list(map(str, paths)), splits, HEIGHT, WIDTH, hashes]
    images = pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
    names = {name: {name: 1.0} for name in classes}
    manifest = Manifest(
        provenance=manifest_provenance(images, names),
        dataset="squares",
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
            provenance=Provenance(Path(name).stem, VERSIONS[Path(name).stem], config.identity(), {}),
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
    write_settings(folder, Settings({"init-labels": {"debias": False}}))
    write_artifacts(folder, TRUTH, TRAIN)
    write_epochs(folder)
    write_figures(folder)
    return folder


def write_large_run(folder: Path, count: int, classes: list[str]) -> None:
    """A run of so many photos that do not exist, one in ten of them for test, without `metrics.json`."""
    ids = [f"{n // 1000:04d}/{n:07d}.jpg" for n in range(count)]
    train = count - count // 10
    folder.mkdir(parents=True)
    begin_run_of(folder, ids, classes, [Path("/photos", i) for i in ids], [f"{n:064x}" for n in range(count)], train)
    truth = np.random.default_rng(1).random((count, len(classes)), np.float32) < 0.1
    write_artifacts(folder, truth.astype(np.int8), train)
    final = read(folder / "final_labels.h5")
    write(folder / "cross_fitted_labels.h5", replace(final, provenance=origin(folder, "cross_fitted_labels.h5")))


def write_artifacts(folder: Path, truth: np.ndarray, train: int) -> None:
    """Every artifact between the manifest and `metrics.json`."""
    manifest = read_manifest(folder)
    ids, classes = manifest.image_ids, manifest.class_names
    count, class_count = truth.shape
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1.0] * class_count, count).astype(np.float32)
    entropy = entropies(probabilities)
    of_all = {"image_ids": ids, "class_names": classes}
    of_train = {"image_ids": ids[:train], "class_names": classes}

    def put(name: str, kind: type, **values: object) -> None:
        write(folder / name, kind(provenance=origin(folder, name), **values))

    objects = GroundTruth(
        provenance=made_from(folder, "ground_truth.h5", ["manifest.csv"]),
        **of_all,
        labels=truth,
        object_image_index=np.nonzero(truth)[0],
        object_class_index=np.nonzero(truth)[1],
        object_box=np.tile(np.float32(SQUARES[0]), (truth.sum(), 1)),
        object_difficult=np.zeros(truth.sum(), bool),
    )
    write(folder / "ground_truth.h5", objects)
    put(
        "embeddings.h5",
        Embeddings,
        **of_all,
        is_train=np.arange(count) < train,
        probabilities=probabilities,
        entropy=entropy,
        class_is_top1=np.ones(count, bool),
        outcomes=class_count,
        bias=np.resize(np.float32([0.9, 0.5, 0.7]), class_count),
        bias_counts=np.resize([4, 3, 0], class_count),
        logit_scale=100.0,
        image_size=32,
        teacher="none",
        teacher_fingerprint="none",
    )
    initial = (0.6 * truth[:train] + 0.3 * probabilities[:train]).astype(np.float32)
    labels = {**of_train, "confident": entropy[:train] < 0.7}
    put("initial_labels.h5", Labels, **labels, labels=initial, scores=initial)
    write_weights(folder, "warmup.pt", of_train)
    crops = {**of_train, "image_index": np.repeat(np.arange(train), 2), "class_index": np.array([0, 1] * train)}
    put(
        "boxes.h5",
        Boxes,
        **crops,
        box=np.tile(np.float32(SQUARES), (train, 1)),
        cam_peak=np.ones(2 * train, np.float32),
        cam=np.tile(np.uint8([[0, 255], [10, 0]]), (2 * train, 1, 1)),
        tau=0.5,
    )
    crop_probabilities = rng.dirichlet([1.0] * class_count, 2 * train).astype(np.float32)
    put(
        "crop_scores.h5",
        CropScores,
        **crops,
        probabilities=crop_probabilities,
        entropy=entropies(crop_probabilities),
        class_is_top1=np.ones(2 * train, bool),
        outcomes=class_count,
    )
    final = np.float32(0.1) + np.float32(0.8) * truth[:train]
    final[0, :3] = [0.4, 0.7, 0.1]  # the truth is the first class
    put("final_labels.h5", Labels, **labels, labels=final, scores=final)
    write_weights(folder, "classifier.pt", of_train)
    scores = [probabilities[train:], probabilities[train:], 0.2 + 0.6 * truth[train:]]
    put(
        "epoch_scores.h5",
        EpochScores,
        image_ids=ids[train:],
        class_names=classes,
        epochs=np.arange(3),
        scores=np.stack(scores).astype(np.float32),
        train=np.float32(0.3) + np.float32(0.4) * truth[:train],
        chosen_epoch=2,
    )


def entropies(probabilities: np.ndarray) -> np.ndarray:
    return -(probabilities * np.log(probabilities)).sum(1)


def origin(folder: Path, name: str) -> Provenance:
    """Provenance of an artifact as if its stage had made it with the settings of the run."""
    stage = find_stage(MAKERS[name])
    settings = settings_of(folder) or Settings({})
    return origin_of(stage, folder, settings.config(stage.name, options_of(stage), {})).of(name)


def made_from(folder: Path, name: str, inputs: list[str], config: dict[str, object] | None = None) -> Provenance:
    """Provenance of an artifact that was made from these artifacts."""
    schema = Path(name).stem
    return Provenance(
        schema, VERSIONS[schema], config or {}, {i: check_up_to_date(folder / i).fingerprint for i in inputs}
    )


def write_weights(folder: Path, name: str, axes: dict[str, list[str]]) -> None:
    """A classifier without weights, for commands that load no network."""
    class_count = len(axes["class_names"])
    write_checkpoint(
        folder / name,
        Checkpoint(
            provenance=origin(folder, name),
            **axes,
            architecture={"backbone": "none", "class_count": class_count, "boost": 3.0, "resize_filter": "bicubic"},
            image_size=32,
            weights={},
            training={},
            steps=0,
            thresholds=[0.5] * class_count,
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
    figures = measure_test(embeddings, InitLabelsConfig(), epochs, test, TRUTH[TRAIN:], config)
    provenance = made_from(folder, "metrics.json", ["classifier.pt", "ground_truth.h5"], config.identity())
    content = {"conventions": conventions(config), "not_measured": [], "labels": labels}
    write_metrics(folder, provenance, content | figures)
