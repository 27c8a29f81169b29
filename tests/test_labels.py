import math

import numpy as np
import pytest
import torch

from pipeline.method.labels import (
    clamp_labels,
    class_bias,
    confident_images,
    debias,
    fuse_scores,
    local_scores,
    match_values,
)
from pipeline.method.losses import consistency_loss, image_weights, label_loss, training_targets
from pipeline.method.probabilities import class_logits, entropy, sigmoid_probabilities, softmax_probabilities
from pipeline.runs.options import EmbedConfig

LIMIT = EmbedConfig.entropy_limit


def array(values):
    return np.array(values, np.float32)


def rows(count, classes, seed=0, sharpness=3.0):
    values = np.random.default_rng(seed).normal(size=(count, classes)) * sharpness
    return (np.exp(values) / np.exp(values).sum(1, keepdims=True)).astype(np.float32)


def entropies(probabilities):
    return -(probabilities * np.log(probabilities)).sum(1)


def naive_bias(probabilities, confident, shrinkage):
    count, classes = probabilities.shape
    sums, counts = [0.0] * classes, [0] * classes
    for n in range(count):
        if confident[n]:
            top = max(range(classes), key=lambda c: probabilities[n, c].item())
            sums[top] += probabilities[n, top].item()
            counts[top] += 1
    means = [s / k for s, k in zip(sums, counts, strict=True) if k]
    if not means:
        return [1.0] * classes, counts
    overall = sum(means) / len(means)
    bias = [(s + shrinkage * overall) / (k + shrinkage) if k else overall for s, k in zip(sums, counts, strict=True)]
    return bias, counts


def naive_fusion(initial, local, has_crops, ratio):
    fused = initial.copy()
    for n in range(initial.shape[0]):
        for c in range(initial.shape[1]):
            if has_crops[n, c]:
                fused[n, c] = ratio * initial[n, c] + (1 - ratio) * local[n, c]
    return fused


def test_confidence_limit_is_two_nats_at_twenty_classes():
    assert confident_images(array([1.999, 2.01]), 20, LIMIT).tolist() == [True, False]


def test_confidence_limit_scales_with_the_number_of_classes():
    assert confident_images(array([2.9, 2.94]), 81, LIMIT).tolist() == [True, False]


def test_bias_by_hand():
    probabilities = array([[0.9, 0.1, 0.0], [0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.3, 0.5]])
    confident = np.array([True, True, True, False])
    bias, counts = class_bias(probabilities, confident)
    # class 2 is on top of an image that is not confident alone: it gets the mean of 0.8 and 0.6
    np.testing.assert_allclose(bias, array([0.8, 0.6, 0.7]), rtol=1e-5)
    assert counts.tolist() == [2, 1, 0]


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("shrinkage", [0.0, 2.5])
def test_bias_equals_a_naive_loop(classes, shrinkage):
    probabilities = rows(60, classes)
    confident = confident_images(entropies(probabilities), classes, LIMIT)
    assert 0 < confident.sum() < 60
    bias, counts = class_bias(probabilities, confident, shrinkage)
    expected, expected_counts = naive_bias(probabilities, confident, shrinkage)
    np.testing.assert_allclose(bias, array(expected), rtol=1e-5)
    assert counts.tolist() == expected_counts


def test_bias_without_confident_images_changes_nothing():
    probabilities = rows(5, 4)
    bias, counts = class_bias(probabilities, np.zeros(5, bool))
    assert counts.sum() == 0
    np.testing.assert_allclose(debias(probabilities, bias), probabilities, rtol=1e-5)


def test_much_shrinkage_makes_all_biases_equal():
    probabilities = rows(60, 5)
    bias, _ = class_bias(probabilities, np.ones(60, bool), shrinkage=1e9)
    np.testing.assert_allclose(bias, np.full(5, bias.mean()), rtol=1e-5)


def test_floor_comes_before_the_division():
    found = debias(array([[0.01, 0.99]]), array([0.5, 0.9]), floor_share=0.1)
    np.testing.assert_allclose(found, array([[0.05 / 0.5, 0.99 / 0.9]]), rtol=1e-5)
    np.testing.assert_allclose(clamp_labels(found), array([[0.1, 1.0]]), rtol=1e-5)


