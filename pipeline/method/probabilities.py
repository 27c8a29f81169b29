"""Embeddings to class probabilities and their entropy, as pure functions of tensors.

N images, C classes, O others, S texts, D embedding size. Equations: CCD (Kim & Shim, CVPR 2025, arXiv 2503.16873).
"""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class ClassProbabilities:
    """What a teacher says of N images."""

    probabilities: Tensor
    """Tensor[N, C]."""
    entropy: Tensor
    """Tensor[N], nats; small where it is clear what is on top."""
    class_is_top1: Tensor
    """bool Tensor[N]: a class is on top at all."""


def softmax_probabilities(logits: Tensor, class_count: int) -> ClassProbabilities:
    """Softmax over the classes and the others, of which the classes are kept.

    What a row lacks to 1 is the share of the others, and is not shared out again. The entropy is over all, and a class is
    on top where no other is.

    Args:
        logits: Tensor[N, C + O], the classes first, then O others: what is in photos and is not a class.
        class_count: C.
    """
    shares = logits.softmax(dim=1)
    return ClassProbabilities(shares[:, :class_count], entropy(shares), shares.argmax(dim=1) < class_count)


def sigmoid_probabilities(logits: Tensor) -> ClassProbabilities:
    """Sigmoid of each class independently, as SigLIP is trained: several classes may be likely, or none.

    The entropy is that of the classes' shares in the sum of the probabilities: it asks how clearly one class, or few,
    stand above the rest, whatever their height, which for most photos is far below 1. Shares say nothing where every
    class is unlikely; so a class is on top where its probability is at least 1/C, as that of a softmax's top always is.

    Args:
        logits: Tensor[N, C], the bias included.
    """
    probabilities = logits.sigmoid()
    shares = torch.nn.functional.logsigmoid(logits).softmax(dim=1)  # p / sum of p, also where every p underflows
    return ClassProbabilities(probabilities, entropy(shares), probabilities.amax(dim=1) >= 1 / logits.shape[1])


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy of each row of Tensor[N, C] in nats, Tensor[N] in [0, log C]; 0 log 0 counts as 0."""
    return torch.special.entr(probabilities).sum(dim=1)
