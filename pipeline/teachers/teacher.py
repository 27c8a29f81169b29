"""The protocol that stages call, and the table from spec to implementation."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Teacher(Protocol):
    """A dual encoder: images and texts to unit-norm embeddings of one space."""

    name: str
    """The spec it was loaded from, as "openai:RN50x64"."""
    fingerprint: str
    """Hash of the weights and of whatever else decides the embeddings."""
    logit_scale: float
    """s of softmax(s * f . t), DESIGN section 1."""
    input_size: int
    """Native side in pixels; other sizes work too."""

    def encode_images(self, images: Tensor) -> Tensor:
        """Embed uint8 RGB Tensor[B, 3, H, W] as float32 Tensor[B, D] with unit rows, on the teacher's device."""
        ...

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embed C texts as float32 Tensor[C, D] with unit rows, on the teacher's device."""
        ...


def load_teacher(spec: str, device: str | torch.device = "cpu") -> Teacher:
    """Load the teacher that a spec names (DESIGN section 4)."""
    raise NotImplementedError(spec)
