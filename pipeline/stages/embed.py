"""Images and class names to class probabilities, entropy and bias; the teacher encodes each photo once."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.hdf5 import write
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.provenance import Provenance
from pipeline.classifier.features import FeatureStore
from pipeline.method.labels import class_bias, confident_images
from pipeline.method.probabilities import ClassProbabilities, entropy, softening
from pipeline.runs.folders import run_folder
from pipeline.runs.options import EmbedConfig
from pipeline.runs.partial_results import PartialResults
from pipeline.runs.settings import FILE as SETTINGS
from pipeline.system import distributed
from pipeline.system.errors import PipelineError
from pipeline.system.progress import log
from pipeline.teachers.embedding_cache import BLOCK, ImageStore, StoreKey, check_reuse
from pipeline.teachers.encoding import ViewRules, precision_of
from pipeline.teachers.local_scores import LocalScores, RunningTeacher, log_encoded
from pipeline.teachers.precomputed import align, read_precomputed
from pipeline.teachers.self_check import OFF, check_at_first_use
from pipeline.teachers.teacher import Teacher, load_teacher
from pipeline.teachers.vocabulary import known_names
from pipeline.teachers.zero_shot_head import ZeroShotHead, scaled_bias, zero_shot_head


@dataclass(frozen=True)
class TeacherScores:
    """Scores of N images, from a teacher or from a file of precomputed scores."""

    probabilities: ClassProbabilities
    head: ZeroShotHead | None
    """None for precomputed probabilities."""
    image_size: int
    """Side of the square global view; 0 for precomputed scores."""
    teacher: str
    """Spec of the teacher; for a file, the model that it names, or the name of the file."""
    fingerprint: str
    known: np.ndarray | None = None
    """bool [N], images that have scores; None for all."""
    local: LocalScores | None = None
    """None without local evidence."""
    ranking: Tensor | None = None
    """float32 [N, C], softened probabilities; None if they are `probabilities`."""
    softening: float = 1.0
    """Factor of the scale in `ranking`, see `softening`."""
    name_is_known: np.ndarray | None = None
    """bool [C], see `known_names`; None if a file has the texts or scores of the classes."""
    self_check: str = ""
    """See `Embeddings`."""


def classify(count: int, images: Iterator[np.ndarray], head: ZeroShotHead) -> ClassProbabilities:
    """Class probabilities of `count` image embeddings that come in blocks."""
    return head.probabilities_in_blocks(count, (head.logits(torch.from_numpy(block)) for block in images))


def head_of_classes(teacher: Teacher, manifest: Manifest, config: EmbedConfig, logit_scale: float) -> ZeroShotHead:
    """The zero-shot head of the classes of a manifest; a scale of 0 is the teacher's own."""
    if teacher.logit_bias is not None:
        skip_background(manifest, config, f"{teacher.name} scores each class independently")
    names = list(manifest.display_names.values())
    head = zero_shot_head(
        teacher, names, manifest.class_names, config.templates, config.synonyms, config.background, logit_scale
    )
    if head.outcomes < 2:
        left_out = "all background classes are too similar to it"
        refuse_one_class(manifest, left_out if head.left_out else f"background is {config.background!r}")
    return head


def run_teacher(
    folder: Path,
    manifest: Manifest,
    config: EmbedConfig,
    device: str,
    partial: PartialResults,
    maps: FeatureStore | None,
) -> TeacherScores:
    """Embed the classes, and the images that the teacher has not encoded yet."""
    if config.reuse_embeddings:
        check_reuse(config)
    teacher = load_teacher(config.teacher, device, config.precision, rules=ViewRules.of(config))
    checked = check_at_first_use(teacher) if config.self_check else OFF
    size = config.image_size or teacher.input_size
    if config.reuse_embeddings:
        check_reused_teacher(teacher, size, config)
    head = head_of_classes(teacher, manifest, config, config.logit_scale)
    running = RunningTeacher(folder, manifest, config, teacher, head, size, device, partial, maps)
    local = None if config.local == "none" else running.local_scores(size)
    if local is not None and config.second_size:
        second = running.local_scores(config.second_size)
        local = replace(local, scores=(local.scores + second.scores) / 2)
    store, encoded = running.encode_images(manifest)
    if local is None:
        log_encoded(store, encoded, len(manifest.digests))

    def probabilities_of(head: ZeroShotHead) -> ClassProbabilities:
        return classify(len(manifest.digests), store.blocks(manifest.digests), head)

    return TeacherScores(
        probabilities_of(head),
        head,
        size,
        config.teacher,
        teacher.fingerprint,
        local=local,
        name_is_known=known_names(teacher, manifest.display_names.values()),
        self_check=checked,
        **ranking_fields(head, running.ranking_head, probabilities_of),
    )


