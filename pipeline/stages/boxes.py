"""Warm-up classifier to boxes around what it takes for each class."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.boxes import Boxes
from pipeline.artifacts.checkpoints import Checkpoint, read_checkpoint
from pipeline.artifacts.hdf5 import write
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.schema import check_same_images
from pipeline.classifier.features import FeatureStore
from pipeline.classifier.inference import (
    feature_batches,
    image_batches,
    load_classifier,
    predict_once,
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
from pipeline.method.crops import grid_boxes, random_boxes
from pipeline.photos.augment import draw_flips, flip
from pipeline.photos.prefetch import chunks
from pipeline.runs.options import BoxesConfig
from pipeline.runs.partial_results import PartialResults
from pipeline.system import distributed
from pipeline.system.progress import log


@dataclass(frozen=True)
class CandidateBoxes:
    """Boxes of some images: M of them."""

    image_index: Tensor
    """int64 Tensor[M], ascending."""
    class_index: Tensor
    """int64 Tensor[M], -1 where the view knows no class."""
    box: Tensor
    """float32 Tensor[M, 4], xyxy in pixels of the original image."""
    cam_peak: Tensor
    """float32 Tensor[M], NaN without CAM."""
    cam: Tensor
    """uint8 Tensor[M, h, w], each map from 0 to 255; Tensor[0] without CAM."""

    def to_arrays(self) -> dict[str, np.ndarray]:
        """What a piece holds."""
        return {name: values.numpy() for name, values in vars(self).items()}

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> "CandidateBoxes":
        """Inverse of `to_arrays`."""
        return cls(**{name: torch.from_numpy(values) for name, values in arrays.items()})

    @classmethod
    def joined(cls, parts: list["CandidateBoxes"]) -> "CandidateBoxes":
        """All parts, in order."""
        none = torch.zeros(0, dtype=torch.int64)
        empty = cls(none, none, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.uint8))
        return cls(*(torch.cat([getattr(part, name) for part in [empty, *parts]]) for name in vars(empty)))


def search_tau(model: CamNet, paths: list[str], config: BoxesConfig) -> float:
    """Threshold on the score by the authors' search: see `search_threshold`; processes share the batches of a window."""
    generator = torch.Generator().manual_seed(config.seed)

    @torch.inference_mode()
    def windows() -> Iterator[Tensor]:
        device = next(model.parameters()).device
        for _ in range(config.search_passes):
            for rows in search_windows(torch.randperm(len(paths), generator=generator)):
                flips = draw_flips(len(rows), generator)
                scores = torch.zeros(len(rows), model.head.out_channels)
                mine = [i for batch in distributed.shard(chunks(len(rows), config.batch_size)) for i in batch]
                shared = [paths[rows[i]] for i in mine]
                for places, images in image_batches(
                    shared, config.search_size, config.batch_size, resize_filter=model.resize_filter
                ):
                    part = mine[places.start : places.stop]
                    views = flip(to_float(to_device(images, device)), flips[part])
                    scores[part] = model(views).sigmoid().cpu()
                distributed.all_reduce_sum(scores)
                yield scores

    found = search_threshold(windows(), config.search_bound)
    if not found.converged:
        log(
            f"the search for tau used up the images at {found.mean_count:.1f} classes an image, "
            f"outside {config.search_bound:g} to {config.search_bound + 2:g}."
        )
    return found.tau


def select_classes(scores: Tensor, config: BoxesConfig, tau: float = 0.0) -> tuple[Tensor, float]:
    """Which classes of which images are looked for.

    Args:
        scores: Tensor[N, C], of the classifier.
        config: options.
        tau: threshold found otherwise, or 0.

    Returns:
        bool Tensor[N, C], and tau, fixed or from the wanted number of classes per image.
    """
    if config.select == "z-score":
        scores = z_scores(scores)
    tau = config.tau or tau or quantile_threshold(scores, min(config.classes_per_image, scores.shape[1]))
    return scores >= tau, tau


