"""A teacher whose network is the classifier's own: its image tower as the backbone, and its zero-shot head as a second head."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.artifacts.checkpoints import CheckpointHeader
from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.hdf5 import read_arrays
from pipeline.classifier.backbones import Tower
from pipeline.classifier.teacher_head import TeacherHead, TeacherHeadShape
from pipeline.runs.options import EmbedConfig, InitLabelsConfig, WarmupConfig
from pipeline.system.errors import PipelineError
from pipeline.teachers.conse import Conse
from pipeline.teachers.encoding import ViewRules
from pipeline.teachers.image_scores import ranking_biases
from pipeline.teachers.teacher import check_weights, load_teacher


@dataclass(frozen=True)
class TeacherBackbone:
    """The image tower of a run's teacher as the backbone of a classifier."""

    architecture: dict[str, Any]
    """`backbone`, `resize_filter` and, for a CLIP, `tower` of the classifier's architecture."""
    tower: Tower
    """The tower with its weights, in float32."""
    side: int
    """Side of the teacher's global view, in pixels."""


def teacher_backbone(path: Path) -> TeacherBackbone:
    """The backbone of the teacher that made an `embeddings.h5`.

    Raises:
        PipelineError: the scores were precomputed, the teacher has other weights now, or no classifier can have its tower.
    """
    embeddings: Embeddings = read_arrays(
        path, without=("probabilities", "ranking_probabilities", "cell_scores", "best_cell")
    )
    # a provenance has the identity of a teacher instead of its spec
    made_with = embeddings.provenance.options(EmbedConfig).replace(teacher=embeddings.teacher)
    if made_with.precomputed:
        raise PipelineError(
            f"warmup.backbone is teacher, but {path} contains precomputed scores. Name a backbone, such as "
            f"`--set warmup.backbone={WarmupConfig.backbone}`."
        )
    rules = ViewRules.of(made_with)
    teacher = load_teacher(embeddings.teacher, rules=rules)
    check_weights(teacher, embeddings.teacher, embeddings.teacher_fingerprint, path)
    if teacher.tower is None or (embeddings.teacher.startswith("conse") and not made_with.network):
        reason = "its views are not square" if teacher.tower is None else "embed.statistics is imagenet"
        raise PipelineError(
            f"warmup.backbone is teacher, but no classifier can have the network of {embeddings.teacher}: {reason}. Name a "
            f"backbone, such as `--set warmup.backbone={WarmupConfig.backbone}`."
        )
    architecture = teacher.architecture | {"resize_filter": rules.resize_filter_of(teacher)}
    return TeacherBackbone(architecture, teacher.tower, embeddings.image_size)


def shares_network(embeddings: Embeddings, warmup: CheckpointHeader) -> bool:
    """Whether the classifier's backbone is the image tower of the run's teacher, with the same weights and input."""
    # a provenance has the identity of a teacher instead of its spec
    made_with = embeddings.provenance.options(EmbedConfig).replace(teacher=embeddings.teacher)
    options = warmup.provenance.options(WarmupConfig)
    return (
        options.shares_tower(made_with)
        and made_with.local != "tiles"
        and made_with.cell_pooling == "best"
        and not made_with.second_size
        and options.freeze_norms
    )


def teacher_head(embeddings: Embeddings, config: InitLabelsConfig, channels: int) -> TeacherHead:
    """The teacher of a run with its classes, see `shares_network`, as a head on the feature maps.

    Args:
        embeddings: of the run.
        config: of its initial labels, which have the same scores.
        channels: E of the maps.
    """
    kind, _, network = embeddings.teacher.partition(":")
    classifier, words = Conse(backbone=network).imagenet_head() if kind == "conse" else (None, None)
    count = len(embeddings.class_names)
    background = len(embeddings.background_text)
    outcome = np.concatenate([embeddings.text_class_index, np.arange(count, count + background)])
    texts_of = [np.flatnonzero(outcome == each) for each in range(count + background)]
    most = max(map(len, texts_of))
    bias, cell_bias = ranking_biases(embeddings, config)
    shape = TeacherHeadShape(
        channels=channels,
        imagenet=0 if classifier is None else classifier.out_features,
        size=embeddings.text.shape[1],
        texts=len(outcome),
        outcomes=count + background,
        most_texts=most,
        classes=count,
        cell_share=embeddings.provenance.options(EmbedConfig).cell_share,
        cell_weight=0.0 if cell_bias is None else config.cell_weight,
        sigmoid=not math.isnan(embeddings.logit_bias),
    )
    head = TeacherHead(shape)
    texts = np.concatenate([embeddings.text, embeddings.background_text])
    scale = embeddings.logit_scale * embeddings.softening
    values = {
        "text": torch.from_numpy(texts) * scale,
        "bias": torch.from_numpy(bias),
        "cell_bias": torch.from_numpy(bias if cell_bias is None else cell_bias),
        # the last text of a class fills its row, which changes no maximum
        "texts_of": torch.from_numpy(np.stack([np.pad(each, (0, most - len(each)), "edge") for each in texts_of])),
    }
    if shape.sigmoid:
        values["logit_bias"] = torch.tensor(embeddings.logit_bias * embeddings.softening)
    if classifier is not None:
        head.imagenet.load_state_dict(classifier.state_dict())
        values["words"] = words
    for name, value in values.items():
        getattr(head, name).copy_(value)
    return head.requires_grad_(False).eval()
