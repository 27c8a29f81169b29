"""Published methods against plain loops, written from their formulas."""

import math

import h5py
import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score
from torch.nn import functional as F

from pipeline.method.published import cdul, frolic, piaa, sparc, tagclip, tai_dpt

GENERATOR = torch.Generator().manual_seed(0)


def unit(*shape):
    return F.normalize(torch.randn(*shape, generator=GENERATOR), dim=-1)


def softmax(values):
    shares = [math.exp(value - max(values)) for value in values]
    return [share / sum(shares) for share in shares]


def test_cdul():
    whole, tiles = torch.rand(5, 4, generator=GENERATOR), torch.rand(5, 9, 4, generator=GENERATOR) * 0.6
    found = cdul.initial_labels(whole, tiles)
    for n in range(5):
        for c in range(4):
            column = tiles[n, :, c].tolist()
            local = max(column) if max(column) >= 0.5 else min(column)
            assert found[n, c].item() == pytest.approx((whole[n, c].item() + local) / 2)
    assert (tiles.amax(1) >= 0.5).any() and (tiles.amax(1) < 0.5).any()


def test_tai_dpt():
    whole, cells = torch.randn(3, 4, generator=GENERATOR), 5 * torch.randn(3, 6, 4, generator=GENERATOR)
    found = tai_dpt.dense_scores(whole, cells)
    for n in range(3):
        for c in range(4):
            column = cells[n, :, c].tolist()
            local = sum(share * z for share, z in zip(softmax(column), column, strict=True))
            assert found[n, c].item() == pytest.approx(whole[n, c].item() + local, rel=1e-5)


def tagclip_by_loop(patches, class_count, crop_score):
    scores, boxes = np.zeros((len(patches), class_count)), []
    height, width = patches.shape[1:3]
    for n, photo in enumerate(patches):
        half = photo.min() + 0.5 * (photo.max() - photo.min())
        for c in range(class_count):
            scores[n, c] = best = photo[:, :, c].max()
            if best > half:
                low = photo[:, :, c].min()
                places = [
                    (y, x) for y in range(height) for x in range(width) if (photo[y, x, c] - low) / (best - low) > 0.5
                ]
                ys, xs = zip(*places, strict=True)
                box = (min(xs) / width, min(ys) / height, (max(xs) + 1) / width, (max(ys) + 1) / height)
                boxes.append((n, c, box))
                scores[n, c] = 0.5 * best + 0.5 * crop_score(n, c, box)
    return scores, boxes


def test_tagclip():
    patches = (6 * torch.randn(7, 3, 5, 6, generator=GENERATOR)).softmax(3)  # 4 classes, 2 background classes

    def crop_score(n, c, box):
        return (n + 2 * c + sum(box)) / 100

    crops = tagclip.likely_crops(patches, 4)
    seen = list(zip(crops.image_index.tolist(), crops.class_index.tolist(), crops.boxes.tolist(), strict=True))
    again = torch.tensor([[crop_score(n, c, box) for c in range(4)] for n, _, box in seen])
    found = tagclip.add_crops(tagclip.class_scores(patches, 4), crops, again)
    expected, boxes = tagclip_by_loop(patches.double().numpy(), 4, crop_score)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert [(n, c) for n, c, _ in seen] == [(n, c) for n, c, _ in boxes] and len(boxes) > 7
    np.testing.assert_allclose([box for *_, box in seen], [box for *_, box in boxes], rtol=1e-6)


def test_tagclip_scores_a_flat_map_on_the_whole_photo():
    patches = torch.tensor([0.9, 0.1]).expand(1, 2, 2, 2)
    crops = tagclip.likely_crops(patches, 2)
    assert (crops.class_index.tolist(), crops.boxes.tolist()) == ([0], [[0, 0, 1, 1]])


def test_sparc():
    images, text, pair_text = unit(40, 8), unit(4, 8), unit(6, 8)
    pairs = [(a, b) for a in range(4) for b in range(a)]
    found = sparc.class_scores(images, text, pair_text, torch.tensor(pairs))
    single, compound = np.zeros((40, 4)), np.zeros((40, 6))
    for n in range(40):
        cosines = [float(images[n] @ each) for each in text]
        mean, deviation = np.mean(cosines), np.std(cosines, ddof=1)
        single[n] = [(value - mean) / deviation for value in cosines]
        compound[n] = [(float(images[n] @ each) - mean) / deviation for each in pair_text]
    for scores in (single, compound):
        for k in range(scores.shape[1]):
            scores[:, k] = (scores[:, k] - scores[:, k].mean()) / scores[:, k].std(ddof=1)
    for c in range(4):
        own = [k for k, pair in enumerate(pairs) if c in pair]
        columns = np.array([[*sorted(compound[n, own]), single[n, c]] for n in range(40)])
        direction = PCA().fit(columns).components_[0]
        direction *= np.sign(direction.mean()) / np.abs(direction).sum()
        np.testing.assert_allclose(found[:, c], 0.5 * columns @ direction + 0.5 * single[:, c], atol=1e-4)


def gaussian_by_loop(rows, shares, text):
    """W [C, D] and b of the formula, from rows of (patch, class)."""
    classes, size = len(text), text.shape[1]
    top = [max(range(classes), key=lambda c: share[c]) for share in shares]
    means = np.array(text, np.float64)
    for c in range(classes):
        own = [(share[c], row) for row, share, k in zip(rows, shares, top, strict=True) if k == c]
        if own:
            means[c] = sum(p * row for p, row in own) / sum(p for p, _ in own)
    centred = np.array([row - means[k] for row, k in zip(rows, top, strict=True)])
    covariance = np.cov(centred.T)
    inverse = size * np.linalg.pinv((len(rows) - 1) * covariance + np.trace(covariance) * np.eye(size))
    weight = np.array([inverse @ mean for mean in means])
    return weight, [-math.log(classes) - mean @ inverse @ mean / 2 for mean in means]


