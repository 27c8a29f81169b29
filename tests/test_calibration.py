import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from pipeline.method.extras.calibration import MAX_PREDICTED, _order_keeping_scale, fit_calibration, platt


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def photos(count, share, seed=0):
    """Logits float64 [N, 1] as of a classifier with low targets, and the truth: absent around -2.5, present around -1."""
    rng = np.random.default_rng(seed)
    truth = rng.random((count, 1)) < share
    return np.where(truth, rng.normal(-1, 0.3, (count, 1)), rng.normal(-2.5, 0.2, (count, 1))), truth


def test_platt_is_a_logistic_regression():
    z, truth = photos(500, 0.4)
    truth ^= np.random.default_rng(1).random(truth.shape) < 0.1  # else no finite slope is best
    slope, offset = platt(z[:, 0], truth[:, 0].astype(float))
    reference = LogisticRegression(C=np.inf).fit(z, truth[:, 0])
    assert [slope, offset] == pytest.approx([reference.coef_[0, 0], reference.intercept_[0]], rel=0.01)


def test_one_half_parts_present_from_absent_though_labels_miss_a_third_of_the_present():
    z, truth = photos(1000, 0.3)
    missed = truth & (np.arange(1000)[:, None] % 3 == 0)
    labels = np.where(missed, 0.1, np.where(truth, 0.9, 0.05))
    scale, offset = fit_calibration(z, labels)
    called = sigmoid(scale * z + offset) >= 0.5
    assert called[truth].mean() > 0.9 and called[~truth].mean() < 0.01
    slope, bias = platt(z[:, 0], labels[:, 0])
    assert (sigmoid(slope * z + bias) >= 0.5)[truth].mean() < 0.8  # what the labels alone would call


def float32_scores(scale, logits, offset):
    """As the classifier computes them."""
    return torch.sigmoid(
        torch.tensor(scale, dtype=torch.float32) * torch.from_numpy(logits).float()
        + torch.tensor(offset, dtype=torch.float32)
    ).numpy()


@pytest.mark.parametrize("present", [0.5, 0.9, 0.97, 0.99])
@pytest.mark.parametrize(("gap", "deviation"), [(3.0, 0.5), (1.0, 0.5), (0.02, 0.02)])
def test_float32_scores_keep_the_order_of_the_logits(present, gap, deviation):
    rng = np.random.default_rng(0)
    truth = rng.random((2000, 1)) < present
    logits = 5 + rng.normal(np.where(truth, gap, 0.0), deviation)
    labels = np.clip(np.where(truth, 0.95, 0.05) + rng.normal(0, 0.02, truth.shape), 0, 1)
    scale, offset = fit_calibration(logits, labels)
    scores = float32_scores(scale, logits, offset)
    assert len(np.unique(scores)) > 0.99 * len(np.unique(logits.astype(np.float32)))
    reference = average_precision_score(truth[:, 0], logits[:, 0])
    assert average_precision_score(truth[:, 0], scores[:, 0]) == pytest.approx(reference, abs=1e-5)


def test_a_class_far_above_its_threshold_keeps_its_order():
    """Present in nearly every photo: every logit is far above the threshold, and the spread is small against that."""
    rng = np.random.default_rng(1)
    truth = rng.random(2000) < 0.97
    logits = 16 + rng.normal(np.where(truth, 0.1, 0.0), 0.1)
    scale = _order_keeping_scale(1.0, logits.max(), logits.std())
    scores = float32_scores(scale, logits, 0.0)
    assert len(np.unique(float32_scores(1.0, logits, 0.0))) < 20  # what an unlowered scale would leave
    assert len(np.unique(scores)) > 0.9 * len(logits) and scores.min() > 0.95
    reference = average_precision_score(truth, logits)
    assert average_precision_score(truth, scores) == pytest.approx(reference, abs=1e-5)


def test_photos_of_a_class_that_no_train_photo_has_keep_their_order():
    """The logarithms of a teacher's scores, below 0.01 on twelve train photos; new photos reach 0.95."""
    scores = np.geomspace(0.002, 0.01, 12)
    labels = np.maximum(scores - 0.002, 0)[:, None]
    scale, offset = fit_calibration(np.log(scores)[:, None], labels)
    new = np.log(np.linspace(0.3, 0.95, 300)).astype(np.float32)
    found = torch.from_numpy(np.float32(scale) * new + np.float32(offset)).sigmoid().numpy()
    assert (np.diff(found) > 0).all()


def test_a_floor_under_the_labels_changes_nothing():
    z, truth = photos(300, 0.2)
    labels = np.where(truth, 0.8, 0.0)
    expected = fit_calibration(z, labels)
    found = fit_calibration(z, 0.05 + 0.95 * labels)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_class_in_hardly_any_photo_is_not_called_more_often_than_its_labels_allow():
    rng = np.random.default_rng(2)
    z = -2.94 + 0.001 * rng.standard_gamma(1.0, (1000, 1))  # all absent, with a tail
    labels = np.where(z > np.sort(z, axis=0)[-5], 0.9, 0.001)
    scale, offset = fit_calibration(z, labels)
    called = (sigmoid(scale * z + offset) >= 0.5).sum()
    assert 1 <= called <= MAX_PREDICTED * labels.sum() + 1


@pytest.mark.parametrize(("labels", "score"), [([0.2, 0.2], 0.001), ([0.0, 0.5], 0.25)])
def test_logits_that_are_all_equal_get_the_mean_label(labels, score):
    scale, offset = fit_calibration(np.full((2, 1), -3.0), np.array(labels)[:, None])
    assert sigmoid(scale * -3.0 + offset) == pytest.approx([score], abs=1e-3)


def test_one_photo_or_none():
    for count in (0, 1):
        scale, offset = fit_calibration(np.ones((count, 2)), np.ones((count, 2)))
        assert np.isfinite(scale).all() and np.isfinite(offset).all() and scale.shape == (2,)
