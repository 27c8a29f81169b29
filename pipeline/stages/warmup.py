"""Train the warm-up classifier on the initial labels; its CAMs give the boxes."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.artifacts.checkpoints import Checkpoint, write_checkpoint
from pipeline.artifacts.hdf5 import read_arrays
from pipeline.artifacts.labels import Labels
from pipeline.artifacts.manifest import Manifest, write_csv
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.schema import check_same_images
from pipeline.classifier.backbones import Tower
from pipeline.classifier.features import FeatureStore
from pipeline.classifier.network import CamNet, build_classifier
from pipeline.classifier.training import TrainingSet, check_sides, fit, start_training, targets_of
from pipeline.method.extras.thresholds import PRESENT
from pipeline.photos.image_cache import open_cache
from pipeline.runs.options import TRAINING_SIDE, WarmupConfig
from pipeline.runs.partial_results import PartialResults
from pipeline.system import distributed
from pipeline.system.progress import log
from pipeline.teachers.shared_network import teacher_backbone


def initial_classifier(
    architecture: dict[str, Any], labels: Tensor, config: WarmupConfig, tower: Tower | None
) -> CamNet:
    """A classifier with a new head, drawn by the seed or started at the mean target of each class.

    Args:
        architecture: arguments of `build_classifier`.
        labels: Tensor[N, C].
        config: options.
        tower: has the weights of the backbone; None for those that the options name.
    """
    torch.manual_seed(config.seed)
    model = build_classifier(**architecture, weights=config.weights, pretrained=tower is None)
    if tower is not None:
        model.stages.load_state_dict(tower.stages.state_dict())
    if config.init_head_bias:
        model.init_head(targets_of(labels, config).mean(dim=0))
    return model


def run(
    folder: Path,
    config: WarmupConfig,
    origin: Provenance,
    *,
    manifest: Manifest,
    device: str,
    fresh: bool,
    store: FeatureStore,
) -> None:
    """Write `warmup.pt` and `warmup.csv` from the manifest and `initial_labels.h5`."""
    path = folder / "warmup.pt"
    train = manifest.split("train")
    labels: Labels = read_arrays(folder / "initial_labels.h5")
    check_same_images(labels, train, folder / "initial_labels.h5", folder / "manifest.csv")
    partial = PartialResults(path, origin, fresh=fresh)
    shared = teacher_backbone(folder / "embeddings.h5") if config.backbone == "teacher" else None
    config = config.replace(image_size=config.image_size or (TRAINING_SIDE if shared is None else shared.side))
    architecture = {
        "backbone": config.backbone,
        "class_count": len(train.class_names),
        "boost": config.boost,
        "resize_filter": config.resize_filter,
    } | ({} if shared is None else shared.architecture)
    soft_labels = torch.from_numpy(labels.labels)
    model = initial_classifier(architecture, soft_labels, config, None if shared is None else shared.tower)
    check_sides(model, config, "warmup")
    state = start_training(model, config, torch.device(device))
    cache = open_cache(config.cache, train.digest_of, config.image_size, model.resize_filter)
    data = TrainingSet(train.paths, soft_labels, torch.ones(len(train.paths)), cache)
    history = fit(state, data, config, partial, title="warmup", store=store)
    if not distributed.is_main():
        return
    write_csv(folder / "warmup.csv", history)
    write_checkpoint(
        path,
        Checkpoint(
            provenance=origin,
            image_ids=train.image_ids,
            class_names=train.class_names,
            architecture=architecture,
            image_size=config.test_size,
            weights=state.model.state_dict(),
            training={**state.to_content(), "certain_map": list(history["certain_map"])},
            steps=state.steps,
            thresholds=[PRESENT] * len(train.class_names),
        ),
    )
    partial.remove()
    log(f"{path}: {config.epochs} epochs, loss {history['loss'].iloc[-1]:.4f}.")
