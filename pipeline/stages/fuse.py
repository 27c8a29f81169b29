"""Initial labels, the scores of crops and what people corrected to final labels."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.artifacts.boxes import CropScores
from pipeline.artifacts.corrections import Corrections, align_corrections
from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.hdf5 import read_arrays, read_rows, write
from pipeline.artifacts.labels import Labels
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.schema import check_same_images
from pipeline.method.labels import (
    clamp_labels,
    class_bias,
    confident_images,
    correct,
    debias,
    fuse_scores,
    local_scores,
)
from pipeline.runs.options import FuseConfig, InitLabelsConfig
from pipeline.system.progress import log

BLOCK = 65_536
"""Images whose crops are in memory together."""


@dataclass(frozen=True)
class Fused:
    """Final labels, before corrections."""

    labels: np.ndarray
    """float32 [N, C] in [0, 1]."""
    scores: np.ndarray
    """float32 [N, C], not clamped."""


def fuse(
    initial_scores: np.ndarray,
    crops: CropScores,
    bias: np.ndarray | None,
    label_floor: float,
    config: FuseConfig,
) -> Fused:
    """Fuse what the teacher says of whole images and of their crops (CCD, section 3.1).

    Args:
        initial_scores: float32 [N, C], not clamped.
        crops: what the teacher says of each crop.
        bias: float32 [C], of the teacher that scored the crops; None where initial labels are not debiased either.
        label_floor: as of the initial labels, in units of 1/C.
        config: options.
    """
    spoken = crops.class_index if config.crop_scope == "own" else None
    local, counts = local_scores(crops.probabilities, crops.image_index, len(initial_scores), config.combine, spoken)
    local = debias(local, bias, label_floor)
    fused = (counts > 0) | (config.boxless == "erase")
    # the paper fuses the clamped global label with the local score; the scores stay free of ties
    labels = clamp_labels(fuse_scores(initial_scores.clip(max=1), local, fused, config.ratio))
    return Fused(labels, fuse_scores(initial_scores, local, fused, config.ratio))


def fuse_in_blocks(
    initial_scores: np.ndarray,
    crops: CropScores,
    path: Path,
    bias: np.ndarray | None,
    label_floor: float,
    config: FuseConfig,
) -> Fused:
    """`fuse` of blocks of images, for which the scores of their crops are read from the file at `path`."""
    fused = Fused(np.empty_like(initial_scores), np.empty_like(initial_scores))
    for start in range(0, len(initial_scores), BLOCK):
        images = slice(start, start + BLOCK)
        rows = slice(*np.searchsorted(crops.image_index, (images.start, images.stop)).tolist())
        block = replace(
            crops,
            image_index=crops.image_index[rows] - start,
            class_index=crops.class_index[rows],
            probabilities=read_rows(path, crops, "probabilities", rows),
        )
        part = fuse(initial_scores[images], block, bias, label_floor, config)
        fused.labels[images], fused.scores[images] = part.labels, part.scores
    return fused


def crop_bias(crops: CropScores, embeddings: Embeddings) -> np.ndarray:
    """Bias float32 [C] of a teacher that was asked about crops alone: as that of whole images, over the crops.

    Another teacher's bias says nothing of this one. The paper has one teacher and does not need this.
    """
    limit = embeddings.provenance.config["entropy_limit"]
    confident = confident_images(crops.entropy, crops.outcomes, limit)
    return class_bias(crops.probabilities, confident & crops.class_is_top1)[0]


def run(folder: Path, config: FuseConfig, origin: Provenance) -> None:
    """Write `final_labels.h5` from `initial_labels.h5`, `crop_scores.h5` and the bias in `embeddings.h5`.

    Where there is `corrections.h5`, what people said in it replaces the pseudo-labels.
    """
    path = folder / "final_labels.h5"
    embeddings: Embeddings = read_arrays(folder / "embeddings.h5", without=("probabilities",))
    initial: Labels = read_arrays(folder / "initial_labels.h5", without=("labels",))
    crops: CropScores = read_arrays(folder / "crop_scores.h5", without=("probabilities",))
    check_same_images(initial, crops, folder / "initial_labels.h5", folder / "crop_scores.h5")
    made = InitLabelsConfig.from_table(initial.provenance.config, "the options of initial_labels.h5")
    bias = None
    if made.debias:
        bias = embeddings.bias
        if crops.provenance.config["teacher"]:
            bias = crop_bias(read_arrays(folder / "crop_scores.h5"), embeddings)
    fused = fuse_in_blocks(initial.scores, crops, folder / "crop_scores.h5", bias, made.label_floor, config)
    labels, scores, said = fused.labels, fused.scores, np.zeros((0, 0), bool)
    if "corrections.h5" in origin.inputs:
        corrections: Corrections = read_arrays(folder / "corrections.h5")
        found = align_corrections(corrections, initial.image_ids, initial.class_names)
        labels, scores = correct(labels, found.labels), correct(scores, found.labels)
        said = found.labels >= 0
        for what, unknown in (("images", found.unknown_images), ("classes", found.unknown_classes)):
            if unknown:
                log(
                    f"{folder / 'corrections.h5'} corrects {len(unknown)} {what} that are not trained on (first: "
                    f"{unknown[0]}); these corrections wait there."
                )
    final = Labels(
        provenance=origin,
        image_ids=initial.image_ids,
        class_names=initial.class_names,
        labels=labels,
        scores=scores,
        confident=initial.confident,
        corrected_entries=int(said.sum()),
        corrected_images=int(said.any(axis=1).sum()),
    )
    write(path, final)
    columns = zip(labels.T, initial.scores.T, strict=True)
    changed = np.mean([np.abs(now - clamp_labels(before)).mean() for now, before in columns])
    by_hand = f"; corrected by hand: {final.by_hand}" if final.by_hand else ""
    log(f"{path}: {len(labels)} images, labels changed by {changed:.3f} on average{by_hand}.")
