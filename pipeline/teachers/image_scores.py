"""The teacher's scores of images from `embeddings.h5`: of whole images, and with local evidence."""

import numpy as np

from pipeline.artifacts.embeddings import Embeddings
from pipeline.method.labels import debias, fuse_scores
from pipeline.runs.options import InitLabelsConfig


def global_scores(embeddings: Embeddings, rows: np.ndarray, config: InitLabelsConfig) -> np.ndarray:
    """Debiased scores of whole images, float32 [n, C], not clamped, of the images of a mask bool [N]."""
    return debias(embeddings.probabilities[rows], embeddings.bias if config.debias else None, config.label_floor)


def teacher_scores(embeddings: Embeddings, rows: np.ndarray, config: InitLabelsConfig) -> np.ndarray:
    """`global_scores` and local evidence in one, each divided by its own bias; the former alone without local evidence."""
    scores = global_scores(embeddings, rows, config)
    if embeddings.cell_scores is None or not config.cell_weight:
        return scores
    local = debias(embeddings.cell_scores[rows], embeddings.cell_bias if config.debias else None, config.label_floor)
    return fuse_scores(scores, local, np.True_, 1 - config.cell_weight)
