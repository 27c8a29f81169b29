"""Feature maps of whole sets of images, kept in memory from one stage to the next.

A backbone that is not trained gives the same maps of the same images in warm-up, boxes, training and evaluation, and in
every row of a study: only the head on top differs. Whoever runs several stages makes a store and hands it to each.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from pathlib import Path

from torch import Tensor

from pipeline.classifier.network import CamNet

MEMORY = 4 * 2**30
"""Bytes that the maps of a process may take."""


class FeatureStore:
    """Maps by what they show. Of one backbone at a time: those of another, or of one that was trained on, are dropped.

    Args:
        limit: bytes; what was not used for longest makes room.
    """

    def __init__(self, limit: int = MEMORY) -> None:
        self._limit = limit
        self._backbone = ""
        self._kept: OrderedDict[Hashable, list[Tensor]] = OrderedDict()

    def find(self, model: CamNet, key: Hashable) -> list[Tensor] | None:
        """What was kept under this key for the model's backbone as it now is, or None."""
        if self._backbone != backbone_digest(model) or key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def make_room(self, model: CamNet, size: int) -> bool:
        """Drop what is of no use or in the way; False where `size` bytes do not fit at all."""
        digest = backbone_digest(model)
        if digest != self._backbone:
            self.clear()
            self._backbone = digest
        while self._kept and self._bytes() + size > self._limit:
            self._kept.popitem(last=False)
        return size <= self._limit

    def keep(self, key: Hashable, maps: list[Tensor]) -> None:
        """Keep maps of the backbone that `make_room` was last asked for."""
        self._kept[key] = maps

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def _bytes(self) -> int:
        return sum(tensor.nbytes for maps in self._kept.values() for tensor in maps)


def backbone_digest(model: CamNet) -> str:
    """SHA-256 over all that decides a backbone's maps: weights, statistics, how its input is normalised, device."""
    digest = hashlib.sha256(str(model.mean.device).encode())
    for tensor in (*model.stages.state_dict().values(), model.mean, model.std):
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def images_key(paths: Sequence[Path | str]) -> tuple[tuple[str, int, int], ...]:
    """Images as they lie on disk: path, size in bytes and time of the last change of each."""
    facts = ((str(path), Path(path).stat()) for path in paths)
    return tuple((path, fact.st_size, fact.st_mtime_ns) for path, fact in facts)
