"""Test sets of two classifiers whose true mAP is known: normal scores, shifted where a class is present."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

QUANTILES = (np.arange(2000) + 0.5) / 2000
SAME = 0.7
"""Share of the noise that both classifiers have in common."""
PHOTO = 0.3
"""Share of the noise that all classes of a photo have in common."""


@dataclass(frozen=True)
class Population:
    """Infinitely many photos of C classes, of which `images` are drawn as a test set."""

    name: str
    images: int
    share: np.ndarray
    """float64 [C], of the photos that show each class."""
    maps: tuple[float, float]
    """True mAP of the two classifiers, over all classes."""

    def shifts(self, seed: int = 5) -> np.ndarray:
        """Differences in mean score between photos with and without a class, float64 [2, C]; classes differ."""
        own = np.random.default_rng(seed).normal(0, 0.6, len(self.share))

        def excess(middle: float, wanted: float) -> float:
            return true_precisions(np.maximum(middle + own, 0), self.share).mean() - wanted

        return np.stack([np.maximum(brentq(excess, -1, 10, args=(wanted,)) + own, 0) for wanted in self.maps])


def true_precisions(shift: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Average precision over infinitely many photos, float64 [C]."""
    cuts = shift[:, None] + norm.ppf(QUANTILES)  # of the photos with the class, this share lies below
    found, false = share[:, None] * (1 - QUANTILES), (1 - share[:, None]) * norm.sf(cuts)
    return (found / (found + false)).mean(axis=1)


def draw(population: Population, shifts: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A test set: truth int8 [N, C] and the scores of both classifiers, float64 [2, N, C]."""
    shape = (population.images, len(population.share))
    truth = (rng.random(shape) < population.share).astype(np.int8)

    def noise() -> np.ndarray:
        return np.sqrt(PHOTO) * rng.normal(size=(shape[0], 1)) + np.sqrt(1 - PHOTO) * rng.normal(size=shape)

    common = np.sqrt(SAME) * noise()
    return truth, np.stack([truth * shift + common + np.sqrt(1 - SAME) * noise() for shift in shifts])


VOC = np.append(0.4, np.linspace(0.03, 0.09, 19))
"""Shares like those of PASCAL VOC: people in 4 of 10 photos, other classes in 3 to 9 of 100."""
DEMO = np.linspace(0.09, 0.17, 16)
EVEN = np.full(80, 0.05)
LONG_TAIL = np.concatenate([[0.5, 0.2, 0.15], np.geomspace(0.12, 0.002, 77)])
"""Shares like those of COCO: of 300 photos, most classes are in a few or in none."""

POPULATIONS = [
    Population("300 x 20", 300, VOC, (0.85, 0.91)),
    Population("300 x 20", 300, VOC, (0.60, 0.68)),
    Population("300 x 20", 300, VOC, (0.60, 0.85)),
    Population("200 x 16 (demo)", 200, DEMO, (0.60, 0.68)),
    Population("300 x 80, 15 positives each", 300, EVEN, (0.85, 0.91)),
    Population("300 x 80, 15 positives each", 300, EVEN, (0.60, 0.68)),
    Population("300 x 80, long tail", 300, LONG_TAIL, (0.85, 0.91)),
    Population("300 x 80, long tail", 300, LONG_TAIL, (0.60, 0.68)),
    Population("5,000 x 80, long tail", 5000, LONG_TAIL, (0.60, 0.68)),
]
