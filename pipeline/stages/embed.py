"""Images and class names to teacher embeddings, class probabilities, entropy and bias."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.classifier.inference import image_batches
from pipeline.machine import distributed
from pipeline.machine.progress import bar, say
from pipeline.method.labels import ENTROPY_LIMIT, class_bias, class_probabilities, confident_images, entropy
from pipeline.photos.prefetch import chunks
from pipeline.runs.artifacts import Embeddings, Manifest, Partial, begin, read_manifest, write
from pipeline.runs.config import Config, option
from pipeline.teachers import Teacher, load_teacher
from pipeline.teachers.encoding import find_batch_size
from pipeline.teachers.precomputed import align, read_precomputed
from pipeline.teachers.prompts import class_embeddings, display_names, find_templates

PIECE = 256
"""Images between two savings of unfinished work."""


@dataclass(frozen=True)
class EmbedConfig(Config):
    """The teacher and what it is asked."""

    teacher: str = option("conse", "conse, openai:NAME_OR_FILE or open_clip:MODEL/PRETRAINED (paper: openai:RN50x64)")
    image_size: int = option(
        0, "side of the squashed global view, pixels; 0: the teacher's own (paper: 640)", min=0, max=2048
    )
    templates: str = option("paper", "prompt templates: paper, openai-imagenet-80, or a sentence with {} for the class")
    synonyms: Literal["mean", "max"] = option("mean", "how the names of one class are combined")
    logit_scale: float = option(0.0, "s of softmax(s f.t); 0: the teacher's own (CLIP: 100)", min=0.0, max=1000.0)
    entropy_limit: float = option(
        ENTROPY_LIMIT, "images above this share of log C do not count for the bias", min=0.0, max=1.0
    )
    bias_shrinkage: float = option(0.0, "pseudo-counts that pull each class's bias to the mean (paper: 0)", min=0.0)
    precision: Literal["float32", "bfloat16", "float16"] = option(
        "float32", "of the teacher on CUDA; a CPU uses float32"
    )
    precomputed: str = option("", "HDF5 file or clip-retrieval folder of scores or embeddings to start from")
    batch_size: int = option(0, "images a teacher call; 0: what fits", min=0, max=4096, identity=False)


@dataclass(frozen=True)
class Encoded:
    """What a teacher, or a file in its place, says of N images."""

    probabilities: Tensor
    """float32 Tensor[N, C]."""
    image: Tensor | None
    """float32 Tensor[N, D], unit rows; None where only probabilities were given."""
    text: Tensor | None
    """float32 Tensor[S, D], unit rows; None likewise."""
    text_class: Tensor | None
    """int64 Tensor[S], class of each text; None likewise."""
    logit_scale: float
    image_size: int
    """Side of the squashed global view; 0 where precomputed scores were given."""
    fingerprint: str


def encode(teacher: Teacher, paths: list[str], size: int, batch_size: int, partial: Partial) -> Tensor:
    """Embeddings float32 Tensor[N, D] of images; pieces of the work are kept in `partial` and taken from there.

    Several processes share the pieces, and each returns all of them.
    """
    pieces = chunks(len(paths), PIECE)
    mine = distributed.own_share(range(len(pieces)))
    done = sum(len(pieces[i]) for i in mine if partial.has_arrays(i))
    with bar("embed", sum(len(pieces[i]) for i in mine), done) as progress:
        for index in mine:
            if partial.has_arrays(index):
                continue
            rows = []
            for batch, images in image_batches([paths[i] for i in pieces[index]], size, batch_size):
                rows.append(teacher.encode_images(images).float().cpu())
                progress.advance(len(batch))
            partial.save_arrays(index, {"image": torch.cat(rows).numpy()})
    distributed.barrier()
    return torch.cat([torch.from_numpy(partial.load_arrays(i)["image"]) for i in range(len(pieces))])


def ask_teacher(manifest: Manifest, config: EmbedConfig, device: str, partial: Partial) -> Encoded:
    """Embed the images of the manifest and its classes."""
    names = display_names(manifest.class_names, manifest.display_names)
    teacher = load_teacher(config.teacher, device, config.precision)
    text, text_class = class_embeddings(teacher, names, find_templates(config.templates), config.synonyms)
    size = config.image_size or teacher.input_size
    batch_size = config.batch_size or find_batch_size(teacher.encode_images, (size, size), device)
    image = encode(teacher, manifest.paths, size, batch_size, partial)
    scale = config.logit_scale or teacher.logit_scale
    text, text_class = text.float().cpu(), text_class.cpu()
    probabilities = class_probabilities(image, text, scale, text_class)
    return Encoded(probabilities, image, text, text_class, scale, size, teacher.fingerprint)


def take_precomputed(manifest: Manifest, config: EmbedConfig, device: str) -> Encoded:
    """Scores that someone else computed; classes without a text embedding are embedded by the teacher."""
    found = align(read_precomputed(Path(config.precomputed)), manifest.image_ids, manifest.class_names)
    if found.probabilities is not None:
        scale = found.logit_scale or 0.0
        return Encoded(found.probabilities, None, None, None, scale, 0, found.fingerprint)
    text, text_class, scale = found.text, torch.arange(len(manifest.class_names)), found.logit_scale
    if text is None or scale is None:
        teacher = load_teacher(config.teacher, device, config.precision)
        scale = scale or teacher.logit_scale
    if text is None:
        names = display_names(manifest.class_names, manifest.display_names)
        text, text_class = class_embeddings(teacher, names, find_templates(config.templates), config.synonyms)
    scale = config.logit_scale or scale
    probabilities = class_probabilities(found.image, text, scale, text_class)
    return Encoded(probabilities, found.image, text, text_class, scale, 0, found.fingerprint)


def bias_of(probabilities: Tensor, is_train: Tensor, config: EmbedConfig) -> tuple[Tensor, Tensor]:
    """Bias and counts of the train images, Tensor[C] each."""
    train = probabilities[is_train]
    confident = confident_images(entropy(train), probabilities.shape[1], config.entropy_limit)
    return class_bias(train, confident, config.bias_shrinkage)


def run(folder: Path, config: EmbedConfig, *, device: str = "cpu", force: bool = False) -> None:
    """Write `embeddings.h5` from the manifest."""
    path = folder / "embeddings.h5"
    provenance = begin(folder, path.name, config, ["manifest.csv"], force=force)
    if provenance is None:
        return
    manifest: Manifest = read_manifest(folder)
    partial = Partial(path, provenance, fresh=force)
    if config.precomputed:
        encoded = take_precomputed(manifest, config, device)
    else:
        encoded = ask_teacher(manifest, config, device, partial)
    is_train = torch.tensor(manifest.images["split"].to_numpy() == "train")
    bias, counts = bias_of(encoded.probabilities, is_train, config)
    distributed.barrier()  # all have read the pieces before the first process removes them
    if not distributed.is_main():
        return
    write(
        path,
        Embeddings(
            provenance=provenance,
            image_ids=manifest.image_ids,
            class_names=manifest.class_names,
            is_train=is_train.numpy(),
            image=to_numpy(encoded.image),
            text=to_numpy(encoded.text),
            text_class_index=to_numpy(encoded.text_class),
            probabilities=to_numpy(encoded.probabilities),
            entropy=entropy(encoded.probabilities).numpy(),
            bias=bias.numpy(),
            bias_counts=counts.numpy(),
            logit_scale=encoded.logit_scale,
            image_size=encoded.image_size,
            teacher_fingerprint=encoded.fingerprint,
        ),
    )
    partial.remove()
    report(path, manifest.class_names, bias.numpy(), counts.numpy())


def to_numpy(values: Tensor | None) -> np.ndarray | None:
    """The values as an array, None where there are none."""
    return None if values is None else values.cpu().numpy()


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
