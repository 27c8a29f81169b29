"""CSV and Parquet: one row per image."""

from pathlib import Path

from pipeline.artifacts.predictions import prediction_frame, write_predictions
from pipeline.exchange.formats.export import Export
from pipeline.method.extras.thresholds import PRESENT


def write(export: Export, out: Path) -> None:
    """CSV or Parquet: image_id, path, split, labels, one column of scores per class."""
    labels = export.labels
    names = [f"{name} score" if name in ("path", "split") else name for name in labels.class_names]
    frame = prediction_frame(labels.image_ids, labels.labels, [PRESENT] * len(names), names, key="image_id")
    # the class names themselves, not the names of their columns
    frame["labels"] = [export.names(row) for row in range(len(labels.image_ids))]
    frame.insert(1, "path", labels.manifest.paths)
    frame.insert(2, "split", labels.splits)
    write_predictions(out, frame)
