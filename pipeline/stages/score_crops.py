"""Boxes to the teacher's scores of their crops, which are cut from the original photo."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.boxes import Boxes, CropScores
from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.hdf5 import read_arrays, write
from pipeline.artifacts.labels import Labels
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.schema import check_same_images
from pipeline.method.crops import square_boxes, truncated_size, view_size
from pipeline.method.probabilities import ClassProbabilities, softmax_probabilities
from pipeline.photos.checked import load_checked
from pipeline.photos.images import decoded
from pipeline.photos.prefetch import Prefetch, chunks, default_workers
from pipeline.photos.resize import crop, crop_bilinear, load_view
from pipeline.runs.graph import run_argument
from pipeline.runs.options import EmbedConfig, ScoreCropsConfig
from pipeline.runs.partial_results import PartialResults, compute_partial_results
from pipeline.system import distributed
from pipeline.system.progress import log
from pipeline.teachers.encoding import OutOfMemoryBackoff, ViewRules, encode_stream, find_batch_size, precision_of
from pipeline.teachers.self_check import check_at_first_use
from pipeline.teachers.teacher import Teacher, check_weights, load_teacher
from pipeline.teachers.zero_shot_head import ZeroShotHead, head_of, zero_shot_head

PART = 64
"""Images whose crops are saved together."""


@dataclass(frozen=True)
class CropRules:
    """How boxes become crops."""

    long_side: int
    """Long side of a crop, pixels."""
    view_side: int
    """Side of the square view that crops are cut from; 0: they are cut from the photo."""
    resize_filter: str
    """Filter that makes that view; see `photos.resize`."""
    resampling: str
    sides: str

    def boxes_to_cut(self, boxes: Tensor, sizes: Tensor) -> Tensor:
        """Boxes Tensor[M, 4] in pixels of the image that is cut; given in pixels of photos of (H, W) Tensor[M, 2]."""
        if not self.view_side:
            return boxes
        # in a view of the size that the CAMs had, boxes are whole pixels again
        return (boxes * (self.view_side / sizes.flip(1).repeat(1, 2))).round()

    def size_of(self, box: Tensor) -> tuple[int, int]:
        """(H, W) at which the teacher sees a box Tensor[4]."""
        if self.sides == "snapped":
            return view_size(box, self.long_side)
        width, height = (box[2:].ceil() - box[:2].floor()).long().tolist()
        return truncated_size(height, width, self.long_side)


def crops_of(source: str | bytes, boxes: Tensor, rules: CropRules) -> list[Tensor]:
    """The crops of one photo, Tensor[3, h, w] each: uint8, or float32 in [0, 255] where they are bilinear.

    Args:
        source: path or content of the photo.
        boxes: Tensor[M, 4], xyxy in pixels of the image that is cut.
        rules: how boxes become crops.
    """
    view = (rules.view_side, rules.view_side)
    crop_one = crop_bilinear if rules.resampling == "bilinear" else crop
    whole = nullcontext(load_view(source, view, rules.resize_filter)) if rules.view_side else decoded(source)
    with whole as image:
        return [crop_one(image, box, rules.size_of(box)) for box in boxes]


@dataclass(frozen=True)
class CropTeacher:
    """The teacher of the crops, its zero-shot head, and how boxes become crops."""

    teacher: Teacher
    head: ZeroShotHead
    rules: CropRules


def score_crops(
    scorer: CropTeacher,
    photos: Manifest,
    owner: Tensor,
    boxes: Tensor,
    batch_size: int,
    partial: PartialResults,
) -> Iterator[np.ndarray]:
    """Logits of every crop; the processes of torchrun share the work.

    Args:
        scorer: the teacher and its rules.
        photos: N photos.
        owner: int64 Tensor[M], ascending, the photo of each box.
        boxes: Tensor[M, 4], xyxy in pixels of the image that is cut.
        batch_size: crops per teacher call.
        partial: unfinished work.

    Returns:
        float32 [M, C + O], of the classes and the background classes, in blocks of rows.
    """
    teacher, head, rules = scorer.teacher, scorer.head, scorer.rules
    texts = [each.numpy() for each in (head.text, head.text_class, head.background_text)]
    settings = [teacher.fingerprint, precision_of(teacher), vars(rules), head.logit_scale, head.logit_bias]
    photo_ranges = chunks(len(photos.paths), PART)
    first = torch.searchsorted(owner, torch.arange(len(photos.paths) + 1)).tolist()  # first crop of each photo
    counts = [first[photos.stop] - first[photos.start] for photos in photo_ranges]

    def cut_crops(photo: int) -> list[Tensor]:
        own = boxes[first[photo] : first[photo + 1]]
        return load_checked(photos.paths[photo], photos.digest_of, lambda source: crops_of(source, own, rules))

    def score(indices: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        photos = [photo for index in indices for photo in photo_ranges[index] if first[photo] < first[photo + 1]]
        # while a batch is with the teacher, the threads cut the crops of the next one
        crops_per_photo = max(len(boxes) // max(len(photos), 1), 1)
        loader = Prefetch(cut_crops, photos, ahead=default_workers() + batch_size // crops_per_photo)
        views = (
            (first[photo] + n, crop)
            for photo, crops in zip(photos, loader, strict=True)
            for n, crop in enumerate(crops)
        )
        for crops, image in encode_stream(OutOfMemoryBackoff(teacher.encode_images), views, batch_size):
            yield np.array(crops), image.numpy()

    def logits_of(image: np.ndarray) -> np.ndarray:
        return head.logits(torch.from_numpy(image)).numpy()

    key = [*settings, *texts, owner.numpy(), boxes.numpy()]
    return compute_partial_results("score-crops", counts, key, partial, score, logits_of)


def boxes_to_score(boxes: Boxes, labels: np.ndarray, config: ScoreCropsConfig) -> np.ndarray:
    """Rows of `boxes` that have no class or one whose label is not sure, int64, ascending.

    Args:
        boxes: M boxes on N photos.
        labels: initial labels [N, C] in [0, 1].
        config: options.
    """
    sure = config.sure(labels[boxes.image_index, boxes.class_index])
    return np.flatnonzero(~sure | (boxes.class_index < 0))


def crop_teacher(
    embeddings: Embeddings, manifest: Manifest, config: ScoreCropsConfig, path: Path, device: str
) -> CropTeacher:
    """The teacher of the run, or the one that the options name, with its text embeddings.

    Args:
        embeddings: those of the run.
        manifest: gives the display names of the classes.
        config: options.
        path: file of the embeddings, for errors.
        device: where the teacher runs.

    Raises:
        PipelineError: the scores are precomputed, or the teacher's weights have changed.
    """
    made_with = embeddings.provenance.options(EmbedConfig)
    rules = ViewRules.of(made_with)
    config.check_teacher(made_with, run_argument(path.parent))
    if not config.teacher:
        teacher = load_teacher(embeddings.teacher, device, made_with.precision, rules=rules)
        check_weights(teacher, embeddings.teacher, embeddings.teacher_fingerprint, path)
        return CropTeacher(
            teacher, head_of(embeddings), crop_rules(config, embeddings.image_size, rules.resize_filter_of(teacher))
        )
    teacher = load_teacher(config.teacher, device, made_with.precision, rules=rules)
    if config.self_check:
        check_at_first_use(teacher, "score-crops")
    names = list(manifest.display_names.values())
    head = zero_shot_head(
        teacher, names, manifest.class_names, made_with.templates, made_with.synonyms, made_with.background
    )
    return CropTeacher(teacher, head, crop_rules(config, teacher.input_size, rules.resize_filter_of(teacher)))


def crop_rules(config: ScoreCropsConfig, view_side: int, resize_filter: str) -> CropRules:
    """How boxes become crops for a teacher whose global view has this side."""
    cut_side = view_side if config.cut_from == "view" else 0
    return CropRules(config.view_size or view_side, cut_side, resize_filter, config.resampling, config.sides)


def score_boxes(
    embeddings: Embeddings,
    train: Manifest,
    boxes: Boxes,
    config: ScoreCropsConfig,
    partial: PartialResults,
    folder: Path,
    device: str,
) -> tuple[ClassProbabilities, int]:
    """Class probabilities of the crops of all boxes, and how many outcomes their softmax has.

    A run without boxes loads no teacher.
    """
    if not len(boxes.box):
        class_count = len(boxes.class_names)
        return softmax_probabilities(torch.zeros(0, class_count), class_count), class_count
    owner, crop_boxes = torch.from_numpy(boxes.image_index), torch.from_numpy(boxes.box)
    sizes = torch.from_numpy(train.sizes)[owner]
    if config.shape == "square":
        crop_boxes = square_boxes(crop_boxes, sizes)
    scorer = crop_teacher(embeddings, train, config, folder / "embeddings.h5", device)
    crop_boxes = scorer.rules.boxes_to_cut(crop_boxes, sizes)
    largest = (scorer.rules.long_side, scorer.rules.long_side)
    batch_size = config.batch_size or find_batch_size(scorer.teacher.encode_images, largest, device)
    logits = score_crops(scorer, train, owner, crop_boxes, batch_size, partial)
    return scorer.head.probabilities_in_blocks(len(owner), map(torch.from_numpy, logits)), scorer.head.outcomes


def run(
    folder: Path, config: ScoreCropsConfig, origin: Provenance, *, manifest: Manifest, device: str, fresh: bool
) -> None:
    """Write `crop_scores.h5` from the manifest, `initial_labels.h5`, `boxes.h5` and the text embeddings in `embeddings.h5`."""
    path = folder / "crop_scores.h5"
    train = manifest.split("train")
    embeddings: Embeddings = read_arrays(
        folder / "embeddings.h5", without=("probabilities", "ranking_probabilities", "cell_scores", "best_cell")
    )
    all_boxes: Boxes = read_arrays(folder / "boxes.h5")
    check_same_images(all_boxes, train, folder / "boxes.h5", folder / "manifest.csv")
    initial: Labels = read_arrays(folder / "initial_labels.h5", without=("scores",))
    check_same_images(initial, all_boxes, folder / "initial_labels.h5", folder / "boxes.h5")
    boxes = all_boxes.take(boxes_to_score(all_boxes, initial.labels, config))
    partial = PartialResults(path, origin, fresh=fresh)
    scores, outcomes = score_boxes(embeddings, train, boxes, config, partial, folder, device)
    if not distributed.is_main():
        return
    write(
        path,
        CropScores(
            provenance=origin,
            image_ids=boxes.image_ids,
            class_names=boxes.class_names,
            image_index=boxes.image_index,
            class_index=boxes.class_index,
            probabilities=scores.probabilities.numpy(),
            entropy=scores.entropy.numpy(),
            class_is_top1=scores.class_is_top1.numpy(),
            outcomes=outcomes,
        ),
    )
    partial.remove()
    skipped = len(all_boxes.box) - len(boxes.box)
    note = f" {skipped} boxes of classes with sure labels are not scored." if skipped else ""
    log(f"{path}: {len(boxes.box)} crops of {len(np.unique(boxes.image_index))} images.{note}")
