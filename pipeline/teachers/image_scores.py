"""The teacher's scores of images from `embeddings.h5`: of whole images, and with local evidence."""

import numpy as np

from pipeline.artifacts.embeddings import Embeddings
from pipeline.method.labels import class_bias, confident_images, debias, fuse_scores
from pipeline.runs.options import EmbedConfig, InitLabelsConfig


def global_scores(embeddings: Embeddings, rows: np.ndarray, config: InitLabelsConfig) -> np.ndarray:
    """Debiased probabilities of whole images, float32 [n, C], not clamped, of the images of a mask bool [N]."""
    return debias(embeddings.probabilities[rows], embeddings.bias if config.debias else None, config.label_floor)


def teacher_scores(embeddings: Embeddings, rows: np.ndarray, config: InitLabelsConfig) -> np.ndarray:
    """Scores that rank images, float32 [n, C], not clamped, of the images of a mask bool [N].

    They combine the softened probabilities of whole images and local evidence, each divided by its own bias over the
    confident train images.
    """
    made_with = embeddings.provenance.options(EmbedConfig)
    confident = confident_images(embeddings.entropy, embeddings.outcomes, made_with.entropy_limit)
    confident &= embeddings.class_is_top1 & embeddings.is_train

    def debiased(values: np.ndarray) -> np.ndarray:
        bias = class_bias(values, confident, made_with.bias_shrinkage)[0] if config.debias else None
        return debias(values[rows], bias, config.label_floor)

    soft = embeddings.ranking_probabilities
    scores = debiased(embeddings.probabilities if soft is None else soft)
    if embeddings.cell_scores is None or not config.cell_weight:
        return scores
    return fuse_scores(scores, debiased(embeddings.cell_scores), np.True_, 1 - config.cell_weight)
