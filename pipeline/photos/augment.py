"""Random flips and colours, drawn for each image and computed for the whole batch on its device.

Drawing and changing are separate functions: processes that share a batch draw for all of it, and change their part.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

GREY = (0.299, 0.587, 0.114)
"""Weights of ITU-R 601 luma, as in Pillow and torchvision."""


@dataclass(frozen=True)
class Jitter:
    """Colour changes of B images, and their order."""

    factors: Tensor
    """float32 Tensor[4, B]: brightness, contrast and saturation around 1, hue around 0."""
    order: Tensor
    """int64 Tensor[4, B], for each image the order of the rows of `factors`."""

    def of(self, images: Tensor) -> "Jitter":
        """The changes of some images, int64 Tensor[b] of their places in the batch."""
        return Jitter(self.factors[:, images], self.order[:, images])


def draw_flips(count: int, generator: torch.Generator) -> Tensor:
    """Bool Tensor[count], each True with probability 1/2."""
    return torch.rand(count, generator=generator) < 0.5


def flip(images: Tensor, flips: Tensor) -> Tensor:
    """Tensor[B, 3, H, W] with the images marked in bool Tensor[B] mirrored left-right."""
    return torch.where(flips.to(images.device)[:, None, None, None], images.flip(3), images)


def draw_jitter(count: int, strength: float, generator: torch.Generator, order: str = "batch") -> Jitter:
    """Random colour changes for each image, as of torchvision's `ColorJitter` with `strength` for all four.

    Args:
        count: B.
        strength: largest relative change, and largest share of the hue circle; in [0, 0.5].
        generator: on the CPU, so that the draws do not depend on the device.
        order: of the four changes: one for the whole batch, "batch", or one for each image, "image" (the authors' code).
    """
    draws = (torch.rand(4, count, generator=generator) * 2 - 1) * strength
    if order == "batch":
        orders = torch.randperm(4, generator=generator)[:, None].expand(4, count)
    else:
        orders = torch.rand(4, count, generator=generator).argsort(dim=0)
    return Jitter(draws + torch.tensor([1.0, 1.0, 1.0, 0.0])[:, None], orders)


def color_jitter(images: Tensor, jitter: Jitter) -> Tensor:
    """Float Tensor[B, 3, H, W] in [0, 1] with changed colours, in [0, 1]."""
    factors = jitter.factors.to(images.device)
    for step in jitter.order:  # [B]
        images = change_by_number(images, step, factors)
    return images


def change_by_number(images: Tensor, numbers: Tensor, factors: Tensor) -> Tensor:
    """Make one change to each image of Tensor[B, 3, H, W].

    Args:
        images: in [0, 1].
        numbers: int64 Tensor[B] on the CPU, the row of `factors` for each image.
        factors: Tensor[4, B], see `Jitter`.
    """
    changes = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    if (numbers == numbers[0]).all():
        return changes[numbers[0]](images, factors[numbers[0]])
    changed = torch.empty_like(images)
    for number in numbers.unique().tolist():
        places = (numbers == number).nonzero()[:, 0].to(images.device)
        changed[places] = changes[number](images[places], factors[number, places])
    return changed


def blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Each image moved from `other` (factor 0) to itself (factor 1) or beyond, clamped to [0, 1]."""
    factor = factor.view(-1, 1, 1, 1)
    return torch.lerp(other.expand_as(images), images, factor).clamp(0, 1)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply images by factor Tensor[B]."""
    return (images * factor.view(-1, 1, 1, 1)).clamp(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image with its mean grey by factor Tensor[B]."""
    return blend(images, grey(images).mean(dim=(2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image with its grey version by factor Tensor[B]."""
    return blend(images, grey(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue by a share of the circle, Tensor[B] in [-0.5, 0.5]; saturation and value of HSV do not change."""
    value, low = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
    chroma = value - low
    red, green, blue = images.split(1, dim=1)
    safe = torch.where(chroma > 0, chroma, 1)
    # hue in sextants: which channel is largest, and how the other two differ
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * shift.view(-1, 1, 1, 1)
    # f(n) = V - C max(0, min(k, 4 - k, 1)) with k = (n + hue) mod 6, the closed form of HSV to RGB
    k = (torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1) + hue) % 6
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """Luma Tensor[B, 1, H, W]."""
    weights = images.new_tensor(GREY).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)