def ranking_fields(
    head: ZeroShotHead, ranking_head: ZeroShotHead, probabilities_of: Callable[[ZeroShotHead], ClassProbabilities]
) -> dict[str, Any]:
    """Fields of `TeacherScores` for the ranking; none if its head is that of the probabilities."""
    if ranking_head.logit_scale == head.logit_scale:
        return {}
    return {
        "ranking": probabilities_of(ranking_head).probabilities,
        "softening": ranking_head.logit_scale / head.logit_scale,
    }


def check_reused_teacher(teacher: Teacher, size: int, config: EmbedConfig) -> None:
    """Raise if the run of `reuse_embeddings` has no embeddings of exactly this teacher, size and precision."""
    key = StoreKey(teacher.fingerprint, size, precision_of(teacher))
    if not ImageStore(run_folder(config.reuse_embeddings), key).path.exists():
        raise PipelineError(
            f"{config.reuse_embeddings} has no image embeddings of {config.teacher} at {size} px in {key.precision}, which this "
            "run needs: its teacher had other weights or options. Name another run, or remove the option reuse_embeddings."
        )


def scores_from_file(manifest: Manifest, config: EmbedConfig, device: str) -> TeacherScores:
    """Precomputed scores or embeddings; classes without a text embedding are embedded by the model that made the file."""
    is_train = (manifest.images["split"] == "train").tolist()
    content = read_precomputed(Path(config.precomputed).expanduser())
    given = align(content, manifest.image_ids, manifest.class_names, required=is_train)
    known = None if given.known is None else given.known.numpy()
    if known is not None:
        log(f"{config.precomputed} has no scores of {(~known).sum()} test images, so the teacher is not measured.")
    has_scores = given.probabilities is not None or given.logits is not None
    if has_scores or given.text is not None:
        skip_background(manifest, config, f"{config.precomputed} contains scores or texts of the classes alone")
    name = config.precomputed_teacher or given.teacher
    if has_scores:
        logits = given.scaled_logits(config.logit_scale)
        factor = softening(logits[torch.tensor(is_train)], config.ranking_entropy)
        shares = given.probabilities if given.probabilities is not None else logits.softmax(dim=1)
        local = None
        if given.local_logits is not None and config.local != "none":
            cells = (factor * given.scaled(given.local_logits, config.logit_scale)).softmax(dim=1)
            local = LocalScores(cells.numpy(), None, (0, 0))
        return TeacherScores(
            ClassProbabilities(shares, entropy(shares), torch.ones(len(shares), dtype=torch.bool)),
            head=None,
            image_size=0,
            teacher=name or Path(config.precomputed).name,
            fingerprint=given.fingerprint,
            known=known,
            local=local,
            ranking=None if factor == 1 else (factor * logits).softmax(dim=1),
            softening=factor,
        )
    checked = ""
    own_scale, own_bias = given.logit_scale, given.logit_bias
    if given.text is None or own_scale is None:
        teacher = load_teacher(source_model(config, name), device, config.precision)
        checked = check_at_first_use(teacher) if config.self_check else OFF
    if own_scale is None:
        own_scale, own_bias = teacher.logit_scale, teacher.logit_bias
    scale = config.logit_scale or own_scale
    name_is_known = None
    if given.text is None:
        head = head_of_classes(teacher, manifest, config, scale)
        name_is_known = known_names(teacher, manifest.display_names.values())
    else:
        bias = scaled_bias(own_bias, own_scale, scale)
        head = ZeroShotHead(given.text, torch.arange(len(given.text)), given.text[:0], scale, bias)
    if head.text.shape[1] != given.image.shape[1]:
        raise PipelineError(
            f"{config.precomputed} has embeddings of size {given.image.shape[1]}, but those of {name} have size "
            f"{head.text.shape[1]}: another model made them. State which with --precomputed-teacher."
        )

    def probabilities_of(head: ZeroShotHead) -> ClassProbabilities:
        return classify(len(given.image), (block.numpy() for block in given.image.split(BLOCK)), head)

    ranking_head = head
    if head.logit_bias is None:
        ranking_head = head.softened(
            softening(head.logits(given.image[torch.tensor(is_train)]), config.ranking_entropy)
        )
    source = name or Path(config.precomputed).name
    scores = probabilities_of(head)
    ranking = ranking_fields(head, ranking_head, probabilities_of)
    details = {"name_is_known": name_is_known, "self_check": checked}
    return TeacherScores(scores, head, 0, source, given.fingerprint, known, **details, **ranking)


def source_model(config: EmbedConfig, name: str) -> str:
    """The spec of the model that made precomputed embeddings; it has to embed the classes.

    Raises:
        PipelineError: neither the file nor the options name a spec, or `teacher` names another model.
    """
    if name.partition(":")[0] not in ("conse", "openai", "open_clip"):
        problem = (
            f"names {name!r}, which is not the spec of a teacher" if name else "does not name the model that made it"
        )
        raise PipelineError(
            f"{config.precomputed} {problem}, but class names and logit scale must come from the same model. State it, as "
            "`--precomputed-teacher open_clip:ViT-B-32/openai`, or write it into the file as the attribute `teacher`."
        )
    if config.teacher not in (EmbedConfig.teacher, name):
        raise PipelineError(
            f"{config.precomputed} was made by {name}, but the teacher is {config.teacher}, whose texts do not fit it. "
            f"Use `--teacher {name}`; if both are the same model, add `--precomputed-teacher {config.teacher}`."
        )
    return name


