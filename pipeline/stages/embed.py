"""Images and class names to class probabilities, entropy and bias; the teacher is asked about each photo once."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.hdf5 import write
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.classifier.inference import image_batches
from pipeline.datasets.class_names import display_names
from pipeline.method.labels import class_bias, confident_images
from pipeline.method.probabilities import ClassProbabilities, entropy
from pipeline.photos.prefetch import chunks
from pipeline.runs.folders import run_folder
from pipeline.runs.options import EmbedConfig
from pipeline.runs.partial_results import PartialResults, compute_partial_results
from pipeline.system import distributed
from pipeline.system.errors import PipelineError
from pipeline.system.progress import log
from pipeline.teachers.embedding_cache import BLOCK, ImageStore, StoreKey, check_reuse
from pipeline.teachers.encoding import OutOfMemoryBackoff, ViewRules, find_batch_size, precision_of
from pipeline.teachers.precomputed import align, read_precomputed
from pipeline.teachers.teacher import Teacher, load_teacher
from pipeline.teachers.zero_shot_head import ZeroShotHead, scaled_bias, zero_shot_head

PART = 256
"""Images between two savings of unfinished work."""


@dataclass(frozen=True)
class TeacherScores:
    """What a teacher, or a file instead of it, says of N images."""

    answers: ClassProbabilities
    head: ZeroShotHead | None
    """None where only probabilities were given."""
    image_size: int
    """Side of the squashed global view; 0 where precomputed scores were given."""
    teacher: str
    """Its spec; for a file, the model that it names, or the name of the file."""
    fingerprint: str
    known: np.ndarray | None = None
    """bool [N], images of which anything is said; None for all."""


def embed_images(
    teacher: Teacher,
    manifest: Manifest,
    store: ImageStore,
    size: int,
    squash: str,
    batch_size: int,
    pieces: PartialResults,
) -> int:
    """Put the embeddings of those images that the store does not know into it, and return how many they were.

    The processes of torchrun share the work; the first one writes the store.
    """
    # a photo's number is its place among those that are missing, and these change when the store does
    wanted = store.missing(manifest.digests)
    if not wanted:
        return 0
    path_of = dict(zip(manifest.digests, manifest.paths, strict=True))
    rows = chunks(len(wanted), PART)
    encode_images = OutOfMemoryBackoff(teacher.encode_images)

    def encode(indices: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.array([row for index in indices for row in rows[index]], dtype=np.int64)
        for batch, images in image_batches([path_of[wanted[i]] for i in order], size, batch_size, squash=squash):
            yield order[batch.start : batch.stop], encode_images(images).float().cpu().numpy()

    images = compute_partial_results("embed", [len(r) for r in rows], [vars(store.key), wanted], pieces, encode)
    if distributed.is_main():
        store.add(wanted, images)
    return len(wanted)


def answer(count: int, images: Iterator[np.ndarray], head: ZeroShotHead) -> ClassProbabilities:
    """The answers of `count` image embeddings that come in blocks."""
    return head.probabilities_in_blocks(count, (head.logits(torch.from_numpy(block)) for block in images))


def head_of_classes(teacher: Teacher, manifest: Manifest, config: EmbedConfig, logit_scale: float) -> ZeroShotHead:
    """The head about the classes of a manifest; a scale of 0 is the teacher's own."""
    if teacher.logit_bias is not None:
        decline_background(config, f"{teacher.name} scores each class on its own")
    names = display_names(manifest.class_names, manifest.display_names)
    return zero_shot_head(
        teacher, names, manifest.class_names, config.templates, config.synonyms, config.background, logit_scale
    )


