"""Objects that a teacher names: the demo's cut-outs on grey, which any CLIP knows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import Tensor

from pipeline.datasets import demo
from pipeline.method.probabilities import softening
from pipeline.runs.options import EmbedConfig, InitLabelsConfig
from pipeline.teachers.activations import count_gelus, other_gelu
from pipeline.teachers.check_result import Check
from pipeline.teachers.local_scores import cell_scores
from pipeline.teachers.prompts import class_embeddings
from pipeline.teachers.teacher import Teacher
from pipeline.teachers.zero_shot_head import ZeroShotHead

NAMED = 0.6
"""Smallest share of the cut-outs that a teacher names right; chance is 0.06, and `conse` names 0.86."""

GAIN = 0.1
"""Share of the cut-outs that a model must name in addition with the other GELU before its own counts as wrong."""

SIZE, GREY = 0.8, 128
"""Long side of a cut-out as a share of the view, and the value of the background."""

STATISTICS = (
    (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
    (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
)
"""Mean and standard deviation that models are trained with."""

VIEWS_PER_CALL = 16


@dataclass(frozen=True)
class Naming:
    """Shares of the cut-outs, in [0, 1]."""

    whole: float
    """Named right by their global embedding."""
    with_cells: float | None
    """Named right by the mean of the global probabilities and the scores of the cells; None for a teacher without cells."""
    nearest: float
    """Of the class of the cut-out with the most similar image embedding; no text matters."""


def demo_cutouts() -> dict[str, list[Image.Image]]:
    """The demo's cut-outs, RGBA, by class; empty if they are not installed."""
    cutouts: dict[str, list[Image.Image]] = {}
    try:
        for split in demo.SPLITS:
            for name, each in demo.load_cutouts(split).items():
                cutouts.setdefault(name, []).extend(cutout.image for cutout in each)
    except FileNotFoundError:
        return {}
    return cutouts


def on_grey(cutout: Image.Image, side: int) -> Tensor:
    """A cut-out in the middle of a grey square, uint8 Tensor[3, side, side]."""
    scale = SIZE * side / max(cutout.size)
    width, height = (max(1, round(scale * length)) for length in cutout.size)
    cutout = cutout.resize((width, height), Image.Resampling.BICUBIC)
    view = Image.new("RGB", (side, side), (GREY, GREY, GREY))
    view.paste(cutout, ((side - width) // 2, (side - height) // 2), cutout)
    return torch.from_numpy(np.array(view)).permute(2, 0, 1)


def name_cutouts(teacher: Teacher, cutouts: Mapping[str, Sequence[Image.Image]]) -> Naming:
    """How many cut-outs a teacher names right among their classes, scored as `embed` and `init-labels` score photos."""
    names = list(cutouts)
    truth = torch.tensor([number for number, name in enumerate(names) for _ in cutouts[name]])
    views = torch.stack([on_grey(image, teacher.input_size) for name in names for image in cutouts[name]])
    encoded = [teacher.encode_views(part) for part in views.split(VIEWS_PER_CALL)]
    images = torch.cat([part.images.cpu() for part in encoded])
    text, text_class = (each.cpu() for each in class_embeddings(teacher, [{name: 1.0} for name in names]))
    head = ZeroShotHead(text, text_class, text[:0], teacher.logit_scale, teacher.logit_bias)
    if head.logit_bias is None:
        head = head.softened(softening(head.logits(images), EmbedConfig.ranking_entropy))
    scores = head.probabilities(head.logits(images)).probabilities

    def right(scores: Tensor) -> float:
        return (scores.argmax(dim=1) == truth).float().mean().item()

    with_cells = None
    if encoded[0].cells is not None:
        cells = [part.cells.flatten(1, 2).cpu() for part in encoded]
        rules = (EmbedConfig.cell_pooling, EmbedConfig.cell_share)
        local = torch.cat([cell_scores(head, each, *rules)[0] for each in cells])
        weight = InitLabelsConfig.cell_weight
        with_cells = right((1 - weight) * scores + weight * local)
    similar = (images @ images.T).fill_diagonal_(-torch.inf)
    nearest = (truth[similar.argmax(dim=1)] == truth).float().mean().item()
    return Naming(right(scores) if scores.isfinite().all() else torch.nan, with_cells, nearest)


def check_cutouts(teacher: Any, cutouts: Mapping[str, Sequence[Image.Image]]) -> list[Check]:
    """The shares of the cut-outs that a teacher names right, globally and with cells."""
    naming = name_cutouts(teacher, cutouts)
    checks = [Check("cut-outs", naming.whole, NAMED, suspect_of_names(teacher, cutouts, naming))]
    if naming.with_cells is not None:
        suspect = "" if naming.with_cells >= NAMED else checks[0].suspect or "cells"
        checks.append(Check("cut-outs with cells", naming.with_cells, NAMED, suspect))
    return checks


def suspect_of_names(teacher: Any, cutouts: Mapping[str, Sequence[Image.Image]], naming: Naming) -> str:
    """What is likely wrong with a teacher that agrees with its package; empty if it names enough.

    Tries the other activation and other statistics. If none of them helps, and objects of a class have similar image
    embeddings, the image tower works, so the texts do not fit it.
    """

    def named() -> float:
        return name_cutouts(teacher, cutouts).whole

    passes = naming.whole >= NAMED
    needed = naming.whole + GAIN if passes else NAMED
    model = getattr(teacher, "model", None)
    if needed <= 1 and model is not None and any(count_gelus(model)):
        with other_gelu(model):
            if named() >= needed:
                return "activation"
    if passes:
        return ""
    for statistics in STATISTICS:
        with other_statistics(teacher, statistics):
            if named() >= NAMED:
                return "preprocessing"
    return "text" if naming.nearest >= NAMED else "weights"


@contextmanager
def other_statistics(teacher: Any, statistics: Any) -> Iterator[None]:
    """Let a teacher normalise pixels with another mean and standard deviation."""
    own = teacher.statistics
    teacher.statistics = statistics
    try:
        yield
    finally:
        teacher.statistics = own