@torch.inference_mode()
def find_boxes(cams: Tensor, selected: Tensor, rows: range, sizes: Tensor, config: BoxesConfig) -> CandidateBoxes:
    """Boxes of one batch.

    Args:
        cams: float32 Tensor[B, C, h, w] of views of `config.image_size`.
        selected: bool Tensor[B, C], classes to box.
        rows: what `image_index` calls the images.
        sizes: Tensor[B, 2], (H, W) of the originals.
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
        peak_limit=config.peaks,
        epsilon=config.cam_epsilon,
    )
    if not len(owner):
        return CandidateBoxes.joined([])
    local = image[owner]
    found = (
        local + rows.start,
        kind[owner],
        rescale_boxes(boxes, size, sizes.to(cams.device)[local]),
        maps[owner].amax(dim=(1, 2)),
        (255 * normalise(maps[owner])).round().to(torch.uint8),
    )
    return CandidateBoxes(*(values.cpu() for values in found))


def cam_view(
    model: CamNet, train: Manifest, config: BoxesConfig, store: FeatureStore | None, pieces: PartialResults
) -> tuple[CandidateBoxes, float]:
    """Boxes of all images, in the first process, and the threshold that selected their classes.

    The processes of torchrun share the images. The selection needs every score first; the backbone sees the images
    twice only where there is no room for its maps, or where they are not to be rounded.
    """
    store = store if config.half_maps else None
    paths, sizes = train.paths, torch.from_numpy(train.sizes)
    tau = search_tau(model, paths, config) if config.tau_rule == "search" else 0.0
    how = {"batch_size": config.batch_size, "title": "boxes: tau", "store": store, "rounded": config.half_maps}
    logits = predict_once(pieces.path("logits.pt"), model, paths, config.image_size, **how)
    selected, tau = select_classes(logits.sigmoid(), config, tau)
    groups = shares(len(paths), config.batch_size)
    # the batch size, which no fingerprint has, decides the groups; the search may find another tau on another device
    pieces = pieces.of([len(group) for group in groups], selected.numpy())
    mine = distributed.shard(range(len(groups)))
    missing = [group for group in mine if not pieces.has_arrays(group)]
    rows = np.array([row for group in missing for row in groups[group]], dtype=np.int64)
    ends = {groups[group].stop: group for group in missing}
    parts = []
    for places, features in feature_batches(
        model,
        [paths[row] for row in rows],
        config.image_size,
        config.batch_size,
        "boxes",
        store if missing == list(mine) else None,  # keeps maps of the whole share alone
        rounded=config.half_maps,
    ):
        part = rows[places.start : places.stop]
        with torch.inference_mode():
            cams = model.head(features)
        if config.boosted_cam:
            cams = boost_positive(cams, model.boost)
        parts.append(find_boxes(cams, selected[part], range(part[0], part[-1] + 1), sizes[part], config))
        if part[-1] + 1 in ends:
            pieces.save_arrays(ends[part[-1] + 1], CandidateBoxes.joined(parts).to_arrays())
            parts = []
    distributed.barrier()
    if not distributed.is_main():
        return CandidateBoxes.joined([]), tau
    return CandidateBoxes.joined(
        [CandidateBoxes.of_arrays(pieces.load_arrays(group)) for group in range(len(groups))]
    ), tau


def classless(image: int, boxes: Tensor) -> CandidateBoxes:
    """Boxes Tensor[M, 4] of one image that stand for no class."""
    count = len(boxes)
    return without_cams(torch.full((count,), image), torch.full((count,), -1), boxes)


def without_cams(image_index: Tensor, class_index: Tensor, boxes: Tensor) -> CandidateBoxes:
    """Boxes Tensor[M, 4] that come from no CAM."""
    peak = torch.full((len(boxes),), math.nan)
    return CandidateBoxes(image_index, class_index, boxes, peak, torch.zeros(0, dtype=torch.uint8))


def grid_view(train: Manifest, config: BoxesConfig) -> CandidateBoxes:
    """The tiles of every image."""
    return CandidateBoxes.joined(
        [classless(i, grid_boxes(tuple(size), config.tiles)) for i, size in enumerate(train.sizes)]
    )


def random_view(found: CandidateBoxes, train: Manifest, config: BoxesConfig) -> CandidateBoxes:
    """The boxes found, of the same sizes and for the same classes, at random places."""
    generator = torch.Generator().manual_seed(config.seed)
    first = torch.searchsorted(found.image_index, torch.arange(len(train.sizes) + 1)).tolist()
    moved = [
        random_boxes(found.box[first[i] : first[i + 1]], tuple(size), generator) for i, size in enumerate(train.sizes)
    ]
    return without_cams(found.image_index, found.class_index, torch.cat([torch.zeros(0, 4), *moved]))


def annotated_view(truth: GroundTruth, train: Manifest, config: BoxesConfig) -> CandidateBoxes:
    """The annotated boxes, or those widened as the CAM boxes are; for studies alone."""
    row_of = {image_id: row for row, image_id in enumerate(train.image_ids)}
    parts = []
    for k in range(len(truth.object_box)):
        row = row_of.get(truth.image_ids[truth.object_image_index[k]])
        if row is None:
            continue
        box = torch.from_numpy(truth.object_box[k : k + 1])
        if config.view == "around-gt":
            box = expand_boxes(box, tuple(train.sizes[row]), config.margin)
        parts.append(without_cams(torch.tensor([row]), torch.tensor([int(truth.object_class_index[k])]), box))
    return CandidateBoxes.joined(sorted(parts, key=lambda part: int(part.image_index)))


def look(
    folder: Path,
    train: Manifest,
    checkpoint: Checkpoint,
    config: BoxesConfig,
    device: str,
    store: FeatureStore,
    pieces: PartialResults,
) -> tuple[CandidateBoxes, float]:
    """Boxes of the view that the options name, and the threshold that selected their classes, NaN without one."""
    if config.view == "none":
        return CandidateBoxes.joined([]), math.nan
    if config.uses_ground_truth:
        return annotated_view(read_ground_truth(folder), train, config), math.nan
    if config.view == "grid":
        return grid_view(train, config), math.nan
    found, tau = cam_view(load_classifier(checkpoint, device), train, config, store, pieces)
    return (random_view(found, train, config) if config.view == "random" else found), tau


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
    """Write `boxes.h5` from the manifest and `warmup.pt` (and, for the study views, `ground_truth.h5`)."""
    path = folder / "boxes.h5"
    train = manifest.split("train")
    checkpoint = read_checkpoint(folder / "warmup.pt")
    check_same_images(train, checkpoint, folder / "manifest.csv", folder / "warmup.pt")
    pieces = PartialResults(path, origin, fresh=fresh)
    found, tau = look(folder, train, checkpoint, config, device, store, pieces)
    if not distributed.is_main():
        return
    write(
        path,
        Boxes(
            provenance=origin,
            image_ids=train.image_ids,
            class_names=train.class_names,
            image_index=found.image_index.numpy(),
            class_index=found.class_index.numpy(),
            box=found.box.numpy(),
            cam_peak=found.cam_peak.numpy(),
            cam=found.cam.numpy() if found.cam.ndim == 3 else None,
            tau=tau,
        ),
    )
    pieces.remove()
    boxed = len(np.unique(found.image_index.numpy()))
    log(f"{path}: {len(found.box)} boxes in {boxed} of {len(train.image_ids)} images, tau {tau:.3f}.")
