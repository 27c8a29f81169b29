"""CDUL (Abdelfattah et al., ICCV 2023): initial labels from a photo and its tiles, without the training that changes them."""

import torch
from torch import Tensor

PRESENT = 0.5
"""Probability from which a class counts as present in a tile (the paper's zeta)."""


def initial_labels(whole: Tensor, tiles: Tensor) -> Tensor:
    """Mean of the global and the aggregated local probabilities, Tensor[N, C] in [0, 1].

    A class that is present in a tile gets the maximum over the tiles, and any other class the minimum.

    Args:
        whole: Tensor[N, C], probabilities of whole photos.
        tiles: Tensor[N, T, C], probabilities of their tiles.
    """
    highest, lowest = tiles.amax(dim=1), tiles.amin(dim=1)
    return (whole + torch.where(highest >= PRESENT, highest, lowest)) / 2
