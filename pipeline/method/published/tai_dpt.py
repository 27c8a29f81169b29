"""Dense zero-shot inference of TaI-DPT (Guo et al., CVPR 2023), without the prompts that it learns from texts."""

import torch
from torch import Tensor

from pipeline.method.cells import weighted_logits


def dense_scores(whole: Tensor, cells: Tensor) -> Tensor:
    """Global logit plus the logits of the cells, weighted by their softmax over the cells: Tensor[N, C].

    Args:
        whole: Tensor[N, C], logits of whole photos.
        cells: Tensor[N, J, C], logits of their cells.
    """
    return whole + torch.stack([weighted_logits(each) for each in cells])
