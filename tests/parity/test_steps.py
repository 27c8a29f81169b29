"""Each step of the recipe `ccd` against a plain loop of what the authors' code computes."""

import numpy as np
import pytest
import torch
from parity import reference
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from pipeline.artifacts.boxes import CropScores
from pipeline.artifacts.provenance import Provenance
from pipeline.classifier.training import Consistency, losses_of
from pipeline.method.boost import boost_positive
from pipeline.method.cam import cam_boxes, search_threshold, search_windows
from pipeline.method.crops import truncated_size
from pipeline.method.epoch_choice import authors_epoch
from pipeline.method.labels import clamp_labels, class_bias, confident_images, debias
from pipeline.method.probabilities import entropy
from pipeline.photos.resize import crop_bilinear, load_view
from pipeline.runs.options import FuseConfig
from pipeline.stages.fuse import fuse
from pipeline.teachers.encoding import normalise_pixels

CPU = torch.device("cpu")


def probabilities(count=60, classes=20, seed=0):
    logits = np.random.default_rng(seed).normal(scale=2.5, size=(count, classes)).astype(np.float32)
    return np.stack([reference.softmax(row) for row in logits]).astype(np.float32)


@pytest.fixture
def photo(tmp_path):
    """A JPEG much larger than any view."""
    coarse = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    path = tmp_path / "photo.jpg"
    Image.fromarray(coarse).resize((1200, 900), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def test_resize_is_pillows_to_the_pixel(photo):
    found = load_view(photo, (64, 64), "pillow-bilinear")
    assert np.array_equal(found.permute(1, 2, 0).numpy(), reference.resized(photo, 64))
    assert not torch.equal(found, load_view(photo, (64, 64)))


def test_teacher_input_is_normalised_with_imagenet_statistics(photo):
    view = load_view(photo, (48, 48), "pillow-bilinear")
    found = normalise_pixels(view[None], IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, CPU)[0]
    np.testing.assert_allclose(found, reference.imagenet_normalised(reference.resized(photo, 48)), atol=1e-5)


def test_initial_labels():
    rows = probabilities()
    entropies = entropy(torch.from_numpy(rows)).numpy()
    confident = confident_images(entropies, 20, 2 / np.log(20))
    assert confident.tolist() == [reference.entropy(row) <= 2 for row in rows]
    assert 0 < confident.sum() < len(rows)
    bias, counts = class_bias(rows, confident, shrinkage=0.0)
    expected = reference.bias(rows)
    seen = counts > 0
    np.testing.assert_allclose(bias[seen], expected[seen], atol=1e-6)
    assert np.isnan(expected[~seen]).all()  # theirs is not defined, ours the mean of the others
    found = clamp_labels(debias(rows, bias, floor_share=1.0))
    wanted = np.stack([reference.initial_label(row, bias, 1 / 20) for row in rows])
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(("spread", "bound"), [(0.07, 2), (0.07, 4), (0.3, 4), (1.0, 4)])
def test_tau(spread, bound):
    scores = torch.rand(1234, 20, generator=torch.Generator().manual_seed(1)) * spread
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(2))
    found = search_threshold((scores[rows] for rows in search_windows(order)), bound)
    assert found.tau == reference.searched_tau(scores[order].numpy(), bound)
    assert found.converged == (spread < 0.3)


def test_boxes_of_boosted_maps():
    generator = torch.Generator().manual_seed(0)
    cams = torch.nn.functional.avg_pool2d(torch.randn(12, 14, 14, generator=generator) - 0.3, 3, 1)
    options = {"threshold": 0.95, "margin": 0.125, "rule": "corners", "epsilon": 1e-5}
    found, owner = cam_boxes(boost_positive(cams, 3.0), (160, 160), **options)
    expected = [reference.corner_box(cam, 160, 20) for cam in reference.boosted(cams.numpy(), 3)]
    assert owner.tolist() == list(range(12))
    assert found.tolist() == [list(box) for box in expected]
    plain, _ = cam_boxes(cams, (160, 160), **options)
    assert not torch.equal(plain, found)


