"""Image files to uint8 RGB tensors."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.photos.formats import RAW, readable_formats, why_unreadable
from pipeline.photos.pixel_budget import PixelBudget
from pipeline.photos.prefetch import default_workers
from pipeline.photos.rgb import SIDEWAYS, orientation, upright_pixels
from pipeline.system.errors import PipelineError, first_line
from pipeline.system.files import regular_file

if TYPE_CHECKING:  # `prepare` checks photos and needs no tensors
    from torch import Tensor

Result = TypeVar("Result")

MAX_PIXELS = 100_000_000
"""Larger images are refused: a file of some kB can claim gigapixels. 100 megapixels are 300 MB of RGB."""

DECODING = 2
"""Version of the decoder; raise it when the pixels of a file change, so that cached pixels are computed again."""

MOST_SCANS = 500
"""Scans of a JPEG of MAX_PIXELS; a smaller one may have more. Each takes 11 bytes and a pass over all pixels."""
MAX_SLOW_PIXELS = 20_000_000
"""Of a PPM that is text, or whose largest sample is neither 255 nor 65,535: 1 to 2 microseconds per pixel."""
MOST_COMMENTS = 1000
"""In a PPM that is text; 20 MB of comments take 6 minutes."""
MOST_PARTS = 200_000
"""Strips or tiles, each of which takes 10 microseconds; MAX_PIXELS could be as many."""

IN_MEMORY = PixelBudget(max(MAX_PIXELS, 12_500_000 * default_workers()))
"""Pixels that all threads together decode and resize, at up to 8 bytes each: 100 megapixels, or 12.5 for each core."""

_WEIGHT = {"WEBP": 2, "AVIF": 2, "JPEG2000": 3}
"""Cost of a pixel whose decoder needs more than 8 bytes for it: 15, 9 and 23 bytes."""

# MAX_PIXELS decides, with an error; Pillow's warning starts below it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableImage(PipelineError):
    """An image file that cannot be decoded; the message names the file and the reason."""


def guarded(source: object, function: Callable[[], Result], kind: str = "an image") -> Result:
    """The result of a function that reads a source; each error of a decoder becomes UnreadableImage.

    That error has no cause, as a cause keeps the frames in which it occurred, and so the pixels. A `with` block would too.

    Args:
        source: a path, the bytes of a file, or the name of something else; named in the error.
        function: reads the source.
        kind: what the source is expected to be.
    """
    try:
        return function()
    except UnreadableImage:
        raise
    except FileNotFoundError:
        problem = "is missing. Check the path."
    # decoders document no errors: on damaged files they raise OSError, SyntaxError, RuntimeError, struct.error and more
    except Exception as error:
        problem = f"cannot be read as {kind}: {_reason(source, error)}. Replace it or leave it out."
    name = "the photo" if isinstance(source, bytes) else source
    raise UnreadableImage(f"{name} {problem}")


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) in pixels as displayed, after the EXIF rotation; reads only the header (PNG: the file).

    Raises:
        UnreadableImage: the file is missing, not an image, or above MAX_PIXELS.
    """
    return _read(path, _displayed_size)


def claimed_cost(source: Path | bytes) -> int:
    """Cost of decoding an image towards `IN_MEMORY`, by its header; 0 if it cannot be decoded."""
    try:
        return _read(source, _pixel_cost)
    except UnreadableImage:
        return 0


def verify_image(path: Path) -> tuple[int, int]:
    """(H, W) as displayed, after decoding the whole file; a JPEG at an eighth of its size, which is faster.

    Raises:
        UnreadableImage: `load_image` of the file would fail.
    """
    with ExitStack() as held:

        def size_after_decoding(image: Image.Image) -> tuple[int, int]:
            size = None if image.format == "PNG" else _displayed_size(image)  # a TIFF changes when it is decoded
            pixels = _decode(image, (1, 1), held)
            return size or pixels.shape[:2]

        return _read(path, size_after_decoding)


@contextmanager
def decoded(source: str | Path | bytes, min_size: tuple[int, int] | None = None) -> Iterator["Tensor"]:
    """`load_image` for a `with` block, during which the pixels count towards `IN_MEMORY`. One thread must not nest two."""
    import torch

    with ExitStack() as held:
        pixels = _read(source, lambda image: _decode(image, min_size, held))
        yield torch.from_numpy(pixels).permute(2, 0, 1)


def load_image(source: str | Path | bytes, min_size: tuple[int, int] | None = None) -> "Tensor":
    """Decode an image, with its EXIF rotation applied, transparency over white, and grey of more than 8 bits scaled.

    Args:
        source: path or content of a file in a format of `readable_formats`; only camera raw is recognised by its suffix.
        min_size: (H, W) that the caller needs. A JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size, never below
            `min_size`. Only for display: the scores of a classifier on such pixels differ by 0.02.

    Returns:
        uint8 Tensor[3, H, W], RGB; a channels-last view, `.contiguous()` copies.

    Raises:
        UnreadableImage: the file is missing, truncated, not an image, or above MAX_PIXELS.
    """
    with decoded(source, min_size) as image:
        return image


