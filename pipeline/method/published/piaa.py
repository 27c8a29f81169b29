"""PIAA (ICML 2026): a closed-form classifier of patches, fitted to the patches that a teacher is most certain about.

The constants are the authors' for PASCAL VOC, as shares of CLIP's logit scale of 100 where they are scales of a cosine. The
temperature of the second fit is the one for COCO: that for VOC saturates the softmax, which then keeps all patches or none.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

PATCH_SCALE, GLOBAL_SCALE = 0.6, 0.8
"""Scales of the cosines of patches and of photos, as shares of the teacher's logit scale."""
KEPT = 512
"""Patches per class of the first fit."""
REFIT_SCALE = 0.01
"""Scale of the classifier's logits that choose the patches of the second fit."""
TEMPERATURE = 500
"""Divides the classifier's logits of a patch."""
SHARPNESS = 200
"""Scale of the highest probabilities over the patches."""
GLOBAL_WEIGHT = 0.1
"""Weight of the whole photo, against that of its patches."""


@dataclass(frozen=True)
class PatchClassifier:
    """Linear discriminant of patches: logits are x . weight + bias."""

    weight: Tensor
    """float32 Tensor[D, C]."""
    bias: Tensor
    """float32 Tensor[C]."""

    def logits(self, patches: Tensor) -> Tensor:
        """Tensor[..., C] of Tensor[..., D]."""
        return patches @ self.weight + self.bias


def certain_patches(blocks: Iterable[Tensor], text: Tensor, logit_scale: float) -> tuple[Tensor, Tensor]:
    """The patches of lowest entropy among those of each class, at most `KEPT` per class.

    Args:
        blocks: Tensor[n, D] each, unit rows.
        text: Tensor[C, D], unit rows.
        logit_scale: s of the teacher.

    Returns:
        Their embeddings Tensor[K, D] and probabilities Tensor[K, C], by class, the most certain first.
    """
    kept = [(text[:0], text.new_zeros(0, len(text)), text.new_zeros(0)) for _ in text]
    for patches in blocks:
        probabilities = (PATCH_SCALE * logit_scale * patches @ text.T).softmax(dim=1)
        entropies, top = torch.special.entr(probabilities).sum(dim=1), probabilities.argmax(dim=1)
        for c in top.unique().tolist():
            own = top == c
            new = (patches[own], probabilities[own], entropies[own])
            features, shares, uncertain = (torch.cat(pair) for pair in zip(kept[c], new, strict=True))
            best = uncertain.argsort(stable=True)[:KEPT]
            kept[c] = (features[best], shares[best], uncertain[best])
    return torch.cat([each[0] for each in kept]), torch.cat([each[1] for each in kept])


def fit(features: Tensor, probabilities: Tensor, text: Tensor) -> PatchClassifier:
    """Gaussian discriminant analysis with one shrunk covariance, in float64.

    Args:
        features: Tensor[K, D], patches; each belongs to its most probable class.
        probabilities: Tensor[K, C], weights of the patches in the mean of their class.
        text: Tensor[C, D]; the mean of a class without patches.
    """
    x, shares = features.double(), probabilities.double()
    top = shares.argmax(dim=1)
    weights = torch.where(torch.arange(len(text)) == top[:, None], shares, 0.0)  # [K, C]
    sums = weights.sum(dim=0)[:, None]
    means = torch.where(sums > 0, (weights.T @ x) / sums.clamp(min=1e-300), text.double())  # [C, D]
    covariance = (x - means[top]).T.cov()
    size = x.shape[1]
    shrunk = (len(x) - 1) * covariance + covariance.trace() * torch.eye(size, dtype=torch.float64)
    inverse = size * torch.linalg.pinv(shrunk, hermitian=True)
    weight = inverse @ means.T  # [D, C]
    bias = -math.log(len(text)) - (means * weight.T).sum(dim=1) / 2
    return PatchClassifier(weight.float(), bias.float())


def fit_patches(blocks: Iterable[Tensor], text: Tensor, logit_scale: float) -> PatchClassifier:
    """Fit the most certain patches, and again those that the first classifier is certain about; see `certain_patches`.

    A patch is kept if its probability exceeds the mean of its class by a standard deviation.
    """
    features, probabilities = certain_patches(blocks, text, logit_scale)
    shares = (REFIT_SCALE * fit(features, probabilities, text).logits(features)).softmax(dim=1)
    highest, top = shares.max(dim=1)
    kept = torch.zeros(len(features), dtype=torch.bool)
    for c in top.unique().tolist():
        own = highest[top == c]
        kept[top == c] = own >= own.mean() + (own.std() if len(own) > 1 else 0.0)
    return fit(features[kept], shares[kept], text)


def class_scores(
    images: Tensor, cells: Tensor, text: Tensor, logit_scale: float, classifier: PatchClassifier
) -> Tensor:
    """Weighted sum of the probabilities of the whole photo and of its patches: Tensor[N, C] in [0, 1].

    Args:
        images: Tensor[N, D], unit rows.
        cells: Tensor[N, J, D], unit rows.
        text: Tensor[C, D], unit rows.
        logit_scale: s of the teacher.
        classifier: of patches.
    """
    whole = (GLOBAL_SCALE * logit_scale * images @ text.T).softmax(dim=1)
    patches = (classifier.logits(cells) / TEMPERATURE).softmax(dim=2).amax(dim=1)
    return GLOBAL_WEIGHT * whole + (1 - GLOBAL_WEIGHT) * (SHARPNESS * patches).softmax(dim=1)
