"""Photos to the teacher's global embeddings and the embeddings of their cells or tiles; each photo is encoded once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.manifest import SPLITS, Manifest
from pipeline.classifier.features import FeatureStore, Maps, map_shape
from pipeline.classifier.inference import feature_batches
from pipeline.method.crops import grid_boxes
from pipeline.photos.checked import load_checked
from pipeline.photos.images import decoded
from pipeline.photos.prefetch import Stream, chunks
from pipeline.photos.resize import crop, resize
from pipeline.photos.views import ViewSpec
from pipeline.runs.partial_results import PartialResults, compute_partial_results
from pipeline.system import distributed
from pipeline.teachers.embedding_cache import ImageStore
from pipeline.teachers.encoding import OutOfMemoryBackoff, find_batch_size, precision_of
from pipeline.teachers.teacher import Teacher

CELLS = 1
"""Version of the cells that teachers compute (`tower_cells`, `conse`), part of the key of kept ones. Raise it when they change."""
PART = 64
"""Images between two savings of unfinished work; their cells are in memory together."""


@dataclass(frozen=True)
class PhotoEncoder:
    """A teacher, and the views of a photo that it encodes."""

    teacher: Teacher
    views: ViewSpec
    """The global view."""
    device: str
    groups: Sequence[Sequence[str]]
    """Paths of all photos, in the groups whose maps the classifier asks for together."""
    batch_size: int = 0
    """Views per call of the teacher; 0: as many as fit."""
    local: str = "none"
    """Local embeddings: "cells", "tiles" or "none"."""
    tiles: int = 0
    """With local "tiles": tiles per side."""
    store: FeatureStore | None = None
    """Keeps feature maps for the classifier, if the teacher has its network."""

    def encode(self, paths: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Embeddings of photos.

        Yields:
            Rows of `paths`, int64 [b], each once, and their entries: a structured array [b] with `image`, float32 [D], and
            unless `local` is none `cells`, float16 [h, w, D].
        """
        row_of = {path: row for row, path in enumerate(paths)}
        for group in self.groups:
            here = [path for path in group if path in row_of]
            whole = bool(here) and len(here) == len(group) and self.shares_maps
            if whole and hasattr(self.teacher, "encode_maps"):
                yield from self.encode_from_maps(group, row_of)
                continue
            # the batches of a group are those of `encode_from_maps`, also where a killed command resumes
            for rows, entry in self.encode_photos(here, self.open_maps(here) if whole else None):
                yield np.array([row_of[here[row]] for row in rows]), entry

    @property
    def shares_maps(self) -> bool:
        """Whether the classifier may use the teacher's maps."""
        tower = getattr(self.teacher, "tower", None)
        if self.store is None or self.local == "tiles" or tower is None or distributed.world_size() > 1:
            return False
        same_views = tower.resize_filter == self.views.resize_filter and tower.takes(self.views.size)
        return same_views and precision_of(self.teacher) == "float32"

    def encode_from_maps(
        self, group: Sequence[str], row_of: Mapping[str, int]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`encode` of a group from its feature maps, which stay in the store for the classifier."""
        for rows, maps in feature_batches(self.teacher.tower, group, self.views.size, title="maps", store=self.store):
            encoded = self.teacher.encode_maps(maps)
            cells = encoded.cells if self.local == "cells" else None
            yield np.array([row_of[group[row]] for row in rows]), entries(encoded.images, cells)

    def open_maps(self, paths: Sequence[str]) -> Maps | None:
        """The feature maps of photos for the classifier, complete or not; None if the store has no room."""
        shape = (len(paths), 1, *map_shape(self.teacher.tower, self.views.size))
        return self.store.open(self.teacher.tower, self.store.views_key(paths, self.views), shape)

    def encode_photos(self, paths: Sequence[str], maps: Maps | None = None) -> Iterator[tuple[range, np.ndarray]]:
        """`encode` from decoded photos, in order; fills their feature maps."""
        if not paths:
            return
        encode, batch_size = self._encode, self._batch_size
        if self.local != "tiles":
            for rows, images in self.views.batches(paths, batch_size):
                encoded = encode(images)
                if maps is not None and maps.done == rows.start:
                    maps.append(self.teacher.maps_of(encoded)[:, None])
                    maps.save()
                if isinstance(encoded, Tensor):
                    yield rows, entries(encoded, None)
                else:
                    yield rows, entries(encoded.images, encoded.cells if self.local == "cells" else None)
            return
        batches = chunks(len(paths), max(batch_size // (self.tiles**2 + 1), 1))
        for rows, photos in zip(batches, Stream(lambda row: self.load_tiles(paths[row]), batches), strict=True):
            encoded = encode(torch.cat(photos)).unflatten(0, (len(photos), -1))
            yield rows, entries(encoded[:, 0], encoded[:, 1:].unflatten(1, (self.tiles, self.tiles)))

    @property
    def _method(self) -> Callable[[Tensor], Any]:
        with_cells = self.local == "cells" or (self.shares_maps and hasattr(self.teacher, "maps_of"))
        return self.teacher.encode_views if with_cells else self.teacher.encode_images

    @cached_property
    def _batch_size(self) -> int:
        return self.batch_size or find_batch_size(self._method, (self.views.size, self.views.size), self.device)

    @cached_property
    def _encode(self) -> OutOfMemoryBackoff:
        return OutOfMemoryBackoff(self._method)

    def load_tiles(self, path: str) -> Tensor:
        """The global view and the tiles of one photo, uint8 Tensor[1 + tiles^2, 3, size, size]."""
        size = (self.views.size, self.views.size)

        def cut(source: str | bytes) -> Tensor:
            with decoded(source) as image:
                boxes = grid_boxes(tuple(image.shape[1:]), self.tiles)
                whole = resize(image, size, self.views.resize_filter)
                return torch.stack([whole, *(crop(image, box, size) for box in boxes)])

        return load_checked(path, self.views.digests, cut)

    def cell_shape(self) -> tuple[int, ...]:
        """Shape [h, w, D] of the cells of a photo; empty for a teacher without cells."""
        blank = torch.zeros(1, 3, self.views.size, self.views.size, dtype=torch.uint8)
        if self.local == "tiles":
            return (self.tiles, self.tiles, self.teacher.encode_images(blank).shape[1])
        cells = self.teacher.encode_views(blank).cells
        return () if cells is None else tuple(cells.shape[1:])


def entries(images: Tensor, cells: Tensor | None) -> np.ndarray:
    """The structured array of `PhotoEncoder.encode`."""
    columns = {"image": images.float().cpu().numpy()}
    if cells is not None:
        columns["cells"] = cells.half().cpu().numpy()
    return structured(**columns)


def structured(**columns: np.ndarray) -> np.ndarray:
    """Arrays [n, ...] as one structured array [n], a field each."""
    dtype = [(name, values.dtype, values.shape[1:]) for name, values in columns.items()]
    joined = np.empty(len(next(iter(columns.values()))), dtype)
    for name, values in columns.items():
        joined[name] = values
    return joined


def encode_missing(
    encoder: PhotoEncoder,
    manifest: Manifest,
    stores: dict[str, ImageStore],
    key: Sequence[Any],
    partial: PartialResults,
    finish: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
) -> int:
    """Encode the photos that a store lacks, add their entries to the stores, and return their number.

    The processes of torchrun share the work; the first one writes the stores.

    Args:
        encoder: encodes the photos.
        manifest: the photos.
        stores: field of the finished entries to the store that keeps it.
        key: everything but the photos that decides the entries.
        partial: keeps unfinished work.
        finish: maps the entries of `PhotoEncoder.encode` to those that are kept.
    """
    lacking = {name: set(store.missing(manifest.digests)) for name, store in stores.items()}
    # a photo's number is its place in this list, which depends on the stores
    missing: list[str] = []
    rows: list[range] = []
    known: set[str] = set()
    for split in SPLITS:
        here = [each for each in dict.fromkeys(manifest.split(split).digests) if each not in known]
        here = [each for each in here if any(each in lacks for lacks in lacking.values())]
        rows += [range(len(missing) + part.start, len(missing) + part.stop) for part in chunks(len(here), PART)]
        missing += here
        known |= set(here)
    if not missing:
        return 0
    path_of = dict(zip(manifest.digests[::-1], manifest.paths[::-1], strict=True))

    def encode(indices: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.array([row for index in indices for row in rows[index]], dtype=np.int64)
        for batch, entry in encoder.encode([path_of[missing[i]] for i in order]):
            yield order[batch], entry

    parts = compute_partial_results("embed", [len(r) for r in rows], [*key, missing], partial, encode, finish)
    for name, store in stores.items() if distributed.is_main() else ():
        wanted = np.array([each in lacking[name] for each in missing])
        if wanted.any():
            blocks = (part[name][wanted[place.start : place.stop]] for place, part in zip(rows, parts, strict=True))
            store.add([each for each in missing if each in lacking[name]], blocks)
    distributed.barrier()
    for store in stores.values() if not distributed.is_main() else ():
        store.reload()
    return len(missing)