def run_teacher(
    folder: Path, manifest: Manifest, config: EmbedConfig, device: str, pieces: PartialResults
) -> TeacherScores:
    """Embed the classes, and the images that the teacher has not seen yet."""
    if config.reuse_embeddings:
        check_reuse(config)
    rules = ViewRules.of(vars(config))
    teacher = load_teacher(config.teacher, device, config.precision, rules=rules)
    size = config.image_size or teacher.input_size
    key = StoreKey(teacher.fingerprint, size, precision_of(teacher))
    other = ImageStore(run_folder(config.reuse_embeddings), key) if config.reuse_embeddings else None
    if other and not other.path.exists():
        raise PipelineError(
            f"{config.reuse_embeddings} has no image embeddings of {config.teacher} at {size} px in {key.precision}, as this run "
            "needs them: its teacher had other weights or options. Name another run, or take the option reuse_embeddings away."
        )
    head = head_of_classes(teacher, manifest, config, config.logit_scale)
    store = ImageStore(folder, key, config.teacher)
    if other and distributed.is_main():
        log(
            f"{store.path}: {store.take_over(other, manifest.digests)} images are known from {config.reuse_embeddings}."
        )
    distributed.barrier()
    store = ImageStore(folder, key, config.teacher)
    unseen = len(store.missing(manifest.digests))
    batch_size = config.batch_size or (find_batch_size(teacher.encode_images, (size, size), device) if unseen else 1)
    embed_images(teacher, manifest, store, size, rules.squash_of(teacher), batch_size, pieces)
    distributed.barrier()  # the first process has written what all read
    if unseen < len(manifest.digests):
        log(f"{store.path}: {unseen} of {len(manifest.digests)} images were new to the teacher.")
    answers = answer(len(manifest.digests), ImageStore(folder, key).blocks(manifest.digests), head)
    return TeacherScores(answers, head, size, config.teacher, teacher.fingerprint)


def take_precomputed(manifest: Manifest, config: EmbedConfig, device: str) -> TeacherScores:
    """Scores that someone else computed; classes without a text embedding are embedded by the model that made them."""
    is_train = (manifest.images["split"] == "train").tolist()
    read = read_precomputed(Path(config.precomputed).expanduser())
    found = align(read, manifest.image_ids, manifest.class_names, required=is_train)
    known = None if found.known is None else found.known.numpy()
    if known is not None:
        log(f"{config.precomputed} has no scores of {(~known).sum()} test images, so the teacher is not measured.")
    if found.probabilities is not None or found.text is not None:
        decline_background(config, f"{config.precomputed} holds scores or texts of the classes alone")
    name = config.precomputed_teacher or found.teacher
    if found.probabilities is not None:
        top1 = torch.ones(len(found.probabilities), dtype=torch.bool)
        answers = ClassProbabilities(found.probabilities, entropy(found.probabilities), top1)
        return TeacherScores(answers, None, 0, name or Path(config.precomputed).name, found.fingerprint, known)
    own_scale, own_bias = found.logit_scale, found.logit_bias
    if found.text is None or own_scale is None:
        teacher = load_teacher(maker_of(config, name), device, config.precision)
    if own_scale is None:
        own_scale, own_bias = teacher.logit_scale, teacher.logit_bias
    scale = config.logit_scale or own_scale
    if found.text is None:
        head = head_of_classes(teacher, manifest, config, scale)
    else:
        bias = scaled_bias(own_bias, own_scale, scale)
        head = ZeroShotHead(found.text, torch.arange(len(found.text)), found.text[:0], scale, bias)
    if head.text.shape[1] != found.image.shape[1]:
        raise PipelineError(
            f"{config.precomputed} has embeddings of {found.image.shape[1]} numbers, and {name} makes "
            f"{head.text.shape[1]}: another model made them. State which with --precomputed-teacher."
        )
    blocks = (block.numpy() for block in found.image.split(BLOCK))
    answers = answer(len(found.image), blocks, head)
    return TeacherScores(answers, head, 0, name or Path(config.precomputed).name, found.fingerprint, known)


