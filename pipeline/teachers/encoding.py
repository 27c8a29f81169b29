"""What the encoders of all teachers share: uint8 pixels to normalised input, batches to chunks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

CPU_CHUNK = 16
"""Images per forward on a CPU: enough to fill its cores, few enough to keep the activations small."""


def normalise_pixels(
    images: Tensor, mean: Sequence[float], std: Sequence[float], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Pixels as a network wants them.

    Args:
        images: uint8 Tensor[B, 3, H, W], RGB.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        device: where the result lies; the bytes travel there before they become four times as many.
        dtype: of the result.

    Returns:
        Tensor[B, 3, H, W], channels-last, (pixel / 255 - mean) / std.
    """
    offset = torch.tensor(mean, device=device).view(3, 1, 1)
    spread = torch.tensor(std, device=device).view(3, 1, 1)
    pixels = images.to(device).contiguous(memory_format=torch.channels_last).float()
    return pixels.div_(255).sub_(offset).div_(spread).to(dtype)


def encode_in_chunks(encode: Callable[[Tensor], Tensor], images: Tensor, device: torch.device) -> Tensor:
    """Run `encode` over a batch in pieces of `CPU_CHUNK` on a CPU, whole elsewhere.

    Args:
        encode: uint8 Tensor[B, 3, H, W] to Tensor[B, D].
        images: uint8 Tensor[B, 3, H, W], B >= 1.
        device: of the network.

    Returns:
        Tensor[B, D], the rows of all pieces.
    """
    if device.type != "cpu":
        return encode(images)
    return torch.cat([encode(piece) for piece in images.split(CPU_CHUNK)])
