"""Images and class names to class probabilities, entropy and bias; the teacher is asked about each photo once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.classifier.inference import image_batches
from pipeline.datasets.class_names import display_names
from pipeline.machine import distributed
from pipeline.machine.errors import PipelineError
from pipeline.machine.progress import say
from pipeline.method.labels import class_bias, confident_images
from pipeline.method.probabilities import class_probabilities, entropy
from pipeline.photos.prefetch import chunks
from pipeline.runs.artifacts import Embeddings, Provenance, write
from pipeline.runs.folders import run_folder
from pipeline.runs.image_store import BLOCK, ImageStore, StoreKey
from pipeline.runs.manifest import Manifest, read_manifest
from pipeline.runs.options import EmbedConfig
from pipeline.runs.pieces import Pieces, work_in_pieces
from pipeline.teachers import Teacher, load_teacher
from pipeline.teachers.encoding import ViewRules, find_batch_size
from pipeline.teachers.precomputed import align, read_precomputed
from pipeline.teachers.prompts import check_embeddings, class_embeddings, find_templates

PIECE = 256
"""Images between two savings of unfinished work."""


@dataclass(frozen=True)
class Texts:
    """The classes as the teacher knows them."""

    text: Tensor
    """float32 Tensor[S, D], unit rows."""
    text_class: Tensor
    """int64 Tensor[S], class of each text."""
    logit_scale: float


@dataclass(frozen=True)
class Answers:
    """What a teacher, or a file in its place, says of N images."""

    probabilities: np.ndarray
    """float32 [N, C]."""
    entropy: np.ndarray
    """float32 [N], nats."""
    texts: Texts | None
    """None where only probabilities were given."""
    image_size: int
    """Side of the squashed global view; 0 where precomputed scores were given."""
    fingerprint: str
    known: np.ndarray | None = None
    """bool [N], images of which anything is said; None for all."""


def embed_images(
    teacher: Teacher, manifest: Manifest, store: ImageStore, size: int, squash: str, batch_size: int, pieces: Pieces
) -> int:
    """Put the embeddings of those images that the store does not know into it, and return how many they were.

    The processes of torchrun share the work; the first one writes the store.
    """
    wanted = store.missing(manifest.digests)
    if not wanted:
        return 0
    path_of = dict(zip(manifest.digests, manifest.paths, strict=True))
    rows = chunks(len(wanted), PIECE)

    def encode(indices: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.array([row for index in indices for row in rows[index]], dtype=np.int64)
        for batch, images in image_batches([path_of[wanted[i]] for i in order], size, batch_size, squash=squash):
            yield order[batch.start : batch.stop], teacher.encode_images(images).float().cpu().numpy()

    images = work_in_pieces("embed", [len(r) for r in rows], pieces, encode)
    if distributed.is_main():
        store.add(wanted, images)
    return len(wanted)


def answer(images: Iterator[np.ndarray], texts: Texts) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float32 [N, C] and their entropy float32 [N], in nats, of image embeddings that come in blocks."""
    probabilities, entropies = [], []
    for block in images:
        found = class_probabilities(torch.from_numpy(block), texts.text, texts.logit_scale, texts.text_class)
        probabilities.append(found.numpy())
        entropies.append(entropy(found).numpy())
    return np.concatenate(probabilities), np.concatenate(entropies)


def embed_classes(teacher: Teacher, manifest: Manifest, config: EmbedConfig) -> tuple[Tensor, Tensor]:
    """Text embeddings Tensor[S, D] of the classes, and int64 Tensor[S], the class of each."""
    names = display_names(manifest.class_names, manifest.display_names)
    text, text_class = class_embeddings(teacher, names, find_templates(config.templates), config.synonyms)
    check_embeddings(text, text_class, manifest.class_names)
    return text.float().cpu(), text_class.cpu()