def from_pillow(image: Image.Image) -> "Tensor":
    """`load_image` of a Pillow image, opened from a file or made in memory.

    Raises:
        UnreadableImage: its file is broken or closed, it is empty, or it cannot be converted to RGB.
    """
    import torch

    if 0 in image.size:
        raise UnreadableImage(f"a Pillow image of {image.width} x {image.height} has no pixels. Leave it out.")
    name = getattr(image, "filename", "") or f"a Pillow image of mode {image.mode}"
    with ExitStack() as held:
        pixels = guarded(name, lambda: _decode(image, None, held))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _read(source: str | Path | bytes, function: Callable[[Image.Image], Result]) -> Result:
    """The result of a function of the opened image, see `guarded`."""
    source = source if isinstance(source, bytes) else Path(source)
    return guarded(source, lambda: _result(source, function))


def _result(source: Path | bytes, function: Callable[[Image.Image], Result]) -> Result:
    if isinstance(source, Path):
        _check_kind(source)
    _check_profiles(source)
    file = source if isinstance(source, Path) else io.BytesIO(source)
    with Image.open(file, formats=readable_formats()) as image:
        if image.width * image.height > MAX_PIXELS:
            megapixels = image.width * image.height / 1e6
            raise ValueError(f"it has {megapixels:.0f} megapixels, the limit is {MAX_PIXELS / 1e6:.0f}")
        _check_cost(image)
        return function(image)


def _check_kind(path: Path) -> None:
    """Raise an error for a special file, see `regular_file`, and for a raw file, which would give its thumbnail."""
    regular_file(path)
    if path.suffix.lower() in RAW:
        raise ValueError(why_unreadable(path.suffix))


def _check_profiles(source: Path | bytes) -> None:
    """Raise ValueError for a PNG of several colour profiles: Pillow unpacks each when it opens the file, to 64 MB."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        if file.read(4) == b"\x89PNG" and (profiles := _count(b"iCCP", file)) > 2:
            raise ValueError(f"it has {profiles:,} colour profiles, a photo has one")


def _check_cost(image: Image.Image) -> None:
    """Raise ValueError for an image within MAX_PIXELS that would take minutes to decode."""
    pixels = image.width * image.height
    if len(image.tile) > MOST_PARTS:
        raise ValueError(f"it has {len(image.tile):,} strips or tiles, the limit is {MOST_PARTS:,}")
    if image.format in ("JPEG", "MPO"):
        # a marker is not part of a scan; in a video behind the photo it occurs once in 65,536 bytes
        scans = _count(b"\xff\xda", image.fp)
        if scans * pixels > MOST_SCANS * MAX_PIXELS:
            raise ValueError(f"it has {scans:,} scans, a photo has at most 14")
    if image.format == "PPM" and image.tile and image.tile[0][0] != "raw":  # Pillow reads these in Python
        if pixels > MAX_SLOW_PIXELS:
            raise ValueError(f"it has {pixels / 1e6:.0f} megapixels, the limit for its kind of PPM is 20; use PNG")
        if image.tile[0][0] == "ppm_plain" and (comments := _count(b"#", image.fp)) > MOST_COMMENTS:
            raise ValueError(f"it has {comments:,} comments, the limit is {MOST_COMMENTS:,}")


def _count(mark: bytes, file: IO[bytes]) -> int:
    """How often some bytes occur in the first 256 MB of a file, whose position stays."""
    place = file.tell()
    file.seek(0)
    count = sum(block.count(mark) for block in islice(iter(lambda: file.read(1 << 20), b""), 256))
    file.seek(place)
    return count


def _reason(source: object, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        is_file = isinstance(source, Path)
        if (source.stat().st_size if is_file else len(source)) == 0:
            return "the file is empty"
        return (
            why_unreadable(source.suffix) if is_file else None
        ) or f"its format is none of {', '.join(readable_formats())}"
    if isinstance(error, AssertionError):  # Pillow's own
        return "its file was closed before its pixels were read"
    return (getattr(error, "strerror", None) or first_line(error)).rstrip(".")


def _pixel_cost(image: Image.Image) -> int:
    weight = 2 if "progressive" in image.info else _WEIGHT.get(image.format, 1)  # a progressive JPEG needs 10 bytes
    return image.width * image.height * weight


def _displayed_size(image: Image.Image) -> tuple[int, int]:
    return _upright(image, image.size)


def _upright(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of a (width, height) after the image's EXIF rotation."""
    return size if orientation(image) in SIDEWAYS else size[::-1]


def _decode(image: Image.Image, min_size: tuple[int, int] | None, held: ExitStack) -> np.ndarray:
    """uint8 [H, W, 3], upright; a JPEG reduced as far as (H, W) `min_size` allows. Counts towards `IN_MEMORY` while held."""
    if min_size is not None and image.format != "PNG":  # the orientation of a PNG comes after its pixels
        image.draft(None, _upright(image, min_size[::-1])[::-1])
    held.enter_context(IN_MEMORY.take(_pixel_cost(image)))
    height, width = _displayed_size(image)
    pixels = upright_pixels(image)
    if pixels.shape[:2] != (height, width):
        shape = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise ValueError(f"its header gives {width} x {height} pixels, and it has {shape}")
    return pixels
