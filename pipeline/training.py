"""One training loop on soft labels: BCE, consistency between two views, weight averaging, resumed after any kill.

Warm-up and final training are two stages over it. Equations: CCD (Kim & Shim, CVPR 2025), section 3.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from pipeline.artifacts import Partial, load_pt, save_pt
from pipeline.augment import color_jitter, random_flip
from pipeline.classifier import CamNet, parameter_groups
from pipeline.config import Config, option
from pipeline.errors import PipelineError
from pipeline.image_cache import ImageCache
from pipeline.inference import load_batch, to_float
from pipeline.loader import Prefetch
from pipeline.metrics import average_precision
from pipeline.progress import Bar, bar

NOTE_EVERY = 10
"""Steps between two looks at the loss: each waits for the device."""


@dataclass(frozen=True)
class TrainingConfig(Config):
    """What warm-up and final training have in common."""

    image_size: int = option(224, "side of the squashed input in training, pixels (paper: 448)", min=32, max=2048)
    predict_size: int = option(320, "side in prediction, pixels; 0: as in training", min=0, max=2048)
    batch_size: int = option(16, "images a step", min=1, max=4096)
    epochs: int = option(2, "passes over the train images", min=1, max=1000)
    backbone_lr: float = option(1e-5, "Adam's learning rate of the backbone, where it is trained", min=0.0, max=1.0)
    head_lr: float = option(3e-3, "Adam's learning rate of the head (paper: 1e-4)", min=0.0, max=1.0)
    head_l2: float = option(
        0.0, "L2 penalty on the head's weights, as Adam's weight decay (paper: 0)", min=0.0, max=10.0
    )
    schedule: Literal["constant", "cosine"] = option(
        "cosine", "learning rate over the steps of the stage (paper: constant)"
    )
    ramp: float = option(0.0, "share of the steps in which the learning rate rises from 0", min=0.0, max=1.0)
    ema: float = option(0.0, "decay a step of the running average of the weights; 0: none", min=0.0, max=0.99999)
    frozen_stages: int = option(
        100, "first stages of the backbone that are not trained; 100: all (paper: 0)", min=0, max=100
    )
    frozen_norms: bool = option(True, "keep the batch norms' ImageNet statistics (paper: off)")
    seed: int = option(0, "seed of head, order, flips and jitter", min=0)
    cache: str = option("", "folder to keep squashed images in for later epochs; empty: none", identity=False)

    @property
    def test_size(self) -> int:
        """Side of the squashed input that the classifier predicts from."""
        return self.predict_size or self.image_size


@dataclass(frozen=True)
class Consistency:
    """The second loss: the same class scores for a colour-jittered, independently flipped view."""

    weight: float
    jitter: float
    """Largest relative colour change, in [0, 0.5]."""


@dataclass(frozen=True)
class TrainingSet:
    """N images with soft labels."""

    paths: list[Path]
    labels: Tensor
    """float32 Tensor[N, C] in [0, 1]."""
    weights: Tensor
    """float32 Tensor[N] in [0, 1], weight of each image in the BCE."""
    cache: ImageCache | None = None
    """Where squashed images are kept; None to decode them in every epoch."""


@dataclass
class TrainingState:
    """Everything that changes while training; kept after every epoch."""

    model: CamNet
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    """Running average of weights and statistics, or None."""
    steps: int = 0
    """Optimizer steps since the warm-up began; with the seed it decides every random draw of an epoch."""

    @property
    def predictor(self) -> CamNet:
        """The model to predict with, in eval mode: the average where there is one."""
        return (self.model if self.average is None else self.average.module).eval()

    def to_content(self) -> dict[str, Any]:
        """Tensors and plain values to continue from."""
        average = None if self.average is None else self.average.state_dict()
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": average,
            "steps": self.steps,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Continue from `to_content`, with the learning rates of this state's own config.

        A running average that was not kept before starts from the weights.
        """
        own = [{key: value for key, value in g.items() if key != "params"} for g in self.optimizer.param_groups]
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        for group, options in zip(self.optimizer.param_groups, own, strict=True):
            group.update(options)
        if self.average is not None and content["average"] is not None:
            self.average.load_state_dict(content["average"])
        elif self.average is not None:
            self.average.module.load_state_dict(content["model"])
        self.steps = content["steps"]


