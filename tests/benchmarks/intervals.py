"""Share of 95 % intervals that contain the true mAP and the true gain, for bootstrap percentiles and our method.

python tests/benchmarks/intervals.py [--sets 1000] [--resamples 400] [--seed 0]
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).parents[1]))

from worlds.test_sets import POPULATIONS, Population, draw, true_precisions

from pipeline.evaluation.intervals import LeaveOneOut, gain_interval, leave_one_out, map_interval

TAIL = 0.025
OURS = "ours"
RARE = 0.05
"""Share of the test sets with an interval below which there are too few to count."""


def bootstrap(scores: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mAP of each resample, float64 [R]; counts int32 [N, R]: how often an image is in it."""
    columns = zip(scores.T, truth.T, strict=True)
    return np.nanmean([weighted_precision(column, present, counts) for column, present in columns], axis=0)


def weighted_precision(scores: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Average precision of a class in each resample, float64 [R], of scores without ties; NaN without positives."""
    order = np.argsort(-scores)
    weights, places = counts[order], np.flatnonzero(truth[order])
    seen, mine = np.cumsum(weights, axis=0)[places], weights[places]
    area = (mine * np.cumsum(mine, axis=0) / np.maximum(seen, 1)).sum(axis=0)
    return np.divide(area, mine.sum(axis=0), out=np.full(len(area), np.nan), where=mine.any(axis=0))


def others(value: float, draws: np.ndarray, found: LeaveOneOut) -> dict[str, tuple[float, float]]:
    """Intervals of methods that ccd does not use."""
    low, high = np.quantile(draws, [TAIL, 1 - TAIL])
    z, spread = norm.ppf(1 - TAIL), draws.std(ddof=1)
    bias = draws.mean() - value
    dev = found.changes.mean() - found.changes
    lean = np.clip((draws < value).mean(), 0.5 / len(draws), 1 - 0.5 / len(draws))
    start, skew = norm.ppf(lean), (dev**3).sum() / (6 * (dev**2).sum() ** 1.5)
    moved = [norm.cdf(start + (start + each) / (1 - skew * (start + each))) for each in (-z, z)]
    error = np.sqrt((len(dev) - 1) / len(dev) * (dev**2).sum())
    return {
        "percentile": (low, high),
        "BCa": tuple(np.quantile(draws, moved)),
        "reflected": (2 * value - high, 2 * value - low),
        "bias and error of the bootstrap": (value - bias - z * spread, value - bias + z * spread),
        "error of the jackknife": (value - z * error, value + z * error),
    }


def measure(population: Population, sets: int, resamples: int, seed: int) -> tuple[dict, dict]:
    """Share of intervals that hold the truth, by method, for mAP and gain, and the share of sets with one of ours."""
    rng, shifts = np.random.default_rng(seed), population.shifts()
    true = np.stack([true_precisions(shift, population.share) for shift in shifts])
    held, given = {"mAP": defaultdict(int), "gain": defaultdict(int)}, {"mAP": 0, "gain": 0}
    for _ in range(sets):
        truth, scores = draw(population, shifts, rng)
        shown = truth.any(axis=0)  # the figure is over the classes that the test set shows
        targets = [true[k, shown].mean() for k in (0, 1)]
        size = len(truth)
        counts = np.stack([np.bincount(rng.integers(0, size, size), minlength=size) for _ in range(resamples)], axis=1)
        draws = [bootstrap(each, truth, counts) for each in scores]
        found = [leave_one_out(each, truth) for each in scores]
        gain = LeaveOneOut(found[1].value - found[0].value, found[1].changes - found[0].changes, 0, 1)
        cases = (
            ("mAP", targets[0], found[0], draws[0], map_interval(found[0])),
            ("gain", targets[1] - targets[0], gain, draws[1] - draws[0], gain_interval([found[0]], [found[1]])),
        )
        for what, target, one, resampled, ours in cases:
            for name, (low, high) in others(one.value, resampled, one).items():
                held[what][name] += low <= target <= high
            low, high = ours.edges()
            given[what] += ours.low is not None
            held[what][OURS] += bool(low <= target <= high)
    shares = {
        what: {name: hits / (max(given[what], 1) if name == OURS else sets) for name, hits in found.items()}
        for what, found in held.items()
    }
    return shares, {what: count / sets for what, count in given.items()}


def main() -> None:
    """Print a Markdown table, a row per population and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    names: list[str] = []
    for population in POPULATIONS:
        sets = arguments.sets if population.images < 1000 else max(arguments.sets // 10, 1)
        resamples = arguments.resamples if population.images < 1000 else max(arguments.resamples // 4, 1)
        shares, given = measure(population, sets, resamples, arguments.seed)
        for what, found in shares.items():
            if not names:
                names = list(found)
                print(f"| photos x classes | true | {' | '.join(names)} | printed |\n{'|---' * (len(names) + 3)}|")
            first, second = (100 * each for each in population.maps)
            figure = f"mAP {first:.0f}" if what == "mAP" else f"gain {second - first:+.0f}"
            cells = " | ".join(
                "-" if name == OURS and given[what] < RARE else f"{100 * found[name]:.0f}" for name in names
            )
            print(f"| {population.name} | {figure} | {cells} | {given[what]:.0%} |", flush=True)


if __name__ == "__main__":
    main()
