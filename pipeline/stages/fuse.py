"""Initial labels, crop scores and corrections to final labels."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.artifacts.boxes import CropScores
from pipeline.artifacts.corrections import AlignedCorrections, Corrections, align_corrections
from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.hdf5 import read_arrays, read_rows, write
from pipeline.artifacts.labels import Labels, warn_of_classes
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
    match_values,
)
from pipeline.runs.options import EmbedConfig, FuseConfig, InitLabelsConfig, ScoreCropsConfig
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
    """Fuse the teacher's scores of whole images and of their crops (CCD, section 3.1).

    Args:
        initial_scores: float32 [N, C], not clamped.
        crops: the teacher's scores of each crop.
        bias: float32 [C], of the teacher that scored the crops; None if the initial labels are not debiased.
        label_floor: that of the initial labels, in units of 1/C.
        config: options.
    """
    own_class = crops.class_index if config.crop_scope == "own" else None
    local, counts = local_scores(crops.probabilities, crops.image_index, len(initial_scores), own_class)
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
    """`fuse`, one block of images after another; the crop scores of a block are read from the file at `path`."""
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
    """Bias float32 [C] of a teacher that scored only the crops, estimated over the crops.

    The bias of `embed`'s teacher does not apply to another one. The paper has one teacher and does not need this.
    """
    limit = embeddings.provenance.options(EmbedConfig).entropy_limit
    confident = confident_images(crops.entropy, crops.outcomes, limit)
    return class_bias(crops.probabilities, confident & crops.class_is_top1)[0]


def bias_of_crops(folder: Path, crops: CropScores, embeddings: Embeddings) -> np.ndarray:
    """Bias float32 [C] of the teacher that scored the crops."""
    if not crops.provenance.options(ScoreCropsConfig).teacher:
        return embeddings.bias
    return crop_bias(read_arrays(folder / "crop_scores.h5"), embeddings)


def read_corrections(path: Path, labels: Labels) -> AlignedCorrections:
    """The corrections that apply to the images and classes of `labels`; logs those that don't."""
    corrections: Corrections = read_arrays(path)
    aligned = align_corrections(corrections, labels.image_ids, labels.class_names)
    for what, unknown in (("images", aligned.unknown_images), ("classes", aligned.unknown_classes)):
        if unknown:
            log(
                f"{path} corrects {len(unknown)} {what} that are not trained on (first: {unknown[0]}); these corrections "
                "are kept but not used."
            )
    return aligned


def run(folder: Path, config: FuseConfig, origin: Provenance) -> None:
    """Write `final_labels.h5` from `initial_labels.h5`, `crop_scores.h5` and the bias in `embeddings.h5`.

    Corrections in `corrections.h5`, if it exists, replace the pseudo-labels.
    """
    path = folder / "final_labels.h5"
    embeddings: Embeddings = read_arrays(
        folder / "embeddings.h5", without=("probabilities", "ranking_probabilities", "cell_scores", "best_cell")
    )
    initial: Labels = read_arrays(folder / "initial_labels.h5")
    crops: CropScores = read_arrays(folder / "crop_scores.h5", without=("probabilities",))
    check_same_images(initial, crops, folder / "initial_labels.h5", folder / "crop_scores.h5")
    init_labels = initial.provenance.options(InitLabelsConfig)
    bias = bias_of_crops(folder, crops, embeddings) if init_labels.debias else None
    fused = fuse_in_blocks(initial.scores, crops, folder / "crop_scores.h5", bias, init_labels.label_floor, config)
    sure = crops.provenance.options(ScoreCropsConfig).sure(initial.labels)
    labels, scores, corrected = fused.labels, fused.scores, np.zeros((0, 0), bool)
    np.copyto(labels, initial.labels, where=sure)
    np.copyto(scores, initial.scores, where=sure)
    if init_labels.values == "global":
        labels = match_values(scores, initial.labels)
    if "corrections.h5" in origin.inputs:
        corrections = read_corrections(folder / "corrections.h5", initial).labels
        labels, scores, corrected = correct(labels, corrections), correct(scores, corrections), corrections >= 0
    final = Labels(
        provenance=origin,
        image_ids=initial.image_ids,
        class_names=initial.class_names,
        labels=labels,
        scores=scores,
        confident=initial.confident,
        corrected_entries=int(corrected.sum()),
        corrected_images=int(corrected.any(axis=1).sum()),
    )
    write(path, final)
    changed = np.mean([np.abs(now - before).mean() for now, before in zip(labels.T, initial.labels.T, strict=True)])
    by_hand = f"; corrected by hand: {final.by_hand}" if final.by_hand else ""
    log(f"{path}: {len(labels)} images, {final.per_image_text}, labels changed by {changed:.3f} on average{by_hand}.")
    if final.never_present != initial.never_present:
        warn_of_classes(path, final)
