import numpy as np
import pytest
from sklearn.metrics import f1_score

from pipeline.method.extras.thresholds import (
    best_f1_threshold,
    better_thresholds,
    out_of_fold_thresholds,
    predicted_nearly_everywhere,
)


def test_best_threshold_of_a_hand_computed_case():
    # Taking in 1, 2, 3, 4 scores: F1 = 2/3, 1/2, 4/5, 2/3.
    scores, truth = np.array([0.8, 0.6, 0.4, 0.2]), np.array([1, 0, 1, 0], dtype=np.int8)
    assert best_f1_threshold(scores, truth) == pytest.approx(0.3)
    assert best_f1_threshold(scores, np.ones(4, dtype=np.int8)) == pytest.approx(0.1)
    assert np.isnan(best_f1_threshold(scores, np.zeros(4, dtype=np.int8)))
    assert np.isnan(best_f1_threshold(scores, np.full(4, -1, dtype=np.int8)))


def test_best_threshold_beats_every_other_also_with_ties():
    rng = np.random.default_rng(1)
    for _ in range(8):
        scores = rng.integers(0, 6, 30) / 6
        truth = rng.integers(-1, 2, 30).astype(np.int8)
        known = truth >= 0
        best = f1_score(truth[known], scores[known] >= best_f1_threshold(scores, truth))
        others = [f1_score(truth[known], scores[known] >= t) for t in np.linspace(0, 1, 25)]
        assert best == pytest.approx(max(others))


def test_out_of_fold_thresholds_find_the_border():
    rng = np.random.default_rng(0)
    scores = rng.random((400, 3))
    truth = (scores > [0.2, 0.7, 2.0]).astype(np.int8)
    thresholds, f1 = out_of_fold_thresholds(scores, truth)
    assert thresholds[:2] == pytest.approx([0.2, 0.7], abs=0.01)
    assert f1[:2].min() > 0.99
    assert (thresholds[2], f1[2]) == (0.5, 0.0)  # no positive
    assert out_of_fold_thresholds(scores, truth)[0].tolist() == thresholds.tolist()


def test_out_of_fold_f1_does_not_flatter_chance():
    rng = np.random.default_rng(0)
    scores, truth = rng.random((60, 40)), (rng.random((60, 40)) < 0.15).astype(np.int8)
    thresholds, f1 = out_of_fold_thresholds(scores, truth)
    fitted = [best_f1_threshold(scores[:, c], truth[:, c]) for c in range(40)]
    in_sample = [f1_score(truth[:, c], scores[:, c] >= fitted[c]) for c in range(40)]
    chance = 2 * 0.15 / 1.15  # F1 of saying yes always
    assert abs(f1.mean() - chance) < 0.03
    assert np.mean(in_sample) > chance + 0.05
    assert out_of_fold_thresholds(scores, truth, seed=1)[0].tolist() != thresholds.tolist()


def test_the_old_threshold_is_kept_where_the_new_one_is_worse_out_of_fold():
    rng = np.random.default_rng(0)
    clear = rng.random(100)
    # dog: three photos, one of them above 0.5; the best threshold of each fold depends on which of them it has
    dog = np.where(np.arange(100) < 3, [0.9, 0.2, 0.05] + [0.0] * 97, 0.4 * rng.random(100))
    scores, truth = np.stack([clear, dog, clear], axis=1), np.zeros((100, 3), np.int8)
    truth[clear > 0.8, 0], truth[:3, 1] = 1, 1
    old = np.array([0.5, 0.5, 0.3])
    found = better_thresholds(scores, truth, old)
    fitted, f1 = out_of_fold_thresholds(scores, truth)
    assert found.f1_before == pytest.approx([f1_score(truth[:, c], scores[:, c] >= old[c]) for c in range(3)])
    assert f1[1] < found.f1_before[1] == pytest.approx(0.5)
    assert found.thresholds.tolist() == [fitted[0], 0.5, 0.3]  # the third class has no photo to choose by
    assert found.kept.tolist() == [False, True, True]
    assert found.f1_expected == pytest.approx([f1[0], 0.5, 0])


def test_a_class_that_is_predicted_nearly_everywhere_is_suspicious_unless_it_is_there():
    decisions = np.ones((20, 4), bool)
    decisions[:2, 3] = False
    truth = np.zeros((20, 4), np.int8)
    truth[:8, 0], truth[:14, 1] = 1, 1
    truth[:, 2] = [1] * 7 + [0] * 3 + [-1] * 10  # 7 of the 10 that are known
    assert predicted_nearly_everywhere(decisions, truth).tolist() == [True, False, False, False]
    assert predicted_nearly_everywhere(decisions, None).tolist() == [True, True, True, False]
    assert not predicted_nearly_everywhere(decisions[:0], truth[:0]).any()


def test_class_with_one_positive_has_a_threshold():
    scores = np.linspace(0, 1, 10)[:, None]
    truth = (scores > 0.95).astype(np.int8)
    thresholds, _ = out_of_fold_thresholds(scores, truth, folds=5)
    assert thresholds[0] == pytest.approx((1 + 8 / 9) / 2, abs=0.06)
