"""Images and class names to teacher embeddings, class probabilities, entropy and bias."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts import Embeddings, Manifest, Partial, begin, read_manifest, write
from pipeline.config import Config, option
from pipeline.inference import image_batches
from pipeline.labels import ENTROPY_LIMIT, class_bias, class_probabilities, confident_images, entropy
from pipeline.loader import chunks
from pipeline.progress import bar, say
from pipeline.teachers import Teacher, load_teacher
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
    batch_size: int = option(16, "images a teacher call", min=1, max=4096, identity=False)


def encode(teacher: Teacher, paths: list[str], size: int, batch_size: int, partial: Partial) -> Tensor:
    """Embeddings float32 Tensor[N, D] of images; pieces of the work are kept in `partial` and taken from there."""
    pieces = chunks(len(paths), PIECE)
    done = sum(len(rows) for i, rows in enumerate(pieces) if partial.has_arrays(i))
    with bar("embed", len(paths), done) as progress:
        for index, piece in enumerate(pieces):
            if partial.has_arrays(index):
                continue
            rows = []
            for batch, images in image_batches([paths[i] for i in piece], size, batch_size):
                rows.append(teacher.encode_images(images).float().cpu())
                progress.advance(len(batch))
            partial.save_arrays(index, {"image": torch.cat(rows).numpy()})
    return torch.cat([torch.from_numpy(partial.load_arrays(i)["image"]) for i in range(len(pieces))])


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
    teacher = load_teacher(config.teacher, device)
    partial = Partial(path, provenance, fresh=force)
    names = display_names(manifest.class_names, manifest.display_names)
    text, text_class = class_embeddings(teacher, names, find_templates(config.templates), config.synonyms)
    size = config.image_size or teacher.input_size
    image = encode(teacher, manifest.paths, size, config.batch_size, partial)
    scale = config.logit_scale or teacher.logit_scale
    probabilities = class_probabilities(image, text, scale, text_class)
    is_train = torch.tensor(manifest.images["split"].to_numpy() == "train")
    bias, counts = bias_of(probabilities, is_train, config)
    write(
        path,
        Embeddings(
            provenance=provenance,
            image_ids=manifest.image_ids,
            class_names=manifest.class_names,
            is_train=is_train.numpy(),
            image=image.numpy(),
            text=text.numpy(),
            text_class_index=text_class.numpy(),
            probabilities=probabilities.numpy(),
            entropy=entropy(probabilities).numpy(),
            bias=bias.numpy(),
            bias_counts=counts.numpy(),
            logit_scale=scale,
            image_size=size,
            teacher_fingerprint=teacher.fingerprint,
        ),
    )
    partial.remove()
    report(path, manifest.class_names, bias.numpy(), counts.numpy())


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
