"""A teacher's embeddings against those of its own package: the same images, the same texts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image

from pipeline.teachers.activations import count_gelus
from pipeline.teachers.check_result import Check
from pipeline.teachers.encoding import precision_of
from pipeline.teachers.package import Package
from pipeline.teachers.prompts import PAPER_TEMPLATES

COSINES = {"float32": 0.9999, "bfloat16": 0.999, "float16": 0.999}
"""Smallest cosine with the package's embedding, by the precision of the teacher."""

PIXEL_TOLERANCE = 0.05
"""Largest difference of normalised pixels that rounding to half precision explains."""

NAMES = ("big cat", "guitar", "TV monitor", "café", "dog, cat & cow", "small red car by an old house")
"""Names of several lengths, with capital letters and punctuation."""


def check_images(teacher: Any, package: Package) -> Check:
    """Lowest cosine of a teacher's image embeddings with its package's, at the native size.

    Preprocessing and activation are compared directly, because wrong ones may change an embedding by less than rounding does.
    """
    images = sample_images(package.size)
    pixels = torch.stack([package.transform(to_pil_image(image)) for image in images])
    with exact_convolutions():
        cosine = lowest_cosine(teacher.encode_images(images), run(package.model.encode_image, pixels))
    needed, suspect = COSINES[precision_of(teacher)], ""
    if not alike(teacher.pixels(images), pixels):
        suspect = "preprocessing"
    elif not same_activation(teacher, package):
        suspect = "activation"
    elif not cosine >= needed:
        suspect = "weights"
    return Check("image tower", cosine, needed, suspect)


def check_texts(teacher: Any, package: Package) -> Check:
    """Lowest cosine of a teacher's text embeddings with its package's; tokens and activation are compared directly."""
    texts = [template.replace("{}", name) for name in NAMES for template in PAPER_TEMPLATES]
    tokens = package.tokenizer(texts)
    ours, theirs = teacher.encode_texts(texts), run(package.model.encode_text, tokens)
    cosine, needed, suspect = lowest_cosine(ours, theirs), COSINES[precision_of(teacher)], ""
    if hasattr(teacher, "tokens") and not torch.equal(teacher.tokens(texts).cpu(), tokens):
        suspect = "text"
    elif not same_activation(teacher, package):
        suspect = "activation"
    elif not cosine >= needed:
        suspect = "text" if is_permuted(ours, theirs) else "weights"
    return Check("texts", cosine, needed, suspect)


@torch.inference_mode()
def run(encode: Callable[[Any], Tensor], batch: Any) -> Tensor:
    """Unit embeddings of a package's model, float32 Tensor[B, D]."""
    return F.normalize(encode(batch).float(), dim=1)


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Convolutions on CUDA without TF32, whose rounding hides small differences."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def lowest_cosine(ours: Tensor, theirs: Tensor) -> float:
    """Lowest cosine of two Tensor[B, D] row by row; NaN if a value is not finite."""
    return F.cosine_similarity(ours.cpu().double(), theirs.double(), dim=1).min().item()


def alike(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two batches of normalised pixels are equal up to rounding."""
    return ours.shape == theirs.shape and bool((ours.cpu().float() - theirs).abs().max() <= PIXEL_TOLERANCE)


def same_activation(teacher: Any, package: Package) -> bool:
    """Whether the modules of both models have the same activation; a teacher without `model` has no GELU."""
    model = getattr(teacher, "model", None)
    return model is None or count_gelus(model) == count_gelus(package.model)


def is_permuted(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two Tensor[C, D] have the same rows, up to rounding, in another order."""
    nearest, places = (ours.cpu() @ theirs.T).argmax(dim=1), torch.arange(len(ours))
    return torch.equal(nearest.sort().values, places) and not torch.equal(nearest, places)


def sample_images(size: tuple[int, int]) -> Tensor:
    """Four images of soft colours and of edges, always the same, uint8 Tensor[4, 3, H, W]."""
    colours = 255 * torch.rand(4, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    soft, hard = F.interpolate(colours[:2], size, mode="bilinear"), F.interpolate(colours[2:], size, mode="nearest")
    return torch.cat([soft, hard]).byte()