def test_without_bias_only_the_floor_acts():
    found = debias(array([[0.01, 0.99]]), None, floor_share=0.1)
    np.testing.assert_allclose(found, array([[0.05, 0.99]]), rtol=1e-5)


def test_debiasing_keeps_the_order_within_a_class():
    probabilities = rows(40, 6)
    bias, _ = class_bias(probabilities, np.ones(40, bool))
    assert (probabilities.argsort(0) == debias(probabilities, bias).argsort(0)).all()


def test_local_scores_by_hand():
    crops = array([[0.2, 0.8], [0.6, 0.4], [0.1, 0.9]])
    local, crop_scope = local_scores(crops, np.array([0, 0, 2]), 3)
    np.testing.assert_allclose(local, array([[0.6, 0.8], [0.0, 0.0], [0.1, 0.9]]), rtol=1e-5)
    assert crop_scope.tolist() == [[2, 2], [0, 0], [1, 1]]


def test_a_crop_speaks_of_the_class_that_it_was_cut_for():
    crops = array([[0.2, 0.8], [0.6, 0.4], [0.1, 0.9], [0.3, 0.7]])
    image, spoken = np.array([0, 0, 0, 1]), np.array([0, 0, 1, -1])
    local, crop_scope = local_scores(crops, image, 2, crop_class=spoken)
    np.testing.assert_allclose(local, array([[0.6, 0.9], [0.3, 0.7]]), rtol=1e-5)
    assert crop_scope.tolist() == [[2, 1], [1, 1]]


@pytest.mark.parametrize("all_speak", [True, False])
def test_local_scores_equal_a_naive_loop(all_speak):
    crops, generator = rows(60, 4), np.random.default_rng(5)
    image = np.sort(generator.integers(20, size=60))
    spoken = None if all_speak else generator.integers(-1, 4, size=60)
    local, crop_scope = local_scores(crops, image, 20, spoken)
    for i in range(20):
        for c in range(4):
            heard = [
                crops[m, c].item() for m in range(60) if image[m] == i and (all_speak or spoken[m].item() in (-1, c))
            ]
            expected = max(heard, default=0.0)
            assert crop_scope[i, c] == len(heard)
            assert local[i, c].item() == pytest.approx(expected)


def test_local_scores_without_any_crop():
    local, crop_scope = local_scores(np.zeros((0, 3), np.float32), np.zeros(0, np.int64), 2)
    assert local.tolist() == crop_scope.tolist() == [[0] * 3] * 2


@pytest.mark.parametrize("ratio", [0.0, 0.2, 1.0])
def test_fusion_equals_a_naive_loop(ratio):
    initial, local = rows(30, 4, seed=1), rows(30, 4, seed=2)
    has_crops = np.random.default_rng(3).random((30, 4)) > 0.4
    found = fuse_scores(initial, local, has_crops, ratio)
    np.testing.assert_allclose(found, naive_fusion(initial, local, has_crops, ratio), rtol=1e-5)


def test_an_image_without_crops_keeps_its_initial_labels():
    initial = array([[0.3, 0.9]])
    found = fuse_scores(initial, np.zeros((1, 2), np.float32), np.array([[False, False]]), ratio=0.2)
    assert (found == initial).all()


def test_probabilities_by_hand():
    image = torch.tensor([[1.0, 0.0]])
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = softmax_probabilities(class_logits(image, text, math.log(3), torch.tensor([0, 1])), 2)
    torch.testing.assert_close(found.probabilities, torch.tensor([[0.75, 0.25]]))
    torch.testing.assert_close(found.entropy, torch.tensor([math.log(4) - 0.75 * math.log(3)]))
    assert found.class_is_top1.tolist() == [True]


def test_others_take_their_share_and_are_no_output():
    logits = torch.tensor([[6.0, 3.0, 2.0, 1.0], [1.0, 1.0, 1.0, 5.0]]).log()
    found = softmax_probabilities(logits, 2)
    torch.testing.assert_close(found.probabilities, torch.tensor([[0.5, 0.25], [0.125, 0.125]]))
    torch.testing.assert_close(
        found.entropy, entropy(torch.tensor([[6.0, 3, 2, 1], [1, 1, 1, 5]]) / torch.tensor([[12], [8]]))
    )
    assert found.class_is_top1.tolist() == [True, False]


