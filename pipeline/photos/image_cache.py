"""Resized photos on disk, so that later epochs and runs neither decode nor resize."""

import hashlib
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.photos.images import DECODING, UnreadableImage
from pipeline.photos.resize import load_view
from pipeline.system.errors import PipelineError
from pipeline.system.progress import log


class ImageCache:
    """A folder that fills with one file of raw pixels per image and size, and may be deleted at any time.

    A file is named for the image's path, size in bytes, time of change and `DECODING`, so that a changed image is decoded
    again.
    Threads and processes may share the folder.

    Args:
        folder: created when the first image is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load_view(self, path: Path, size: tuple[int, int], resize_filter: str = "bicubic") -> Tensor:
        """What `photos.resize.load_view` returns, from the folder where it has been asked for before."""
        file = self._file(path, size, resize_filter)
        try:
            pixels = np.fromfile(file, dtype=np.uint8)
        except FileNotFoundError:
            pixels = np.empty(0, dtype=np.uint8)
        if pixels.size == cache_bytes(1, size):
            return torch.from_numpy(pixels).view(3, *size)
        image = load_view(path, size, resize_filter)
        self._keep(file, image.contiguous().numpy())
        return image

    def check_room(self, paths: list[Path], size: tuple[int, int], resize_filter: str = "bicubic") -> int:
        """Bytes that these images will still add to the folder.

        Raises:
            PipelineError: the disk has less free.
        """
        missing = cache_bytes(sum(not self._file(path, size, resize_filter).is_file() for path in paths), size)
        existing = next(path for path in (self._folder, *self._folder.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise PipelineError(f"{existing} is a file, expected a folder for the cache. Name another.")
        free = shutil.disk_usage(existing).free
        if missing > free:
            raise PipelineError(
                f"{self._folder} has {free / 1e9:.1f} GB free, expected {missing / 1e9:.1f} GB for {len(paths)} images "
                f"at {size[0]}x{size[1]}. Make room, choose another folder or do without the cache."
            )
        return missing

    def _file(self, path: Path, size: tuple[int, int], resize_filter: str) -> Path:
        try:
            status = path.stat()
        except OSError as error:
            raise UnreadableImage(f"{path} cannot be read as an image: {error.strerror}. Restore it.") from error
        key = f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\0{DECODING}"
        name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32]
        way = "" if resize_filter == "bicubic" else f"-{resize_filter}"
        return self._folder / f"{size[0]}x{size[1]}{way}" / name[:2] / f"{name}.rgb"

    def _keep(self, file: Path, pixels: np.ndarray) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}.partial")
        pixels.tofile(partial)
        partial.replace(file)


def open_cache(
    folder: str, paths: Sequence[Path | str], size: int, resize_filter: str = "bicubic"
) -> ImageCache | None:
    """The cache in a folder, after a line that says what these images add to it; None for no folder.

    Args:
        folder: path, or empty.
        paths: images that will be asked for.
        size: side of the square view in pixels.
        resize_filter: of the views, see `photos.resize`.

    Raises:
        PipelineError: the disk has not the room.
    """
    if not folder:
        return None
    cache = ImageCache(Path(folder))
    missing = cache.check_room([Path(path) for path in paths], (size, size), resize_filter)
    log(f"{folder}: {len(paths)} resized photos will add {missing / 1e6:.1f} MB.")
    return cache


def cache_bytes(images: int, size: tuple[int, int]) -> int:
    """Bytes on disk of so many cached images of (H, W)."""
    return images * 3 * size[0] * size[1]
