import pytest
import torch
from torchvision.transforms import functional as reference

from pipeline.photos.augment import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    color_jitter,
    draw_flips,
    draw_jitter,
    flip,
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
    found = color_jitter(same, draw_jitter(4, 0.5, torch.Generator().manual_seed(1)))
    assert found.min() >= 0 and found.max() <= 1
    assert len({tuple(image.flatten()[:5].tolist()) for image in found}) == 4


def test_jitter_of_no_strength_changes_nothing():
    batch = images()
    torch.testing.assert_close(color_jitter(batch, draw_jitter(6, 0.0, torch.Generator())), batch, atol=1e-6, rtol=0)


def test_the_order_of_the_changes_is_drawn_too():
    generator = torch.Generator().manual_seed(1)
    assert len({tuple(draw_jitter(1, 0.5, generator).order.flatten().tolist()) for _ in range(50)}) > 10


def test_the_order_is_the_batchs_or_each_images_own():
    jitter = draw_jitter(50, 0.5, torch.Generator().manual_seed(1))
    assert (jitter.order == jitter.order[:, :1]).all()
    own = draw_jitter(200, 0.5, torch.Generator().manual_seed(1), order="image").order
    assert (own.sort(dim=0).values == torch.arange(4)[:, None]).all()
    assert len({tuple(order) for order in own.T.tolist()}) == 24  # every one of the orders


def test_an_image_with_its_own_order_is_changed_as_it_would_be_alone():
    batch = images()
    jitter = draw_jitter(6, 0.5, torch.Generator().manual_seed(1), order="image")
    changes = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    alone = []
    for i in range(6):
        image = batch[i : i + 1]
        for number in jitter.order[:, i].tolist():
            image = changes[number](image, jitter.factors[number, i : i + 1])
        alone.append(image)
    torch.testing.assert_close(color_jitter(batch, jitter), torch.cat(alone), atol=1e-6, rtol=0)


def test_a_part_of_a_batch_is_changed_as_it_is_in_the_whole():
    batch, places = images(), torch.tensor([1, 3, 5])
    jitter, flips = draw_jitter(6, 0.5, torch.Generator().manual_seed(1)), draw_flips(6, torch.Generator())
    whole = color_jitter(flip(batch, flips), jitter)[places]
    assert torch.equal(color_jitter(flip(batch[places], flips[places]), jitter.of(places)), whole)


def test_flips_are_drawn_image_by_image_from_the_generator():
    flips = draw_flips(64, torch.Generator().manual_seed(2))
    assert 20 < flips.sum() < 44
    assert torch.equal(flips, draw_flips(64, torch.Generator().manual_seed(2)))


def test_marked_images_are_mirrored_and_others_not():
    batch = images(3)
    found = flip(batch, torch.tensor([True, False, True]))
    assert torch.equal(found, torch.stack([batch[0].flip(2), batch[1], batch[2].flip(2)]))
