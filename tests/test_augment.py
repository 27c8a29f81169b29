import pytest
import torch
from torchvision.transforms import functional as reference

from pipeline.augment import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    color_jitter,
    random_flip,
)


def images(count=6):
    return torch.rand(count, 3, 12, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (adjust_brightness, reference.adjust_brightness, [0.5, 1.0, 1.5, 0.7, 1.2, 0.0]),
        (adjust_contrast, reference.adjust_contrast, [0.5, 1.0, 1.5, 0.7, 1.2, 0.0]),
        (adjust_saturation, reference.adjust_saturation, [0.5, 1.0, 1.5, 0.7, 1.2, 0.0]),
        (adjust_hue, reference.adjust_hue, [-0.5, 0.0, 0.5, 0.1, -0.3, 0.25]),
    ],
)
def test_each_image_gets_what_torchvision_gives_it_alone(ours, theirs, factors):
    batch = images()
    expected = torch.stack([theirs(image, factor) for image, factor in zip(batch, factors, strict=True)])
    torch.testing.assert_close(ours(batch, torch.tensor(factors)), expected, atol=2e-3, rtol=0)


def test_hue_leaves_grey_alone():
    grey = torch.full((2, 3, 4, 4), 0.3)
    torch.testing.assert_close(adjust_hue(grey, torch.tensor([0.2, -0.4])), grey)


def test_jitter_differs_from_image_to_image_and_stays_in_range():
    same = images(1).repeat(4, 1, 1, 1)
    found = color_jitter(same, 0.5, torch.Generator().manual_seed(1))
    assert found.min() >= 0 and found.max() <= 1
    assert len({tuple(image.flatten()[:5].tolist()) for image in found}) == 4


def test_jitter_of_no_strength_changes_nothing():
    batch = images()
    torch.testing.assert_close(color_jitter(batch, 0.0, torch.Generator()), batch, atol=1e-6, rtol=0)


def test_flips_are_drawn_image_by_image_from_the_generator():
    batch = images(64)
    found = random_flip(batch, torch.Generator().manual_seed(2))
    flipped = [not torch.equal(a, b) for a, b in zip(found, batch, strict=True)]
    assert 20 < sum(flipped) < 44
    for new, old, turned in zip(found, batch, flipped, strict=True):
        assert torch.equal(new, old.flip(2) if turned else old)
    assert torch.equal(found, random_flip(batch, torch.Generator().manual_seed(2)))
