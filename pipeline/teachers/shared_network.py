"""A teacher whose network is the classifier's own, as a head of the classifier."""

import numpy as np
import torch

from pipeline.artifacts.checkpoints import CheckpointHeader
from pipeline.artifacts.embeddings import Embeddings
from pipeline.classifier.teacher_head import TeacherHead, TeacherHeadShape
from pipeline.runs.options import EmbedConfig, InitLabelsConfig, WarmupConfig
from pipeline.teachers.conse import Conse
from pipeline.teachers.image_scores import ranking_biases


def shares_network(embeddings: Embeddings, warmup: CheckpointHeader) -> bool:
    """Whether the teacher of the run is `conse` on the classifier's backbone, with the same weights and input."""
    # a provenance has the identity of a teacher instead of its spec
    made_with = embeddings.provenance.options(EmbedConfig).replace(teacher=embeddings.teacher)
    options = warmup.provenance.options(WarmupConfig)
    return (
        made_with.network == warmup.architecture["backbone"]
        and made_with.local != "tiles"
        and made_with.cell_pooling == "best"
        and not made_with.second_size
        and options.freeze_backbone
        and options.freeze_norms
        and not options.weights
    )


def teacher_head(embeddings: Embeddings, config: InitLabelsConfig) -> TeacherHead:
    """The teacher of a run with its classes, see `shares_network`, as a head on the feature maps.

    Args:
        embeddings: of the run.
        config: of its initial labels, which have the same scores.
    """
    teacher = Conse(backbone=embeddings.teacher.partition(":")[2])
    count = len(embeddings.class_names)
    background = len(embeddings.background_text)
    outcome = np.concatenate([embeddings.text_class_index, np.arange(count, count + background)])
    texts_of = [np.flatnonzero(outcome == each) for each in range(count + background)]
    most = max(map(len, texts_of))
    bias, cell_bias = ranking_biases(embeddings, config)
    classifier, words = teacher.imagenet_head()
    shape = TeacherHeadShape(
        channels=classifier.in_features,
        imagenet=classifier.out_features,
        size=words.shape[1],
        texts=len(outcome),
        outcomes=count + background,
        most_texts=most,
        classes=count,
        cell_share=embeddings.provenance.options(EmbedConfig).cell_share,
        cell_weight=0.0 if cell_bias is None else config.cell_weight,
    )
    head = TeacherHead(shape)
    head.imagenet.load_state_dict(classifier.state_dict())
    texts = np.concatenate([embeddings.text, embeddings.background_text])
    scale = embeddings.logit_scale * embeddings.softening
    values = {
        "words": words,
        "text": torch.from_numpy(texts) * scale,
        "bias": torch.from_numpy(bias),
        "cell_bias": torch.from_numpy(bias if cell_bias is None else cell_bias),
        # the last text of a class fills its row, which changes no maximum
        "texts_of": torch.from_numpy(np.stack([np.pad(each, (0, most - len(each)), "edge") for each in texts_of])),
    }
    for name, value in values.items():
        getattr(head, name).copy_(value)
    return head.requires_grad_(False).eval()