def test_piaa(monkeypatch):
    monkeypatch.setattr(piaa, "KEPT", 20)
    images, cells, text = unit(12, 6), unit(12, 9, 6), unit(4, 6)
    scale = 30.0
    blocks = [block.flatten(0, 1) for block in cells.split(5)]
    classifier = piaa.fit_patches(blocks, text, scale)
    found = piaa.class_scores(images, cells, text, scale, classifier)

    patches, texts = cells.flatten(0, 1).double().numpy(), text.double().numpy()
    banks = {c: [] for c in range(4)}
    for patch in patches:
        share = softmax([0.6 * scale * float(patch @ each) for each in texts])
        entropy = -sum(p * math.log(p) for p in share)
        banks[max(range(4), key=lambda c: share[c])].append((entropy, patch, share))
    kept = [each for c in range(4) for each in sorted(banks[c], key=lambda each: each[0])[:20]]
    weight, bias = gaussian_by_loop([each[1] for each in kept], [each[2] for each in kept], texts)
    again = [
        (patch, softmax([0.01 * (w @ patch + b) for w, b in zip(weight, bias, strict=True)])) for _, patch, _ in kept
    ]
    good = []
    for c in range(4):
        own = [(patch, share) for patch, share in again if max(range(4), key=lambda k: share[k]) == c]
        best = [share[c] for _, share in own]
        if own:
            limit = np.mean(best) + (np.std(best, ddof=1) if len(own) > 1 else 0)
            good += [(patch, share) for patch, share in own if share[c] >= limit]
    assert 4 < len(good) < len(kept) / 2
    weight, bias = gaussian_by_loop([patch for patch, _ in good], [share for _, share in good], texts)
    np.testing.assert_allclose(classifier.weight.T, weight, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(classifier.bias, bias, rtol=1e-3)
    for n in range(12):
        whole = softmax([0.8 * scale * float(images[n].double().numpy() @ each) for each in texts])
        shares = [
            softmax([(w @ x + b) / 500 for w, b in zip(weight, bias, strict=True)]) for x in cells[n].double().numpy()
        ]
        best = softmax([200 * max(share[c] for share in shares) for c in range(4)])
        np.testing.assert_allclose(found[n], [0.1 * a + 0.9 * b for a, b in zip(whole, best, strict=True)], rtol=1e-3)


def test_piaa_keeps_the_same_patches_in_blocks_of_any_size(monkeypatch):
    monkeypatch.setattr(piaa, "KEPT", 7)
    patches, text = unit(100, 6), unit(3, 6)
    whole = piaa.certain_patches([patches], text, 50.0)
    for one, other in zip(whole, piaa.certain_patches(patches.split(9), text, 50.0), strict=True):
        torch.testing.assert_close(one, other)
    assert len(whole[0]) == 21


def prior_by_loop(logits):
    classes = logits.shape[1]
    predictions, seen = np.zeros((classes, classes)), []
    for k in range(classes):
        own = []
        for row in logits:
            first, second = sorted(row)[-1], sorted(row)[-2]
            if first - second > 1 / classes and row.argmax() == k:
                own.append(softmax(row.tolist()))
        if own:
            seen.append(k)
            predictions[k] = np.mean(own, axis=0)
    values, vectors = np.linalg.eig(predictions.T)
    beta = np.abs(vectors[:, values.real.argmax()].real)
    beta /= beta.sum()
    return np.array([beta[k] if k in seen else 1 / classes for k in range(classes)])


def test_frolic():
    logits = torch.randn(60, 4, generator=GENERATOR) + torch.tensor([3.0, 0.5, 0.0, -9.0])
    np.testing.assert_allclose(frolic.prior(logits), prior_by_loop(logits.numpy()), atol=1e-5)
    expected = logits.double().numpy()
    for _ in range(11):
        expected = expected - np.log(prior_by_loop(expected))
    np.testing.assert_allclose(frolic.class_scores(logits), [softmax(row) for row in expected.tolist()], atol=1e-4)
    assert (
        np.bincount(expected.argmax(1), minlength=4)[1:3].min() > np.bincount(logits.argmax(1), minlength=4)[1:3].min()
    )


def test_frolic_on_real_clip(shared_data):
    with h5py.File(shared_data / "clip_rn50x64_voc12_train.h5") as file:
        probabilities, truth = torch.from_numpy(file["probabilities"][()]).float(), file["ground_truth"][()]
    found = frolic.class_scores(probabilities.clamp(min=1e-30).log())
    precision = [average_precision_score(truth[:, c] == 1, found[:, c]) for c in range(20)]
    assert 100 * np.mean(precision) == pytest.approx(86.2, abs=0.1)  # 85.3 before


def test_piaa_gives_a_class_without_patches_the_mean_of_its_text():
    features, text = unit(30, 5), unit(3, 5)
    shares = torch.rand(30, 3, generator=GENERATOR) * torch.tensor([1.0, 1.0, 0.0])
    weight, bias = gaussian_by_loop(features.double().numpy(), shares.double().numpy(), text.double().numpy())
    found = piaa.fit(features, shares, text)
    np.testing.assert_allclose(found.weight.T, weight, rtol=1e-4)
    np.testing.assert_allclose(found.bias, bias, rtol=1e-4)
