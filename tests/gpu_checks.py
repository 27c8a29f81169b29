"""What only a GPU can show, each as a function that fails or returns a figure; on a CPU a rehearsal of the same code."""

import copy
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from unittest.mock import patch

import numpy as np
import timm
import torch
from colours import invoke
from random_clip import random_clip
from torch.nn import functional as F
from torchvision.ops import box_iou

from pipeline.artifacts.manifest import read_manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.classifier import training
from pipeline.classifier.inference import predict_logits, to_device
from pipeline.classifier.network import build_classifier
from pipeline.classifier.training import Consistency, TrainingSet, fit, losses_of, start_training
from pipeline.evaluation.metrics import average_precision
from pipeline.evaluation.read import read
from pipeline.photos.resize import load_view
from pipeline.runs.options import TrainingConfig
from pipeline.runs.partial_results import PartialResults
from pipeline.stages import embed, score_crops
from pipeline.system.precision import autocast, autocast_dtype
from pipeline.teachers import openai_clip
from pipeline.teachers.embedding_cache import FOLDER as EMBEDDINGS
from pipeline.teachers.encoding import PRECISIONS
from pipeline.teachers.openai_clip import OpenaiClip
from pipeline.teachers.teacher import load_teacher


class NotHere(Exception):
    """A check that this machine cannot do."""


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    scenes: int
    """Train scenes of the run; a third as many are test scenes."""
    towers: tuple[str, ...]
    """Shapes of CLIPs whose precisions are compared."""
    teacher: str
    """Shape of the run's teacher."""
    view: int
    """Side of the teacher's views, pixels."""
    backbone: str
    """Of the run, with random weights."""
    side: int
    """Of the classifier's input, pixels."""
    batch: int
    """Views of a teacher call, and photos of a training step."""
    epochs: int
    matrix: int
    """Side of the matrices whose products keep the device busy."""
    copies: int
    """Batches that travel to the device at once."""
    demo: tuple[str, ...]
    """Options of the demo."""
    gain: float
    """mAP that its classifier is at least above its teacher."""


FULL = Sizes(
    scenes=96,
    towers=("small resnet", "small vit", "RN50", "ViT-B/32"),
    teacher="RN50",
    view=448,
    backbone="timm:resnet18",
    side=224,
    batch=16,
    epochs=4,
    matrix=4096,
    copies=64,
    demo=(),
    gain=5.0,
)
REHEARSAL = Sizes(
    scenes=12,
    towers=("small resnet", "small vit"),
    teacher="small resnet",
    view=64,
    backbone="timm:test_resnet",
    side=64,
    batch=4,
    epochs=2,
    matrix=64,
    copies=8,
    demo=("prepare.train_scenes=16", "prepare.test_scenes=8", "train.epochs=1", "train.cross_fit_rounds=0"),
    gain=-100.0,
)


