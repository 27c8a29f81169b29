"""A teacher that recognises colours."""

from dataclasses import dataclass, field

import pytest
import torch
from torch.nn import functional as F

from pipeline.teachers.encoding import EncodedViews
from worlds.photos import COLOURS


@dataclass
class ColourTeacher:
    """Embeds an image as its mean colour, and a text as the colour that it ends with; any other text is red."""

    fingerprint: str = "colour-1"
    logit_scale: float = 20.0
    logit_bias: float | None = None
    resize_filter: str = "bicubic"
    dtype: torch.dtype = torch.float32
    colours: dict = field(default_factory=lambda: COLOURS)
    room: int | None = None
    """Views that fit its memory at once."""
    limit: float = float("inf")
    """Views after which it is interrupted."""
    batches: list[int] = field(default_factory=list)
    """Numbers of views of the calls so far."""
    name = "colour"
    multilingual = True
    """It compares texts itself."""
    input_size = 32

    def encode_images(self, images):
        if self.room is not None and len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.batches.append(len(images))
        if sum(self.batches) > self.limit:
            raise KeyboardInterrupt
        return F.normalize(images.float().mean(dim=(2, 3)), dim=1)

    def encode_views(self, images):
        """The cells are the mean colours of a 4 x 4 grid."""
        cells = F.adaptive_avg_pool2d(images.float(), 4).movedim(1, 3) + 1  # or black has no direction
        return EncodedViews(self.encode_images(images), F.normalize(cells, dim=3))

    def encode_texts(self, texts):
        colours = [self.colours.get(text.split()[-1], COLOURS["red"]) for text in texts]
        return F.normalize(torch.tensor(colours).float(), dim=1)


def use_teacher(teacher, patch=None):
    """Let every stage load this teacher: until `patch`, a monkeypatch, is undone, or for the rest of the process."""
    for stage in ("embed", "score_crops"):
        (patch or pytest.MonkeyPatch()).setattr(f"pipeline.stages.{stage}.load_teacher", lambda *_, **__: teacher)
    return teacher
