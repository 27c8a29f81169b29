"""Parts that the image encoders of all teachers share: precision, normalisation, batches."""

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Self, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.method.snapping import snapped_size
from pipeline.runs.options import EmbedConfig
from pipeline.system.errors import PipelineError
from pipeline.system.progress import log

Key = TypeVar("Key")
Encoded = TypeVar("Encoded", Tensor, "EncodedViews")
"""What a teacher returns for a batch: global embeddings, or these and the embeddings of the cells."""

CPU_CHUNK = 16
"""Images per forward on a CPU: enough to fill its cores, few enough to keep the activations small."""
PATIENCE = 32
"""Batches for which a view of a rare shape waits for others, see `encode_stream`."""
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of a precision; always float32 on a CPU, where half precision is slow or missing.

    Raises:
        PipelineError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise PipelineError(f"Precision {precision!r} does not exist. Use one of {', '.join(PRECISIONS)}.")
    return PRECISIONS[precision] if device.type != "cpu" else torch.float32


def precision_of(teacher: Any) -> str:
    """Name of the dtype that a teacher computes in; it depends on the device too."""
    return str(getattr(teacher, "dtype", torch.float32)).removeprefix("torch.")


def normalise_pixels(images: Tensor, mean: Sequence[float], std: Sequence[float], device: torch.device) -> Tensor:
    """Normalise pixels, (pixel / 255 - mean) / std, as float32 Tensor[B, 3, H, W], channels-last, on `device`.

    Args:
        images: Tensor[B, 3, H, W], RGB in [0, 255], uint8 or float.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        device: gets the uint8 pixels, a quarter of the bytes, and converts them.
    """
    offset = torch.tensor(mean, device=device).view(3, 1, 1)
    spread = torch.tensor(std, device=device).view(3, 1, 1)
    pixels = images.to(device).contiguous(memory_format=torch.channels_last).float()
    return pixels.div(255).sub_(offset).div_(spread)


@dataclass(frozen=True)
class EncodedViews:
    """Embeddings of B views and of their cells, from one forward pass, on the teacher's device."""

    images: Tensor
    """float32 Tensor[B, D], unit rows: the global embeddings."""
    cells: Tensor | None
    """float32 Tensor[B, h, w, D], unit vectors, from the top left corner row by row; None for a teacher without cells."""


