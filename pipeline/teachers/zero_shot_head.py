"""What a teacher is asked about images: the classes and what else they may show, as texts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.method.probabilities import ClassProbabilities, class_logits, sigmoid_probabilities, softmax_probabilities
from pipeline.system.errors import PipelineError
from pipeline.teachers.prompts import check_embeddings, class_embeddings, find_templates
from pipeline.teachers.teacher import Teacher

EVERYDAY = (
    *("sky", "cloud", "grass", "field", "tree", "forest", "flower", "water", "lake", "river", "sea", "beach", "sand"),
    *("snow", "rock", "soil", "desert", "road", "street", "pavement", "fence", "wall", "floor", "ceiling", "carpet"),
    *("curtain", "stairs", "fire", "statue", "sign"),
)
"""Scenes and materials. Things one would label (food, computer, building) cost mAP as background on VOC, these do not."""

TOO_NEAR = 0.15
"""Centred cosine with a class from which on an other is left out: photos of the class would be given to it."""


@dataclass(frozen=True)
class ZeroShotHead:
    """Texts that images are compared with, and how the comparison becomes an answer."""

    text: Tensor
    """float32 Tensor[S, D], unit rows, of the classes."""
    text_class: Tensor
    """int64 Tensor[S], class of each text."""
    background_text: Tensor
    """float32 Tensor[O, D], unit rows, of the background."""
    logit_scale: float
    logit_bias: float | None = None
    """Of a sigmoid, see `Teacher.logit_bias`."""
    background: Sequence[str] = ()
    """O names."""
    left_out: Sequence[str] = ()
    """Others that are too near a class."""

    @property
    def class_count(self) -> int:
        """C."""
        return int(self.text_class.max()) + 1

    @property
    def outcomes(self) -> int:
        """C + O, among which the teacher chooses."""
        return self.class_count + len(self.background_text)

    def logits(self, images: Tensor) -> Tensor:
        """Tensor[N, C + O] of image embeddings Tensor[N, D] with unit rows."""
        texts = torch.cat([self.text, self.background_text])
        numbers = torch.arange(self.class_count, self.outcomes)
        logits = class_logits(images, texts, self.logit_scale, torch.cat([self.text_class, numbers]))
        return logits + (self.logit_bias or 0.0)

    def answers(self, logits: Tensor) -> ClassProbabilities:
        """What the teacher says of the images behind `logits`."""
        return (
            softmax_probabilities(logits, self.class_count)
            if self.logit_bias is None
            else sigmoid_probabilities(logits)
        )

    def probabilities_in_blocks(self, count: int, blocks: Iterable[Tensor]) -> ClassProbabilities:
        """`answers` of `count` images, whose logits come in blocks of rows."""
        found = ClassProbabilities(
            torch.zeros(count, self.class_count), torch.zeros(count), torch.zeros(count, dtype=torch.bool)
        )
        start = 0
        for logits in blocks:
            for name, values in vars(self.answers(logits)).items():
                getattr(found, name)[start : start + len(logits)] = values
            start += len(logits)
        return found


def find_background(given: str) -> tuple[str, ...]:
    """Names of background: the shipped ones for "everyday", nothing for "none", else the names that commas join.

    Raises:
        PipelineError: there is no name.
    """
    if given in ("everyday", "none"):
        return EVERYDAY if given == "everyday" else ()
    names = tuple(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    if not names:
        raise PipelineError(f"background is {given!r}, expected everyday, none, or names joined by commas.")
    return names


def zero_shot_head(
    teacher: Teacher,
    names: Sequence[Mapping[str, float]],
    class_names: Sequence[str],
    templates: str,
    synonyms: str,
    background: str,
    logit_scale: float = 0.0,
) -> ZeroShotHead:
    """The head that a teacher is asked.

    Args:
        teacher: embeds the texts.
        names: C tables of synonyms and their weights.
        class_names: C names, for errors.
        templates: see `find_templates`; the background take the same.
        synonyms: see `class_embeddings`.
        background: see `find_background`; of no use to a teacher that scores each class independently.
        logit_scale: 0 for the teacher's own, see `scaled_bias`.

    Raises:
        PipelineError: the teacher cannot tell two classes apart.
    """
    sentences = find_templates(templates)
    text, text_class = class_embeddings(teacher, names, sentences, synonyms)
    check_embeddings(text, text_class, class_names)
    text = text.float().cpu()
    found = find_background(background) if teacher.logit_bias is None else ()
    background_text = text[:0]
    if found:
        background_text = class_embeddings(teacher, [{name: 1.0} for name in found], sentences)[0].float().cpu()
    near = too_near(text, background_text)
    scale = logit_scale or teacher.logit_scale
    return ZeroShotHead(
        text,
        text_class.cpu(),
        background_text[~near],
        scale,
        scaled_bias(teacher.logit_bias, teacher.logit_scale, scale),
        [name for name, out in zip(found, near, strict=True) if not out],
        [name for name, out in zip(found, near, strict=True) if out],
    )


def scaled_bias(bias: float | None, own_scale: float, scale: float) -> float | None:
    """Bias at another scale than a teacher's own: 0.5 stays at the same cosine; None for a softmax."""
    return None if bias is None else bias * scale / own_scale


def too_near(text: Tensor, background_text: Tensor) -> Tensor:
    """Which background are so near a class that they would take its photos.

    Cosines of texts around a centre: a teacher's texts share a direction, CLIP's more than `conse`'s, and only what is left
    without it tells them apart. The centre lies half-way between the mean class and the mean other, so that neither
    pulls it to itself by being many.

    Args:
        text: float32 Tensor[S, D], unit rows, of the classes.
        background_text: float32 Tensor[O, D], unit rows.

    Returns:
        bool Tensor[O].
    """
    if not len(background_text):
        return torch.zeros(0, dtype=torch.bool)
    centre = (text.mean(0) + background_text.mean(0)) / 2
    classes, background = (F.normalize(rows - centre, dim=1) for rows in (text, background_text))
    return (background @ classes.T).amax(1) >= TOO_NEAR
