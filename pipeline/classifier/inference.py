"""Batches of images through a classifier, without gradients."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.classifier.features import FeatureStore, images_key
from pipeline.classifier.network import CamNet, build_classifier
from pipeline.machine.progress import bar
from pipeline.photos.image_cache import ImageCache
from pipeline.photos.images import load_squashed
from pipeline.photos.prefetch import Prefetch, chunks
from pipeline.runs.checkpoints import Checkpoint


def load_batch(paths: Sequence[Path | str], size: int, cache: ImageCache | None = None) -> Tensor:
    """Images squashed to a square, from the cache where there is one: uint8 Tensor[B, 3, size, size]."""
    load = load_squashed if cache is None else cache.load_squashed
    return torch.stack([load(Path(path), (size, size)) for path in paths])


def to_float(images: Tensor) -> Tensor:
    """Float Tensor[B, 3, H, W] in [0, 1], channels last, of uint8 images."""
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """The images on a device; the program goes on while they travel."""
    if device.type == "cuda":
        images = images.pin_memory()  # from other memory, CUDA finishes all earlier work before it copies
    return images.to(device, non_blocking=True)


def image_batches(
    paths: Sequence[Path | str], size: int, batch_size: int, cache: ImageCache | None = None
) -> Iterator[tuple[range, Tensor]]:
    """Rows and their images, uint8 Tensor[B, 3, size, size], in order; from the cache where there is one."""
    ranges = chunks(len(paths), batch_size)
    loader = Prefetch(lambda rows: load_batch([paths[i] for i in rows], size, cache), ranges)
    yield from zip(ranges, loader, strict=True)


@torch.no_grad()
def feature_batches(
    model: CamNet,
    paths: Sequence[Path | str],
    size: int,
    batch_size: int = 16,
    title: str = "images",
    store: FeatureStore | None = None,
) -> Iterator[tuple[range, Tensor]]:
    """Rows and their backbone maps, in order; from the store where it has them.

    Args:
        model: in eval mode.
        paths: N images.
        size: side of the squashed input.
        batch_size: images a call.
        title: stands before the progress bar.
        store: gets the maps while they fit; None to keep none.

    Yields:
        Rows, and float32 Tensor[B, D, h, w] on the model's device.
    """
    device = next(model.parameters()).device
    key = (images_key(paths), size, batch_size)
    kept = None if store is None else store.find(model, key)
    if kept is not None:
        for rows, maps in zip(chunks(len(paths), batch_size), kept, strict=True):
            yield rows, maps.to(device)
        return
    made: list[Tensor] = []
    keep = False
    with bar(title, len(paths)) as progress:
        for rows, images in image_batches(paths, size, batch_size):
            maps = model.features(to_float(to_device(images, device))).float()
            if rows.start == 0 and store is not None:
                keep = store.make_room(model, maps.nbytes * len(paths) // len(rows))
            if keep:
                made.append(maps.cpu())
            progress.advance(len(rows))
            yield rows, maps
    if store is not None and keep and made:
        store.keep(key, made)


@torch.no_grad()
def predict_scores(
    model: CamNet,
    paths: Sequence[Path | str],
    size: int,
    batch_size: int = 16,
    title: str = "predict",
    store: FeatureStore | None = None,
) -> Tensor:
    """Scores sigmoid(z) of images, float32 Tensor[N, C] on the CPU; the model is used in eval mode on its device.

    Arguments are those of `feature_batches`.
    """
    model.eval()
    scores = torch.zeros(len(paths), model.head.out_channels)
    for rows, maps in feature_batches(model, paths, size, batch_size, title, store):
        scores[rows.start : rows.stop] = model.pool(model.head(maps)).sigmoid()
    return scores


def load_classifier(checkpoint: Checkpoint, device: str | torch.device = "cpu") -> CamNet:
    """The classifier of a checkpoint, with the weights to predict with, in eval mode."""
    model = build_classifier(**checkpoint.architecture, pretrained=False)
    model.load_state_dict(checkpoint.weights)
    return model.to(device, memory_format=torch.channels_last).eval()
