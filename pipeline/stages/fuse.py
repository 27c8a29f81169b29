"""Initial labels and the scores of crops to final labels."""

from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.machine.progress import say
from pipeline.method.labels import clamp_labels, correct, debias, fuse_scores
from pipeline.runs.artifacts import Corrections, CropScores, Embeddings, Labels, begin, check_same_images, read, write
from pipeline.runs.config import Config, option


@dataclass(frozen=True)
class FuseConfig(Config):
    """How much the whole image counts against its crops."""

    ratio: float = option(0.5, "weight of the initial labels (paper: 0.2 in the VOC12 script)", min=0.0, max=1.0)


def run(folder: Path, config: FuseConfig, *, force: bool = False) -> None:
    """Write `final_labels.h5` from `initial_labels.h5`, `crop_scores.h5` and the bias in `embeddings.h5`.

    Where there is `corrections.h5`, what people said in it replaces the pseudo-labels.
    """
    path = folder / "final_labels.h5"
    corrected = (folder / "corrections.h5").exists()
    sources = ["embeddings.h5", "initial_labels.h5", "crop_scores.h5", *(["corrections.h5"] if corrected else [])]
    provenance = begin(folder, path.name, config, sources, force=force)
    if provenance is None:
        return
    embeddings: Embeddings = read(folder / "embeddings.h5")
    initial: Labels = read(folder / "initial_labels.h5")
    crops: CropScores = read(folder / "crop_scores.h5")
    check_same_images(initial, crops, folder / "initial_labels.h5", folder / "crop_scores.h5")
    made = initial.provenance.config
    bias = torch.from_numpy(embeddings.bias) if made["debias"] else None
    local = debias(torch.from_numpy(crops.local), bias, made["label_floor"])
    has_crops = torch.from_numpy(crops.votes > 0)
    scores = torch.from_numpy(initial.scores)
    # the paper fuses the clamped global label with the local score; the scores stay free of ties
    fused = fuse_scores(scores.clamp(max=1), local, has_crops, config.ratio)
    labels = clamp_labels(fused)
    scores = fuse_scores(scores, local, has_crops, config.ratio)
    corrected_entries = 0
    if corrected:
        corrections: Corrections = read(folder / "corrections.h5")
        check_same_images(initial, corrections, folder / "initial_labels.h5", folder / "corrections.h5")
        said = torch.from_numpy(corrections.labels)
        labels, scores = correct(labels, said), correct(scores, said)
        corrected_entries = int((said >= 0).sum())
    write(
        path,
        Labels(
            provenance=provenance,
            image_ids=initial.image_ids,
            class_names=initial.class_names,
            labels=labels.numpy(),
            scores=scores.numpy(),
            confident=initial.confident,
            corrected_entries=corrected_entries,
        ),
    )
    changed = (labels - torch.from_numpy(initial.labels)).abs().mean().item()
    by_hand = f"; {corrected_entries} are corrected by hand" if corrected else ""
    say(f"{path}: {len(labels)} images, labels changed by {changed:.3f} on average{by_hand}.")