def test_sigmoids_by_hand():
    """0.8, 0.2 and 0.25 of four; a row of small probabilities in the same proportions has the same entropy."""
    odds = torch.tensor([[4.0, 0.25, 1 / 3, 1e-6], [1e-3, 1e-9, 1e-9, 1e-9]])
    found = sigmoid_probabilities(odds.log())
    torch.testing.assert_close(found.probabilities[0, :3], torch.tensor([0.8, 0.2, 0.25]))
    torch.testing.assert_close(found.entropy[:1], entropy(torch.tensor([[0.64, 0.16, 0.2]])), atol=1e-4, rtol=0)
    assert found.entropy[1] < 1e-4 and found.class_is_top1.tolist() == [True, False]


def test_sigmoids_that_underflow_have_an_entropy():
    found = sigmoid_probabilities(torch.tensor([[-200.0, -200.0], [-300.0, -200.0]]))
    torch.testing.assert_close(found.entropy, torch.tensor([math.log(2), 0.0]))
    assert not found.class_is_top1.any()


def test_the_best_synonym_scores_its_class():
    image = torch.tensor([[1.0, 0.0]])
    text = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    found = class_logits(image, text, math.log(3), torch.tensor([0, 0, 1]))
    torch.testing.assert_close(found, torch.tensor([[math.log(3), 0.0]]))


def test_the_logits_of_a_batch_have_the_bits_of_each_image_alone():
    generator = torch.Generator().manual_seed(0)
    cells, text = torch.randn(7, 81, 384, generator=generator), torch.randn(23, 384, generator=generator)
    text_class = torch.arange(23) // 2
    found = class_logits(cells, text, 7.1, text_class)
    assert torch.equal(found, torch.stack([class_logits(each, text, 7.1, text_class) for each in cells]))


def test_entropy_by_hand():
    found = entropy(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([0.0, math.log(4), math.log(2)]))


def test_training_targets_by_hand():
    labels = torch.tensor([[0.0, 0.5, 1.0]])
    torch.testing.assert_close(training_targets(labels), labels)
    torch.testing.assert_close(training_targets(labels, 2.0, 0.1), torch.tensor([[0.1, 0.325, 1.0]]))


def test_losses_by_hand():
    logits, targets = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert label_loss(logits, targets, torch.tensor([1.0, 0.0])).item() == pytest.approx(math.log(2) / 2)
    assert consistency_loss(logits, logits).item() == pytest.approx(math.log(2))
    assert image_weights(torch.tensor([True, False]), 0.25).tolist() == [1.0, 0.25]


def test_the_first_view_teaches_the_second_and_not_the_other_way_round():
    first, second = (torch.ones(1, 2, requires_grad=True) for _ in range(2))
    consistency_loss(2 * second, first).backward()
    assert first.grad is None and second.grad.abs().min() > 0


def test_values_follow_the_order_of_the_scores():
    scores = np.array([[0.1, 2.0], [0.9, 2.0], [0.5, 1.0]], np.float32)
    values = np.array([[1.0, 0.3], [0.2, 0.1], [0.6, 0.8]], np.float32)
    # class 0: the images rank 3, 1, 2; class 1: the first two share 0.8 and 0.3
    expected = np.array([[0.2, 0.55], [1.0, 0.55], [0.6, 0.1]], np.float32)
    np.testing.assert_allclose(match_values(scores, values), expected, rtol=1e-6)
    np.testing.assert_array_equal(np.sort(match_values(scores, values)[:, 0]), np.sort(values[:, 0]))


def test_values_in_their_own_order_stay_as_they_are():
    values = np.random.default_rng(0).random((1000, 3)).astype(np.float32)
    values[::7] = 1  # a tie, as at the clamp
    np.testing.assert_array_equal(match_values(values, values), values)
    assert match_values(values[:0], values[:0]).shape == (0, 3)
