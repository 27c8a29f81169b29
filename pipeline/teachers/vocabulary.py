"""Class names that mean nothing to a teacher, found without a photo or a label."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.teachers.background import SCENES
from pipeline.teachers.prompts import PAPER_TEMPLATES, class_embeddings
from pipeline.teachers.teacher import Teacher
from pipeline.teachers.tokens import LongTextError

COMMON = (
    *SCENES,
    *("person", "animal", "bird", "dog", "insect", "vehicle", "car", "aircraft", "boat", "train", "food", "fruit"),
    *("drink", "tool", "machine", "furniture", "clothing", "shoe", "building", "device", "computer", "phone", "toy"),
    *("ball", "book", "bag", "bottle", "container", "instrument", "weapon", "symbol", "plant", "sport"),
    *("medical image", "text"),
)
"""Names that every teacher knows: scenes, materials and kinds of objects."""

NONSENSE = (
    *("qwrtp", "vbnklj", "jjkwq", "hgfqz", "wvxkq", "pltzrk", "bqxwv", "krzvt", "xkcdz", "mgrvlt", "tsdfg", "qzjx"),
    *("жзщы", "ыъфщ", "лгнщц", "ююяэ", "щжукр", "фывап", "ξψθζ", "ζχψγ", "ظغضث", "ツヌヘホ"),
)
"""Letters without meaning, in several scripts: the embeddings of all texts in an unknown script are similar."""

NEAREST = 3
"""Names of each list that a name is compared with."""

STRANGE = 0.1
"""Strangeness from which a name is unknown.

With `conse`, "zxqv" has 0.59 and "собака" 0.27; of the names of VOC, COCO and the demo the highest is -0.13.
"""


def strangeness(teacher: Teacher, names: Iterable[str]) -> Tensor:
    """How much more similar names are to `NONSENSE` than to `COMMON`, float32 Tensor[S] in [-2, 2].

    The difference of the mean cosines with the nearest names of each list, around a centre between the lists of their means.
    It is -2 for a name that is too long for the teacher with this prompt.
    """
    names = list(names)
    (common, _), (nonsense, _), (given, fits) = (embed_fitting(teacher, each) for each in (COMMON, NONSENSE, names))
    centre = (common.mean(0) + nonsense.mean(0)) / 2
    common, nonsense, given = (F.normalize(rows - centre, dim=1) for rows in (common, nonsense, given))
    near_nonsense, near_common = ((given @ rows.T).topk(NEAREST, dim=1).values.mean(1) for rows in (nonsense, common))
    values = torch.full((len(names),), -2.0)
    values[fits] = near_nonsense - near_common
    return values


def embed_fitting(teacher: Teacher, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Embeddings of those of S names whose prompts are not too long, float32 Tensor[n, D], and which these are, bool Tensor[S]."""
    template = PAPER_TEMPLATES[0]
    fits = torch.ones(len(names), dtype=torch.bool)
    while fits.any():
        kept = [{name: 1.0} for name, fit in zip(names, fits.tolist(), strict=True) if fit]
        try:
            return class_embeddings(teacher, kept)[0].float().cpu(), fits
        except LongTextError as error:
            fits &= torch.tensor([template.replace("{}", name) != error.text for name in names])
    return class_embeddings(teacher, [{"thing": 1.0}])[0][:0].float().cpu(), fits


def known_names(teacher: Teacher, display_names: Iterable[Mapping[str, float]]) -> np.ndarray:
    """Whether a teacher knows a display name of each class, bool [C].

    A teacher of one language knows no name in another script, and one of many languages (`multilingual`) every such name: the
    limit of `strangeness` was measured with English.
    """
    groups = [list(names) for names in display_names]
    values = strangeness(teacher, [name for names in groups for name in names]).split([len(names) for names in groups])
    multilingual = getattr(teacher, "multilingual", False)

    def is_known(name: str, value: float) -> bool:
        return value < STRANGE if is_latin(name) else multilingual

    return np.array(
        [any(map(is_known, names, part.tolist())) for names, part in zip(groups, values, strict=True)], dtype=bool
    )


def is_latin(name: str) -> bool:
    """Whether at least half of the letters of a name are of the Latin script; so for a name without letters."""
    latin = [unicodedata.name(letter, "").startswith("LATIN") for letter in name if letter.isalpha()]
    return 2 * sum(latin) >= len(latin)
