"""Where the two views of a training batch come from: photos decoded anew, or features of a backbone that stays as it is."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pipeline.classifier.batches import Batch
from pipeline.classifier.features import MEMORY, FeatureStore, images_key
from pipeline.classifier.inference import image_batches, load_batch, to_device, to_float
from pipeline.classifier.network import CamNet
from pipeline.machine import distributed
from pipeline.machine.precision import autocast
from pipeline.machine.progress import bar
from pipeline.photos.augment import color_jitter, draw_flips, draw_jitter, flip
from pipeline.photos.image_cache import ImageCache
from pipeline.photos.prefetch import Prefetch

JITTERED = 2
"""Colour-jittered views of an image in a `FeatureSource`."""


class ViewSource(Protocol):
    """Gives the views of batches, and the part of the network that they go through."""

    waited: float
    """Seconds spent waiting for data."""

    def forward(self, view: Tensor) -> Tensor:
        """Logits Tensor[b, C] of one view."""
        ...

    def views(self, batches: Sequence[Batch], generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor | None]]:
        """First and, if asked for, second view of this process's part of every batch, in order."""
        ...


class PhotoSource:
    """Views of photos, flipped and jittered on the device; the general case.

    Args:
        network: images float Tensor[b, 3, S, S] in [0, 1] to logits.
        paths: N photos.
        size: S, side of the squashed input.
        jitter: largest colour change of the second view; None for no second view.
        device: where views are made.
        cache: squashed images on disk, or None.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        paths: Sequence[Path | str],
        size: int,
        jitter: float | None,
        device: torch.device,
        cache: ImageCache | None = None,
    ) -> None:
        self.forward = network
        self.waited = 0.0
        self._load = lambda batch: load_batch([paths[i] for i in batch.own_rows], size, cache)
        self._jitter = jitter
        self._device = device

    def views(self, batches: Sequence[Batch], generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor | None]]:
        """See `ViewSource`; draws are made for whole batches, so that they do not depend on the number of processes."""
        loader, waited = Prefetch(self._load, batches), self.waited
        for batch, images in zip(batches, loader, strict=True):
            self.waited = waited + loader.waited
            pixels = to_float(to_device(images, self._device))
            count = len(batch.rows)
            first = flip(pixels, draw_flips(count, generator)[batch.mine])
            second = None
            if self._jitter is not None:
                second = flip(pixels, draw_flips(count, generator)[batch.mine])
                second = color_jitter(second, draw_jitter(count, self._jitter, generator).of(batch.mine))
            yield first, second


class FeatureSource:
    """Views as backbone features, computed once: each image plain, mirrored and, if asked for, jittered twice.

    A backbone that is not trained gives the same features in every epoch, so that an epoch costs only the head. The
    second view is drawn from a few jittered ones instead of being jittered anew.

    Args:
        head: features float Tensor[b, D, h, w] to logits.
        plain: float16 Tensor[2, N, D, h, w], as it is and mirrored.
        jittered: float16 Tensor[V, N, D, h, w], or None for no second view.
    """

    waited = 0.0

    def __init__(self, head: Callable[[Tensor], Tensor], plain: Tensor, jittered: Tensor | None) -> None:
        self.forward = head
        self._plain = plain
        self._jittered = jittered

    def views(self, batches: Sequence[Batch], generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor | None]]:
        """See `ViewSource`."""
        for batch in batches:
            flips = draw_flips(len(batch.rows), generator).long()
            second = None
            if self._jittered is not None:
                drawn = torch.randint(len(self._jittered), (len(batch.rows),), generator=generator)
                second = self._jittered[drawn, batch.rows].float()
            yield self._plain[flips, batch.rows].float(), second


def feature_bytes(model: CamNet, images: int, size: int, jitter: float | None) -> int:
    """Memory that a `FeatureSource` of this many images would take."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        one = model.features(torch.zeros(1, 3, size, size, device=device)).numel()
    return 2 * one * images * (2 if jitter is None else 2 + JITTERED)


def can_share_features(model: CamNet, images: int, size: int, jitter: float | None) -> bool:
    """Whether features stay the same, fit in memory, and one process does the training."""
    frozen = not any(p.requires_grad for p in model.stages.parameters()) and not any(
        m.training for m in model.stages.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)
    )
    return frozen and distributed.world_size() == 1 and feature_bytes(model, images, size, jitter) <= MEMORY


def share_features(
    model: CamNet,
    dtype: torch.dtype | None,
    paths: Sequence[Path | str],
    size: int,
    jitter: float | None,
    seed: int,
    title: str,
    cache: ImageCache | None = None,
    store: FeatureStore | None = None,
) -> FeatureSource:
    """A `FeatureSource` of photos.

    Args:
        model: its head is what the views go through.
        dtype: of the backbone's expensive operations, see `autocast`.
        paths: N photos.
        size: side of the squashed input.
        jitter: largest colour change of the second view; None for no second view.
        seed: of flips and jitter of the second views.
        title: stands before the progress bar.
        cache: squashed images on disk, or None.
        store: has the features, or gets them; None to keep none beyond this source.
    """
    generator = torch.Generator().manual_seed(seed)

    def mirrored(pixels: Tensor) -> list[Tensor]:
        return [pixels, pixels.flip(3)]

    def jittered(pixels: Tensor) -> list[Tensor]:
        return [random_view(pixels, jitter, generator) for _ in range(JITTERED)]

    key = (images_key(paths), size, dtype)
    features = autocast(model.features, dtype, next(model.parameters()).device)
    plain = kept_views(model, features, (*key, "plain"), mirrored, paths, size, title, cache, store)
    second = None
    if jitter is not None:
        title = f"{title}, jittered"
        second = kept_views(model, features, (*key, jitter, seed), jittered, paths, size, title, cache, store)
    return FeatureSource(lambda maps: model.pool(model.head(maps)), plain, second)


@torch.no_grad()
def kept_views(
    model: CamNet,
    features: Callable[[Tensor], Tensor],
    key: Hashable,
    views: Callable[[Tensor], list[Tensor]],
    paths: Sequence[Path | str],
    size: int,
    title: str,
    cache: ImageCache | None,
    store: FeatureStore | None,
) -> Tensor:
    """Maps of V views of every photo, float16 Tensor[V, N, D, h, w]; those of the store where it has them.

    Args:
        model: whose backbone `features` is.
        features: images float Tensor[b, 3, size, size] in [0, 1] to Tensor[b, D, h, w].
        key: names photos and views in the store.
        views: V views Tensor[b, 3, size, size] of a batch.
        paths: N photos.
        size: side of the squashed input.
        title: stands before the progress bar.
        cache: squashed images on disk, or None.
        store: gets the maps where they fit; None to keep none.
    """
    kept = None if store is None else store.find(model, key)
    if kept is not None:
        return kept[0]
    device = next(model.parameters()).device
    made = []
    with bar(title, len(paths)) as progress:
        for rows, images in image_batches(paths, size, 16, cache):
            pixels = to_float(to_device(images, device))
            made.append(torch.stack([features(view) for view in views(pixels)]).half())
            progress.advance(len(rows))
    maps = torch.cat(made, dim=1)
    if store is not None and store.make_room(model, maps.nbytes):
        store.keep(key, [maps])
    return maps


def random_view(pixels: Tensor, jitter: float, generator: torch.Generator) -> Tensor:
    """Each image of Tensor[b, 3, H, W] flipped by chance and jittered."""
    count = len(pixels)
    return color_jitter(flip(pixels, draw_flips(count, generator)), draw_jitter(count, jitter, generator))
