"""The teacher's scores of images from `embeddings.h5`: of whole images, and with local evidence."""

import numpy as np

from pipeline.artifacts.embeddings import Embeddings
from pipeline.method.labels import class_bias, confident_images, debias, fuse_scores
from pipeline.runs.options import EmbedConfig, InitLabelsConfig


def global_scores(embeddings: Embeddings, rows: np.ndarray, config: InitLabelsConfig) -> np.ndarray:
    """Debiased probabilities of whole images, float32 [n, C], not clamped, of the images of a mask bool [N]."""
    return debias(embeddings.probabilities[rows], embeddings.bias if config.debias else None, config.label_floor)


def ranking_biases(embeddings: Embeddings, config: InitLabelsConfig) -> tuple[np.ndarray, np.ndarray | None]:
    """Bias float32 [C] of the probabilities that rank images, and of the local evidence, None without any.

    Both are means over the confident train images; 1 with `debias` off.
    """
    made_with = embeddings.provenance.options(EmbedConfig)
    confident = confident_images(embeddings.entropy, embeddings.outcomes, made_with.entropy_limit)
    confident &= embeddings.class_is_top1 & embeddings.is_train

    def bias_of(values: np.ndarray) -> np.ndarray:
        if not config.debias:
            return np.ones(len(embeddings.class_names), np.float32)
        return class_bias(values, confident, made_with.bias_shrinkage)[0]

    cells = None if embeddings.cell_scores is None else bias_of(embeddings.cell_scores)
    return bias_of(ranking_probabilities(embeddings)), cells


def ranking_probabilities(embeddings: Embeddings) -> np.ndarray:
    """Probabilities of whole images that rank them, float32 [N, C]."""
    soft = embeddings.ranking_probabilities
    return embeddings.probabilities if soft is None else soft


def teacher_scores(embeddings: Embeddings, rows: np.ndarray, config: InitLabelsConfig) -> np.ndarray:
    """Scores that rank images, float32 [n, C], not clamped, of the images of a mask bool [N].

    They combine the softened probabilities of whole images and local evidence, each divided by its own bias.
    """
    cells = None if embeddings.cell_scores is None else embeddings.cell_scores[rows]
    return joined_scores(embeddings, ranking_probabilities(embeddings)[rows], cells, config)


def joined_scores(
    embeddings: Embeddings, probabilities: np.ndarray, cell_scores: np.ndarray | None, config: InitLabelsConfig
) -> np.ndarray:
    """`teacher_scores` of any images.

    Args:
        embeddings: of the run; they give the biases.
        probabilities: float32 [n, C], softened, of whole images.
        cell_scores: float32 [n, C], their local evidence; None without any.
        config: options.
    """
    bias, cell_bias = ranking_biases(embeddings, config)
    scores = debias(probabilities, bias, config.label_floor)
    if cell_bias is None or not config.cell_weight:
        return scores
    cells = debias(cell_scores, cell_bias, config.label_floor)
    return fuse_scores(scores, cells, np.True_, 1 - config.cell_weight)
