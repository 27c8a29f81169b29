"""What only a GPU can show: half precision, copies from pinned memory, real out-of-memory errors, several devices."""

import copy
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F
from torchvision.ops import box_iou
from worlds.commands import ccd, invoke
from worlds.random_clip import random_clip

from pipeline.artifacts.manifest import read_manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.classifier import training
from pipeline.classifier.inference import predict_together, to_device
from pipeline.classifier.network import build_classifier
from pipeline.classifier.training import Consistency, TrainingSet, fit, losses_of, start_training
from pipeline.evaluation.metrics import average_precision
from pipeline.evaluation.read import read
from pipeline.photos.resize import load_view
from pipeline.runs.graph import STAGES
from pipeline.runs.options import TrainingConfig
from pipeline.runs.partial_results import PartialResults
from pipeline.runs.settings import read_run
from pipeline.stages import embed, score_crops
from pipeline.stages.forecast import forecast
from pipeline.system.precision import autocast, autocast_dtype
from pipeline.teachers.embedding_cache import FOLDER as EMBEDDINGS
from pipeline.teachers.encoding import ViewRules
from pipeline.teachers.openai_clip import OpenaiClip
from pipeline.teachers.teacher import load_teacher

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

DEVICE = torch.device("cuda")
SCENES, BATCH, SIDE = 96, 16, 224
ROUNDING = 0.02
"""Difference that another order of additions may cause, as a share of the spread of the values."""