@dataclass(frozen=True)
class ViewRules:
    """How a teacher prepares views. The defaults are those of its training; the other values are the authors' code."""

    statistics: str = "teacher"
    """Mean and standard deviation of the normalisation: the teacher's own, "teacher", or "imagenet"."""
    positions: str = "bicubic"
    """Interpolation of the positional embeddings of an OpenAI tower: "bicubic" or "bilinear"."""
    snap: bool = True
    """Whether an OpenAI tower resizes a view to multiples of its stride; if not, it drops the pixels beyond the last one."""
    resize_filter: str = "teacher"
    """Filter that makes its global views: "teacher", its own, or one of `photos.resize`."""
    cell_attention: Literal["values", "sclip"] = field(default="values", repr=False)
    """What replaces the attention of the last block of a CLIP ViT for its cells, see `tower_cells.transformer_cells`."""

    @classmethod
    def of(cls, options: EmbedConfig) -> Self:
        """The rules that the options of `embed` set."""
        return cls(options.statistics, options.positions, options.snap, options.resize_filter, options.cell_attention)

    def statistics_of(self, mean: Sequence[float], std: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation per channel of the normalisation, given a teacher's own."""
        if self.statistics == "teacher":
            return mean, std
        from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD  # the import takes seconds

        return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    def resize_filter_of(self, teacher: Any) -> str:
        """Filter of the global views of a teacher; see `photos.resize`."""
        return teacher.resize_filter if self.resize_filter == "teacher" else self.resize_filter

    def mark(self, fingerprint: str) -> str:
        """Fingerprint of a teacher with these rules; unchanged for the defaults."""
        if self == ViewRules():
            return fingerprint
        # the attention of the cells is younger than the other rules, whose fingerprints it leaves as they were
        cells = "" if self.cell_attention == ViewRules.cell_attention else f" {self.cell_attention}"
        return hashlib.sha256(f"{fingerprint} {self}{cells}".encode()).hexdigest()


def snap_to_stride(pixels: Tensor, stride: int) -> Tensor:
    """Resize to `snapped_size`.

    A strided network would drop up to `stride - 1` pixels at the right and the bottom. Padding would add a border that no
    photo has. This changes a side by half a stride at most, and leaves few shapes.

    Args:
        pixels: float Tensor[B, 3, H, W].
        stride: pixels per cell of the network's last grid.
    """
    size = snapped_size(*pixels.shape[-2:], stride)
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    return F.interpolate(pixels, size, mode="bilinear", antialias=True)


def concatenate(parts: Sequence[Encoded]) -> Encoded:
    """The results of one or more batches of views of one size as one."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    cells = None if parts[0].cells is None else torch.cat([part.cells for part in parts])
    return EncodedViews(torch.cat([part.images for part in parts]), cells)


def encode_in_chunks(encode: Callable[[Tensor], Encoded], images: Tensor, device: torch.device) -> Encoded:
    """`encode` of uint8 Tensor[B, 3, H, W], B >= 1; on a CPU in chunks of `CPU_CHUNK` images."""
    if device.type != "cpu":
        return encode(images)
    return concatenate([encode(chunk) for chunk in images.split(CPU_CHUNK)])


class OutOfMemoryBackoff(Generic[Encoded]):
    """`encode_images` or `encode_views` of a teacher, with half of a batch if a whole one does not fit in memory.

    A batch that fits at first may not fit later: other programs use the device too, and memory gets fragmented.

    Args:
        encode: the method, of uint8 Tensor[B, 3, H, W].
    """

    def __init__(self, encode: Callable[[Tensor], Encoded]) -> None:
        self._encode = encode
        self._most: int | None = None

    def __call__(self, images: Tensor) -> Encoded:
        """The result for all images, B >= 1, in as few calls as fit.

        Raises:
            PipelineError: one image does not fit.
        """
        parts: list[Encoded] = []
        done = 0
        while done < len(images):
            size = min(self._most or len(images), len(images) - done)
            try:
                parts.append(self._encode(images[done : done + size]))
                done += size
                continue
            except torch.OutOfMemoryError as error:
                if size == 1:
                    shape = "x".join(map(str, images.shape[-2:]))
                    raise PipelineError(
                        f"one view of {shape} pixels no longer fits in the memory of the device. End other programs that use it, "
                        "choose a smaller size or teacher, or run on cpu. Finished work is kept."
                    ) from error
            # outside the except block, as the error keeps tensors alive
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._most = size // 2
            log(f"{size} views no longer fit in the memory of the device; continuing with {self._most} at a time.")
        return concatenate(parts)


def encode_stream(
    encode: Callable[[Tensor], Tensor], views: Iterable[tuple[Key, Tensor]], batch_size: int
) -> Iterator[tuple[list[Key], Tensor]]:
    """Embeddings of views of any shapes, batched by shape across photos.

    A batch is encoded when `batch_size` views have arrived since the last one and a shape has that many, when its first
    view has waited for the views of PATIENCE batches, or at the end. So batches are spread evenly over the views, few views are in memory,
    and none waits long.

    Args:
        encode: uint8 Tensor[B, 3, H, W] to Tensor[B, D].
        views: a key and uint8 Tensor[3, H, W] each.
        batch_size: views of a batch, 1 or more.

    Yields:
        Keys, and their float32 Tensor[b, D] on the CPU; every view once.
    """
    waiting: dict[tuple[int, ...], deque[tuple[int, Key, Tensor]]] = defaultdict(deque)

    def encoded(shape: tuple[int, ...]) -> tuple[list[Key], Tensor]:
        views = waiting[shape]
        _, keys, images = zip(*(views.popleft() for _ in range(min(batch_size, len(views)))), strict=True)
        if not views:
            del waiting[shape]
        return list(keys), encode(torch.stack(images)).float().cpu()

    since = 0
    for number, (key, view) in enumerate(views):
        waiting[tuple(view.shape)].append((number, key, view))
        since += 1
        if since < batch_size:
            continue
        fullest = max(waiting, key=lambda shape: len(waiting[shape]))
        oldest = min(waiting, key=lambda shape: waiting[shape][0][0])
        if number - waiting[oldest][0][0] >= PATIENCE * batch_size:
            yield encoded(oldest)
        elif len(waiting[fullest]) >= batch_size:
            since = 0
            yield encoded(fullest)
    while waiting:
        yield encoded(next(iter(waiting)))


def find_batch_size(encode: Callable[[Tensor], Any], image_size: tuple[int, int], device: str) -> int:
    """Images per call of `encode` that fit the device, for `--batch-size 0`.

    Args:
        encode: a teacher's `encode_images` or `encode_views`.
        image_size: (H, W) of the largest view.
        device: where the teacher runs.

    Returns:
        On CUDA the largest power of two up to 512 that does not run out of memory; larger batches are not faster.
        Elsewhere `CPU_CHUNK`, because a teacher splits larger batches.

    Raises:
        PipelineError: one image does not fit.
    """
    if torch.device(device).type != "cuda":
        return CPU_CHUNK
    fitting = 0
    for size in (2**k for k in range(10)):
        try:
            encode(torch.zeros(size, 3, *image_size, dtype=torch.uint8))
        except torch.OutOfMemoryError:
            break
        fitting = size
    torch.cuda.empty_cache()
    if not fitting:
        raise PipelineError(
            f"One {image_size[0]}x{image_size[1]} view does not fit in the memory of {device}. "
            "Choose a smaller size or teacher, or run on cpu."
        )
    return fitting
