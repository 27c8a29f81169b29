"""Box the regions of each image where the warm-up classifier sees each class."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.boxes import Boxes
from pipeline.artifacts.checkpoints import Checkpoint, read_checkpoint
from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.hdf5 import read_arrays, write
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.schema import check_same_images
from pipeline.classifier.features import FeatureStore
from pipeline.classifier.inference import (
    feature_batches,
    load_classifier,
    predict_once,
    predict_together,
    shares,
    to_device,
    to_float,
)
from pipeline.classifier.network import CamNet
from pipeline.evaluation.ground_truth import GroundTruth, read_ground_truth
from pipeline.method.boost import boost_positive
from pipeline.method.cam import (
    cam_boxes,
    expand_boxes,
    normalise,
    quantile_threshold,
    rescale_boxes,
    search_threshold,
    search_windows,
    z_scores,
)
from pipeline.method.cells import cell_boxes
from pipeline.method.crops import grid_boxes, random_boxes
from pipeline.photos.augment import draw_flips, flip
from pipeline.photos.prefetch import chunks
from pipeline.photos.views import ViewSpec
from pipeline.runs.options import BoxesConfig
from pipeline.runs.partial_results import PartialResults
from pipeline.system import distributed
from pipeline.system.errors import PipelineError
from pipeline.system.progress import log


@dataclass(frozen=True)
class CandidateBoxes:
    """M boxes of the train images, with the fields of `Boxes`."""

    image_index: np.ndarray
    """int64 [M], ascending."""
    class_index: np.ndarray
    """int64 [M], -1 for a view without classes."""
    box: np.ndarray
    """float32 [M, 4], xyxy in pixels of the original image."""
    cam_peak: np.ndarray
    """float32 [M], NaN without a CAM."""
    cam: np.ndarray | None
    """uint8 [M, h, w], each map from 0 to 255; None for a view without CAMs."""

    @classmethod
    def without_cams(cls, image_index: np.ndarray, class_index: np.ndarray, box: np.ndarray) -> "CandidateBoxes":
        """Boxes float32 [M, 4] of a view without CAMs."""
        return cls(image_index, class_index, box, np.full(len(box), np.nan, np.float32), None)

    @classmethod
    def joined(cls, parts: list["CandidateBoxes"]) -> "CandidateBoxes":
        """The boxes of all parts, at least one, in order; each part has CAMs."""
        return cls(*(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(cls)))


NO_BOXES = CandidateBoxes.without_cams(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))


def search_tau(model: CamNet, paths: list[str], size: int, config: BoxesConfig) -> float:
    """Threshold on the scores of images of `size` pixels by the authors' search; see `search_threshold`.

    The processes share the batches of a window.
    """
    generator = torch.Generator().manual_seed(config.seed)

    @torch.inference_mode()
    def windows() -> Iterator[Tensor]:
        device = next(model.parameters()).device
        for rows in search_windows(torch.randperm(len(paths), generator=generator)):
            flips = draw_flips(len(rows), generator)
            scores = torch.zeros(len(rows), model.head.out_channels)
            mine = [i for batch in distributed.shard(chunks(len(rows), config.batch_size)) for i in batch]
            shared = [paths[rows[i]] for i in mine]
            for places, images in ViewSpec(size, model.resize_filter).batches(shared, config.batch_size):
                part = mine[places.start : places.stop]
                views = flip(to_float(to_device(images, device)), flips[part])
                scores[part] = model(views).sigmoid().cpu()
            distributed.all_reduce_sum(scores)
            yield scores

    search = search_threshold(windows(), config.search_bound)
    if not search.converged:
        log(
            f"the search for tau used up the images at {search.mean_count:.1f} classes per image, "
            f"outside {config.search_bound:g} to {config.search_bound + 2:g}."
        )
    return search.tau


def select_classes(scores: Tensor, config: BoxesConfig, tau: float = 0.0) -> tuple[Tensor, float]:
    """Select the classes of each image that get boxes.

    Args:
        scores: Tensor[N, C], of the classifier.
        config: options.
        tau: searched threshold, or 0 for the one that selects `config.classes_per_image`.

    Returns:
        bool Tensor[N, C], and tau.
    """
    if config.select == "z-score":
        scores = z_scores(scores)
    tau = tau or quantile_threshold(scores, min(config.classes_per_image, scores.shape[1]))
    return scores >= tau, tau


@torch.inference_mode()
def find_boxes(cams: Tensor, selected: Tensor, rows: range, sizes: Tensor, config: BoxesConfig) -> CandidateBoxes:
    """Boxes of one batch.

    Args:
        cams: float32 Tensor[B, C, h, w] of views of `config.image_size`.
        selected: bool Tensor[B, C], classes to box.
        rows: rows of the images in the train split.
        sizes: Tensor[B, 2], (H, W) of the original images.
        config: options.
    """
    image, kind = selected.to(cams.device).nonzero().unbind(dim=1)  # [P] each
    maps = cams[image, kind]  # [P, h, w]
    size = (config.image_size, config.image_size)
    boxes, owner = cam_boxes(
        maps,
        size,
        threshold=config.threshold,
        margin=config.margin,
        rule=config.rule,
        epsilon=config.cam_epsilon,
    )
    image, maps = image[owner], maps[owner]
    columns = (
        image + rows.start,
        kind[owner],
        rescale_boxes(boxes, size, sizes.to(cams.device)[image]),
        maps.amax(dim=(1, 2)),
        (255 * normalise(maps)).round().to(torch.uint8),
    )
    return CandidateBoxes(*(values.cpu().numpy() for values in columns))


def selected_classes(
    model: CamNet,
    search_size: int,
    train: Manifest,
    config: BoxesConfig,
    store: FeatureStore | None,
    partial: PartialResults,
) -> tuple[Tensor, float]:
    """The classes of each image that get boxes, bool Tensor[N, C], and the threshold that selected them.

    The selection needs the scores of all images. So the backbone runs twice, unless its maps are rounded and fit in the
    store.
    """
    paths = train.paths
    tau = search_tau(model, paths, search_size, config) if config.tau_rule == "search" else 0.0
    how = {"batch_size": config.batch_size, "title": "boxes: tau", "store": store, "rounded": config.half_maps}
    logits = predict_once(partial.path("logits.pt"), lambda: predict_together(model, paths, config.image_size, **how))
    return select_classes(logits.sigmoid(), config, tau)


def box_classes(
    model: CamNet,
    train: Manifest,
    selected: Tensor,
    config: BoxesConfig,
    store: FeatureStore | None,
    partial: PartialResults,
) -> CandidateBoxes:
    """Boxes of the selected classes, bool Tensor[N, C], in the first process; the processes of torchrun share the images."""
    paths, sizes = train.paths, torch.from_numpy(train.sizes)
    groups = shares(len(paths), config.batch_size)
    # no fingerprint contains the batch size, which determines the groups, or a tau that differs between devices
    partial = partial.of([len(group) for group in groups], selected.numpy())
    mine = distributed.shard(range(len(groups)))
    missing = [group for group in mine if not partial.has_arrays(group)]
    rows = np.array([row for group in missing for row in groups[group]], dtype=np.int64)
    ends = {groups[group].stop: group for group in missing}
    parts = []
    for places, features in feature_batches(
        model,
        [paths[row] for row in rows],
        config.image_size,
        config.batch_size,
        title="boxes",
        store=store if missing == list(mine) else None,  # it keeps only the maps of all images of this process
        rounded=config.half_maps,
    ):
        part = rows[places.start : places.stop]
        with torch.inference_mode():
            cams = model.head(features)
        if config.boosted_cam:
            cams = boost_positive(cams, model.boost)
        parts.append(find_boxes(cams, selected[part], range(part[0], part[-1] + 1), sizes[part], config))
        if part[-1] + 1 in ends:
            partial.save_arrays(ends[part[-1] + 1], vars(CandidateBoxes.joined(parts)))
            parts = []
    distributed.barrier()
    if not distributed.is_main():
        return NO_BOXES
    return CandidateBoxes.joined([CandidateBoxes(**partial.load_arrays(group)) for group in range(len(groups))])


def grid_view(train: Manifest, config: BoxesConfig) -> CandidateBoxes:
    """The tiles of every image."""
    boxes = np.concatenate([grid_boxes(tuple(size), config.tiles).numpy() for size in train.sizes])
    image_index = np.repeat(np.arange(len(train.sizes)), config.tiles**2)
    return CandidateBoxes.without_cams(image_index, np.full(len(boxes), -1), boxes)


def cell_view(folder: Path, manifest: Manifest, selected: Tensor, config: BoxesConfig) -> CandidateBoxes:
    """The teacher's best cell of each selected class, bool Tensor[N, C], widened as CAM boxes are.

    Raises:
        PipelineError: the teacher's scores have no cells.
    """
    path = folder / "embeddings.h5"
    embeddings: Embeddings = read_arrays(path, without=("probabilities", "ranking_probabilities", "cell_scores"))
    check_same_images(manifest, embeddings, folder / "manifest.csv", path)
    if embeddings.best_cell is None:
        raise PipelineError(
            f"{path} has no cells, around which `boxes.view=cells` puts its boxes. Use another view, or `--set "
            "embed.local=tiles`."
        )
    image, kind = selected.nonzero().unbind(dim=1)
    cells = torch.from_numpy(embeddings.best_cell[embeddings.is_train].astype(np.int64))[image, kind]
    boxes = expand_boxes(cell_boxes(cells, (embeddings.grid_height, embeddings.grid_width)), (1, 1), config.margin)
    sizes = torch.from_numpy(manifest.split("train").sizes)[image]
    return CandidateBoxes.without_cams(image.numpy(), kind.numpy(), rescale_boxes(boxes, (1, 1), sizes).numpy())


def random_view(boxes: CandidateBoxes, train: Manifest, config: BoxesConfig) -> CandidateBoxes:
    """Boxes of the same sizes and classes at random places."""
    generator = torch.Generator().manual_seed(config.seed)
    of_image = np.split(boxes.box, np.searchsorted(boxes.image_index, np.arange(1, len(train.sizes))))
    moved = [
        random_boxes(torch.from_numpy(own), tuple(size), generator).numpy()
        for own, size in zip(of_image, train.sizes, strict=True)
    ]
    return CandidateBoxes.without_cams(boxes.image_index, boxes.class_index, np.concatenate(moved))


def annotated_view(truth: GroundTruth, train: Manifest, config: BoxesConfig) -> CandidateBoxes:
    """The annotated boxes, or those widened as the CAM boxes are; for ablations only."""
    row_of = {image_id: row for row, image_id in enumerate(train.image_ids)}
    rows = np.array([row_of.get(truth.image_ids[index], -1) for index in truth.object_image_index], dtype=np.int64)
    order = np.argsort(rows, kind="stable")[(rows < 0).sum() :]
    boxes = truth.object_box[order]
    if config.view == "around-gt":
        for box, row in zip(boxes, rows[order], strict=True):
            box[:] = expand_boxes(torch.from_numpy(box)[None], tuple(train.sizes[row]), config.margin)[0].numpy()
    return CandidateBoxes.without_cams(rows[order], truth.object_class_index[order].astype(np.int64), boxes)


def boxes_of_view(
    folder: Path,
    manifest: Manifest,
    checkpoint: Checkpoint,
    config: BoxesConfig,
    device: str,
    store: FeatureStore,
    partial: PartialResults,
) -> tuple[CandidateBoxes, float]:
    """Boxes of the view that the options name, and the threshold that selected their classes, NaN without one."""
    train = manifest.split("train")
    if config.view == "none":
        return NO_BOXES, math.nan
    if config.uses_ground_truth:
        return annotated_view(read_ground_truth(folder), train, config), math.nan
    if config.view == "grid":
        return grid_view(train, config), math.nan
    model = load_classifier(checkpoint, device)
    model.check_side(config.image_size, "boxes.image_size")
    kept = store if config.half_maps else None
    selected, tau = selected_classes(model, checkpoint.image_size, train, config, kept, partial)
    if config.view == "cells":
        return cell_view(folder, manifest, selected, config), tau
    boxes = box_classes(model, train, selected, config, kept, partial)
    return (random_view(boxes, train, config) if config.view == "random" else boxes), tau


def run(
    folder: Path,
    config: BoxesConfig,
    origin: Provenance,
    *,
    manifest: Manifest,
    device: str,
    fresh: bool,
    store: FeatureStore,
) -> None:
    """Write `boxes.h5` from the manifest and `warmup.pt`; for some views also from `embeddings.h5` or `ground_truth.h5`."""
    path = folder / "boxes.h5"
    train = manifest.split("train")
    checkpoint = read_checkpoint(folder / "warmup.pt")
    check_same_images(train, checkpoint, folder / "manifest.csv", folder / "warmup.pt")
    config = config.replace(image_size=config.image_size or checkpoint.image_size)
    partial = PartialResults(path, origin, fresh=fresh)
    boxes, tau = boxes_of_view(folder, manifest, checkpoint, config, device, store, partial)
    if not distributed.is_main():
        return
    columns = vars(boxes) | {"cam": boxes.cam if len(boxes.box) else None}
    write(path, Boxes(provenance=origin, image_ids=train.image_ids, class_names=train.class_names, tau=tau, **columns))
    partial.remove()
    boxed = len(np.unique(boxes.image_index))
    log(f"{path}: {len(boxes.box)} boxes in {boxed} of {len(train.image_ids)} images.")
