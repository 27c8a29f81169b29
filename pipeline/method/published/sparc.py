"""SPARC (Miller et al., CVPR 2025): z-scores, and the main direction of the scores of compound prompts.

The paper selects compound prompts by the co-occurrence of classes in captions; here they are all pairs, "A and B".
"""

import torch
from torch import Tensor


def z_scores(scores: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Scores normalised within each photo, then over the photos: Tensor[N, K].

    Args:
        scores: Tensor[N, K], cosines of K prompts.
        mean: Tensor[N, 1], mean of the single prompts in each photo.
        deviation: Tensor[N, 1], their standard deviation.
    """
    within = (scores - mean) / deviation.clamp(min=1e-12)
    return (within - within.mean(dim=0)) / within.std(dim=0).clamp(min=1e-12)


def class_scores(images: Tensor, text: Tensor, pair_text: Tensor, pairs: Tensor) -> Tensor:
    """Mean of the z-score of the single prompt and the main direction of all prompts that name the class: Tensor[N, C].

    Per photo, the compound prompts of a class are sorted by score. With the single prompt, they are the columns of which the
    first principal component over the photos is taken; its weights have the sum 1, ignoring their signs.

    Args:
        images: float32 Tensor[N, D], N of at least 2, unit rows.
        text: Tensor[C, D], unit rows, of single prompts.
        pair_text: Tensor[P, D], unit rows, of compound prompts.
        pairs: int64 Tensor[P, 2], the two classes of each.
    """
    cosines = images @ text.T
    mean, deviation = cosines.mean(dim=1, keepdim=True), cosines.std(dim=1, keepdim=True)
    single = z_scores(cosines, mean, deviation)
    fused = single.clone()
    for c in range(len(text)):
        named = (pairs == c).any(dim=1)
        if named.any():
            compound = z_scores(images @ pair_text[named].T, mean, deviation)
            columns = torch.cat([compound.sort(dim=1).values, single[:, c : c + 1]], dim=1)
            fused[:, c] = (single[:, c] + columns @ main_direction(columns)) / 2
    return fused


def main_direction(columns: Tensor) -> Tensor:
    """First principal component of Tensor[N, K]: Tensor[K] with absolute values that add up to 1, and a sum that is not negative."""
    direction = torch.linalg.eigh(columns.T.double().cov()).eigenvectors[:, -1]
    direction = direction / direction.abs().sum()
    return (-direction if direction.sum() < 0 else direction).to(columns.dtype)
