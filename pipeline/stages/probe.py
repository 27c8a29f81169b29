"""The pace of a run's networks on its own photos, measured in about two seconds after they are loaded."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.manifest import Manifest, read_manifest
from pipeline.classifier.features import map_shape
from pipeline.classifier.inference import feature_run, to_device, to_float
from pipeline.classifier.network import CamNet, build_classifier
from pipeline.photos.views import ViewSpec
from pipeline.runs.options import TRAINING_SIDE, EmbedConfig, ScoreCropsConfig, WarmupConfig
from pipeline.runs.settings import Settings
from pipeline.stages.forecast import Pace, Sizes, shares_maps
from pipeline.system.precision import autocast, autocast_dtype
from pipeline.teachers.embedding_cache import ImageStore, StoreKey
from pipeline.teachers.encoding import CPU_CHUNK, ViewRules, precision_of
from pipeline.teachers.photo_encoder import PhotoEncoder
from pipeline.teachers.teacher import Teacher, load_teacher

SAMPLE = 64
"""Photos of the probe."""
BUDGET = 0.6
"""Seconds of each of the three or four parts of the probe."""


def seconds_per_item(work: Callable[[int], object], most: int, budget: float = BUDGET) -> float:
    """Clock seconds per item of `work(count)`, after a first call, in batches that double while budget and memory last.

    0 if one item does not fit in the memory of the device: the stage itself then fails with advice.
    """
    pace, size = 0.0, 1
    try:
        work(1)
        end = time.perf_counter() + budget
        while True:
            start = time.perf_counter()
            work(size)
            taken = time.perf_counter() - start
            pace = taken / size
            if size == most or time.perf_counter() + 2 * taken > end:
                return pace
            size = min(2 * size, most)
    except torch.OutOfMemoryError:
        return pace


def probe(folder: Path, own: Settings, names: Sequence[str], device: str) -> tuple[Pace, Sizes]:
    """Measure the parts of the stages of these names on a sample of the train photos."""
    manifest = read_manifest(folder)
    train, test = manifest.split("train"), manifest.split("test")
    paths = [train.paths[i] for i in np.unique(np.linspace(0, len(train.paths) - 1, SAMPLE).astype(int))]
    embed, crops = own.config("embed", EmbedConfig, {}), own.config("score-crops", ScoreCropsConfig, {})
    warmup = own.config("warmup", WarmupConfig, {})
    spec = crops.teacher if embed.precomputed else embed.teacher
    teacher = load_teacher(spec, device, embed.precision, rules=ViewRules.of(embed)) if spec else None
    view = 0 if teacher is None else embed.image_size or teacher.input_size
    side = warmup.image_size or (view if warmup.backbone == "teacher" else TRAINING_SIDE)
    views = ViewSpec(view or side, digests=manifest.digest_of)
    decode = seconds_per_item(lambda count: decode_photos(views, paths[-count:]), len(paths))
    encode, missing, entry = 0.0, 0, 0
    if teacher is not None and not {"embed", "score-crops"}.isdisjoint(names):
        encode = probe_teacher(teacher, views, paths, embed.local == "cells", device)
        if not embed.precomputed:
            store = ImageStore(folder, StoreKey(teacher.fingerprint, view, precision_of(teacher)))
            missing, entry = len(store.missing(manifest.digests)), bytes_of_entry(teacher, views, manifest, embed)
    classifier, step, maps, weights = 0.0, 0.0, 0, 0
    architecture = {"backbone": warmup.backbone}
    if warmup.backbone == "teacher":
        architecture = getattr(teacher, "architecture", None)  # None: the warm-up refuses this teacher
    if architecture and not {"warmup", "boxes", "train"}.isdisjoint(names):
        model = build_classifier(
            **architecture, class_count=len(manifest.class_names), boost=warmup.boost, pretrained=False
        )
        model.check_side(side, "warmup.image_size")
        shared = shares_maps(own, view, side)
        classifier, step, maps, weights = probe_classifier(model, warmup, side, torch.device(device), shared)
    pace = Pace(decode, encode, classifier, step, overlaps=torch.device(device).type != "cpu")
    return pace, Sizes(len(train.image_ids), len(test.image_ids), missing, entry, maps, weights, view, side)


def probe_teacher(teacher: Teacher, views: ViewSpec, paths: Sequence[str], cells: bool, device: str) -> float:
    """Seconds of a pass of the teacher, with its cells or without."""
    images = next(views.batches(paths[:1], 1))[1].repeat(SAMPLE, 1, 1, 1)

    def encode(count: int) -> None:
        encoded = teacher.encode_views(images[:count]).images if cells else teacher.encode_images(images[:count])
        encoded.cpu()  # waits for the device

    return seconds_per_item(encode, CPU_CHUNK if torch.device(device).type == "cpu" else len(images))


def bytes_of_entry(teacher: Teacher, views: ViewSpec, manifest: Manifest, embed: EmbedConfig) -> int:
    """Bytes that are kept of a photo: its embedding and its cells, or instead of many cells their scores."""
    width = teacher.encode_images(torch.zeros(1, 3, views.size, views.size, dtype=torch.uint8)).shape[1]
    if embed.local == "none":
        return 4 * width
    shape = PhotoEncoder(teacher, views, "cpu", [], local=embed.local, tiles=embed.tiles).cell_shape()
    cells = 2 * math.prod(shape) if shape else 0
    fits = len(manifest.image_ids) * cells <= embed.cell_cache_gb * 1e9
    return 4 * width + (cells if fits else 8 * len(manifest.class_names))


def probe_classifier(
    model: CamNet, warmup: WarmupConfig, side: int, device: torch.device, shared: bool
) -> tuple[float, float, int, int]:
    """Seconds of a pass of the backbone and of a training step, per image, and the bytes of its maps and weights.

    A backbone whose maps are `shared` with the teacher needs no pass of its own.
    """
    model.to(device, memory_format=torch.channels_last).train()
    model.freeze(warmup.freeze_backbone, warmup.freeze_norms)
    weights = sum(4 * each.numel() for each in model.parameters())
    batch = warmup.batch_size
    images = to_device(torch.randint(256, (batch, 3, side, side), dtype=torch.uint8), device)
    if not warmup.freeze_backbone:
        forward = autocast(model, autocast_dtype(warmup.precision, device), device)
        step = seconds_per_item(lambda count: train_once(forward, to_float(images[:count])), batch)
        return step / 3, step, 0, weights  # as a backward pass takes twice a forward pass
    shape = map_shape(model, side)
    maps = torch.rand(SAMPLE, *shape, device=device).half()

    def train_head(count: int) -> None:
        train_once(model.logits, maps[torch.randint(SAMPLE, (count,), device=device)].float())

    step = seconds_per_item(train_head, batch)
    if shared:
        return 0.0, step, 2 * math.prod(shape), weights
    run = feature_run(model.eval())
    with torch.no_grad():
        seconds = seconds_per_item(lambda count: run(to_float(images[:count])).sum().item(), batch)
    return seconds, step, 2 * math.prod(shape), weights


def decode_photos(views: ViewSpec, paths: Sequence[str]) -> None:
    """Decode and resize photos, with all threads."""
    for _ in views.batches(paths, 16):
        pass


def train_once(forward: Callable[[Tensor], Tensor], inputs: Tensor) -> None:
    """Forward and backward of a step, until its result is there."""
    loss = forward(inputs).float().square().mean()
    loss.backward()
    loss.item()
