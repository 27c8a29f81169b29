"""Class names that a teacher does not know."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.teachers.conse import Conse
from pipeline.teachers.vocabulary import COMMON, NONSENSE, STRANGE, known_names, strangeness

VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog"),
    *("horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor"),
)


@pytest.fixture(scope="module")
def conse():
    return Conse()


def test_foreign_and_meaningless_words(conse):
    values = strangeness(conse, ["собака", "zxqv", "кошка", *VOC])
    assert values[:3].min() > 2 * STRANGE and values[3:].max() < -STRANGE


def test_one_known_name_is_enough(conse):
    groups = [{"собака": 1.0}, {"собака": 1.0, "dog": 1.0}, {"dog": 2.0}]
    assert known_names(conse, groups).tolist() == [False, True, True]


class Table:
    """A teacher with given embeddings of prompts, which share a large direction as CLIP's do."""

    def __init__(self, shared):
        rows = torch.randn(len(COMMON) + len(NONSENSE), 16, generator=torch.Generator().manual_seed(0))
        rows[: len(COMMON), 0] += 2
        rows[len(COMMON) :, 0] -= 2
        self.rows = dict(zip((*COMMON, *NONSENSE), rows, strict=True))
        self.rows |= {"chair": self.rows["dog"] + 0.1 * rows[0], "qqq": self.rows["qwrtp"] + 0.1 * rows[0]}
        self.shared = shared * torch.ones(16)

    def encode_texts(self, texts):
        return F.normalize(
            torch.stack([self.rows[text.removeprefix("a photo of the ")] for text in texts]) + self.shared, dim=1
        )


@pytest.mark.parametrize("shared", [0, 10])
def test_strangeness_is_a_difference_of_mean_cosines_around_a_centre(shared):
    teacher = Table(shared)
    values = strangeness(teacher, ["chair", "qqq"])
    assert values[0] < 0 < values[1]
    common, nonsense, given = (
        teacher.encode_texts(["a photo of the " + name for name in names]).numpy().astype(np.float64)
        for names in (COMMON, NONSENSE, ["chair", "qqq"])
    )
    centre = (common.mean(0) + nonsense.mean(0)) / 2
    for row, value in zip(given, values, strict=True):

        def nearest(names, row=row):
            cosines = [
                (row - centre) @ (other - centre) / np.linalg.norm(row - centre) / np.linalg.norm(other - centre)
                for other in names
            ]
            return sum(sorted(cosines)[-3:]) / 3

        assert value == pytest.approx(nearest(nonsense) - nearest(common), abs=1e-5)