def start_training(model: CamNet, config: TrainingConfig, device: torch.device) -> TrainingState:
    """State before the first step, with the model moved to `device`."""
    # channels-last convolutions are the faster ones, on CUDA as on CPUs
    model.to(device, memory_format=torch.channels_last)
    model.train()
    model.freeze(config.frozen_stages, config.frozen_norms)
    groups = parameter_groups(model, config.backbone_lr, config.head_lr, config.head_l2)
    optimizer = torch.optim.Adam(groups)
    return TrainingState(model, optimizer, average_of(model, config.ema) if config.ema else None)


def average_of(model: CamNet, decay: float) -> AveragedModel:
    """Exponential running average of a model, its batch statistics included.

    The decay rises from 0.1 to `decay`, so that the average does not cling to the untrained weights.
    """

    def update(average: Tensor, current: Tensor, count: Tensor) -> Tensor:
        share = torch.clamp((1 + count) / (10 + count), max=decay)
        return torch.lerp(current, average, share.to(current.dtype)) if current.is_floating_point() else current

    return AveragedModel(model, avg_fn=update, use_buffers=True)


def fit(
    state: TrainingState,
    data: TrainingSet,
    config: TrainingConfig,
    partial: Partial,
    *,
    consistency: Consistency | None = None,
    after_epoch: Callable[[CamNet], Tensor] | None = None,
    title: str = "train",
) -> pd.DataFrame:
    """Train for `config.epochs`, keeping every finished epoch in `partial` and continuing from what is there.

    Args:
        state: changed in place; ends as after the last epoch.
        data: images and soft labels.
        config: options.
        partial: gets `epoch_001.pt` and so on (see `read_epoch`) and `last.pt`.
        consistency: the second view and its loss; None for one view.
        after_epoch: called with the model to predict with; its tensor is kept with the epoch.
        title: stands before the progress bar.

    Returns:
        A row an epoch: see `train_one_epoch`.

    Raises:
        PipelineError: the loss is no longer finite; the finished epochs stay.
    """
    rows: list[dict[str, float]] = []
    if partial.path("last.pt").exists():
        content = load_pt(partial.path("last.pt"))
        state.restore(content)
        rows = content["rows"]
    count = len(data.paths)
    with bar(title, config.epochs * count, done=len(rows) * count) as progress:
        for epoch in range(len(rows) + 1, config.epochs + 1):
            rows.append(train_one_epoch(state, data, config, consistency, epoch, progress))
            scores = after_epoch(state.predictor) if after_epoch else None
            save_pt(partial.path(epoch_name(epoch)), {"weights": state.predictor.state_dict(), "scores": scores})
            save_pt(partial.path("last.pt"), {**state.to_content(), "rows": rows})
    return pd.DataFrame(rows)


def epoch_name(epoch: int) -> str:
    """File of a finished epoch, from 1, in the folder of unfinished work."""
    return f"epoch_{epoch:03d}.pt"


def read_epoch(partial: Partial, epoch: int) -> dict[str, Any]:
    """A finished epoch: "weights", a state dict to predict with, and "scores", what `after_epoch` gave."""
    return load_pt(partial.path(epoch_name(epoch)))


