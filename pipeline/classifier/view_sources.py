"""Sources of the two views of a training batch: decoded photos, or feature maps of a frozen backbone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from pipeline.classifier.batches import Batch
from pipeline.classifier.features import FeatureStore, Maps, map_shape
from pipeline.classifier.inference import feature_run, to_device, to_float
from pipeline.classifier.network import CamNet
from pipeline.photos.augment import color_jitter, draw_flips, draw_jitter, flip
from pipeline.photos.prefetch import Stream, chunks
from pipeline.photos.views import ViewSpec
from pipeline.system import distributed
from pipeline.system.progress import bar

JITTERED = 2
"""Colour-jittered views of an image in a `FrozenSource`."""
FILL_BATCH = 16
"""Images per batch of maps that are computed to be kept."""
SAVE_IMAGES = 64 * FILL_BATCH
"""Images between two saves of maps on disk."""


class ViewSource(Protocol):
    """Yields the views of batches, and applies the part of the network that follows."""

    owned: bool
    """Whether this process has only the images rank, rank + K and so on of K processes; see `plan_epoch`."""
    waited: float
    """Seconds spent waiting for data."""

    def forward(self, view: Tensor) -> Tensor:
        """Logits Tensor[b, C] of one view."""
        ...

    def views(self, batches: Sequence[Batch], generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The first view, and the second or None, of this process's part of each batch, in order."""
        ...


class PhotoSource:
    """Views of photos, flipped and jittered on the device, for a trained backbone.

    Args:
        network: images float Tensor[b, 3, S, S] in [0, 1] to logits.
        paths: N photos.
        spec: of their views.
        device: device of the views.
    """

    owned = False

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        paths: Sequence[str],
        spec: ViewSpec,
        device: torch.device,
    ) -> None:
        self.forward = network
        self.waited = 0.0
        self._paths = paths
        self._spec = spec
        self._device = device
        self._flips = draw_flips if spec.flips else no_flips

    def views(self, batches: Sequence[Batch], generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor | None]]:
        """See `ViewSource`; random draws are for whole batches, so they do not depend on the number of processes."""
        loader = self._spec.stream(self._paths, [batch.own_rows.tolist() for batch in batches])
        waited = self.waited
        for batch, images in zip(batches, loader, strict=True):
            self.waited = waited + loader.waited
            pixels = to_float(to_device(torch.stack(images), self._device))
            count = len(batch.rows)
            first = flip(pixels, self._flips(count, generator)[batch.mine])
            second = None
            if self._spec.jitter is not None:
                second = flip(pixels, self._flips(count, generator)[batch.mine])
                jitter = draw_jitter(count, self._spec.jitter, generator, self._spec.jitter_order)
                second = color_jitter(second, jitter.of(batch.mine))
            yield first, second


def no_flips(count: int, _: torch.Generator) -> Tensor:
    """As `draw_flips`, without any."""
    return torch.zeros(count, dtype=torch.bool)


