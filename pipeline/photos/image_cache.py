"""Resized photos on disk, so that later epochs and runs neither decode nor resize."""

import hashlib
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.photos.checked import load_checked
from pipeline.photos.images import DECODING, UnreadableImage
from pipeline.photos.resize import load_view
from pipeline.runs.options import ResizeFilter
from pipeline.system.errors import PipelineError
from pipeline.system.files import file_key, write_bytes
from pipeline.system.progress import log


def photo_key(path: str, digests: Mapping[str, str]) -> str:
    """What identifies a photo in caches: its SHA-256 if `digests` has its path, else its `file_key`."""
    return digests.get(str(path)) or file_key(path)


class ImageCache:
    """A folder with a file of raw pixels per photo, size and filter. It may be deleted at any time.

    The `photo_key` and `DECODING` name a file, so that a changed photo is decoded again. Threads and processes may share
    the folder.

    Args:
        folder: created with the first file.
        digests: SHA-256 by path of photos whose content has been checked.
    """

    def __init__(self, folder: Path, digests: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._digests = digests or {}

    def load_view(self, path: str, size: tuple[int, int], resize_filter: ResizeFilter = "bicubic") -> Tensor:
        """`resize.load_view`, read from the folder if the pixels are there."""
        file = self._file(path, size, resize_filter)
        try:
            pixels = np.fromfile(file, dtype=np.uint8)
        except FileNotFoundError:
            pixels = np.empty(0, dtype=np.uint8)
        if pixels.size == cache_bytes(1, size):
            return torch.from_numpy(pixels).view(3, *size)
        image = load_checked(path, self._digests, lambda source: load_view(source, size, resize_filter))
        self._keep(file, image.contiguous().numpy())
        return image

    def check_room(self, paths: Collection[str], size: tuple[int, int], resize_filter: ResizeFilter = "bicubic") -> int:
        """Bytes that these photos will add to the folder.

        Raises:
            PipelineError: the disk has less free.
        """
        missing = cache_bytes(sum(not self._file(path, size, resize_filter).is_file() for path in paths), size)
        existing = next(path for path in (self._folder, *self._folder.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise PipelineError(f"{existing} is a file, expected a folder for the cache. Name another folder.")
        free = shutil.disk_usage(existing).free
        if missing > free:
            raise PipelineError(
                f"{self._folder} has {free / 1e9:.1f} GB free, expected {missing / 1e9:.1f} GB for {len(paths)} photos "
                f"at {size[0]}x{size[1]}. Make room, choose another folder, or leave the option out."
            )
        return missing

    def _file(self, path: str, size: tuple[int, int], resize_filter: ResizeFilter) -> Path:
        try:
            key = f"{photo_key(path, self._digests)}\0{DECODING}"
        except OSError as error:
            raise UnreadableImage(f"{path} cannot be read as an image: {error.strerror}. Restore it.") from error
        name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32]
        return self._folder / f"{size[0]}x{size[1]}-{resize_filter}" / name[:2] / f"{name}.rgb"

    def _keep(self, file: Path, pixels: np.ndarray) -> None:
        write_bytes(file, pixels, durable=False)


def open_cache(
    folder: str, digests: Mapping[str, str], size: int, resize_filter: ResizeFilter = "bicubic"
) -> ImageCache | None:
    """The cache in a folder, or None for an empty name. Logs how many bytes these photos will add.

    Args:
        folder: path, or empty.
        digests: path to SHA-256 of the photos that will be read.
        size: side of the square view in pixels.
        resize_filter: of the views, see `photos.resize`.

    Raises:
        PipelineError: the disk has too little room.
    """
    if not folder:
        return None
    cache = ImageCache(Path(folder), digests)
    missing = cache.check_room(digests, (size, size), resize_filter)
    log(f"{folder}: {len(digests)} resized photos will add {missing / 1e6:.1f} MB.")
    return cache


def cache_bytes(images: int, size: tuple[int, int]) -> int:
    """Bytes on disk of cached images of (H, W)."""
    return images * 3 * size[0] * size[1]
