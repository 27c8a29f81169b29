"""Class names that mean nothing to a teacher, found without a photo or a label."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.teachers.prompts import PAPER_TEMPLATES, class_embeddings
from pipeline.teachers.teacher import Teacher
from pipeline.teachers.zero_shot_head import EVERYDAY

COMMON = (
    *EVERYDAY,
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

    The difference of the mean cosines with the nearest names of each list, around a centre between the lists as in `too_near`.
    """

    def embed(each: Iterable[str]) -> Tensor:
        return class_embeddings(teacher, [{name: 1.0} for name in each], PAPER_TEMPLATES)[0].float().cpu()

    common, nonsense = embed(COMMON), embed(NONSENSE)
    centre = (common.mean(0) + nonsense.mean(0)) / 2
    common, nonsense, given = (F.normalize(rows - centre, dim=1) for rows in (common, nonsense, embed(names)))
    near_nonsense, near_common = ((given @ rows.T).topk(NEAREST, dim=1).values.mean(1) for rows in (nonsense, common))
    return near_nonsense - near_common


def known_names(teacher: Teacher, display_names: Iterable[Mapping[str, float]]) -> np.ndarray:
    """Whether a teacher knows a display name of each class, bool [C]."""
    groups = [list(names) for names in display_names]
    values = strangeness(teacher, [name for names in groups for name in names])
    return torch.stack([part.min() < STRANGE for part in values.split([len(names) for names in groups])]).numpy()