def refuse_one_class(manifest: Manifest, reason: str) -> NoReturn:
    """Raise because the only class has no background class to compete with."""
    raise PipelineError(
        f"{manifest.class_names[0]!r} is the only class, and {reason}, so every photo would have it with probability 1. Add the "
        "other things that the photos show to the classes, or use background classes (`--background everyday`) with a teacher "
        "whose softmax they can join, such as conse."
    )


def skip_background(manifest: Manifest, config: EmbedConfig, reason: str) -> None:
    """Log why the background classes are skipped.

    Raises:
        PipelineError: the option `background` names some, or there is only one class.
    """
    if len(manifest.class_names) == 1:
        refuse_one_class(manifest, reason)
    if config.background == EmbedConfig.background:
        log(f"background classes are skipped: {reason}.")
    elif config.background != "none":
        raise PipelineError(
            f"{reason}, so background cannot be {config.background!r}. Use `--background none`, or another teacher."
        )


def attributes_of(head: ZeroShotHead | None) -> dict[str, Any]:
    """Fields of `Embeddings` that describe a zero-shot head; None: there are only probabilities."""
    if head is None:
        return {"logit_scale": 0.0}
    return {
        "text": head.text.numpy(),
        "text_class_index": head.text_class.numpy(),
        "background_text": head.background_text.numpy(),
        "logit_scale": head.logit_scale,
        "logit_bias": math.nan if head.logit_bias is None else head.logit_bias,
        "background": ", ".join(head.background),
        "background_left_out": ", ".join(head.left_out),
    }


def local_fields(local: LocalScores | None) -> dict[str, Any]:
    """Fields of `Embeddings` with local evidence; None: there is none."""
    if local is None:
        return {}
    height, width = local.grid
    return {
        "cell_scores": local.scores,
        "best_cell": local.best_cell,
        "grid_height": height,
        "grid_width": width,
    }


def run(
    folder: Path,
    config: EmbedConfig,
    origin: Provenance,
    *,
    manifest: Manifest,
    device: str,
    fresh: bool,
    store: FeatureStore | None,
) -> None:
    """Write `embeddings.h5` from the manifest, and the image embeddings to `image_embeddings/`."""
    path = folder / "embeddings.h5"
    partial = PartialResults(path, origin, fresh=fresh)
    if config.precomputed:
        scores = scores_from_file(manifest, config, device)
    else:
        scores = run_teacher(folder, manifest, config, device, partial, store)
    if not distributed.is_main():
        return
    is_train = manifest.images["split"].to_numpy() == "train"
    head = scores.head
    probabilities, entropies = scores.probabilities.probabilities.numpy(), scores.probabilities.entropy.numpy()
    class_is_top1 = scores.probabilities.class_is_top1.numpy()
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
            known=scores.known,
            probabilities=probabilities,
            entropy=entropies,
            class_is_top1=class_is_top1,
            bias=bias,
            bias_counts=counts,
            outcomes=outcomes,
            image_size=scores.image_size,
            teacher=scores.teacher,
            teacher_fingerprint=scores.fingerprint,
            **attributes_of(head),
            **local_fields(scores.local),
            ranking_probabilities=None if scores.ranking is None else scores.ranking.numpy(),
            softening=scores.softening,
            name_is_known=scores.name_is_known,
            self_check=scores.self_check,
        ),
    )
    partial.remove()
    if head is not None:
        report_background(path, head)
    report(path, manifest.class_names, counts, int(is_train.sum()))
    report_unknown(folder, manifest.class_names, scores.name_is_known)


def report_background(path: Path, head: ZeroShotHead) -> None:
    """Log the background classes that joined the softmax, and those that are too similar to a class."""
    if head.background:
        log(f"{path}: background classes, which compete with yours: {', '.join(head.background)}.")
    if head.left_out:
        log(
            f"background classes not used, as they mean the same as yours or are of their kind: {', '.join(head.left_out)}."
        )


def report(path: Path, class_names: list[str], counts: np.ndarray, images: int) -> None:
    """Log in how many of N train images the teacher is confident of a class, and of which classes it never is."""
    log(f"{path}: the teacher is sure of a class in {counts.sum()} of {images} train photos.")
    unseen = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if unseen:
        log(f"In no photo is the teacher sure of: {', '.join(unseen)}.")


def report_unknown(folder: Path, class_names: list[str], name_is_known: np.ndarray | None) -> None:
    """Log the classes whose names the teacher does not know."""
    if name_is_known is not None and not name_is_known.all():
        unknown = [name for name, known in zip(class_names, name_is_known, strict=True) if not known]
        log(
            f"warning: the teacher probably does not know: {', '.join(unknown)}. "
            f"Give English display names, under [classes] in {folder / SETTINGS}."
        )
