"""How photos become the square views that a network takes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.photos.checked import load_checked
from pipeline.photos.image_cache import ImageCache
from pipeline.photos.prefetch import Stream, chunks
from pipeline.photos.resize import load_view
from pipeline.runs.options import ResizeFilter


@dataclass(frozen=True)
class ViewSpec:
    """Size and filter of views; for training also where they are kept, and the colours of the second view."""

    size: int
    """Side in pixels."""
    resize_filter: ResizeFilter = "bicubic"
    """See `resize`."""
    cache: ImageCache | None = None
    """Keeps resized photos on disk; None to decode them every time."""
    flips: bool = False
    """Whether half of the views in training are mirrored."""
    jitter: float | None = None
    """Largest colour change of the second view, in [0, 0.5]; None for no second view."""
    jitter_order: str = "batch"
    """See `draw_jitter`."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 by path of the photos of a manifest; a photo with another content is refused."""

    def load(self, path: str) -> Tensor:
        """The view of one photo, uint8 Tensor[3, size, size]."""
        if self.cache is not None:
            return self.cache.load_view(path, (self.size, self.size), self.resize_filter)
        return load_checked(
            path, self.digests, lambda source: load_view(source, (self.size, self.size), self.resize_filter)
        )

    def stream(self, paths: Sequence[str], batches: Sequence[Sequence[int]]) -> Stream[Tensor]:
        """Views of batches of rows of `paths`, decoded ahead by threads."""
        return Stream(lambda row: self.load(paths[row]), batches)

    def batches(self, paths: Sequence[str], batch_size: int) -> Iterator[tuple[range, Tensor]]:
        """Rows and their views, uint8 Tensor[B, 3, size, size], in order."""
        rows = chunks(len(paths), batch_size)
        for batch, views in zip(rows, self.stream(paths, rows), strict=True):
            yield batch, torch.stack(views)
