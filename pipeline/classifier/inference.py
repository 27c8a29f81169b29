"""Batches of images through a classifier, without gradients."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.artifacts.checkpoints import Checkpoint, load_partial, save_partial
from pipeline.classifier.backbones import Tower
from pipeline.classifier.engines import Engine, Run, run_of
from pipeline.classifier.features import FeatureStore, map_shape
from pipeline.classifier.network import CamNet, build_classifier
from pipeline.photos.prefetch import chunks
from pipeline.photos.views import ViewSpec
from pipeline.runs.graph import MAKERS
from pipeline.system import distributed
from pipeline.system.errors import PipelineError
from pipeline.system.progress import bar

SAVE_EVERY = 64
"""Batches between two saves of maps on disk."""


def to_float(images: Tensor) -> Tensor:
    """Float Tensor[B, 3, H, W] in [0, 1], channels last, of uint8 images."""
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """The images on a device, copied asynchronously."""
    if device.type == "cuda":
        images = images.pin_memory()  # CUDA copies only from pinned memory asynchronously
    return images.to(device, non_blocking=True)


def feature_run(model: Tower, dtype: torch.dtype | None = None, engine: Engine = "auto") -> Run:
    """The model's backbone with its present weights, images to maps, on a fast engine.

    Args:
        model: see `Tower.features`.
        dtype: dtype of the expensive operations; None for float32.
        engine: see `engines.run_of`.
    """
    run = run_of(model.stages, model.mean.device, dtype, engine)
    return lambda images: run((images - model.mean) / model.std)


@torch.no_grad()
def feature_batches(
    model: Tower,
    paths: Sequence[str],
    size: int,
    batch_size: int = 16,
    *,
    title: str = "predict",
    store: FeatureStore | None = None,
    rounded: bool = True,
) -> Iterator[tuple[range, Tensor]]:
    """Rows and their backbone maps, in order; read from the store if it has them.

    Args:
        model: in eval mode.
        paths: N images.
        size: side of the square input.
        batch_size: images per call.
        title: title of the progress bar.
        store: keeps the maps that fit; None to keep none, as for a trained backbone.
        rounded: whether to round maps to half precision, as a store does; False needs a `store` of None.

    Yields:
        Rows, and float32 Tensor[b, D, h, w] on the model's device.
    """
    device = model.mean.device
    maps = None
    if store is not None and len(paths):
        key = store.views_key(paths, ViewSpec(size, model.resize_filter))
        maps = store.open(model, key, (len(paths), 1, *map_shape(model, size)))
    done = 0 if maps is None else maps.done
    for rows in chunks(done, batch_size):
        yield rows, maps.rows(torch.arange(rows.start, rows.stop), 0, device).float()
    if done == len(paths):
        return
    features = feature_run(model)
    with bar(title, len(paths), done) as progress:
        digests = {} if store is None else store.digests
        views = ViewSpec(size, model.resize_filter, digests=digests).batches(paths[done:], batch_size)
        for number, (rows, images) in enumerate(views):
            computed = features(to_float(to_device(images, device)))
            computed = computed.half() if rounded else computed
            if maps is not None:
                maps.append(computed[:, None])
                if number % SAVE_EVERY == 0 or maps.done == len(paths):
                    maps.save()
            progress.advance(len(rows))
            # the memory layout of kept maps, because the last digits of sums over a map depend on it
            yield range(done + rows.start, done + rows.stop), computed.float().contiguous()


def shares(count: int, batch_size: int) -> list[range]:
    """Groups of rows for the processes to share: whole batches, the same for any number of processes.

    The last digits of a network depend on the batch, so several processes get the results of one. A killed process loses
    at most the work of a group; a group has at most 16 batches, and fewer where there would be less than 64 groups.
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
    """Logits float32 Tensor[N, C] on the CPU in every process, those of each image computed by one process.

    See `feature_batches` for the arguments; puts the model in eval mode.
    """
    model.eval()
    logits = torch.zeros(len(paths), model.head.out_channels)
    mine = [row for rows in distributed.shard(shares(len(paths), batch_size)) for row in rows]
    own_paths = [paths[row] for row in mine]
    for rows, maps in feature_batches(model, own_paths, size, batch_size, title=title, store=store, rounded=rounded):
        logits[mine[rows.start : rows.stop]] = model.logits(maps).cpu()
    distributed.barrier()  # one process may need much longer to decode its photos
    distributed.all_reduce_sum(logits)
    return logits


def predict_once(path: Path, predict: Callable[[], Tensor]) -> Tensor:
    """The logits that `predict` returns in every process, kept at `path`, from which a resumed command reads them."""
    if path.exists():
        return load_partial(path)["logits"]
    logits = predict()
    if distributed.is_main():
        save_partial(path, {"logits": logits})
    distributed.barrier()  # from here on, every process can read them
    return logits


def load_classifier(checkpoint: Checkpoint, device: str | torch.device = "cpu") -> CamNet:
    """The classifier of a checkpoint, in eval mode.

    Raises:
        PipelineError: the weights do not fit the architecture.
    """
    try:
        model = build_classifier(**checkpoint.architecture, pretrained=False)
        model.load_state_dict(checkpoint.weights)
    except (RuntimeError, ValueError) as error:
        name = f"{checkpoint.provenance.schema}.pt"
        reason = " ".join(str(error).split())[:200]
        raise PipelineError(
            f"the weights in {name} do not fit its architecture ({reason}). Rebuild the file with "
            f"`ccd {MAKERS.get(name, 'train')} --force`."
        ) from error
    return model.to(device, memory_format=torch.channels_last).eval()
