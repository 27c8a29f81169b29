"""COCO JSON."""

import json
from pathlib import Path

import numpy as np

from pipeline.exchange.formats.export import Export
from pipeline.system.files import write_text


def write(export: Export, out: Path) -> None:
    """COCO JSON: one annotation per box or, for a label without boxes, one for the whole image."""
    labels = export.labels
    images, annotations = [], []
    for row, (image_id, path) in enumerate(zip(labels.image_ids, labels.manifest.paths, strict=True)):
        height, width = export.size(row)
        place = {"file_name": path, "height": height, "width": width}
        images.append({"id": row + 1, **place, "image_id": image_id, "split": labels.splits[row]})
        regions = [(c, box, "cam") for c, box in export.boxes_of(row)]
        unboxed = set(np.flatnonzero(labels.present[row]).tolist()) - {c for c, *_ in regions}
        regions += [(c, [0.0, 0.0, float(width), float(height)], "image") for c in sorted(unboxed)]
        for c, (x1, y1, x2, y2), source in regions:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": row + 1,
                    "category_id": c + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": float(labels.labels[row, c]),
                    "source": source,
                }
            )
    categories = [{"id": c + 1, "name": name, "supercategory": ""} for c, name in enumerate(labels.class_names)]
    info = {"description": f"Labels of {labels.path.name}, made by ccd. {export.note}"}
    write_text(out, json.dumps({"info": info, "images": images, "annotations": annotations, "categories": categories}))