@dataclass(frozen=True)
class Rig:
    """Where checks run, and how much they do."""

    device: str
    sizes: Sizes
    folder: Path
    """Of their files; empty at first."""

    @property
    def is_cpu(self) -> bool:
        """Whether this is a rehearsal."""
        return torch.device(self.device).type == "cpu"

    @property
    def rounding(self) -> float:
        """By which share of their spread numbers may differ that are computed in another order."""
        return 1e-3 if self.is_cpu else 0.02

    def arguments(self, folder: Path) -> list[str]:
        """Of `ccd` for a run of demo scenes with a random teacher, a random backbone that is trained, and no download."""
        sizes, weights = self.sizes, self.folder / "weights"
        if not weights.exists():
            weights.mkdir(parents=True)
            torch.save(random_clip(sizes.teacher).state_dict(), weights / "teacher.pt")
            torch.manual_seed(0)
            backbone = timm.create_model(sizes.backbone.removeprefix("timm:"), pretrained=False)
            torch.save(backbone.state_dict(), weights / "backbone.pt")
        options = {
            "prepare": {"train_scenes": sizes.scenes, "test_scenes": sizes.scenes // 3},
            "embed": {
                "teacher": f"openai:{weights / 'teacher.pt'}",
                "image_size": sizes.view,
                "logit_scale": 10,
                "entropy_limit": 1,
                "background": "none",
                "batch_size": sizes.batch,
            },
            "warmup": {"backbone": sizes.backbone, "weights": weights / "backbone.pt", "epochs": 1},
            "boxes": {"image_size": sizes.side, "batch_size": sizes.batch},
            "score-crops": {"batch_size": sizes.batch},
            "train": {"epochs": sizes.epochs, "calibrate": "false"},
        }
        for stage in ("warmup", "train"):
            options[stage] |= {"image_size": sizes.side, "predict_size": 0, "batch_size": sizes.batch}
            options[stage] |= {"freeze_backbone": "false", "backbone_lr": 1e-3, "head_lr": 0.1, "precision": "float32"}
        given = (("--set", f"{stage}.{name}={value}") for stage, own in options.items() for name, value in own.items())
        base = ["all", "--preset", "demo", "--run", str(folder), "--device", self.device]
        return [*base, *(word for pair in given for word in pair)]

    @cached_property
    def run(self) -> Path:
        """A finished run of exact arithmetic; not to be changed."""
        with exact():
            ccd(*self.arguments(self.folder / "run"))
        return self.folder / "run"

    def copy_of_run(self, name: str) -> Path:
        """A copy that a check may change."""
        return shutil.copytree(self.run, self.folder / name)


def ccd(*arguments: object) -> str:
    """Run a command in this process and return what it said."""
    code, said = invoke(*arguments)
    assert code == 0, said
    return said


@contextmanager
def exact() -> Iterator[None]:
    """Kernels that add up in one order, where there are such, and in whole float32."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = True
        torch.use_deterministic_algorithms(False)


def check_half_precision(rig: Rig) -> str:
    """The OpenAI towers and their texts in every precision, against float32 on the CPU."""
    images = coloured_tiles(6, (224, 160))
    texts = ["a photo of the dog", "a cat", "the blue house beside a river"]
    # of the spread over the images and over the texts; TF32 of CUDA's float32 convolutions rounds as float16 does
    limits = {"float32": 0.02, "float16": 0.02, "bfloat16": 0.2}
    worst = dict.fromkeys(limits, 0.0)
    for shape in rig.sizes.towers:
        model = random_clip(shape)
        exact = OpenaiClip(copy.deepcopy(model), shape, "", "cpu", "float32")
        wanted = exact.encode_images(images), exact.encode_texts(texts)
        for precision in limits:
            # a CPU has these formats too, though only for this check
            with patch.object(openai_clip, "compute_dtype", lambda name, device: PRECISIONS[name]):
                teacher = OpenaiClip(copy.deepcopy(model), shape, "", rig.device, precision)
            found = teacher.encode_images(images), teacher.encode_texts(texts)
            errors = [relative_error(a, b) for a, b in zip(found, wanted, strict=True)]
            worst[precision] = max(worst[precision], *errors)
    figure = ", ".join(f"{name} {error:.1%}" for name, error in worst.items())
    assert all(worst[name] <= limit for name, limit in limits.items()), figure
    return f"off by {figure} of the spread at most"


def coloured_tiles(count: int, size: tuple[int, int]) -> torch.Tensor:
    """Images uint8 Tensor[B, 3, H, W] that differ widely: three times three tiles of random colours."""
    colours = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(1)) * 255
    return F.interpolate(colours, size, mode="nearest").byte()


def relative_error(found: np.ndarray | torch.Tensor, wanted: np.ndarray | torch.Tensor) -> float:
    """Distance of two [N, D] as a share of the spread of the second over its rows: what all have in common says nothing."""
    found, wanted = (torch.as_tensor(each, device="cpu") for each in (found, wanted))
    return ((found - wanted).norm() / (wanted - wanted.mean(0)).norm()).item()


def check_bfloat16_training(rig: Rig) -> str:
    """Training in bfloat16 against float32: the gradient of a first step, losses and mAP of a short training."""
    manifest, truth = read_manifest(rig.run), read(rig.run / "ground_truth.h5")
    labels = torch.from_numpy(truth.labels.clip(0, 1)).float()
    data = TrainingSet(manifest.paths, labels, torch.ones(len(labels)))
    device, jitter = torch.device(rig.device), Consistency(1.0, 0.5)
    pixels = torch.stack([load_view(Path(path), (rig.sizes.side,) * 2) for path in manifest.paths[: rig.sizes.batch]])
    views = (pixels.to(device).float() / 255, pixels.to(device).float().flip(3) / 255)
    gradients, losses, maps = [], [], []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        model = build_classifier("lite0", labels.shape[1], boost=3.0)
        config = TrainingConfig(
            image_size=rig.sizes.side,
            batch_size=rig.sizes.batch,
            epochs=rig.sizes.epochs,
            freeze_backbone=False,
            backbone_lr=1e-4,
            precision=precision,
        )
        state = start_training(model, config, device)
        forward = autocast(state.network, autocast_dtype(precision, device), device)
        ones = torch.ones(len(pixels), device=device)
        losses_of(forward, views, labels[: len(pixels)].to(device), ones, jitter)[1].sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        state.optimizer.zero_grad()
        pieces = PartialResults(rig.folder / precision / "model.pt", Provenance("classifier", 1, {}, {}))
        losses.append(fit(state, data, config, pieces, consistency=jitter)["loss"].to_numpy())
        scores = predict_logits(state.predictor, data.paths, rig.sizes.side).numpy()
        maps.append(100 * np.nanmean(average_precision(scores, truth.labels)))
    cosine = F.cosine_similarity(*gradients, dim=0).item()
    loss = float(np.abs(losses[1] / losses[0] - 1).max())
    figure = f"gradients' cosine {cosine:.4f}, loss off by {loss:.1%}, mAP {maps[1]:.1f} for {maps[0]:.1f}"
    assert cosine > 0.95 and loss < 0.05 and abs(maps[1] - maps[0]) < 3, figure
    return figure


def check_pinned_copies(rig: Rig) -> str:
    """Batches on their way to a busy device: each arrives as it was, though its memory is free again before."""
    device = torch.device(rig.device)
    side = rig.sizes.side
    busy = torch.zeros(rig.sizes.matrix, rig.sizes.matrix, device=device)
    shape = (rig.sizes.batch, 3, side, side)
    arrived = []
    for number in range(rig.sizes.copies):
        for _ in range(4):
            busy = busy @ busy  # work that is queued before the copy
        arrived.append(to_device(torch.full(shape, number % 251, dtype=torch.uint8), device))
    wrong = [n for n, images in enumerate(arrived) if not bool((images == n % 251).all())]
    assert not wrong, f"batches {wrong} were overwritten on their way"
    return f"{len(arrived)} batches of {math.prod(shape) / 1e6:.1f} MB as they were sent"


def check_processes(rig: Rig) -> str:
    """A run of torchrun with a process per GPU, or two on a CPU, against one process."""
    count = 2 if rig.is_cpu else torch.cuda.device_count()
    if count < 2:
        raise NotHere("needs two GPUs")
    folder = rig.folder / "together"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = [*launcher, "-m", "pipeline", "--", *rig.arguments(folder)]
    environment = {**os.environ, "NVIDIA_TF32_OVERRIDE": "0"}  # as in `exact`
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    off = {
        name: relative_error(*(getattr(read(each / file), name) for each in (folder, rig.run)))
        for name, file in (
            ("probabilities", "embeddings.h5"),
            ("labels", "final_labels.h5"),
            ("chosen", "epoch_scores.h5"),
        )
    }
    figure = f"{count} processes: " + ", ".join(f"{name} off by {error:.1e}" for name, error in off.items())
    # a gradient that is all but zero makes a step of Adam, whatever the sign of its rounding error
    assert off["probabilities"] <= rig.rounding and off["labels"] < 0.1 and off["chosen"] < 0.1, figure
    return figure


class CrampedTeacher:
    """A teacher that from its second call on has memory for less than half of a batch.

    Args:
        teacher: on CUDA the limit is one of the allocator, elsewhere an error that is made up.
    """

    def __init__(self, teacher: OpenaiClip) -> None:
        self._teacher = teacher
        self._most: int | None = None
        """Views of a call that fits; None before the first."""

    def __getattr__(self, name: str) -> object:
        return getattr(self._teacher, name)

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """As of the teacher, with less memory after the first call."""
        if self._teacher.device.type == "cuda":
            return self._encode_on_cuda(images)
        if self._most is not None and len(images) > self._most:
            raise torch.OutOfMemoryError("as if CUDA were out of memory")
        self._most = max(len(images) // 3, 1) if self._most is None else self._most
        return self._teacher.encode_images(images)

    def _encode_on_cuda(self, images: torch.Tensor) -> torch.Tensor:
        if self._most is not None:
            return self._teacher.encode_images(images)
        self._most = len(images) // 2
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_reserved()
        found = self._teacher.encode_images(images)
        needed = torch.cuda.max_memory_reserved() - held
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction((held + 0.4 * needed) / total)
        return found


def goes_on_cramped(rig: Rig, stage: str, name: str) -> str:
    """Run a stage again whose teacher runs out of memory in the middle, and compare what it made."""
    run = rig.copy_of_run(f"cramped-{stage}")
    (run / name).unlink()
    shutil.rmtree(run / EMBEDDINGS)

    def cramped(*spec: object, **how: object) -> CrampedTeacher:
        return CrampedTeacher(load_teacher(*spec, **how))

    try:
        with exact(), patch.object(embed, "load_teacher", cramped), patch.object(score_crops, "load_teacher", cramped):
            said = ccd(stage, "--run", run, "--device", rig.device)
    finally:
        if not rig.is_cpu:
            torch.cuda.set_per_process_memory_fraction(1.0)
            torch.cuda.empty_cache()
    halved = said.count("no longer fit the memory")
    assert halved, f"the memory sufficed: {said}"
    off = relative_error(*(read(each / name).probabilities for each in (run, rig.run)))
    figure = f"halved {halved} times, probabilities off by {off:.1e} of their spread"
    assert off <= rig.rounding, figure
    return figure


def check_memory_of_embed(rig: Rig) -> str:
    """`embed` goes on with half of a batch where a whole one no longer fits."""
    return goes_on_cramped(rig, "embed", "embeddings.h5")


def check_memory_of_crops(rig: Rig) -> str:
    """`score-crops` goes on with half of a batch where a whole one no longer fits."""
    return goes_on_cramped(rig, "score-crops", "crop_scores.h5")


def check_resumed_training(rig: Rig) -> str:
    """A training that is interrupted in its second epoch ends with the scores of the unbroken one."""
    run = rig.copy_of_run("resumed")
    (run / "classifier.pt").unlink()
    batches = []

    def interrupted(*arguments: object) -> object:
        batches.append(1)
        if len(batches) == rig.sizes.scenes // rig.sizes.batch + 2:
            raise KeyboardInterrupt
        return losses_of(*arguments)

    with exact():
        with patch.object(training, "losses_of", interrupted):
            code, said = invoke("train", "--run", run, "--device", rig.device)
        assert code and (run / "classifier.pt.partial" / "epoch_001.pt").exists(), said
        ccd("train", "--run", run, "--device", rig.device)
    off = relative_error(*(read(each / "epoch_scores.h5").chosen for each in (run, rig.run)))
    figure = f"scores off by {off:.1e} of their spread"
    assert off <= rig.rounding, figure
    return figure


def check_boxes(rig: Rig) -> str:
    """Boxes of the device against those of the CPU, of one classifier."""
    run = rig.copy_of_run("boxes")
    ccd("boxes", "--run", run, "--device", "cpu", "--force")
    ours, wanted = (
        {
            (int(image), int(kind)): torch.from_numpy(box)
            for image, kind, box in zip(found.image_index, found.class_index, found.box, strict=True)
        }
        for found in (read(each / "boxes.h5") for each in (rig.run, run))
    )
    both = ours.keys() & wanted.keys()
    overlaps = torch.stack([box_iou(ours[key][None], wanted[key][None])[0, 0] for key in sorted(both)])
    same = int((overlaps > 0.95).sum())
    figure = f"{same} of {len(wanted)} boxes the same, lowest overlap {overlaps.min():.2f}"
    # a score or a pixel beside its threshold may fall on the other side
    assert same >= 0.95 * max(len(wanted), len(ours)), figure
    return figure


def check_demo(rig: Rig) -> str:
    """`ccd all --preset demo` from the first stage to the last."""
    options = [word for option in rig.sizes.demo for word in ("--set", option)]
    ccd("all", "--preset", "demo", "--run", rig.folder / "demo", "--device", rig.device, *options)
    figures = json.loads((rig.folder / "demo" / "metrics.json").read_text())["test"]
    teacher, final = (100 * figures[name]["mAP"] for name in ("teacher zero-shot", "final classifier"))
    figure = f"mAP {final:.1f}, of its teacher {teacher:.1f}"
    assert final >= teacher + rig.sizes.gain, figure
    return figure