def ask_teacher(folder: Path, manifest: Manifest, config: EmbedConfig, device: str, pieces: Pieces) -> Answers:
    """Embed the classes, and the images that the teacher has not seen yet."""
    teacher = load_teacher(config.teacher, device, config.precision, rules=ViewRules.of(vars(config)))
    text, text_class = embed_classes(teacher, manifest, config)
    texts = Texts(text, text_class, config.logit_scale or teacher.logit_scale)
    size = config.image_size or teacher.input_size
    precision = str(getattr(teacher, "dtype", torch.float32)).removeprefix("torch.")
    key = StoreKey(teacher.fingerprint, size, precision)
    store = ImageStore(folder, key)
    if config.known_from and distributed.is_main():
        other = ImageStore(run_folder(config.known_from), key)
        if not other.path.exists():
            raise PipelineError(
                f"{config.known_from} has no image embeddings of {config.teacher} at {size} px, as this run needs them. "
                "Name another run, or take the option known_from away."
            )
        say(f"{store.path}: {store.take_over(other, manifest.digests)} images are known from {config.known_from}.")
    distributed.barrier()
    store = ImageStore(folder, key)
    unseen = len(store.missing(manifest.digests))
    batch_size = config.batch_size or (find_batch_size(teacher.encode_images, (size, size), device) if unseen else 1)
    embed_images(teacher, manifest, store, size, config.squash, batch_size, pieces)
    distributed.barrier()  # the first process has written what all read
    if unseen < len(manifest.digests):
        say(f"{store.path}: {unseen} of {len(manifest.digests)} images were new to the teacher.")
    probabilities, entropies = answer(ImageStore(folder, key).blocks(manifest.digests), texts)
    return Answers(probabilities, entropies, texts, size, teacher.fingerprint)


def take_precomputed(manifest: Manifest, config: EmbedConfig, device: str) -> Answers:
    """Scores that someone else computed; classes without a text embedding are embedded by the teacher."""
    is_train = (manifest.images["split"] == "train").tolist()
    read = read_precomputed(Path(config.precomputed).expanduser())
    found = align(read, manifest.image_ids, manifest.class_names, required=is_train)
    known = None if found.known is None else found.known.numpy()
    if known is not None:
        say(f"{config.precomputed} has no scores of {(~known).sum()} test images, so the teacher is not measured.")
    if found.probabilities is not None:
        entropies = entropy(found.probabilities).numpy()
        return Answers(found.probabilities.numpy(), entropies, None, 0, found.fingerprint, known)
    text, text_class, scale = found.text, torch.arange(len(manifest.class_names)), found.logit_scale
    if text is None or scale is None:
        teacher = load_teacher(config.teacher, device, config.precision)
        scale = scale or teacher.logit_scale
    if text is None:
        text, text_class = embed_classes(teacher, manifest, config)
    texts = Texts(text, text_class, config.logit_scale or scale)
    blocks = (block.numpy() for block in found.image.split(BLOCK))
    return Answers(*answer(blocks, texts), texts, 0, found.fingerprint, known)


def run(folder: Path, config: EmbedConfig, origin: Provenance, *, device: str, fresh: bool) -> None:
    """Write `embeddings.h5` from the manifest, and what the teacher said of the images to `image_embeddings/`."""
    path = folder / "embeddings.h5"
    manifest = read_manifest(folder)
    pieces = Pieces(path, origin, fresh=fresh)
    if config.precomputed:
        answers = take_precomputed(manifest, config, device)
    else:
        answers = ask_teacher(folder, manifest, config, device, pieces)
    if not distributed.is_main():
        return
    is_train = manifest.images["split"].to_numpy() == "train"
    train = answers.probabilities[is_train]
    confident = confident_images(answers.entropy[is_train], train.shape[1], config.entropy_limit)
    bias, counts = class_bias(train, confident, config.bias_shrinkage)
    texts = answers.texts
    write(
        path,
        Embeddings(
            provenance=origin,
            image_ids=manifest.image_ids,
            class_names=manifest.class_names,
            is_train=is_train,
            known=answers.known,
            text=None if texts is None else texts.text.numpy(),
            text_class_index=None if texts is None else texts.text_class.numpy(),
            probabilities=answers.probabilities,
            entropy=answers.entropy,
            bias=bias,
            bias_counts=counts,
            logit_scale=0.0 if texts is None else texts.logit_scale,
            image_size=answers.image_size,
            teacher=config.teacher,
            teacher_fingerprint=answers.fingerprint,
        ),
    )
    pieces.remove()
    report(path, manifest.class_names, bias, counts)


def report(path: Path, class_names: list[str], bias: np.ndarray, counts: np.ndarray) -> None:
    """Say what the bias is and which classes have none of their own."""
    low, high = int(bias.argmin()), int(bias.argmax())
    say(
        f"{path}: {counts.sum()} confident train images; "
        f"bias from {bias[low]:.3f} ({class_names[low]}) to {bias[high]:.3f} ({class_names[high]})."
    )
    unseen = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if unseen:
        say(f"never on top, so given the mean bias of the others: {', '.join(unseen)}.")
