"""GELU and QuickGELU in a model: which it has, and the same model with the other one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class QuickGELU(nn.Module):
    """OpenAI's approximation of GELU."""

    def forward(self, values: Tensor) -> Tensor:
        """The activation of each value."""
        return values * torch.sigmoid(1.702 * values)


GELUS = ("GELU", "GELUTanh", "GELUActivation")
QUICK_GELUS = ("QuickGELU", "QuickGELUActivation")
"""Names of the modules in CLIP, open_clip, timm and transformers."""

OTHER: dict[str, Callable[[], nn.Module]] = dict.fromkeys(GELUS, QuickGELU) | dict.fromkeys(QUICK_GELUS, nn.GELU)


def count_gelus(model: nn.Module) -> tuple[int, int]:
    """Numbers of modules with GELU and with QuickGELU."""
    names = [type(module).__name__ for module in model.modules()]
    return sum(name in GELUS for name in names), sum(name in QUICK_GELUS for name in names)


@contextmanager
def other_gelu(model: nn.Module) -> Iterator[None]:
    """Replace each GELU by QuickGELU and each QuickGELU by GELU, and back."""
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child).__name__ in OTHER
    ]
    for parent, name, child in places:
        setattr(parent, name, OTHER[type(child).__name__]())
    try:
        yield
    finally:
        for parent, name, child in places:
            setattr(parent, name, child)
