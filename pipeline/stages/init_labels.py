"""Global scores and local evidence of the train images to initial pseudo-labels."""

from pathlib import Path

import numpy as np

from pipeline.artifacts.embeddings import Embeddings
from pipeline.artifacts.hdf5 import read_arrays, write
from pipeline.artifacts.labels import Labels, warn_of_classes
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.schema import check_same_images
from pipeline.datasets.dataset import UNKNOWN
from pipeline.datasets.label_file import read_soft_labels
from pipeline.evaluation.ground_truth import read_ground_truth
from pipeline.method.labels import clamp_labels, confident_images, match_values
from pipeline.runs.options import EmbedConfig, InitLabelsConfig
from pipeline.system.errors import PipelineError
from pipeline.system.progress import log
from pipeline.teachers.image_scores import global_scores, teacher_scores


def teacher_labels(embeddings: Embeddings, rows: np.ndarray, config: InitLabelsConfig) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's labels and scores, float32 [n, C] each, of the images of a mask bool [N].

    Local evidence ranks images better, but its values are too high: the mean of the best cells is high in many images. So the
    scores give the order, and the global scores the values.
    """
    scores = teacher_scores(embeddings, rows, config)
    if config.values == "scores":
        return clamp_labels(scores), scores
    return match_values(scores, clamp_labels(global_scores(embeddings, rows, config))), scores


def true_labels(folder: Path, embeddings: Embeddings) -> np.ndarray:
    """Ground truth of the train images, float32 [n, C], for an ablation."""
    truth = read_ground_truth(folder)
    check_same_images(embeddings, truth, folder / "embeddings.h5", folder / "ground_truth.h5")
    labels = truth.labels[embeddings.is_train]
    if unknown := int((labels == UNKNOWN).sum()):
        raise PipelineError(
            f"{folder / 'ground_truth.h5'} lacks {unknown} labels of train images, and unknown is not absent. "
            "Label them all, or set init-labels.source to 'teacher'."
        )
    return (labels == 1).astype(np.float32)


def run(folder: Path, config: InitLabelsConfig, origin: Provenance) -> None:
    """Write `initial_labels.h5` from `embeddings.h5` (in an ablation also from `ground_truth.h5`), or from a label file."""
    path = folder / "initial_labels.h5"
    embeddings: Embeddings = read_arrays(folder / "embeddings.h5")
    train = embeddings.is_train
    image_ids = [i for i, keep in zip(embeddings.image_ids, train, strict=True) if keep]
    if config.labels_file:
        labels, scores = read_soft_labels(Path(config.labels_file), image_ids, embeddings.class_names)
    elif config.uses_ground_truth:
        labels = scores = true_labels(folder, embeddings)
    else:
        labels, scores = teacher_labels(embeddings, train, config)
    limit = embeddings.provenance.options(EmbedConfig).entropy_limit
    confident = confident_images(embeddings.entropy[train], embeddings.outcomes, limit)
    initial = Labels(
        provenance=origin,
        image_ids=image_ids,
        class_names=embeddings.class_names,
        labels=labels,
        scores=scores,
        confident=confident,
    )
    write(path, initial)
    log(
        f"{path}: {len(labels)} images, {initial.per_image_text}, the teacher is not confident in {1 - confident.mean():.1%}."
    )
    warn_of_classes(path, initial)
