"""The protocol that stages call, and the table from spec to implementation."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pipeline.system.errors import PipelineError
from pipeline.teachers.encoding import ViewRules


@runtime_checkable
class Teacher(Protocol):
    """A dual encoder: images and texts to unit-norm embeddings of one space."""

    name: str
    """The spec it was loaded from, as "openai:RN50x64"."""
    fingerprint: str
    """Hash of the weights and of whatever else decides the embeddings."""
    logit_scale: float
    """s of softmax(s * f . t)."""
    logit_bias: float | None
    """b of sigmoid(s * f . t + b), where each class is scored independently (SigLIP); None for a softmax."""
    input_size: int
    """Native side in pixels; other sizes work too."""
    resize_filter: str
    """Filter of its own preprocessing, as a filter of `photos.resize`."""

    def encode_images(self, images: Tensor) -> Tensor:
        """Embed RGB Tensor[B, 3, H, W] as float32 Tensor[B, D] with unit rows, on its device.

        Pixels are uint8, or float in [0, 255] where resizing left fractions.
        """
        ...

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embed C texts as float32 Tensor[C, D] with unit rows, on its device."""
        ...


def load_teacher(
    spec: str,
    device: str | torch.device = "cpu",
    precision: str = "float32",
    cache_dir: Path | None = None,
    rules: ViewRules | None = None,
) -> Teacher:
    """Load the teacher that a spec names.

    Args:
        spec: "conse", "openai:NAME", "openai:PATH", "open_clip:MODEL/TAG", "open_clip:MODEL/FILE",
            "open_clip:MODEL/TAG@FILE" or "open_clip:local-dir:PATH".
        device: where it runs.
        precision: "float32", "bfloat16" or "float16"; on a CPU, and for `conse`, always float32.
        cache_dir: where downloaded weights lie; by default `$CCD_CACHE`, else ~/.cache/ccd.
        rules: how it takes views; by default as it was trained to.

    Raises:
        PipelineError: if no teacher has this spec, or its weights are missing or corrupt.
    """
    # Imported where they are needed: each brings a package that takes seconds to import or is optional.
    kind, _, model = spec.partition(":")
    if spec == "conse":
        from pipeline.teachers.conse import Conse

        return Conse(device, rules)
    if kind == "openai" and model:
        from pipeline.teachers.openai_clip import load_openai

        return load_openai(model, device, precision, cache_dir, rules)
    if kind == "open_clip" and model:
        from pipeline.teachers.open_clip import load_open_clip

        return load_open_clip(model, device, precision, cache_dir, rules)
    raise PipelineError(
        f"There is no teacher {spec!r}. Use conse, openai:NAME, openai:PATH, open_clip:MODEL/TAG, "
        "open_clip:MODEL/TAG@FILE or open_clip:local-dir:PATH."
    )
