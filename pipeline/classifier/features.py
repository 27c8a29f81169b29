"""Feature maps of whole sets of images, kept from one epoch and one stage to the next.

A frozen backbone returns the same maps of the same images in warm-up, boxes, training and evaluation, and in every row
of an ablation: only the head differs. A caller that runs several stages creates one store for all of them. Maps that do
not fit in memory go to disk, and those that do not fit there are computed again. This affects only the duration of a
stage: all maps are rounded to half precision.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.classifier.backbones import Tower
from pipeline.photos.image_cache import photo_key
from pipeline.photos.views import ViewSpec
from pipeline.system.devices import free_memory
from pipeline.system.errors import PipelineError, reason_of
from pipeline.system.files import write_text
from pipeline.system.progress import log

MEMORY = 4 * 2**30
"""Largest size of the maps of a process in memory, in bytes."""
DISK = 64 * 2**30
"""Largest size of more maps on disk, in bytes, if the store has a folder."""
FREE_SHARE = 0.5
"""Share of the free space of a disk or a GPU's memory that maps may use."""


class Maps:
    """Maps of the images of one process, filled from the first to the last.

    Args:
        values: float16 [N, V, D, h, w], V views of each image: in memory, or a memory-mapped file.
    """

    def __init__(self, values: Tensor | np.memmap) -> None:
        self.values = values if isinstance(values, Tensor) else torch.from_numpy(values)
        self.done = 0
        """Number of images, from the first on, whose maps are computed."""
        self._file = None if isinstance(values, Tensor) else values
        self._note = None if self._file is None else Path(self._file.filename).with_suffix(".done")
        if self._note is not None and self._note.exists():
            self.done = int(self._note.read_text())

    def append(self, maps: Tensor) -> None:
        """Append the maps Tensor[b, V, D, h, w] of the next images."""
        self.values[self.done : self.done + len(maps)] = maps.to(self.values.device, torch.float16)
        self.done += len(maps)

    def save(self) -> None:
        """Record the progress of maps on disk, so that a killed command can resume."""
        if self._file is not None:
            self._file.flush()
            write_text(self._note, str(self.done))

    def rows(self, images: Tensor, views: Tensor | int, device: torch.device) -> Tensor:
        """Maps float16 Tensor[b, D, h, w] of one view of each image in int64 Tensor[b], on a device."""
        maps = self.values[images.to(self.values.device), torch.as_tensor(views, device=self.values.device)]
        pinned = maps.pin_memory() if device.type == "cuda" and maps.device != device else maps
        return pinned.to(device, non_blocking=True)

    def __len__(self) -> int:
        return len(self.values)


