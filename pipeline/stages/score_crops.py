"""Boxes to what the teacher says of each crop, cut from the original photo."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pipeline.machine import distributed
from pipeline.machine.errors import PipelineError
from pipeline.machine.progress import bar, say
from pipeline.method.crops import square_boxes, view_size
from pipeline.method.labels import class_probabilities, local_scores
from pipeline.photos.images import cut, load_image
from pipeline.photos.prefetch import Prefetch, chunks
from pipeline.runs.artifacts import (
    Boxes,
    CropScores,
    Embeddings,
    Partial,
    begin,
    check_same_images,
    read,
    read_manifest,
    remedy,
    write,
)
from pipeline.runs.config import Config, option
from pipeline.teachers import Teacher, load_teacher
from pipeline.teachers.encoding import batches_by_shape, find_batch_size

PIECE = 64
"""Images whose crops are in memory together and are saved together."""


@dataclass(frozen=True)
class CropScoresConfig(Config):
    """How a box becomes a crop, and how an image's crops are combined."""

    view_size: int = option(
        0, "long side of a crop, pixels; 0: the side of the global view (paper: 640)", min=0, max=2048
    )
    shape: Literal["keep", "square"] = option("keep", "keep the box's aspect, or grow it to a square where it fits")
    votes: Literal["own", "all"] = option(
        "own", "own: a crop speaks of the class that it was cut for; all: of every class (paper)"
    )
    combine: Literal["max", "mean"] = option("max", "over the crops of an image, class by class (paper: max)")
    batch_size: int = option(0, "crops a teacher call; 0: what fits", min=0, max=4096, identity=False)


def crops_of(path: str, boxes: Tensor, long_side: int) -> list[Tensor]:
    """The crops of one photo at full resolution, uint8 Tensor[3, h, w] each."""
    image = load_image(Path(path))
    return [cut(image, box, view_size(box, long_side)) for box in boxes]


def encode_crops(teacher: Teacher, crops: list[Tensor], batch_size: int) -> Tensor:
    """Embeddings float32 Tensor[M, D] of at least one crop; crops of one shape go through the teacher together."""
    batches = batches_by_shape([tuple(crop.shape[1:]) for crop in crops], batch_size)
    rows = [teacher.encode_images(torch.stack([crops[i] for i in batch])).float().cpu() for batch in batches]
    order = torch.tensor([i for batch in batches for i in batch])
    return torch.cat(rows)[order.argsort()]


def score_crops(
    teacher: Teacher,
    embeddings: Embeddings,
    paths: list[str],
    owner: Tensor,
    boxes: Tensor,
    config: CropScoresConfig,
    partial: Partial,
    device: str,
) -> Tensor:
    """Probabilities of every crop; pieces of the work are kept in `partial` and taken from there.

    Several processes share the pieces, and each returns all of them.

    Args:
        teacher: scores the crops.
        embeddings: gives texts, scale and view size.
        paths: N photos.
        owner: int64 Tensor[M], ascending, the photo of each box.
        boxes: Tensor[M, 4], xyxy in pixels of the photo.
        config: options.
        partial: folder of unfinished work.
        device: where the teacher runs.

    Returns:
        float32 Tensor[M, C].
    """
    text, text_class = torch.from_numpy(embeddings.text), torch.from_numpy(embeddings.text_class_index)
    long_side = config.view_size or embeddings.image_size
    batch_size = config.batch_size or find_batch_size(teacher.encode_images, (long_side, long_side), device)
    pieces = chunks(len(paths), PIECE)
    bounds = [torch.searchsorted(owner, torch.tensor([p.start, p.stop])).tolist() for p in pieces]
    counts = [stop - start for start, stop in bounds]
    mine = distributed.own_share(range(len(pieces)))
    done = sum(counts[i] for i in mine if partial.has_arrays(i))
    with bar("score-crops", sum(counts[i] for i in mine), done) as progress:
        for index in mine:
            if partial.has_arrays(index):
                continue
            start, stop = bounds[index]
            jobs = [(paths[i], boxes[start:stop][owner[start:stop] == i]) for i in pieces[index]]
            loaded = Prefetch(lambda job: crops_of(*job, long_side), [job for job in jobs if len(job[1])])
            crops = [crop for photo in loaded for crop in photo]
            probabilities = torch.zeros(0, len(embeddings.class_names))
            if crops:
                image = encode_crops(teacher, crops, batch_size)
                probabilities = class_probabilities(image, text, embeddings.logit_scale, text_class)
            partial.save_arrays(index, {"probabilities": probabilities.numpy()})
            progress.advance(counts[index])
    distributed.barrier()
    return torch.cat([torch.from_numpy(partial.load_arrays(i)["probabilities"]) for i in range(len(pieces))])


def same_teacher(embeddings: Embeddings, path: Path, device: str) -> Teacher:
    """The teacher behind the embeddings; raises if it now has other weights."""
    spec = embeddings.provenance.config["teacher"]
    if embeddings.text is None:
        raise PipelineError(
            f"{path} holds precomputed probabilities, so no teacher can score crops; train on global labels."
        )
    teacher = load_teacher(spec, device, embeddings.provenance.config["precision"])
    if teacher.fingerprint != embeddings.teacher_fingerprint:
        raise PipelineError(
            f"{spec} has other weights than those behind {path}. Rebuild it with {remedy(path, force=True)}."
        )
    return teacher


def run(folder: Path, config: CropScoresConfig, *, device: str = "cpu", force: bool = False) -> None:
    """Write `crop_scores.h5` from the manifest, `boxes.h5` and the text embeddings in `embeddings.h5`."""
    path = folder / "crop_scores.h5"
    provenance = begin(folder, path.name, config, ["manifest.csv", "embeddings.h5", "boxes.h5"], force=force)
    if provenance is None:
        return
    train = read_manifest(folder).split("train")
    embeddings: Embeddings = read(folder / "embeddings.h5")
    boxes: Boxes = read(folder / "boxes.h5")
    check_same_images(boxes, train, folder / "boxes.h5", folder / "manifest.csv")
    teacher = same_teacher(embeddings, folder / "embeddings.h5", device)
    partial = Partial(path, provenance, fresh=force)
    owner = torch.from_numpy(boxes.image_index)
    crop_boxes = torch.from_numpy(boxes.box)
    if config.shape == "square":
        crop_boxes = square_boxes(crop_boxes, torch.from_numpy(train.sizes)[owner])
    probabilities = score_crops(teacher, embeddings, train.paths, owner, crop_boxes, config, partial, device)
    distributed.barrier()  # all have read the pieces before the first process removes them
    if not distributed.is_main():
        return
    spoken_class = torch.from_numpy(boxes.class_index) if config.votes == "own" else None
    local, votes = local_scores(probabilities, owner, len(train.paths), config.combine, spoken_class)
    write(
        path,
        CropScores(
            provenance=provenance,
            image_ids=boxes.image_ids,
            class_names=boxes.class_names,
            image_index=boxes.image_index,
            probabilities=probabilities.numpy(),
            local=local.numpy(),
            votes=votes.numpy(),
        ),
    )
    partial.remove()
    say(f"{path}: {len(owner)} crops of {len(owner.unique())} images.")
