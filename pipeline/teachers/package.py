"""A teacher as its own package loads it: what the self-check compares ours with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor, nn


@dataclass(frozen=True)
class Package:
    """A second copy of a teacher's model, in float32 on the CPU, with the package's own preprocessing and tokenizer."""

    model: nn.Module
    """Has `encode_image` and `encode_text`."""
    transform: Callable[[Image.Image], Tensor]
    """A photo to pixels, float32 Tensor[3, H, W]."""
    tokenizer: Callable[[list[str]], Any]
    """C texts to the input of `encode_text`."""
    size: tuple[int, int]
    """(H, W) of the pixels."""


def with_statistics(
    transform: Any, choose: Callable[[Sequence[float], Sequence[float]], tuple[Sequence[float], Sequence[float]]]
) -> Any:
    """A package's transform with other statistics, see `ViewRules.statistics_of`; it is changed."""
    from torchvision.transforms import Normalize  # takes seconds, and `conse` imports this module

    steps = transform.transforms
    for place, step in enumerate(steps):
        if isinstance(step, Normalize):
            steps[place] = Normalize(*choose(step.mean, step.std))
    return transform
