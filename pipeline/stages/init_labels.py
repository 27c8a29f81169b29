"""Teacher probabilities of the train images to initial pseudo-labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from pipeline.machine.progress import say
from pipeline.method.labels import ENTROPY_LIMIT, clamp_labels, confident_images, debias
from pipeline.runs.artifacts import Embeddings, GroundTruth, Labels, begin, check_same_images, read, write
from pipeline.runs.config import Config, option


@dataclass(frozen=True)
class InitialLabelsConfig(Config):
    """How probabilities become labels."""

    source: Literal["teacher", "ground-truth"] = option(
        "teacher", "ground-truth: human labels instead, the upper reference of a study"
    )
    debias: bool = option(True, "divide each class by the teacher's bias (CCD, section 3.2)")
    label_floor: float = option(
        0.0, "smallest score before the division, in units of 1/C (paper: 1)", min=0.0, max=10.0
    )
    entropy_limit: float = option(
        ENTROPY_LIMIT, "largest entropy of a confident image, share of log C", min=0.0, max=1.0
    )


def run(folder: Path, config: InitialLabelsConfig, *, force: bool = False) -> None:
    """Write `initial_labels.h5` from `embeddings.h5`."""
    path = folder / "initial_labels.h5"
    uses_truth = config.source == "ground-truth"
    sources = ["embeddings.h5", *(["ground_truth.h5"] if uses_truth else [])]
    provenance = begin(folder, path.name, config, sources, force=force, uses_ground_truth=uses_truth)
    if provenance is None:
        return
    embeddings: Embeddings = read(folder / "embeddings.h5")
    train = embeddings.is_train
    bias = torch.from_numpy(embeddings.bias) if config.debias else None
    scores = debias(torch.from_numpy(embeddings.probabilities[train]), bias, config.label_floor)
    if uses_truth:
        truth: GroundTruth = read(folder / "ground_truth.h5")
        check_same_images(embeddings, truth, folder / "embeddings.h5", folder / "ground_truth.h5")
        scores = torch.from_numpy(truth.labels[train]).clamp(min=0).float()
    labels = clamp_labels(scores)
    confident = confident_images(
        torch.from_numpy(embeddings.entropy[train]), len(embeddings.class_names), config.entropy_limit
    )
    write(
        path,
        Labels(
            provenance=provenance,
            image_ids=[i for i, keep in zip(embeddings.image_ids, train, strict=True) if keep],
            class_names=embeddings.class_names,
            labels=labels.numpy(),
            scores=scores.numpy(),
            confident=confident.numpy(),
        ),
    )
    share = 1 - confident.float().mean().item()
    say(f"{path}: {len(labels)} images, {labels.sum(1).mean():.2f} labels an image, {share:.1%} not confident.")
