"""One training loop on soft labels: BCE and consistency between two views, resumed after any kill.

Warm-up and final training are two stages over it. Equations: CCD (Kim & Shim, CVPR 2025), section 3.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from pipeline.artifacts.checkpoints import load_partial, save_partial
from pipeline.classifier.batches import plan_epoch
from pipeline.classifier.features import FeatureStore
from pipeline.classifier.network import CamNet, Head, parameter_groups
from pipeline.classifier.view_sources import PhotoSource, ViewSource, frozen_source, is_frozen
from pipeline.method.losses import consistency_loss, label_loss, mean_label_entropy, training_targets
from pipeline.method.ranking import average_precision
from pipeline.photos.image_cache import ImageCache
from pipeline.photos.views import ViewSpec
from pipeline.runs.options import TrainConfig, TrainingConfig
from pipeline.runs.partial_results import PartialResults
from pipeline.system import distributed
from pipeline.system.devices import widest_float
from pipeline.system.errors import PipelineError
from pipeline.system.precision import autocast, autocast_dtype, inference_dtype
from pipeline.system.progress import Bar, bar
from pipeline.system.trackers import Curves

NOTE_EVERY = 10
"""Steps between two readings of the loss; each waits for the device."""


@dataclass(frozen=True)
class Consistency:
    """The loss between the scores of two views; the second is colour-jittered and flipped independently."""

    weight: float
    jitter: float
    """Largest relative colour change, in [0, 0.5]."""
    jitter_order: str = "batch"
    """Order of the colour changes: one per "batch" or one per "image"; see `draw_jitter`."""

    @classmethod
    def of(cls, config: TrainConfig) -> Self | None:
        """That of the final training; None without a second view."""
        return cls(config.consistency, config.jitter, config.jitter_order) if config.consistency else None


@dataclass(frozen=True)
class TrainingSet:
    """N images with soft labels."""

    paths: list[str]
    labels: Tensor
    """float32 Tensor[N, C] in [0, 1]."""
    weights: Tensor
    """float32 Tensor[N] in [0, 1], weight of each image in the BCE."""
    cache: ImageCache | None = None
    """Where resized photos are kept; None to decode them in every epoch."""
    rows: Tensor | None = None
    """int64 Tensor[n], the images to train on; None for all."""

    def draw(self, generator: torch.Generator) -> Tensor:
        """The rows to train on in random order, int64 Tensor[n]."""
        order = torch.randperm(len(self.paths if self.rows is None else self.rows), generator=generator)
        return order if self.rows is None else self.rows[order]


@dataclass
class TrainingState:
    """Everything that training changes; saved after every epoch."""

    model: CamNet
    network: nn.Module
    """The trained module: the model, or its head if the backbone is frozen; wrapped for several processes."""
    optimizer: torch.optim.Optimizer
    steps: int = 0
    """Optimizer steps since the warm-up began; with the seed it decides every random draw of an epoch."""

    def trained_weights(self) -> dict[str, Tensor]:
        """The tensors of the model that training can change: without the backbone's if it is frozen."""
        weights = self.model.state_dict()
        frozen = is_frozen(self.model)
        return {name: value for name, value in weights.items() if not (frozen and name.startswith("stages."))}

    def to_content(self) -> dict[str, Any]:
        """Tensors and plain values to continue from, with the same frozen backbone."""
        return {
            "model": self.trained_weights(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Continue from `to_content`, with the learning rates of this state's own config.

        Raises:
            PipelineError: the content is not that of this model and optimizer.
        """
        own = [{key: value for key, value in g.items() if key != "params"} for g in self.optimizer.param_groups]
        try:
            weights = self.model.state_dict()
            if any(not name.startswith("stages.") for name in weights.keys() - content["model"].keys()):
                raise KeyError("it lacks weights of the head")
            self.model.load_state_dict(weights | content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise PipelineError(
                f"training cannot continue from the stored state ({reason}). Run `ccd warmup --force` and later stages again."
            ) from error
        for group, options in zip(self.optimizer.param_groups, own, strict=True):
            group.update(options)
        self.steps = content["steps"]


def exponent_of(labels: Tensor, config: TrainingConfig) -> float:
    """Exponent of the training targets; by default higher for undecided labels Tensor[N, C]."""
    return config.target_exponent or 1 + mean_label_entropy(labels)


def targets_of(labels: Tensor, config: TrainingConfig) -> Tensor:
    """Training targets Tensor[N, C] of labels Tensor[N, C] in [0, 1]."""
    return training_targets(labels, exponent_of(labels, config), config.target_smoothing)


def check_sides(model: CamNet, config: TrainingConfig, stage: str) -> None:
    """Raise if the backbone does not take images of the sizes that a stage's options name."""
    model.check_side(config.image_size, f"{stage}.image_size")
    model.check_side(config.test_size, f"{stage}.predict_size")


def freeze(model: CamNet, config: TrainingConfig) -> None:
    """Freeze the parts that the options name, until the next `train()`."""
    model.freeze(config.freeze_backbone, config.freeze_norms)


def norms_see_parts(config: TrainingConfig, device: torch.device) -> bool:
    """Whether trained batch norms must be synchronised between processes, which torch supports on CUDA only."""
    return (
        not (config.freeze_norms or config.freeze_backbone) and distributed.world_size() > 1 and device.type == "cuda"
    )


def start_training(model: CamNet, config: TrainingConfig, device: torch.device) -> TrainingState:
    """State before the first step, with the model moved to `device`."""
    if norms_see_parts(config, device):
        model.stages = convert_sync_batchnorm(model.stages)
    # channels-last convolutions are the faster ones, on CUDA as on CPUs
    model.to(device, memory_format=torch.channels_last)
    model.train()
    freeze(model, config)
    groups = parameter_groups(model, config.backbone_lr, config.head_lr, config.head_weight_decay)
    optimizer = torch.optim.Adam(groups)
    if config.compile:
        model.compile()
    network = Head(model) if is_frozen(model) else model
    return TrainingState(model, distributed.parallel(network), optimizer)


def fit(
    state: TrainingState,
    data: TrainingSet,
    config: TrainingConfig,
    partial: PartialResults,
    *,
    consistency: Consistency | None = None,
    after_epoch: Callable[[CamNet], Tensor] | None = None,
    title: str = "train",
    store: FeatureStore | None = None,
) -> pd.DataFrame:
    """Train for `config.epochs`, keeping every finished epoch in `partial` and continuing from what is there.

    Args:
        state: changed in place; ends as after the last epoch.
        data: images and soft labels.
        config: options.
        partial: gets `epoch_001.pt` and so on (see `read_epoch`) and `last.pt`.
        consistency: the second view and its loss; None for one view.
        after_epoch: called with the model in eval mode; its tensor is saved with the epoch.
        title: title of the progress bar, and folder of TensorBoard's files.
        store: keeps the feature maps of a frozen backbone; None to keep none.

    Returns:
        One row per epoch: see `train_one_epoch`.

    Raises:
        PipelineError: the loss is not finite; the finished epochs are kept.
    """
    rows: list[dict[str, float]] = []
    if partial.path("last.pt").exists():
        content = load_partial(partial.path("last.pt"))
        state.restore(content)
        for group, kept in zip(state.optimizer.param_groups, content["optimizer"]["param_groups"], strict=True):
            group["lr"] = kept[
                "lr"
            ]  # the schedule's, so that a resumed command writes the same state even without an epoch to train
        rows = content["rows"]
    distributed.barrier()  # all processes have read it before the first one replaces or removes it
    if len(rows) < config.epochs:
        source = view_source(state, data, config, consistency, title, store)
    distributed.barrier()  # a process that waits in its first step could time out while another fills its maps
    count = len(data.paths if data.rows is None else data.rows)
    curves = None if config.track == "none" else Curves(config.track, partial.folder.parent, title)
    with bar(title, config.epochs * count, done=len(rows) * count, curves=curves) as progress:
        for epoch in range(len(rows) + 1, config.epochs + 1):
            rows.append(train_one_epoch(state, data, config, source, consistency, epoch, progress))
            progress.record({key: value for key, value in rows[-1].items() if key != "epoch"}, "epoch")
            after = after_epoch(state.model.eval()) if after_epoch else None
            if distributed.is_main():
                save_partial(partial.path(epoch_name(epoch)), {"weights": state.trained_weights(), "after": after})
                save_partial(partial.path("last.pt"), {**state.to_content(), "rows": rows})
    distributed.barrier()  # the files of the last epoch exist for all processes
    return pd.DataFrame(rows)


def view_source(
    state: TrainingState,
    data: TrainingSet,
    config: TrainingConfig,
    consistency: Consistency | None,
    title: str,
    store: FeatureStore | None = None,
) -> ViewSource:
    """Maps of a frozen backbone; for a trained one, photos that are decoded in every epoch."""
    device = next(state.model.parameters()).device
    colours = {} if consistency is None else {"jitter": consistency.jitter, "jitter_order": consistency.jitter_order}
    digests = {} if store is None else store.digests
    spec = ViewSpec(
        config.image_size, state.model.resize_filter, data.cache, flips=config.flips, digests=digests, **colours
    )
    state.model.train()
    freeze(state.model, config)
    if is_frozen(state.model):
        return frozen_source(
            state.model,
            state.network,
            data.paths,
            spec,
            config.seed,
            dtype=inference_dtype(config.precision, device),
            store=store,
            title=f"{title}: views",
        )
    if store is not None:
        store.clear()  # its maps are those of the backbone before training, and training needs the memory
    network = autocast(state.network, autocast_dtype(config.precision, device), device)
    return PhotoSource(network, data.paths, spec, device)


def epoch_name(epoch: int) -> str:
    """File name of a finished epoch, from 1, among the partial results."""
    return f"epoch_{epoch:03d}.pt"


def read_epoch(partial: PartialResults, epoch: int, name: str) -> Any:
    """The "weights" of a finished epoch (see `trained_weights`), or "after", the result of `after_epoch`."""
    return load_partial(partial.path(epoch_name(epoch)), name)[name]


def train_one_epoch(
    state: TrainingState,
    data: TrainingSet,
    config: TrainingConfig,
    source: ViewSource,
    consistency: Consistency | None,
    epoch: int,
    progress: Bar,
) -> dict[str, float]:
    """One pass over the images in random order.

    Returns:
        epoch, loss, bce and consistency (means over the images), pseudo_label_mAP (mAP of the scores seen while
        training against the labels above 0.5), certain_map (against the labels equal to 1, a class without any
        counting as 0: the authors' curve), images_per_second, data_wait (share of the time).

    Raises:
        PipelineError: the loss is not finite.
    """
    device = next(state.model.parameters()).device
    state.model.train()
    freeze(state.model, config)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.steps)
    order = data.draw(generator)
    batches = plan_epoch(order, config.batch_size, source.owned)
    waited = source.waited
    targets, weights = targets_of(data.labels, config).to(device), data.weights.to(device)
    sums = torch.zeros(2, dtype=widest_float(device), device=device)
    scores = torch.zeros(targets.shape, device=device)
    start = time.perf_counter()
    for number, (batch, views) in enumerate(zip(batches, source.views(batches, generator), strict=True)):
        set_learning_rates(
            state.optimizer, config, (number + (epoch - 1) * len(batches)) / (config.epochs * len(batches))
        )
        state.optimizer.zero_grad(set_to_none=True)
        rows = batch.own_rows.to(device)
        logits, losses = losses_of(source.forward, views, targets[rows], weights[rows], consistency)
        (losses.sum() * batch.share).backward()
        state.optimizer.step()
        state.steps += 1
        sums += losses.detach() * (len(rows) if batch.share else 0)
        if batch.share:
            scores[rows] = logits.detach().sigmoid()
        if number % NOTE_EVERY == 0 or number + 1 == len(batches):
            check_finite(sums, epoch)
            progress.advance(0, f"epoch {epoch}/{config.epochs} loss {losses.sum().item():.4f}")
            progress.record({"loss": losses.sum().item()}, "batch")
        progress.advance(len(batch.rows))
    distributed.all_reduce_sum(sums)
    distributed.all_reduce_max(scores)
    distributed.all_reduce_mean(state.model.buffers())  # the weights are equal, the batch norms' statistics not yet
    seconds = time.perf_counter() - start
    bce, consistent = (sums / len(order)).tolist()
    seen = order.sort().values
    return {
        "epoch": epoch,
        "loss": bce + consistent,
        "bce": bce,
        "consistency": consistent,
        "pseudo_label_mAP": agreement(scores.cpu()[seen], data.labels[seen]),
        "certain_map": certain_agreement(scores.cpu()[seen], data.labels[seen]),
        "images_per_second": len(order) / seconds,
        "data_wait": (source.waited - waited) / seconds,
    }


def agreement(scores: Tensor, labels: Tensor) -> float:
    """The mAP of scores Tensor[N, C] against soft labels taken as present above 0.5; NaN if none is."""
    precisions = average_precision(scores.numpy(), (labels > 0.5).numpy().astype(np.int8))
    return float(np.nanmean(precisions)) if not np.isnan(precisions).all() else math.nan


def certain_agreement(scores: Tensor, labels: Tensor) -> float:
    """The mAP of scores Tensor[N, C] against the labels equal to 1; a class without any has an AP of 0."""
    precisions = average_precision(scores.numpy(), (labels == 1).numpy().astype(np.int8))
    return float(np.nan_to_num(precisions).mean())


def losses_of(
    forward: Callable[[Tensor], Tensor],
    views: tuple[Tensor, Tensor | None],
    labels: Tensor,
    weights: Tensor,
    consistency: Consistency | None,
) -> tuple[Tensor, Tensor]:
    """Logits Tensor[B, C] of the first view, and the two losses Tensor[2]: weighted BCE and consistency.

    loss = mean(w BCE(z, y)) + lambda BCE(z', stopgrad(sigmoid(z))), CCD eq. 8 to 10 as in the authors' code.

    Args:
        forward: views Tensor[B, 3, H, W] to logits z, z'.
        views: the first and, if there is a consistency loss, the second.
        labels: y, Tensor[B, C] in [0, 1].
        weights: w, Tensor[B] in [0, 1].
        consistency: gives lambda.
    """
    first, second = views
    logits = forward(first)
    bce = label_loss(logits, labels, weights)
    if consistency is None:
        return logits, torch.stack([bce, torch.zeros_like(bce)])
    return logits, torch.stack([bce, consistency.weight * consistency_loss(forward(second), logits)])


def set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainingConfig, position: float) -> None:
    """Set the learning rates for a place in the stage, from 0 (first step) to 1."""
    factor = 0.5 * (1 + math.cos(math.pi * position)) if config.schedule == "cosine" else 1.0
    for group, rate in zip(optimizer.param_groups, (config.backbone_lr, config.head_lr, config.head_lr), strict=True):
        group["lr"] = rate * factor


def check_finite(sums: Tensor, epoch: int) -> None:
    """Raise if the sums of the losses, and so any loss of the epoch, are NaN or infinite."""
    if not torch.isfinite(sums).all():
        raise PipelineError(
            f"the loss became {sums.sum().item()} in epoch {epoch}; the epochs before it are kept. "
            "Lower --backbone-lr and --head-lr, or look at the labels with `ccd inspect`."
        )
