"""Random views of a batch, drawn image by image and computed for the whole batch on its device."""

import torch
from torch import Tensor

GREY = (0.299, 0.587, 0.114)
"""ITU-R 601 luma, as Pillow and torchvision use it."""


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Tensor[B, 3, H, W] with each image mirrored left-right with probability 1/2."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flip.to(images.device)[:, None, None, None], images.flip(3), images)


def color_jitter(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue changed by random factors of each image's own.

    The arithmetic is torchvision's `ColorJitter(strength, strength, strength, strength)`; the order of the four
    changes is drawn once a batch.

    Args:
        images: float Tensor[B, 3, H, W] in [0, 1].
        strength: largest relative change, and largest share of the hue circle; in [0, 0.5].
        generator: CPU generator, so that the draws do not depend on the device.

    Returns:
        Tensor[B, 3, H, W] in [0, 1].
    """
    draws = (torch.rand(4, len(images), generator=generator) * 2 - 1) * strength  # [4, B]
    brightness, contrast, saturation, hue = (draws + torch.tensor([1.0, 1.0, 1.0, 0.0])[:, None]).to(images.device)
    changes = [
        lambda x: adjust_brightness(x, brightness),
        lambda x: adjust_contrast(x, contrast),
        lambda x: adjust_saturation(x, saturation),
        lambda x: adjust_hue(x, hue),
    ]
    for change in torch.randperm(4, generator=generator).tolist():
        images = changes[change](images)
    return images


def blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Each image moved from `other` (factor 0) to itself (factor 1) or beyond, clamped to [0, 1]."""
    factor = factor.view(-1, 1, 1, 1)
    return torch.lerp(other.expand_as(images), images, factor).clamp(0, 1)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Images times factor Tensor[B]; black at 0."""
    return (images * factor.view(-1, 1, 1, 1)).clamp(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Away from the mean grey of each image by factor Tensor[B]."""
    return blend(images, grey(images).mean(dim=(2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Away from the grey image by factor Tensor[B]."""
    return blend(images, grey(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Hue turned by a share of the circle, Tensor[B] in [-0.5, 0.5]; saturation and value of HSV stay."""
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