class FeatureStore:
    """Maps of one backbone by images and views. A backbone with other weights replaces all maps.

    Args:
        memory: largest size in memory, in bytes.
        disk: largest size on disk, in bytes.
        folder: folder of the maps that do not fit in memory; None for no files. A killed command resumes from its files.
            You may delete it while no process uses it.
    """

    def __init__(self, memory: int = MEMORY, disk: int = DISK, folder: Path | None = None) -> None:
        self._memory = memory
        self._disk = disk
        self._folder = folder
        self._backbone = ""
        self._kept: dict[str, Maps] = {}  # least recently used first
        self._on_disk: dict[str, Path] = {}
        self.digests: Mapping[str, str] = {}
        """SHA-256 by path of photos whose content has been checked."""

    def know(self, digests: Mapping[str, str]) -> None:
        """Set the SHA-256 by path of photos whose content has been checked, so that the store does not read them."""
        self.digests = digests

    def images_key(self, paths: Sequence[str]) -> str:
        """Hash of the `photo_key` of images."""
        digest = hashlib.sha256()
        for path in paths:
            digest.update(f"{photo_key(path, self.digests)}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def views_key(self, paths: Sequence[str], spec: ViewSpec, dtype: torch.dtype | None = None) -> str:
        """Key of the maps of plain views, computed in a dtype; None for float32."""
        return f"{self.images_key(paths)} {spec.size} {spec.resize_filter} {dtype}"

    def open(self, model: Tower, key: str, shape: Sequence[int]) -> Maps | None:
        """The maps of a key, complete or not; None if they fit neither in memory nor on disk.

        Args:
            model: its backbone, with its present weights, computes the maps.
            key: identifies images and views.
            shape: (N, V, D, h, w).
        """
        digest = backbone_digest(model)
        if digest != self._backbone:
            self.clear()
            self._backbone = digest
        maps = self._kept.pop(key, None) or self._place(key, shape, next(model.parameters()).device)
        if maps is not None:
            self._kept[key] = maps
        return maps

    def _place(self, key: str, shape: Sequence[int], device: torch.device) -> Maps | None:
        size = 2 * int(np.prod(shape))
        taken = self._used(device.type)
        # a share of the free and the used memory, or each set of maps would get half of the rest only
        if device.type != "cpu" and taken + size <= FREE_SHARE * (taken + free_memory(device)):
            return Maps(torch.empty(*shape, dtype=torch.float16, device=device))
        if self._used("cpu") + size <= self._memory:
            return Maps(torch.empty(*shape, dtype=torch.float16))
        file = None if self._folder is None else self._folder / f"{self._file_name(key, shape)}.f16"
        if file is not None and self._fits_on_disk(file, size):
            self._on_disk[key] = file
            return Maps(mapped(file, shape))
        if size > self._memory:
            return None
        while self._used("cpu") + size > self._memory:
            del self._kept[next(name for name in self._kept if self._kind(name) == "cpu")]
        return Maps(torch.empty(*shape, dtype=torch.float16))

    def _kind(self, key: str) -> str:
        """Where the maps of a key are stored: "disk", or the type of a device."""
        return "disk" if key in self._on_disk else self._kept[key].values.device.type

    def _used(self, kind: str) -> int:
        """Bytes of the maps that are stored in one kind of place."""
        return sum(maps.values.nbytes for key, maps in self._kept.items() if self._kind(key) == kind)

    def _fits_on_disk(self, file: Path, size: int) -> bool:
        if not size:
            return False  # an empty file cannot be mapped
        if file.exists():
            return True
        taken = self._used("disk")
        existing = next(parent for parent in file.absolute().parents if parent.is_dir())
        if taken + size <= self._disk and size <= FREE_SHARE * shutil.disk_usage(existing).free:
            return True
        log(
            f"{size / 1e9:.1f} GB of features fit neither in memory nor in {file.parent}: they are computed in every epoch."
        )
        return False

    def _file_name(self, key: str, shape: Sequence[int]) -> str:
        return hashlib.sha256(f"{self._backbone}\0{key}\0{tuple(shape)}".encode()).hexdigest()[:32]

    def clear(self) -> None:
        """Drop all maps of this process, in memory and on disk."""
        on_gpu = self._used("cuda") > 0
        self._kept.clear()
        for file in self._on_disk.values():
            file.unlink(missing_ok=True)
            file.with_suffix(".done").unlink(missing_ok=True)
        self._on_disk.clear()
        if on_gpu:
            torch.cuda.empty_cache()  # else torch keeps the memory reserved

    def remove(self) -> None:
        """Drop all maps and delete the folder, which no other process may be using."""
        self.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def mapped(file: Path, shape: Sequence[int]) -> np.memmap:
    """A file as a float16 array, created if it is missing or has another size.

    Raises:
        PipelineError: the file cannot be created.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = file.exists() and file.stat().st_size == 2 * int(np.prod(shape))
        if not whole:
            file.with_suffix(".done").unlink(missing_ok=True)
            reserve(file, 2 * int(np.prod(shape)))
        return np.memmap(file, np.float16, "r+", shape=tuple(shape))
    except OSError as error:
        raise PipelineError(f"{file} could not be written ({reason_of(error)}). Make room there.") from error


def reserve(file: Path, size: int) -> None:
    """Create a file of zeros for which the disk has room; a process that maps one without room is killed as it writes."""
    with file.open("wb") as stream:
        try:
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(stream.fileno(), 0, size)
            stream.truncate(size)
        except OSError:
            file.unlink()
            raise


def backbone_digest(model: Tower) -> str:
    """SHA-256 of everything that determines a backbone's maps: weights, statistics, input normalisation and device."""
    digest = hashlib.sha256(str(model.mean.device).encode())
    for tensor in (*model.stages.state_dict().values(), model.mean, model.std):
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def map_shape(model: Tower, size: int) -> tuple[int, ...]:
    """(D, h, w) of the maps of an image of `size` pixels."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        return tuple(model.features(torch.zeros(1, 3, size, size, device=device)).shape[1:])