def test_crops_of_the_view():
    view = torch.randint(256, (3, 90, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for box in [(3, 5, 50, 44), (0, 0, 90, 90), (60, 10, 90, 89), (11, 70, 61, 90)]:
        size = truncated_size(box[3] - box[1], box[2] - box[0], 96)
        assert size == reference.crop_sides(box, 96)
        found = crop_bilinear(view, torch.tensor(box).float(), size)
        part = view[:, box[1] : box[3], box[0] : box[2]].numpy().astype(float)
        np.testing.assert_allclose(found / 255, reference.bilinear(part, size) / 255, atol=1e-5)


def test_crop_sides_of_every_box_of_the_view():
    tensor_sides = []
    for longer in range(1, 641):
        scale = 640 / torch.tensor(longer)
        tensor_sides.append(int(torch.tensor(longer) * scale))
        for shorter in (1, longer // 3 + 1, longer):
            sides = truncated_size(longer, shorter, 640)
            assert sides == reference.crop_sides((0, 0, shorter, longer), 640) and sides[0] == tensor_sides[-1]
    assert set(tensor_sides) == {639, 640}


def test_fusion_with_and_without_boxes():
    rng = np.random.default_rng(0)
    initial, bias = rng.random((4, 5)).astype(np.float32), rng.uniform(0.5, 1, 5).astype(np.float32)
    owner = np.array([0, 0, 0, 1, 3, 3])
    crops = CropScores(
        provenance=Provenance("crop_scores", 4, {}, {}),
        image_ids=list("abcd"),
        class_names=list("vwxyz"),
        image_index=owner,
        class_index=np.zeros(6, dtype=np.int64),
        probabilities=rng.random((6, 5)).astype(np.float32),
        entropy=np.zeros(6, np.float32),
        class_is_top1=np.ones(6, bool),
        outcomes=5,
    )
    config = FuseConfig(ratio=0.2, crop_scope="all", boxless="erase")
    found = fuse(initial, crops, bias, 1.0, config).labels
    expected = [reference.fused_label(initial[i], crops.probabilities[owner == i], bias, 1 / 5, 0.2) for i in range(4)]
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-6)
    np.testing.assert_allclose(found[2], np.clip(0.2 * initial[2] + 0.8 * 0.2 / bias, 0, 1), atol=1e-6)
    kept = fuse(initial, crops, bias, 1.0, config.replace(boxless="keep")).labels
    np.testing.assert_allclose(kept[2], initial[2])
    np.testing.assert_allclose(kept[[0, 1, 3]], found[[0, 1, 3]])


def test_losses():
    rng = np.random.default_rng(0)
    logits, second, targets = rng.normal(size=(4, 5)), rng.normal(size=(4, 5)), rng.random((4, 5))
    weights = np.array([1.0, 0.3, 1.0, 0.0])
    views = (torch.from_numpy(logits), torch.from_numpy(second))
    of_first, losses = losses_of(
        lambda view: view, views, torch.from_numpy(targets), torch.from_numpy(weights), Consistency(2.0, 0.5)
    )
    bce, consistency = reference.loss(logits, targets, weights, second)
    np.testing.assert_allclose(losses, [bce, 2 * consistency], atol=1e-9)
    assert of_first is views[0]


def test_epoch_choice_on_random_curves():
    rng = np.random.default_rng(0)
    triggered = 0
    for _ in range(200):
        curve = np.cumsum(np.sort(rng.exponential(5, 10))[::-1] + rng.normal(scale=rng.choice([0, 1]), size=10))
        kept = reference.kept_epoch(curve.tolist())
        found = authors_epoch(curve[2:].tolist(), curve[:2].tolist())
        assert found == (None if kept is None else kept - 1)  # from 1 after two epochs, theirs from 0 with them
        triggered += kept is not None
    assert 0 < triggered < 200
