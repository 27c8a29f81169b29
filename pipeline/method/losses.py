"""Training targets of labels, and the losses of a step; pure functions of tensors.

B images, C classes. Equations: CCD (Kim & Shim, CVPR 2025), section 3.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def training_targets(labels: Tensor, exponent: float = 1.0, smoothing: float = 0.0) -> Tensor:
    """Training targets: smoothing + (1 - smoothing) * labels ** exponent.

    The paper trains on the labels. An exponent above 1 increases the contrast between likely and unlikely classes and
    keeps their order. Smoothing replaces the label floor and creates no ties.

    Args:
        labels: Tensor[N, C] in [0, 1].
        exponent: positive; 1 is the paper's.
        smoothing: target of a label of 0, in [0, 1); 0 is the paper's.

    Returns:
        Tensor[N, C] in [smoothing, 1].
    """
    return smoothing + (1 - smoothing) * labels**exponent


def mean_label_entropy(labels: Tensor) -> float:
    """How undecided soft labels are, in [0, 1]: 0 up to a mean row entropy of log C / 5, 1 from 2 log C / 5 on.

    Each row is normalised to a distribution over the classes; rows of zeros are left out. A single class is one of two
    outcomes, present and absent. Labels of CLIP RN50x64 on
    VOC 2012 have a mean of 0.14 log C, which gives 0. Those of the embedded teacher have 0.37 to 0.4, nearly 1.

    Args:
        labels: Tensor[N, C] in [0, 1].
    """
    if labels.shape[1] == 1:
        labels = torch.cat([labels, 1 - labels], dim=1)
    shares = labels[labels.sum(dim=1) > 0].double()
    if not len(shares):
        return 0.0
    shares = shares / shares.sum(dim=1, keepdim=True)
    entropy = torch.special.entr(shares).sum(dim=1).mean().item()
    return min(max(5 * entropy / math.log(labels.shape[1]) - 1, 0.0), 1.0)


def image_weights(confident: Tensor, floor: float) -> Tensor:
    """Weight w of each image in the loss: 1 where the teacher is confident, `floor` elsewhere (CCD, eq. 8).

    Args:
        confident: bool Tensor[N].
        floor: in [0, 1]; 1, as in the authors' VOC12 script, gives all images the same weight.
    """
    return (confident.float() + floor).clamp(max=1)


def label_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """mean(w BCE(z, y)), a scalar (CCD, eq. 8 as in the authors' code).

    Args:
        logits: z, Tensor[B, C].
        targets: y, Tensor[B, C] in [0, 1].
        weights: w, Tensor[B] in [0, 1].
    """
    return (weights[:, None] * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")).mean()


def consistency_loss(second: Tensor, first: Tensor) -> Tensor:
    """BCE(z', stopgrad(sigmoid(z))) of the logits z' of the second view, a scalar (CCD, eq. 9 and 10)."""
    return F.binary_cross_entropy_with_logits(second, first.detach().sigmoid())