class DrawnViews:
    """The views of N images: plain, with flips mirrored, and with jitter `JITTERED` more that are jittered.

    Each random draw belongs to an image, so any batch and any process can compute the same view again.

    Args:
        count: N.
        spec: size, filter and jitter of the views.
        seed: seed of flips and jitter.
    """

    def __init__(self, count: int, spec: ViewSpec, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.draw_flips = draw_flips if spec.flips else no_flips
        self._drawn = [
            (self.draw_flips(count, generator), draw_jitter(count, spec.jitter, generator, spec.jitter_order))
            for _ in range(0 if spec.jitter is None else JITTERED)
        ]
        self.groups = {"plain": 1 + spec.flips} | ({} if spec.jitter is None else {"jittered": JITTERED})
        """Number of views in each group; a group is kept as one array."""

    def make(self, group: str, view: int, pixels: Tensor, rows: Tensor) -> Tensor:
        """One view Tensor[b, 3, H, W] of images int64 Tensor[b] from their pixels, on the device of the pixels."""
        if group == "plain":
            return pixels.flip(3) if view else pixels
        flips, jitter = self._drawn[view]
        return color_jitter(flip(pixels, flips[rows]), jitter.of(rows))


class FrozenSource:
    """Views as maps of a frozen backbone; see `DrawnViews`.

    The maps are the same in every epoch. Each process keeps those of its images, so an epoch trains only the head. Maps
    that do not fit are computed in every epoch, with the same result.

    Args:
        head: maps float Tensor[b, D, h, w] to logits.
        features: images float Tensor[b, 3, S, S] in [0, 1] to maps.
        views: of the N images.
        kept: maps of this process's images by group of views, without the groups that do not fit.
        photos: batches of rows to their square views.
        device: device of the maps.
    """

    def __init__(
        self,
        head: Callable[[Tensor], Tensor],
        features: Callable[[Tensor], Tensor],
        views: DrawnViews,
        kept: Mapping[str, Maps],
        photos: Callable[[Sequence[Sequence[int]]], Stream[Tensor]],
        device: torch.device,
    ) -> None:
        self.forward = head
        self.waited = 0.0
        self.owned = bool(kept)
        self._features = features
        self._views = views
        self._kept = kept
        self._photos = photos
        self._device = device

    def fill(self, rows: Sequence[int], title: str) -> None:
        """Compute the missing maps of this process's images."""
        missing = {group: maps for group, maps in self._kept.items() if maps.done < len(rows)}
        if not missing:
            return
        done = min(maps.done for maps in missing.values())
        batches = [rows[done:][part.start : part.stop] for part in chunks(len(rows) - done, FILL_BATCH)]
        with bar(title, len(rows), done) as progress:
            for batch, images in zip(batches, self._photos(batches), strict=True):
                pixels = to_float(to_device(torch.stack(images), self._device))
                for group, maps in missing.items():
                    if maps.done > done:
                        continue  # computed before the command was killed
                    views = [
                        self._features(self._views.make(group, view, pixels, torch.tensor(batch)))
                        for view in range(self._views.groups[group])
                    ]
                    maps.append(torch.stack(views, dim=1))
                    if maps.done % SAVE_IMAGES < FILL_BATCH or maps.done == len(rows):
                        maps.save()
                done += len(batch)
                progress.advance(len(batch))

    def views(self, batches: Sequence[Batch], generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor | None]]:
        """See `ViewSource`."""
        # drawn for all batches first, so that draws depend neither on processes nor on which maps are kept
        drawn = [self._draw(batch, generator) for batch in batches]
        decode = any(group not in self._kept for group in self._views.groups)
        loader = self._photos([batch.own_rows.tolist() if decode else [] for batch in batches])
        waited = self.waited
        for batch, choice, images in zip(batches, drawn, loader, strict=True):
            self.waited = waited + loader.waited
            pixels = to_float(to_device(torch.stack(images), self._device)) if decode else None
            first, *second = (self._maps(group, views, batch.own_rows, pixels) for group, views in choice.items())
            yield first, second[0] if second else None

    def _draw(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The drawn view of each of this process's images of a batch, int64 Tensor[b] by group."""
        count = len(batch.rows)
        drawn = {"plain": self._views.draw_flips(count, generator).long()}
        if "jittered" in self._views.groups:
            drawn["jittered"] = torch.randint(JITTERED, (count,), generator=generator)
        return {group: views[batch.mine] for group, views in drawn.items()}

    def _maps(self, group: str, views: Tensor, rows: Tensor, pixels: Tensor | None) -> Tensor:
        """One view of each image as float32 Tensor[b, D, h, w], kept or computed."""
        if group in self._kept:
            return self._kept[group].rows(rows // distributed.world_size(), views, self._device).float()
        made = pixels.clone()
        for view in views.unique().tolist():
            here = views == view
            made[here] = self._views.make(group, view, pixels[here], rows[here])
        return self._features(made).half().float()


def is_frozen(model: CamNet) -> bool:
    """Whether training changes neither the weights nor the statistics of the backbone."""
    return not any(p.requires_grad for p in model.stages.parameters()) and not any(
        m.training for m in model.stages.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)
    )


def frozen_source(
    model: CamNet,
    head: Callable[[Tensor], Tensor],
    paths: Sequence[str],
    spec: ViewSpec,
    seed: int,
    *,
    dtype: torch.dtype | None = None,
    store: FeatureStore | None = None,
    title: str = "views",
) -> FrozenSource:
    """A `FrozenSource` of photos; computes the maps that fit.

    Args:
        model: its backbone computes the maps.
        head: maps to logits.
        paths: N photos.
        spec: of their views.
        seed: seed of flips and jitter of the second views.
        dtype: of the backbone's expensive operations; None for float32.
        store: keeps the maps; None for a store of this source alone.
        title: title of the progress bar.
    """
    store = store or FeatureStore()
    rank, processes = distributed.rank(), distributed.world_size()
    rows = range(rank, len(paths), processes)
    views = DrawnViews(len(paths), spec, seed)
    kept: dict[str, Maps] = {}
    if len(paths) >= processes:
        shape = map_shape(model, spec.size)
        for group, count in views.groups.items():
            key = store.views_key([paths[row] for row in rows], spec, dtype)
            if group != "plain" or spec.flips:
                key = f"{key} {group} {spec.flips} {spec.jitter} {spec.jitter_order} {seed} {rank}/{processes}"
            maps = store.open(model, key, (len(rows), count, *shape))
            if maps is not None:
                kept[group] = maps
    # all processes must share batches in the same way, even if the maps fit only in some
    if distributed.world_size() > 1:
        distributed.barrier()  # a process may have read all photos for their keys, which takes long
        lacking = torch.tensor([float(group not in kept) for group in views.groups])
        distributed.all_reduce_max(lacking)
        kept = {group: kept[group] for group, gone in zip(views.groups, lacking.tolist(), strict=True) if not gone}
    photos = partial(spec.stream, paths)
    source = FrozenSource(head, feature_run(model, dtype), views, kept, photos, model.mean.device)
    source.fill(rows, title)
    return source
