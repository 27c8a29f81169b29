"""The protocol of teachers, and the function that loads one by its spec."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pipeline.classifier.lite import WHEELS
from pipeline.runs.graph import remedy
from pipeline.system.errors import PipelineError
from pipeline.teachers.encoding import EncodedViews, ViewRules


@runtime_checkable
class Teacher(Protocol):
    """A dual encoder: images and texts to unit-norm embeddings of one space."""

    name: str
    """Its spec, for example "openai:RN50x64"."""
    fingerprint: str
    """Hash of the weights and of everything else that decides the embeddings."""
    logit_scale: float
    """Scale s in softmax(s * f . t)."""
    logit_bias: float | None
    """Bias b in sigmoid(s * f . t + b) of a teacher that scores each class independently (SigLIP); None for a softmax."""
    input_size: int
    """Native side of a view in pixels; every teacher takes other sizes too."""
    resize_filter: str
    """Filter of its own preprocessing, see `photos.resize`."""

    def encode_images(self, images: Tensor) -> Tensor:
        """Embed RGB Tensor[B, 3, H, W] as float32 Tensor[B, D] with unit rows, on its device.

        Pixels are uint8, or float in [0, 255] where resizing left fractions.
        """
        ...

    def encode_views(self, images: Tensor) -> EncodedViews:
        """Embed views and their cells in one forward pass; the arguments and `images` are those of `encode_images`.

        The cells are local evidence that the pooling of the tower discards. Their grid [h, w] depends only on the size of the
        views. They live in the space of the texts, but score lower and flatter than a whole view.
        """
        ...

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embed C texts as float32 Tensor[C, D] with unit rows, on its device."""
        ...


def load_teacher(
    spec: str,
    device: str | torch.device = "cpu",
    precision: str = "float32",
    rules: ViewRules | None = None,
) -> Teacher:
    """Load the teacher that a spec names.

    Args:
        spec: "conse", "conse:lite0", "conse:lite2", "openai:NAME", "openai:PATH", "open_clip:MODEL/TAG", "open_clip:MODEL/FILE",
            "open_clip:MODEL/TAG@FILE" or "open_clip:local-dir:PATH".
        device: where it runs.
        precision: "float32", "bfloat16" or "float16"; on a CPU, and for `conse`, always float32.
        rules: how it prepares views; by default as in its training.

    Raises:
        PipelineError: no teacher has this spec, or its weights are missing or corrupt.
    """
    # Each of these imports a package that takes seconds or is optional.
    kind, _, model = spec.partition(":")
    if kind == "conse":
        from pipeline.teachers.conse import Conse

        if model in ("", *WHEELS):
            return Conse(device, rules, model)
    if kind == "openai" and model:
        from pipeline.teachers.openai_clip import load_openai

        return load_openai(model, device, precision, rules)
    if kind == "open_clip" and model:
        from pipeline.teachers.open_clip import load_open_clip

        return load_open_clip(model, device, precision, rules)
    raise PipelineError(
        f"There is no teacher {spec!r}. Use conse, conse:lite0, openai:NAME, openai:PATH, open_clip:MODEL/TAG, "
        "open_clip:MODEL/TAG@FILE or open_clip:local-dir:PATH."
    )


def check_weights(teacher: Teacher, spec: str, fingerprint: str, path: Path) -> None:
    """Raise unless the teacher of a spec has the fingerprint of the one that a file was made with."""
    if teacher.fingerprint != fingerprint:
        raise PipelineError(
            f"the weights of {spec} are not those that {path} was made with. "
            f"Rebuild it with {remedy(path, force=True)}."
        )
