"""Embeddings to class probabilities and their entropy, as pure functions of tensors.

N images, C classes, O background classes, S texts, D embedding size. Equations: CCD (Kim & Shim, CVPR 2025, arXiv 2503.16873).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def class_logits(images: Tensor, texts: Tensor, logit_scale: float, text_class: Tensor) -> Tensor:
    """Scaled cosine similarity of each image with each class.

    Args:
        images: Tensor[N, D], unit rows; or Tensor[B, N, D], whose products are computed one by one.
        texts: Tensor[S, D], unit rows, at least one per class.
        logit_scale: s, positive (CLIP: 100).
        text_class: int64 Tensor[S], the class of each text; the nearest text decides the score of a class with several.

    Returns:
        Tensor[N, C], or Tensor[B, N, C].
    """
    # expanded, because torch joins the rows of several images before it multiplies them by a matrix
    logits = logit_scale * images @ texts.T.expand(*images.shape[:-2], -1, -1)  # [..., N, S]
    best = logits.new_full((*logits.shape[:-1], int(text_class.max()) + 1), -torch.inf)
    return best.scatter_reduce(-1, text_class.expand_as(logits), logits, reduce="amax")


@dataclass(frozen=True)
class ClassProbabilities:
    """Class probabilities of N images."""

    probabilities: Tensor
    """Tensor[N, C]."""
    entropy: Tensor
    """Tensor[N], nats; small where one class has most of the probability."""
    class_is_top1: Tensor
    """bool Tensor[N]: whether a class is top-1, and not a background class."""


def softmax_probabilities(logits: Tensor, class_count: int) -> ClassProbabilities:
    """Softmax over the classes and the background classes, without the columns of the background classes.

    A row may therefore sum to less than 1; it is not normalised again. The entropy is over all C + O outcomes.

    Args:
        logits: Tensor[N, C + O], the classes first, then the background classes.
        class_count: C.
    """
    shares = logits.softmax(dim=1)
    return ClassProbabilities(shares[:, :class_count], entropy(shares), shares.argmax(dim=1) < class_count)


SOFTER = 2**-0.25
"""Factor between two scales that `softening` tries."""


def softening(logits: Tensor, least: float) -> float:
    """Largest factor of the logits, a power of `SOFTER`, with which the mean entropy of the softmax reaches a share of its maximum.

    Temperature scaling without labels: peaked probabilities, such as CLIP's, hardly rank the images beyond the best.

    Args:
        logits: Tensor[N, C], C at least 2.
        least: smallest mean entropy, as a share of log C, in [0, 1).

    Returns:
        Factor in (0, 1]; 1 if the entropy is large enough, or without images.
    """
    factor = 1.0
    while len(logits) and entropy((factor * logits).softmax(dim=1)).mean() < least * math.log(logits.shape[1]):
        factor *= SOFTER
    return factor


def sigmoid_probabilities(logits: Tensor) -> ClassProbabilities:
    """Sigmoid of each class independently, as SigLIP is trained: several classes may be likely, or none.

    The entropy is that of the classes' shares in the sum of the probabilities. It measures how clearly a few classes
    exceed the rest, even though most probabilities are far below 1. Shares mean nothing where every class is unlikely,
    so a class is top-1 only if its probability is at least 1/C, as a softmax guarantees.

    Args:
        logits: Tensor[N, C], the bias included.
    """
    probabilities = logits.sigmoid()
    shares = torch.nn.functional.logsigmoid(logits).softmax(dim=1)  # p / sum of p, also where every p underflows
    return ClassProbabilities(probabilities, entropy(shares), probabilities.amax(dim=1) >= 1 / logits.shape[1])


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy of each row of Tensor[N, C] in nats, Tensor[N] in [0, log C]; 0 log 0 counts as 0."""
    return torch.special.entr(probabilities).sum(dim=1)
