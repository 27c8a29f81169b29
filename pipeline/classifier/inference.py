"""Batches of images through a classifier, without gradients."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.artifacts.checkpoints import Checkpoint, load_partial, save_pt
from pipeline.classifier.engines import Engine, Run, run_of
from pipeline.classifier.features import FeatureStore, map_shape
from pipeline.classifier.network import CamNet, build_classifier
from pipeline.photos.prefetch import chunks
from pipeline.photos.views import ViewSpec
from pipeline.system import distributed
from pipeline.system.progress import bar

SAVE_EVERY = 64
"""Batches between two savings of maps on disk."""


def to_float(images: Tensor) -> Tensor:
    """Float Tensor[B, 3, H, W] in [0, 1], channels last, of uint8 images."""
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """The images on a device; the program goes on while they travel."""
    if device.type == "cuda":
        images = images.pin_memory()  # from other memory, CUDA finishes all earlier work before it copies
    return images.to(device, non_blocking=True)


def feature_run(model: CamNet, dtype: torch.dtype | None = None, engine: Engine = "auto") -> Run:
    """What the model's backbone as it now is makes of images, on a fast engine.

    Args:
        model: see `CamNet.features`.
        dtype: of the expensive operations; None for float32.
        engine: see `engines.run_of`.
    """
    run = run_of(model.stages, model.mean.device, dtype, engine)
    return lambda images: run((images - model.mean) / model.std)


@torch.no_grad()
def feature_batches(
    model: CamNet,
    paths: Sequence[str],
    size: int,
    batch_size: int = 16,
    *,
    title: str = "predict",
    store: FeatureStore | None = None,
    rounded: bool = True,
) -> Iterator[tuple[range, Tensor]]:
    """Rows and their backbone maps, in order; from the store where it has them.

    Args:
        model: in eval mode.
        paths: N images.
        size: side of the square input.
        batch_size: images per call.
        title: stands before the progress bar.
        store: gets the maps where they fit; None to keep none. For a backbone that is trained it is of no use.
        rounded: whether maps are rounded to half precision, as those in a store are; False needs a `store` of None.

    Yields:
        Rows, and float32 Tensor[b, D, h, w] on the model's device.
    """
    device = model.mean.device
    maps = None
    if store is not None and len(paths):
        key = f"{store.images_key(paths)} {size} {model.resize_filter}"
        maps = store.open(model, key, (len(paths), 1, *map_shape(model, size)))
    done = 0 if maps is None else maps.done
    for rows in chunks(done, batch_size):
        yield rows, maps.rows(torch.arange(rows.start, rows.stop), 0, device).float()
    if done == len(paths):
        return
    features = feature_run(model)
    with bar(title, len(paths), done) as progress:
        views = ViewSpec(size, model.resize_filter).batches(paths[done:], batch_size)
        for number, (rows, images) in enumerate(views):
            found = features(to_float(to_device(images, device)))
            found = found.half() if rounded else found
            if maps is not None:
                maps.append(found[:, None])
                if number % SAVE_EVERY == 0 or maps.done == len(paths):
                    maps.save()
            progress.advance(len(rows))
            # laid out as kept maps are: sums over a map must not depend on where it comes from
            yield range(done + rows.start, done + rows.stop), found.float().contiguous()


def shares(count: int, batch_size: int) -> list[range]:
    """The rows of images in groups that processes share: whole batches, the same whatever the number of processes.

    A network's last digits depend on the batch, so that sharing batches gives what one process gives. Groups are as large
    as leaves 64 of them, up to 16 batches: work is lost by the group where a process is killed.
    """
    batches = -(-count // batch_size)
    return chunks(count, batch_size * min(max(batches // 64, 1), 16))


@torch.no_grad()
def predict_together(
    model: CamNet,
    paths: Sequence[str],
    size: int,
    batch_size: int = 16,
    *,
    title: str = "predict",
    store: FeatureStore | None = None,
    rounded: bool = True,
) -> Tensor:
    """Logits float32 Tensor[N, C] on the CPU in every process, each image's computed by one of them.

    Arguments are those of `feature_batches`; the model is put in eval mode.
    """
    model.eval()
    logits = torch.zeros(len(paths), model.head.out_channels)
    mine = [row for rows in distributed.shard(shares(len(paths), batch_size)) for row in rows]
    own_paths = [paths[row] for row in mine]
    for rows, maps in feature_batches(model, own_paths, size, batch_size, title=title, store=store, rounded=rounded):
        logits[mine[rows.start : rows.stop]] = model.logits(maps).cpu()
    distributed.barrier()  # a process may have far more to decode than another
    distributed.all_reduce_sum(logits)
    return logits


def predict_once(
    path: Path,
    model: CamNet,
    paths: Sequence[str],
    size: int,
    batch_size: int = 16,
    *,
    title: str = "predict",
    store: FeatureStore | None = None,
    rounded: bool = True,
) -> Tensor:
    """`predict_together`, kept at `path` so that a command that continues a killed one need not predict again."""
    if path.exists():
        return load_partial(path)["logits"]
    logits = predict_together(model, paths, size, batch_size, title=title, store=store, rounded=rounded)
    if distributed.is_main():
        save_pt(path, {"logits": logits})
    distributed.barrier()  # from here on, every process can read them
    return logits


def load_classifier(checkpoint: Checkpoint, device: str | torch.device = "cpu") -> CamNet:
    """The classifier of a checkpoint, with the weights to predict with, in eval mode."""
    model = build_classifier(**checkpoint.architecture, pretrained=False)
    model.load_state_dict(checkpoint.weights)
    return model.to(device, memory_format=torch.channels_last).eval()
