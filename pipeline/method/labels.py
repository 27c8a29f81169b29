"""Pseudo-labels as pure functions of tensors: probabilities, entropy, bias, debiasing, local scores, fusion.

N images, C classes, M crops. Equations and settings: CCD (Kim & Shim, CVPR 2025, arXiv 2503.16873).
"""

import math

import torch
from torch import Tensor

ENTROPY_LIMIT = 0.668
"""Share of log C; 2.0 nats at the paper's C = 20, and its counterpart at any other C."""


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


def confident_images(entropies: Tensor, class_count: int, limit: float = ENTROPY_LIMIT) -> Tensor:
    """Which images the teacher is sure about: entropy at most `limit` times log C.

    The authors' code compares with 2 nats whatever C is; a share of log C is the same at C = 20.

    Args:
        entropies: Tensor[N], nats.
        class_count: C, at least 2.
        limit: share of the largest possible entropy, in (0, 1].

    Returns:
        bool Tensor[N].
    """
    return entropies <= limit * math.log(class_count)


def class_bias(probabilities: Tensor, confident: Tensor, shrinkage: float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean probability that the teacher gives a class on the confident images where it is on top.

    A class that is never on top has no mean and gets the mean bias of the others; if no class has one
    (no confident image), every bias is 1, which leaves the scores as they are.

    Args:
        probabilities: Tensor[N, C].
        confident: bool Tensor[N].
        shrinkage: pseudo-counts that pull each bias toward the mean of all; 0 is the paper's.

    Returns:
        bias: Tensor[C], in (0, 1].
        counts: int64 Tensor[C], confident images with the class on top; 0 marks a substituted bias.
    """
    kept = probabilities[confident]
    top_value, top_class = kept.max(dim=1) if len(kept) else (kept.new_empty(0), kept.new_empty(0, dtype=torch.long))
    class_count = probabilities.shape[1]
    counts = torch.bincount(top_class, minlength=class_count)
    # float64: a sum over 80,000 images must not depend on their order in the sixth digit
    sums = torch.zeros(class_count, dtype=torch.float64).index_add_(0, top_class, top_value.double())
    seen = counts > 0
    if not seen.any():
        return torch.ones(class_count), counts
    mean_bias = (sums[seen] / counts[seen]).mean()
    weight = counts + shrinkage
    bias = torch.where(seen, (sums + shrinkage * mean_bias) / weight.clamp(min=1e-12), mean_bias)
    return bias.to(probabilities.dtype), counts


def debias(scores: Tensor, bias: Tensor | None, floor_share: float = 0.0) -> Tensor:
    """max(scores, d) / bias, not clamped: may exceed 1.

    The floor d comes before the division, as in the authors' code.

    Args:
        scores: Tensor[N, C], probabilities.
        bias: Tensor[C], positive; None divides by nothing.
        floor_share: d in units of 1/C, so that 1 is the authors' 1/20 for VOC and 1/80 for COCO; 0 is no floor.

    Returns:
        Tensor[N, C].
    """
    floored = scores.clamp(min=floor_share / scores.shape[1])
    return floored if bias is None else floored / bias


def clamp_labels(scores: Tensor) -> Tensor:
    """Scores as labels in [0, 1]. Clamping makes ties at the top, so the scores are kept beside the labels."""
    return scores.clamp(0, 1)


def training_targets(labels: Tensor, exponent: float = 1.0, smoothing: float = 0.0) -> Tensor:
    """What a classifier is trained on: smoothing + (1 - smoothing) * labels ** exponent.

    The paper trains on the labels. An exponent above 1 parts the likely from the unlikely without changing their
    order; smoothing does what the label floor is for, without its ties.

    Args:
        labels: Tensor[N, C] in [0, 1].
        exponent: positive; 1 is the paper's.
        smoothing: target of what is certainly absent, in [0, 1); 0 is the paper's.

    Returns:
        Tensor[N, C] in [smoothing, 1].
    """
    return smoothing + (1 - smoothing) * labels**exponent


def local_scores(
    probabilities: Tensor,
    image_index: Tensor,
    image_count: int,
    combine: str = "max",
    spoken_class: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Per image and class, the maximum (or mean) over those crops of the image that speak of the class.

    Args:
        probabilities: Tensor[M, C], a row a crop.
        image_index: int64 Tensor[M], the image of each crop, in [0, N).
        image_count: N.
        combine: "max" (the paper) or "mean".
        spoken_class: int64 Tensor[M], the one class that each crop speaks of, -1 for all; None: all do (the paper).

    Returns:
        local: Tensor[N, C]; 0 where no crop speaks.
        votes: int64 Tensor[N, C], crops that speak.
    """
    speaks = torch.ones_like(probabilities, dtype=torch.bool)
    if spoken_class is not None:
        classes = torch.arange(probabilities.shape[1])
        speaks = (spoken_class[:, None] == classes) | (spoken_class[:, None] < 0)
    none = torch.zeros(image_count, probabilities.shape[1])
    votes = none.long().index_add_(0, image_index, speaks.long())
    spoken = probabilities * speaks
    if combine == "mean":
        return none.to(spoken).index_add_(0, image_index, spoken) / votes.clamp(min=1), votes
    index = image_index[:, None].expand_as(spoken)
    return none.to(spoken).scatter_reduce(0, index, spoken, reduce="amax"), votes


def fuse_scores(initial: Tensor, local: Tensor, has_crops: Tensor, ratio: float) -> Tensor:
    """Return ratio * initial + (1 - ratio) * local where there are crops that speak, else initial; not clamped.

    The authors' code gives an image without boxes ratio * initial and so nearly erases it.

    Args:
        initial: Tensor[N, C].
        local: Tensor[N, C].
        has_crops: bool Tensor[N, C].
        ratio: r, weight of the initial scores, in [0, 1].

    Returns:
        Tensor[N, C].
    """
    return torch.where(has_crops, ratio * initial + (1 - ratio) * local, initial)


def correct(values: Tensor, corrections: Tensor) -> Tensor:
    """Labels or scores with what a person said in their place: 0 for absent, for present the most that the class has.

    A label becomes 1; a score, which may exceed 1, at least that, so that what is known ranks first.

    Args:
        values: Tensor[N, C], non-negative.
        corrections: int8 Tensor[N, C]: 1 present, 0 absent, -1 nothing said.
    """
    if not len(values):
        return values
    return torch.where(corrections < 0, values, corrections * values.amax(dim=0).clamp(min=1))
