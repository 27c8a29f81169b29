"""Embeddings to class probabilities and their entropy, as pure functions of tensors.

N images, C classes, S texts, D embedding size. Equations: CCD (Kim & Shim, CVPR 2025, arXiv 2503.16873).
"""

import torch
from torch import Tensor


def class_logits(images: Tensor, texts: Tensor, logit_scale: float, text_class: Tensor) -> Tensor:
    """Scaled cosine similarity of each image with each class.

    Args:
        images: Tensor[N, D], unit rows.
        texts: Tensor[S, D], unit rows, at least one a class.
        logit_scale: s, positive (CLIP: 100).
        text_class: int64 Tensor[S], the class of each text; a class with several is scored by the nearest of them.

    Returns:
        Tensor[N, C].
    """
    logits = logit_scale * images @ texts.T  # [N, S]
    best = logits.new_full((len(images), int(text_class.max()) + 1), -torch.inf)
    return best.scatter_reduce(1, text_class.expand_as(logits), logits, reduce="amax")


def class_probabilities(images: Tensor, texts: Tensor, logit_scale: float, text_class: Tensor) -> Tensor:
    """Softmax over the classes of `class_logits`: Tensor[N, C], rows sum to 1."""
    return class_logits(images, texts, logit_scale, text_class).softmax(dim=1)


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy of each row of Tensor[N, C] in nats, Tensor[N] in [0, log C]; 0 log 0 counts as 0."""
    return torch.special.entr(probabilities).sum(dim=1)
