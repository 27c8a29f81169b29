import math

import pytest
import torch

from pipeline.method.labels import (
    clamp_labels,
    class_bias,
    class_probabilities,
    confident_images,
    debias,
    entropy,
    fuse_scores,
    local_scores,
    training_targets,
)


def rows(count, classes, seed=0, sharpness=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, classes, generator=generator) * sharpness).softmax(1)


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
    fused = initial.clone()
    for n in range(initial.shape[0]):
        for c in range(initial.shape[1]):
            if has_crops[n, c]:
                fused[n, c] = ratio * initial[n, c] + (1 - ratio) * local[n, c]
    return fused


def test_probabilities_by_hand():
    image = torch.tensor([[1.0, 0.0]])
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = class_probabilities(image, text, math.log(3), torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.tensor([[0.75, 0.25]]))


def test_the_best_synonym_scores_its_class():
    image = torch.tensor([[1.0, 0.0]])
    text = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    found = class_probabilities(image, text, math.log(3), torch.tensor([0, 0, 1]))
    torch.testing.assert_close(found, torch.tensor([[0.75, 0.25]]))


def test_entropy_by_hand():
    found = entropy(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([0.0, math.log(4), math.log(2)]))


def test_confidence_limit_is_two_nats_at_twenty_classes():
    assert confident_images(torch.tensor([1.999, 2.01]), 20).tolist() == [True, False]


def test_confidence_limit_scales_with_the_number_of_classes():
    assert confident_images(torch.tensor([2.9, 2.94]), 81).tolist() == [True, False]


def test_bias_by_hand():
    probabilities = torch.tensor([[0.9, 0.1, 0.0], [0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.3, 0.5]])
    confident = torch.tensor([True, True, True, False])
    bias, counts = class_bias(probabilities, confident)
    # class 2 is on top of an image that is not confident alone: it gets the mean of 0.8 and 0.6
    torch.testing.assert_close(bias, torch.tensor([0.8, 0.6, 0.7]))
    assert counts.tolist() == [2, 1, 0]


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("shrinkage", [0.0, 2.5])
def test_bias_equals_a_naive_loop(classes, shrinkage):
    probabilities = rows(60, classes)
    confident = confident_images(entropy(probabilities), classes)
    assert 0 < confident.sum() < 60
    bias, counts = class_bias(probabilities, confident, shrinkage)
    expected, expected_counts = naive_bias(probabilities, confident, shrinkage)
    torch.testing.assert_close(bias, torch.tensor(expected))
    assert counts.tolist() == expected_counts


def test_bias_without_confident_images_changes_nothing():
    probabilities = rows(5, 4)
    bias, counts = class_bias(probabilities, torch.zeros(5, dtype=torch.bool))
    assert counts.sum() == 0
    torch.testing.assert_close(debias(probabilities, bias), probabilities)


def test_much_shrinkage_makes_all_biases_equal():
    probabilities = rows(60, 5)
    bias, _ = class_bias(probabilities, torch.ones(60, dtype=torch.bool), shrinkage=1e9)
    torch.testing.assert_close(bias, bias.mean().expand(5))


def test_floor_comes_before_the_division():
    found = debias(torch.tensor([[0.01, 0.99]]), torch.tensor([0.5, 0.9]), floor_share=0.1)
    torch.testing.assert_close(found, torch.tensor([[0.05 / 0.5, 0.99 / 0.9]]))
    torch.testing.assert_close(clamp_labels(found), torch.tensor([[0.1, 1.0]]))


def test_without_bias_only_the_floor_acts():
    found = debias(torch.tensor([[0.01, 0.99]]), None, floor_share=0.1)
    torch.testing.assert_close(found, torch.tensor([[0.05, 0.99]]))


def test_debiasing_keeps_the_order_within_a_class():
    probabilities = rows(40, 6)
    bias, _ = class_bias(probabilities, torch.ones(40, dtype=torch.bool))
    assert torch.equal(probabilities.argsort(0), debias(probabilities, bias).argsort(0))


def test_local_scores_by_hand():
    crops = torch.tensor([[0.2, 0.8], [0.6, 0.4], [0.1, 0.9]])
    local, votes = local_scores(crops, torch.tensor([0, 0, 2]), 3)
    torch.testing.assert_close(local, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.1, 0.9]]))
    assert votes.tolist() == [[2, 2], [0, 0], [1, 1]]
    mean, _ = local_scores(crops, torch.tensor([0, 0, 2]), 3, combine="mean")
    torch.testing.assert_close(mean, torch.tensor([[0.4, 0.6], [0.0, 0.0], [0.1, 0.9]]))


def test_a_crop_speaks_of_the_class_that_it_was_cut_for():
    crops = torch.tensor([[0.2, 0.8], [0.6, 0.4], [0.1, 0.9], [0.3, 0.7]])
    image, spoken = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, -1])
    local, votes = local_scores(crops, image, 2, spoken_class=spoken)
    torch.testing.assert_close(local, torch.tensor([[0.6, 0.9], [0.3, 0.7]]))
    assert votes.tolist() == [[2, 1], [1, 1]]
    mean, _ = local_scores(crops, image, 2, "mean", spoken)
    torch.testing.assert_close(mean, torch.tensor([[0.4, 0.9], [0.3, 0.7]]))


@pytest.mark.parametrize("combine", ["max", "mean"])
@pytest.mark.parametrize("all_speak", [True, False])
def test_local_scores_equal_a_naive_loop(combine, all_speak):
    crops, generator = rows(60, 4), torch.Generator().manual_seed(5)
    image = torch.randint(20, (60,), generator=generator).sort().values
    spoken = None if all_speak else torch.randint(-1, 4, (60,), generator=generator)
    local, votes = local_scores(crops, image, 20, combine, spoken)
    for i in range(20):
        for c in range(4):
            heard = [
                crops[m, c].item() for m in range(60) if image[m] == i and (all_speak or spoken[m].item() in (-1, c))
            ]
            expected = (max(heard) if combine == "max" else sum(heard) / len(heard)) if heard else 0.0
            assert votes[i, c] == len(heard)
            assert local[i, c].item() == pytest.approx(expected)


def test_local_scores_without_any_crop():
    local, votes = local_scores(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 2)
    assert local.tolist() == votes.tolist() == [[0] * 3] * 2


@pytest.mark.parametrize("ratio", [0.0, 0.2, 1.0])
def test_fusion_equals_a_naive_loop(ratio):
    initial, local = rows(30, 4, seed=1), rows(30, 4, seed=2)
    has_crops = torch.rand(30, 4, generator=torch.Generator().manual_seed(3)) > 0.4
    found = fuse_scores(initial, local, has_crops, ratio)
    torch.testing.assert_close(found, naive_fusion(initial, local, has_crops, ratio))


def test_an_image_without_crops_keeps_its_initial_labels():
    initial = torch.tensor([[0.3, 0.9]])
    found = fuse_scores(initial, torch.zeros(1, 2), torch.tensor([[False, False]]), ratio=0.2)
    assert torch.equal(found, initial)


def test_training_targets_by_hand():
    labels = torch.tensor([[0.0, 0.5, 1.0]])
    torch.testing.assert_close(training_targets(labels), labels)
    torch.testing.assert_close(training_targets(labels, 2.0, 0.1), torch.tensor([[0.1, 0.325, 1.0]]))
