"""The zero-shot head: texts of classes and background classes, and the class probabilities of images."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.artifacts.embeddings import Embeddings
from pipeline.method.probabilities import ClassProbabilities, class_logits, sigmoid_probabilities, softmax_probabilities
from pipeline.teachers.background import find_background, too_near
from pipeline.teachers.prompts import SAME_WITHIN, check_embeddings, class_embeddings, find_templates
from pipeline.teachers.teacher import Teacher


@dataclass(frozen=True)
class ZeroShotHead:
    """Text embeddings, and the scale that turns their cosines with an image into class probabilities."""

    text: Tensor
    """float32 Tensor[S, D], unit rows, of the classes."""
    text_class: Tensor
    """int64 Tensor[S], class of each text."""
    background_text: Tensor
    """float32 Tensor[O, D], unit rows, of the background classes."""
    logit_scale: float
    logit_bias: float | None = None
    """See `Teacher.logit_bias`."""
    background: Sequence[str] = ()
    """O names of background classes."""
    left_out: Sequence[str] = ()
    """Background classes that are too similar to a class."""

    @property
    def class_count(self) -> int:
        """C."""
        return int(self.text_class.max()) + 1

    @property
    def outcomes(self) -> int:
        """C + O, the classes and background classes of the softmax."""
        return self.class_count + len(self.background_text)

    def logits(self, images: Tensor) -> Tensor:
        """Tensor[N, C + O] of image embeddings Tensor[N, D] with unit rows; [B, N, C + O] of [B, N, D]."""
        texts = torch.cat([self.text, self.background_text])
        numbers = torch.arange(self.class_count, self.outcomes)
        logits = class_logits(images, texts, self.logit_scale, torch.cat([self.text_class, numbers]))
        return logits + (self.logit_bias or 0.0)

    def softened(self, factor: float) -> "ZeroShotHead":
        """The head with this factor of its scale."""
        bias = None if self.logit_bias is None else self.logit_bias * factor
        return replace(self, logit_scale=self.logit_scale * factor, logit_bias=bias)

    def probabilities(self, logits: Tensor) -> ClassProbabilities:
        """Class probabilities of `logits`."""
        return (
            softmax_probabilities(logits, self.class_count)
            if self.logit_bias is None
            else sigmoid_probabilities(logits)
        )

    def probabilities_in_blocks(self, count: int, blocks: Iterable[Tensor]) -> ClassProbabilities:
        """`probabilities` of `count` images, whose logits come in blocks of rows."""
        joined = ClassProbabilities(
            torch.zeros(count, self.class_count), torch.zeros(count), torch.zeros(count, dtype=torch.bool)
        )
        start = 0
        for logits in blocks:
            for name, values in vars(self.probabilities(logits)).items():
                getattr(joined, name)[start : start + len(logits)] = values
            start += len(logits)
        return joined


def head_of(embeddings: Embeddings) -> ZeroShotHead:
    """The zero-shot head of a run: its texts, scale and bias."""
    texts = (embeddings.text, embeddings.text_class_index, embeddings.background_text)
    bias = None if math.isnan(embeddings.logit_bias) else embeddings.logit_bias
    return ZeroShotHead(*map(torch.from_numpy, texts), embeddings.logit_scale, bias)


def zero_shot_head(
    teacher: Teacher,
    names: Sequence[Mapping[str, float]],
    class_names: Sequence[str],
    templates: str,
    synonyms: str,
    background: str,
    logit_scale: float = 0.0,
) -> ZeroShotHead:
    """The head of a teacher for these classes.

    Args:
        teacher: embeds the texts.
        names: C tables of synonyms and their weights.
        class_names: C names, for errors.
        templates: see `find_templates`; also for background classes.
        synonyms: see `class_embeddings`.
        background: see `find_background`; ignored for a teacher that scores each class independently.
        logit_scale: 0 for the teacher's own; see `scaled_bias`.

    Raises:
        PipelineError: the teacher gives two classes the same embedding.
    """
    sentences = find_templates(templates)
    text, text_class = class_embeddings(teacher, names, sentences, synonyms, class_names)
    check_embeddings(text, text_class, class_names)
    text = text.float().cpu()
    background_names = find_background(background) if teacher.logit_bias is None else ()
    background_text = text[:0]
    if background_names:
        background_text = (
            class_embeddings(teacher, [{name: 1.0} for name in background_names], sentences)[0].float().cpu()
        )
    out = too_near(teacher, [name for synonyms_of in names for name in synonyms_of], background_names)
    out |= (background_text @ text.T >= 1 - SAME_WITHIN).any(1)
    scale = logit_scale or teacher.logit_scale
    return ZeroShotHead(
        text,
        text_class.cpu(),
        background_text[~out],
        scale,
        scaled_bias(teacher.logit_bias, teacher.logit_scale, scale),
        [name for name, left in zip(background_names, out, strict=True) if not left],
        [name for name, left in zip(background_names, out, strict=True) if left],
    )


def scaled_bias(bias: float | None, own_scale: float, scale: float) -> float | None:
    """Bias for another scale than the teacher's own, so that 0.5 stays at the same cosine; None for a softmax."""
    return None if bias is None else bias * scale / own_scale