def maker_of(config: EmbedConfig, name: str) -> str:
    """The spec of the model that made precomputed embeddings, which must embed the classes.

    Raises:
        PipelineError: neither the file nor the options name it as a spec, or another teacher is wanted.
    """
    if name.partition(":")[0] not in ("conse", "openai", "open_clip"):
        who = f"names {name!r}, which is no spec of a teacher" if name else "does not name the model that made it"
        raise PipelineError(
            f"{config.precomputed} {who}, and its classes or its logit scale must come from the same model. State it, as "
            "`--precomputed-teacher open_clip:ViT-B-32/openai`, or write it into the file as the attribute `teacher`."
        )
    if config.teacher not in (EmbedConfig.teacher, name):
        raise PipelineError(
            f"{config.precomputed} was made by {name}, and the teacher is {config.teacher}, whose texts do not fit it. "
            f"Use `--teacher {name}`; if both are the same model, add `--precomputed-teacher {config.teacher}`."
        )
    return name


def decline_background(config: EmbedConfig, reason: str) -> None:
    """Say why the background of the options join nothing.

    Raises:
        PipelineError: they were asked for by name.
    """
    if config.background == EmbedConfig.background:
        log(f"{reason}, so nothing joins them as an other.")
    elif config.background != "none":
        raise PipelineError(
            f"{reason}, so background cannot be {config.background!r}. Use `--background none`, or another teacher."
        )


def run(folder: Path, config: EmbedConfig, origin: Provenance, *, manifest: Manifest, device: str, fresh: bool) -> None:
    """Write `embeddings.h5` from the manifest, and what the teacher said of the images to `image_embeddings/`."""
    path = folder / "embeddings.h5"
    pieces = PartialResults(path, origin, fresh=fresh)
    if config.precomputed:
        found = take_precomputed(manifest, config, device)
    else:
        found = run_teacher(folder, manifest, config, device, pieces)
    if not distributed.is_main():
        return
    is_train = manifest.images["split"].to_numpy() == "train"
    head = found.head
    probabilities, entropies, class_is_top1 = (values.numpy() for values in vars(found.answers).values())
    outcomes = probabilities.shape[1] if head is None else head.outcomes
    confident = confident_images(entropies, outcomes, config.entropy_limit)
    bias, counts = class_bias(probabilities, confident & class_is_top1 & is_train, config.bias_shrinkage)
    write(
        path,
        Embeddings(
            provenance=origin,
            image_ids=manifest.image_ids,
            class_names=manifest.class_names,
            is_train=is_train,
            known=found.known,
            text=None if head is None else head.text.numpy(),
            text_class_index=None if head is None else head.text_class.numpy(),
            background_text=None if head is None else head.background_text.numpy(),
            probabilities=probabilities,
            entropy=entropies,
            class_is_top1=class_is_top1,
            bias=bias,
            bias_counts=counts,
            logit_scale=0.0 if head is None else head.logit_scale,
            logit_bias=math.nan if head is None or head.logit_bias is None else head.logit_bias,
            outcomes=outcomes,
            background="" if head is None else ", ".join(head.background),
            background_left_out="" if head is None else ", ".join(head.left_out),
            image_size=found.image_size,
            teacher=found.teacher,
            teacher_fingerprint=found.fingerprint,
        ),
    )
    pieces.remove()
    if head is not None:
        report_background(path, head)
    report(path, manifest.class_names, bias, counts)


def report_background(path: Path, head: ZeroShotHead) -> None:
    """Say what joined the softmax with the classes, and what is too near one."""
    if head.background:
        log(f"{path}: beside the classes the teacher chose among {', '.join(head.background)}.")
    if head.left_out:
        log(f"too near a class to join them: {', '.join(head.left_out)}.")


def report(path: Path, class_names: list[str], bias: np.ndarray, counts: np.ndarray) -> None:
    """Say what the bias is and which classes have none of their own."""
    low, high = int(bias.argmin()), int(bias.argmax())
    log(
        f"{path}: {counts.sum()} confident train images; "
        f"bias from {bias[low]:.3f} ({class_names[low]}) to {bias[high]:.3f} ({class_names[high]})."
    )
    unseen = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if unseen:
        log(f"never on top, so given the mean bias of the background: {', '.join(unseen)}.")