def train_one_epoch(
    state: TrainingState,
    data: TrainingSet,
    config: TrainingConfig,
    consistency: Consistency | None,
    epoch: int,
    progress: Bar,
) -> dict[str, float]:
    """One pass over the images in random order.

    Returns:
        epoch, loss, bce and consistency (means over the images), label_map (mAP of the scores seen while
        training against the labels above 0.5), images_per_second, data_wait (share of the time).

    Raises:
        PipelineError: the loss is not finite.
    """
    device = next(state.model.parameters()).device
    state.model.train()
    state.model.freeze(config.frozen_stages, config.frozen_norms)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.steps)
    order = torch.randperm(len(data.paths), generator=generator)
    batches = order.split(config.batch_size)
    loader = Prefetch(lambda rows: load_batch([data.paths[i] for i in rows], config.image_size, data.cache), batches)
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    scores = torch.zeros(data.labels.shape, device=device)
    start = time.perf_counter()
    for step, (rows, images) in enumerate(zip(batches, loader, strict=True)):
        set_rates(state.optimizer, config, (step + (epoch - 1) * len(batches)) / (config.epochs * len(batches)))
        logits, losses = losses_of(state.model, images.to(device), data, rows, consistency, generator)
        state.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        state.optimizer.step()
        state.steps += 1
        if state.average is not None:
            state.average.update_parameters(state.model)
        sums += losses.detach() * len(rows)
        scores[rows.to(device)] = logits.detach().sigmoid()
        if step % NOTE_EVERY == 0 or step + 1 == len(batches):
            check_finite(losses, epoch)
            progress.advance(0, f"epoch {epoch}/{config.epochs} loss {losses.sum().item():.4f}")
        progress.advance(len(rows))
    seconds = time.perf_counter() - start
    bce, consistent = (sums / len(data.paths)).tolist()
    return {
        "epoch": epoch,
        "loss": bce + consistent,
        "bce": bce,
        "consistency": consistent,
        "label_map": agreement(scores.cpu(), data.labels),
        "images_per_second": len(data.paths) / seconds,
        "data_wait": loader.waited / seconds,
    }


def agreement(scores: Tensor, labels: Tensor) -> float:
    """The mAP of scores Tensor[N, C] against soft labels taken as present above 0.5; NaN if none is."""
    precisions = average_precision(scores.numpy(), (labels > 0.5).numpy().astype(np.int8))
    return float(np.nanmean(precisions)) if not np.isnan(precisions).all() else math.nan


def losses_of(
    model: CamNet,
    images: Tensor,
    data: TrainingSet,
    rows: Tensor,
    consistency: Consistency | None,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Logits Tensor[B, C] of the first view, and the two losses Tensor[2]: weighted BCE and consistency.

    loss = mean(w BCE(z, y)) + lambda BCE(z', stopgrad(sigmoid(z))), CCD eq. 8 to 10 as in the authors' code.
    """
    clean = to_float(images)
    labels, weights = data.labels[rows].to(images.device), data.weights[rows].to(images.device)
    logits = model(random_flip(clean, generator))
    bce = (weights[:, None] * F.binary_cross_entropy_with_logits(logits, labels, reduction="none")).mean()
    if consistency is None:
        return logits, torch.stack([bce, torch.zeros_like(bce)])
    jittered = color_jitter(random_flip(clean, generator), consistency.jitter, generator)
    agreement = F.binary_cross_entropy_with_logits(model(jittered), logits.detach().sigmoid())
    return logits, torch.stack([bce, consistency.weight * agreement])


def set_rates(optimizer: torch.optim.Optimizer, config: TrainingConfig, position: float) -> None:
    """Set the learning rates for a place in the stage, from 0 (first step) to 1."""
    factor = min(1.0, position / config.ramp) if config.ramp else 1.0
    if config.schedule == "cosine":
        factor *= 0.5 * (1 + math.cos(math.pi * position))
    for group, rate in zip(optimizer.param_groups, (config.backbone_lr, config.head_lr, config.head_lr), strict=True):
        group["lr"] = rate * factor


def check_finite(losses: Tensor, epoch: int) -> None:
    """Raise if the loss has become NaN or infinite."""
    if not torch.isfinite(losses).all():
        raise PipelineError(
            f"the loss became {losses.sum().item()} in epoch {epoch}; the epochs before it are kept. "
            "Lower --backbone-lr and --head-lr, or look at the labels with `ccd inspect`."
        )
