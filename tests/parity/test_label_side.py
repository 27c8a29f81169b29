"""The whole label side of the recipe `ccd` on real photos: files of our stages against a chain of plain loops."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import reference
from torch.nn import functional as F
from worlds.commands import ccd

from pipeline.artifacts.checkpoints import read_checkpoint
from pipeline.artifacts.hdf5 import read_arrays
from pipeline.artifacts.manifest import read_manifest
from pipeline.classifier.inference import load_classifier
from pipeline.datasets import voc
from pipeline.runs.options import BoxesConfig
from pipeline.stages.boxes import search_tau
from pipeline.teachers.conse import Conse
from pipeline.teachers.encoding import ViewRules

PHOTOS, SIDE = 20, 128
FLOOR, RATIO = 1 / 20, 0.2
SMALL = [
    "embed.teacher=conse",
    f"embed.image_size={SIDE}",
    # a classifier that is sure enough of a few classes for tau to part them, in seconds and the same every time
    "warmup.backbone=lite0",
    "warmup.weights=",
    "warmup.freeze_backbone=true",
    "warmup.freeze_norms=true",
    "warmup.image_size=64",
    "warmup.predict_size=64",
    "warmup.batch_size=5",
    "warmup.epochs=10",
    "warmup.head_lr=0.01",
    "warmup.target_exponent=4.0",
    f"boxes.image_size={SIDE}",
    f"score-crops.view_size={SIDE}",
]
STAGES = ("embed", "init-labels", "warmup", "boxes", "score-crops", "fuse")


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> list[Path]:
    dataset = voc.load(shared_data / "VOCdevkit")
    return [path for path, split in zip(dataset.paths, dataset.splits, strict=True) if split == "train"][:PHOTOS]


@pytest.fixture(scope="module")
def teacher() -> Conse:
    """The teacher of the recipe, loaded once because encoding its sentences is slow."""
    return Conse(
        rules=ViewRules(statistics="imagenet", positions="bilinear", snap=False, resize_filter="pillow-bilinear")
    )


@pytest.fixture(scope="module")
def run(photos, shared_data, teacher, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parity")
    with (folder / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image"], *([path] for path in photos)])
    names = ",".join(voc.load(shared_data / "VOCdevkit").class_names)
    settings = [part for setting in SMALL for part in ("--set", setting)]
    run = folder / "run"
    ccd(*("prepare", "--run", run, "--images", folder / "photos.csv", "--classes", names, "--recipe", "ccd"), *settings)

    def load(spec, device="cpu", precision="float32", rules=None):
        assert spec == "conse" and Conse(rules=rules).fingerprint == teacher.fingerprint
        return teacher

    with pytest.MonkeyPatch.context() as patch:
        for stage in ("embed", "score_crops"):
            patch.setattr(f"pipeline.stages.{stage}.load_teacher", load)
        for stage in STAGES:
            ccd(stage, "--run", run)
    return run


@pytest.fixture(scope="module")
def model(run):
    return load_classifier(read_checkpoint(run / "warmup.pt"))


@pytest.fixture(scope="module")
def ask(run, teacher):
    """Probabilities of views float [3, H, W], normalised already."""
    names = [name for (name,) in read_manifest(run).display_names.values()]  # the recipe has one name per class
    texts = teacher.encode_texts([f"a photo of the {name}" for name in names])

    @torch.inference_mode()
    def probabilities(pixels):
        maps = teacher._network.forward_features(torch.from_numpy(pixels).float()[None]).half().float()
        weights = teacher._network.forward_head(maps).softmax(1)
        image = F.normalize(weights @ F.normalize(teacher._imagenet - teacher._centre, dim=1), dim=1)
        return reference.softmax((10 * texts @ image[0]).tolist())

    return probabilities


@torch.inference_mode()
def maps(model, pixels):
    """CAMs float64 [C, h, w] before the boost, and scores [C], of a view [3, H, W] normalised already."""
    statistics = torch.tensor(reference.MEAN).view(3, 1, 1), torch.tensor(reference.STD).view(3, 1, 1)
    unit = torch.from_numpy(pixels).float() * statistics[1] + statistics[0]  # the network normalises for itself
    cams = model.head(model.features(unit[None]))[0].double().numpy()
    means = reference.boosted(cams, 3).mean(axis=(1, 2))
    return cams, 1 / (1 + np.exp(-means))


def chain(photos, model, ask):
    """Initial labels, bias, boxes by image and class, crop scores and fused labels of the photos."""
    views = [reference.imagenet_normalised(reference.resized(path, SIDE)) for path in photos]
    rows = [ask(view) for view in views]
    biases = reference.bias(rows)
    biases = np.where(np.isnan(biases), np.nanmean(biases), biases)  # ours, where theirs is not defined
    initial = [reference.initial_label(row, biases, FLOOR) for row in rows]
    tau = reference.searched_tau([], 4)  # too few photos for a look
    boxes, scores, fused = [], [], []
    for index, (view, label) in enumerate(zip(views, initial, strict=True)):
        cams, selected = maps(model, view)
        crops = []
        for kind in np.flatnonzero(selected >= tau):
            box = reference.corner_box(reference.boosted(cams[kind : kind + 1], 3)[0], SIDE, SIDE // 8)
            boxes.append((index, kind, box))
            part = view[:, box[1] : box[3], box[0] : box[2]]
            crops.append(ask(reference.bilinear(part, reference.crop_sides(box, SIDE))))
        scores.extend(crops)
        fused.append(reference.fused_label(label, crops, biases, FLOOR, RATIO))
    return np.stack(initial), biases, tau, boxes, np.stack(scores), np.stack(fused)


def test_files_equal_the_chain(run, photos, model, ask):
    initial, biases, tau, boxes, scores, fused = chain(photos, model, ask)
    np.testing.assert_allclose(read_arrays(run / "embeddings.h5").bias, biases, atol=1e-4)
    np.testing.assert_allclose(read_arrays(run / "initial_labels.h5").labels, initial, atol=1e-4)
    found = read_arrays(run / "boxes.h5")
    assert found.tau == tau
    assert PHOTOS < len(found.box) < PHOTOS * 20  # some classes of the photos, neither none nor all
    assert [(i, c) for i, c, _ in boxes] == list(zip(found.image_index, found.class_index, strict=True))
    sizes = read_sizes(run)[found.image_index]  # (H, W)
    in_view = found.box * SIDE / np.tile(sizes[:, ::-1], 2)
    np.testing.assert_allclose(in_view, [box for _, _, box in boxes], atol=1e-3)
    np.testing.assert_allclose(read_arrays(run / "crop_scores.h5").probabilities, scores, atol=1e-4)
    np.testing.assert_allclose(read_arrays(run / "final_labels.h5").labels, fused, atol=1e-4)
    assert np.abs(fused - initial).mean() > 0.01


def read_sizes(run):
    with (run / "manifest.csv").open() as file:
        return np.array([[int(row["height"]), int(row["width"])] for row in csv.DictReader(file)])


def test_tau_is_searched_on_mirrored_training_views(photos, model):
    config = BoxesConfig(select="score", tau_rule="search", search_bound=6.0, seed=3)
    paths = [*photos] * 16
    found = search_tau(model, paths, 64, config)
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(len(paths), generator=generator)
    scores = []
    for start, stop in ((0, 101), (101, 201), (201, 301)):
        mirrored = torch.rand(stop - start, generator=generator) < 0.5
        for row, mirror in zip(order[start:stop].tolist(), mirrored.tolist(), strict=True):
            view = reference.imagenet_normalised(reference.resized(paths[row], 64))
            scores.append(maps(model, view[..., ::-1].copy() if mirror else view)[1])
    assert found == reference.searched_tau(scores, 6)
    assert found > 0.05
