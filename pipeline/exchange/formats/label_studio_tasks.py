"""Label Studio tasks with the labels as predictions."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.exchange import label_studio
from pipeline.exchange.formats.export import Export
from pipeline.method.extras.thresholds import PRESENT
from pipeline.system.files import write_text
from pipeline.system.progress import log


def write(export: Export, out: Path) -> None:
    """Label Studio tasks with predictions; the labelling interface is written next to them, with the ending .xml."""
    write_text(out, json.dumps([studio_task(export, row) for row in range(len(export.labels.image_ids))], indent=1))
    write_text(label_studio.interface_path(out), label_studio.interface(export.labels.class_names))
    log(label_studio.storage_advice(export.labels.manifest.paths, export.image_prefix))


def studio_task(export: Export, row: int, hint: str = "") -> dict[str, Any]:
    """The task of one image; its score is the smallest distance of a label from 0.5."""
    labels = export.labels
    boxes = [(labels.class_names[c], box) for c, box in export.boxes_of(row)]
    score = float(np.abs(labels.labels[row] - PRESENT).min())
    place = labels.image_ids[row], labels.manifest.paths[row], export.size(row)
    return label_studio.task(*place, export.names(row), boxes, score, export.image_prefix, hint)