@contextmanager
def exact():
    """Deterministic kernels where there are any, and no TF32."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = True
        torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Options of `ccd all` for demo scenes, a random RN50 as teacher and a random ResNet-18 that is trained."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(random_clip("RN50").state_dict(), folder / "teacher.pt")
    torch.manual_seed(0)
    torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), folder / "backbone.pt")
    settings = [f"prepare.train_scenes={SCENES}", f"prepare.test_scenes={SCENES // 3}"]
    settings += [f"embed.teacher=openai:{folder / 'teacher.pt'}", "embed.image_size=448", "embed.logit_scale=10"]
    settings += [
        "embed.entropy_limit=1",
        "embed.background=none",
        "embed.self_check=false",
        "warmup.backbone=timm:resnet18",
    ]
    settings += [f"warmup.weights={folder / 'backbone.pt'}", "warmup.epochs=1", f"boxes.image_size={SIDE}"]
    settings += ["train.epochs=4", "train.calibrate=false"]
    settings += [f"{stage}.batch_size={BATCH}" for stage in ("embed", "boxes", "score-crops")]
    training_options = [f"image_size={SIDE}", "predict_size=0", f"batch_size={BATCH}", "freeze_backbone=false"]
    training_options += ["backbone_lr=1e-3", "head_lr=0.1", "precision=float32"]
    settings += [f"{stage}.{option}" for stage in ("warmup", "train") for option in training_options]
    return ["--preset", "demo", "--device", str(DEVICE), *(part for each in settings for part in ("--set", each))]


@pytest.fixture(scope="module")
def finished_run(options, tmp_path_factory):
    """A finished run of float32 arithmetic; not to be changed."""
    folder = tmp_path_factory.mktemp("gpu") / "run"
    with exact():
        ccd("all", "--run", folder, *options)
    return folder


@pytest.fixture
def copied_run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


def relative_error(values, expected):
    """Distance of two [N, D] as a share of the spread of the second over its rows."""
    values, expected = (torch.as_tensor(each, device="cpu") for each in (values, expected))
    return ((values - expected).norm() / (expected - expected.mean(0)).norm()).item()


# TF32 of CUDA's float32 convolutions rounds as float16 does.
@pytest.mark.parametrize(("precision", "limit"), [("float32", 0.02), ("float16", 0.02), ("bfloat16", 0.2)])
@pytest.mark.parametrize("shape", ["small resnet", "small vit", "RN50", "ViT-B/32"])
def test_a_teacher_gives_the_embeddings_of_float32_on_the_cpu(shape, precision, limit):
    colours = torch.rand(6, 3, 3, 3, generator=torch.Generator().manual_seed(1)) * 255
    images = F.interpolate(colours, (224, 160), mode="nearest").byte()
    texts = ["a photo of the dog", "a cat", "the blue house by a river"]
    model = random_clip(shape)
    expected = OpenaiClip(copy.deepcopy(model), shape, "", "cpu", "float32")
    teacher = OpenaiClip(model, shape, "", str(DEVICE), precision)
    assert relative_error(teacher.encode_images(images), expected.encode_images(images)) <= limit
    assert relative_error(teacher.encode_texts(texts), expected.encode_texts(texts)) <= limit
    for attention in ("values", "sclip") if "vi" in shape.lower() else ("values",):
        rules = ViewRules(cell_attention=attention)
        expected = OpenaiClip(random_clip(shape), shape, "", "cpu", "float32", rules).encode_views(images)
        views = OpenaiClip(random_clip(shape), shape, "", str(DEVICE), precision, rules).encode_views(images)
        assert torch.equal(views.images, teacher.encode_images(images))
        assert relative_error(*(each.cells.flatten(0, 2) for each in (views, expected))) <= limit


def test_training_in_bfloat16_is_near_training_in_float32(finished_run, tmp_path):
    manifest, truth = read_manifest(finished_run), read(finished_run / "ground_truth.h5")
    labels = torch.from_numpy(truth.labels.clip(0, 1)).float()
    data = TrainingSet(manifest.paths, labels, torch.ones(len(labels)))
    pixels = torch.stack([load_view(Path(path), (SIDE, SIDE)) for path in manifest.paths[:BATCH]]).to(DEVICE)
    views = (pixels.float() / 255, pixels.float().flip(3) / 255)
    jitter, gradients, losses, maps = Consistency(1.0, 0.5), [], [], []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        model = build_classifier("lite0", labels.shape[1], boost=3.0)
        config = TrainingConfig(
            image_size=SIDE, batch_size=BATCH, epochs=4, freeze_backbone=False, backbone_lr=1e-4, precision=precision
        )
        state = start_training(model, config, DEVICE)
        forward = autocast(state.network, autocast_dtype(precision, DEVICE), DEVICE)
        ones = torch.ones(BATCH, device=DEVICE)
        losses_of(forward, views, labels[:BATCH].to(DEVICE), ones, jitter)[1].sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        state.optimizer.zero_grad()
        partial = PartialResults(tmp_path / precision / "model.pt", Provenance("classifier", 1, {}, {}))
        losses.append(fit(state, data, config, partial, consistency=jitter)["loss"].to_numpy())
        scores = predict_together(state.predictor, data.paths, SIDE).numpy()
        maps.append(np.nanmean(average_precision(scores, truth.labels)))
    assert F.cosine_similarity(*gradients, dim=0) > 0.95
    assert np.abs(losses[1] / losses[0] - 1).max() < 0.05
    assert abs(maps[1] - maps[0]) < 0.03


def test_batches_from_pinned_memory_arrive_whole_on_a_busy_device():
    busy = torch.zeros(4096, 4096, device=DEVICE)
    arrived = []
    for number in range(64):
        for _ in range(4):
            busy = busy @ busy  # queued before the copy, whose source memory is free again before it ends
        arrived.append(to_device(torch.full((BATCH, 3, SIDE, SIDE), number, dtype=torch.uint8), DEVICE))
    assert [n for n, images in enumerate(arrived) if not bool((images == n).all())] == []


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_processes_of_torchrun_give_what_one_process_gives(options, finished_run, tmp_path):
    count = torch.cuda.device_count()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = [*launcher, "-m", "pipeline", "--", "all", "--run", str(tmp_path / "run"), *options]
    environment = {**os.environ, "NVIDIA_TF32_OVERRIDE": "0"}  # as in `exact`
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    # Adam turns the rounding error of a gradient near zero into a whole step: labels and scores may differ by more
    for name, file, limit in (
        ("probabilities", "embeddings.h5", ROUNDING),
        ("labels", "final_labels.h5", 0.1),
        ("chosen", "epoch_scores.h5", 0.1),
    ):
        assert relative_error(*(getattr(read(run / file), name) for run in (tmp_path / "run", finished_run))) < limit


def test_the_estimate_of_a_run_measures_every_stage(finished_run):
    found = forecast(finished_run, read_run(finished_run), str(DEVICE), STAGES[1:], force=True)
    assert all(found.seconds[name] > 0 for name in ("warmup", "boxes", "score-crops", "train")) and found.kept > 0


def test_the_measurement_of_what_fits_runs_every_way():
    script = Path(__file__).parent / "benchmarks" / "fits.py"
    command = [sys.executable, script, "small vit", "lite0", "--most", "4", "--seconds", "0.01"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "none runs" not in done.stdout and done.stdout.count("CUDA graph") == done.stdout.count("compile") == 2


class CrampedTeacher:
    """A teacher that has memory for less than half a batch after its first batch."""

    def __init__(self, teacher):
        self._teacher, self._called = teacher, False

    def __getattr__(self, name):
        return getattr(self._teacher, name)

    def encode_images(self, images):
        return self._cramped(self._teacher.encode_images, images)

    def encode_views(self, images):
        return self._cramped(self._teacher.encode_views, images)

    def _cramped(self, encode, images):
        if self._called or len(images) == 1:  # a blank view shows the grid of the cells
            return encode(images)
        self._called = True
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        reserved = torch.cuda.memory_reserved()
        embeddings = encode(images)
        needed = torch.cuda.max_memory_reserved() - reserved
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction((reserved + 0.4 * needed) / total)
        return embeddings


@pytest.fixture
def cramped():
    """Every stage that loads a teacher gets one with too little memory."""

    def load(*spec, **options):
        return CrampedTeacher(load_teacher(*spec, **options))

    with patch.object(embed, "load_teacher", load), patch.object(score_crops, "load_teacher", load):
        yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.parametrize(("stage", "name"), [("embed", "embeddings.h5"), ("score-crops", "crop_scores.h5")])
def test_a_batch_that_no_longer_fits_is_halved(stage, name, copied_run, finished_run, cramped):
    (copied_run / name).unlink()
    shutil.rmtree(copied_run / EMBEDDINGS)
    with exact():
        output = ccd(stage, "--run", copied_run, "--device", DEVICE)
    assert "views no longer fit" in output
    assert relative_error(*(read(run / name).probabilities for run in (copied_run, finished_run))) <= ROUNDING


def test_an_interrupted_training_ends_with_the_scores_of_an_unbroken_one(copied_run, finished_run):
    (copied_run / "classifier.pt").unlink()
    batches = []

    def interrupted(*arguments):
        batches.append(1)
        if len(batches) == SCENES // BATCH + 2:  # in the second epoch
            raise KeyboardInterrupt
        return losses_of(*arguments)

    with exact():
        with patch.object(training, "losses_of", interrupted):
            code, output = invoke("train", "--run", copied_run, "--device", DEVICE)
        assert code and (copied_run / "classifier.pt.partial" / "epoch_001.pt").exists(), output
        ccd("train", "--run", copied_run, "--device", DEVICE)
    scores = [read(run / "epoch_scores.h5").chosen for run in (copied_run, finished_run)]
    assert relative_error(*scores) <= ROUNDING


def test_boxes_are_those_of_the_cpu(copied_run, finished_run):
    ccd("boxes", "--run", copied_run, "--device", "cpu", "--force")
    ours, expected = (
        {
            (int(image), int(kind)): torch.from_numpy(box)
            for image, kind, box in zip(boxes.image_index, boxes.class_index, boxes.box, strict=True)
        }
        for boxes in (read(run / "boxes.h5") for run in (finished_run, copied_run))
    )
    same = [box_iou(ours[key][None], expected[key][None]) > 0.95 for key in ours.keys() & expected.keys()]
    # a score or a pixel near its threshold may fall on the other side
    assert sum(same) >= 0.95 * max(len(expected), len(ours))


def test_the_demo_surpasses_its_teacher(tmp_path):
    ccd("all", "--preset", "demo", "--run", tmp_path / "demo", "--device", DEVICE)
    figures = json.loads((tmp_path / "demo" / "metrics.json").read_text())["test"]
    assert figures["final classifier"]["mAP"] >= figures["teacher, whole photos"]["mAP"] + 0.05
