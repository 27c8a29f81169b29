"""A CLIP image tower as a backbone: the embeddings of its cells and of the whole image as one feature map."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.classifier.towers.cells import CellHead, encode_with_cells


class EmbeddingMap(nn.Module):
    """Normalised pixels to an `embedding_map`.

    Args:
        visual: the tower, Tensor[B, 3, H, W] to Tensor[B, D], or to a tuple that starts with it.
        find_cells: returns how the cells of the tower are embedded; None for a tower without cells. A function instead of its
            result, which refers to modules, so that a copy of this module uses its own.
    """

    def __init__(self, visual: nn.Module, find_cells: Callable[[nn.Module], CellHead | None]) -> None:
        super().__init__()
        self.visual = visual
        self.find_cells = find_cells

    @property
    def has_cells(self) -> bool:
        """Whether the tower has cells."""
        return self.find_cells(self.visual) is not None

    def embed(self, pixels: Tensor) -> Tensor:
        """Global embeddings Tensor[B, D] of any norm."""
        embeddings = self.visual(pixels)
        return embeddings[0] if isinstance(embeddings, tuple) else embeddings

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Unit embeddings of the images and of their cells; see `encode_with_cells`."""
        return encode_with_cells(self.embed, pixels, self.find_cells(self.visual))

    def forward(self, pixels: Tensor) -> Tensor:
        """Tensor[B, 3, H, W] to the map of `embedding_map`."""
        return embedding_map(*self.encode(pixels))


def embedding_map(images: Tensor, cells: Tensor | None) -> Tensor:
    """Embeddings as a feature map: in each cell its own embedding and that of the whole image, times sqrt(D).

    The elements of a unit vector have a mean square of 1/D, so those of the map have about that of other feature maps.

    Args:
        images: Tensor[B, D], unit rows.
        cells: Tensor[B, h, w, D], unit vectors; None for a tower without cells.

    Returns:
        Tensor[B, 2D, h, w], first the cell, then the image; without cells Tensor[B, D, 1, 1].
    """
    scale = images.shape[1] ** 0.5
    if cells is None:
        return scale * images[:, :, None, None]
    whole = images[:, :, None, None].expand(-1, -1, *cells.shape[1:3])
    return scale * torch.cat([cells.permute(0, 3, 1, 2), whole], dim=1)
