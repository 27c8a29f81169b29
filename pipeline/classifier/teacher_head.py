"""A zero-shot teacher as a second head of a classifier: an ordinary network on the same feature maps."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST = 100_000
"""Largest size of a tensor of a head, far above that of any."""
SMALLEST = 1e-6
"""Smallest score whose logarithm is taken."""


@dataclass(frozen=True)
class TeacherHeadShape:
    """Everything about a teacher head but its tensors."""

    channels: int
    """E of the feature maps."""
    imagenet: int
    """Classes of the ImageNet classifier of `conse`; 0 where the maps are the teacher's embeddings, see `embedding_map`."""
    size: int
    """D of the embeddings."""
    texts: int
    """S, texts of classes and background classes."""
    outcomes: int
    """C plus the number of background classes."""
    most_texts: int
    """Most texts of a class."""
    classes: int
    """C."""
    cell_share: float
    """See `EmbedConfig.cell_share`."""
    cell_weight: float
    """See `InitLabelsConfig.cell_weight`; 0 for whole images alone."""
    sigmoid: bool
    """Whether the teacher scores each class independently, see `Teacher.logit_bias`."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The shape in a description.

        Raises:
            ValueError: it is not as specified.
        """
        if set(content) != {item.name for item in fields(cls)}:
            raise ValueError("its teacher head is not as specified")
        shape = cls(**content)
        sizes = {name: value for name, value in content.items() if not name.startswith("cell_") and name != "sigmoid"}
        least = {"imagenet": 0}
        if not all(type(size) is int and least.get(name, 1) <= size <= LARGEST for name, size in sizes.items()):
            raise ValueError(f"its teacher head has sizes of {min(sizes.values())} to {max(sizes.values())}")
        shares = 0 <= shape.cell_share <= 1 and 0 <= shape.cell_weight <= 1
        if not (shares and shape.classes <= shape.outcomes and type(shape.sigmoid) is bool):
            raise ValueError("its teacher head is not as specified")
        embeddings = [2 * shape.size] if shape.cell_weight else [shape.size, 2 * shape.size]
        if not shape.imagenet and shape.channels not in embeddings:
            raise ValueError(f"its teacher head has embeddings of {shape.size} in maps of {shape.channels}")
        return shape


class SparseLinear(nn.Linear):
    """A frozen linear map of vectors that are mostly 0, as nine in ten activations of an EfficientNet-Lite are.

    On a CPU it reads only the weights of the other inputs, in half of the time of the dense product. It must not change after
    its first call.
    """

    LARGEST_SHARE = 0.2
    """Largest share of inputs that are not 0; with more of them, the dense product is faster."""

    @cached_property
    def _by_input(self) -> Tensor:
        return self.weight.detach().T.contiguous()

    def forward(self, input: Tensor) -> Tensor:
        """Outputs Tensor[..., K] of vectors Tensor[..., E]."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or input.device.type != "cpu":
            return super().forward(input)
        rows = input.flatten(0, -2)
        row, column = rows.nonzero(as_tuple=True)
        if len(row) > self.LARGEST_SHARE * rows.numel():
            return super().forward(input)
        starts = torch.searchsorted(row, torch.arange(len(rows)))
        values = rows[row, column]
        sums = F.embedding_bag(column, self._by_input, starts, mode="sum", per_sample_weights=values)
        return sums.add_(self.bias).unflatten(0, input.shape[:-1])


class TeacherHead(nn.Module):
    """Logits of the teacher: the logarithm of its score, from the whole map and its best cells, each divided by its bias.

    An affine map per class fits them to another head. Before it, they are the logarithms of the scores of `init-labels`, but
    for the half precision of kept maps and cells.

    Args:
        shape: sizes and options.
    """

    def __init__(self, shape: TeacherHeadShape) -> None:
        super().__init__()
        self.shape = shape
        if shape.imagenet:
            self.imagenet = SparseLinear(shape.channels, shape.imagenet)
            # unit embeddings of the ImageNet classes
            self.register_buffer("words", torch.ones(shape.imagenet, shape.size))
        for name, size in (
            ("text", (shape.texts, shape.size)),  # unit embeddings times the logit scale
            ("bias", (shape.classes,)),
            ("cell_bias", (shape.classes,)),
            ("scale", (shape.classes,)),
        ):
            self.register_buffer(name, torch.ones(*size))
        self.register_buffer("offset", torch.zeros(shape.classes))
        self.register_buffer("logit_bias", torch.zeros(()))
        self.register_buffer("texts_of", torch.zeros(shape.outcomes, shape.most_texts, dtype=torch.int64))

    def vectors(self, maps: Tensor) -> tuple[Tensor, Tensor | None]:
        """Vectors of whole images and of their cells, from feature maps Tensor[B, E, h, w].

        Returns:
            Tensor[B, K] and Tensor[B, J, K] of ImageNet logits or embeddings; None for cells of no weight.
        """
        cells = maps.flatten(2).transpose(1, 2)
        if not self.shape.imagenet:
            return cells[:, 0, -self.shape.size :], cells[..., : self.shape.size]
        if not self.shape.cell_weight:
            return self.imagenet(maps.mean(dim=(2, 3))), None
        logits = self.imagenet(cells)
        return logits.mean(dim=1), logits  # the logits of the mean vector are the mean of the logits

    def probabilities(self, vectors: Tensor) -> Tensor:
        """Class probabilities Tensor[..., C] of vectors Tensor[..., K] of whole images or cells."""
        if self.shape.imagenet:
            vectors = vectors.softmax(-1) @ self.words
        embeddings = F.normalize(vectors, dim=-1)
        logits = (embeddings @ self.text.T)[..., self.texts_of].amax(-1) + self.logit_bias  # [..., C + O]
        outcomes = logits.sigmoid() if self.shape.sigmoid else logits.softmax(-1)
        return outcomes[..., : self.shape.classes]

    def forward(self, maps: Tensor) -> Tensor:
        """Logits Tensor[B, C] of feature maps Tensor[B, E, h, w]."""
        whole, cells = self.vectors(maps)
        scores = self.probabilities(whole) / self.bias
        if self.shape.cell_weight:
            cells = self.probabilities(cells)  # [B, J, C]
            best = max(round(self.shape.cell_share * cells.shape[1]), 1)
            local = cells.topk(best, dim=1).values.mean(1) / self.cell_bias
            scores = (1 - self.shape.cell_weight) * scores + self.shape.cell_weight * local
        return self.scale * scores.clamp(min=SMALLEST).log() + self.offset

    def fit_scale(self, own: Tensor, other: Tensor) -> None:
        """Give the logits of each class the mean and the deviation of another head's over the same images.

        Args:
            own: logits Tensor[N, C] of this head.
            other: logits Tensor[N, C] of the other head.
        """
        spread = own.std(dim=0, correction=0)
        ratio = torch.where(spread > 0, other.std(dim=0, correction=0) / spread.clamp(min=SMALLEST), 1.0)
        self.offset.copy_(ratio * (self.offset - own.mean(dim=0)) + other.mean(dim=0))
        self.scale.mul_(ratio)
