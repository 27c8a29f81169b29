"""JSON for cleanlab's multi-label functions."""

import json
from pathlib import Path

import numpy as np

from pipeline.artifacts.state import up_to_date
from pipeline.evaluation.read import read
from pipeline.exchange.formats.export import Export
from pipeline.system.errors import PipelineError
from pipeline.system.files import write_text


def write(export: Export, out: Path) -> None:
    """JSON for cleanlab's multi-label functions: labels (lists of class numbers) and pred_probs [N, C].

    `pred_probs` are the teacher's probabilities for whole images. With the scores behind the labels, cleanlab would never
    find a label error, because a threshold on these scores made the labels.
    """
    labels = export.labels
    path = labels.path.with_name("embeddings.h5")
    embeddings = read(up_to_date(path))
    rows = {image_id: row for row, image_id in enumerate(embeddings.image_ids)}
    missing = [image_id for image_id in labels.image_ids if image_id not in rows]
    if missing or embeddings.class_names != labels.class_names:
        raise PipelineError(f"{path} has other images or classes than {labels.path}. Run the stages again.")
    probabilities = embeddings.probabilities[[rows[image_id] for image_id in labels.image_ids]]
    content = {
        "image_ids": labels.image_ids,
        "class_names": labels.class_names,
        "labels": [np.flatnonzero(present).tolist() for present in labels.present],
        "pred_probs": probabilities.astype(float).tolist(),
        "pred_probs_source": "the teacher's probabilities for whole images",
    }
    write_text(out, json.dumps(content))
