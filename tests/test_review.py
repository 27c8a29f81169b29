import numpy as np
import pytest

from pipeline.review.uncertainty import change, class_uncertainty, closeness, ranks, spread_choice, wrong


def test_uncertainty_by_hand():
    labels = np.array([[0.5, 0.0], [1.0, 0.25]])
    np.testing.assert_allclose(class_uncertainty(labels), [[1, 0], [0, 0.811278]], atol=1e-6)


def test_closeness_by_hand():
    scores, thresholds = np.array([[0.1, 0.5], [0.05, 0.75], [0.0, 1.0]]), np.array([0.1, 0.5])
    np.testing.assert_allclose(closeness(scores, thresholds), [[1, 1], [0.5, 0.5], [0, 0]], atol=1e-6)
    assert np.isfinite(closeness(np.array([[0.0, 1.0]]), np.array([0.0, 1.0]))).all()


def test_ranks_by_hand():
    assert ranks(np.array([0.3, 0.1, 0.3, 0.9])).tolist() == [0.25, 0, 0.25, 0.75]
    assert ranks(np.zeros(0)).shape == (0,)


def test_change_is_that_of_the_class_that_changed_most():
    assert change(np.array([[0.1, 0.9]]), np.array([[0.3, 0.5]])) == pytest.approx([0.4])


def test_unknown_truth_makes_nothing_wrong():
    decisions = np.array([[True, True, False, False, True]])
    assert wrong(decisions, np.int8([[1, 0, 1, 0, -1]])).tolist() == [[False, True, True, False, False]]


def test_choice_keeps_the_leaders_of_every_key():
    rising, falling = np.arange(100.0), -np.arange(100.0)
    chosen = spread_choice([rising, falling], limit=8, seed=0)
    assert {0, 1, 98, 99} <= set(chosen.tolist())
    assert len(set(chosen.tolist())) == 8 and (np.diff(chosen) > 0).all()
    assert (chosen == spread_choice([rising, falling], limit=8, seed=0)).all()


def test_choice_of_all():
    assert spread_choice([np.zeros(3)], limit=3, seed=0).tolist() == [0, 1, 2]
