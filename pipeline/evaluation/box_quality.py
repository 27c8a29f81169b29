"""Quality of a run's boxes, measured on annotated objects; never used for training."""

import numpy as np

from pipeline.artifacts.boxes import Boxes
from pipeline.evaluation.ground_truth import GroundTruth


def box_quality(boxes: Boxes, truth: GroundTruth) -> dict[str, float]:
    """Quality of the boxes of a run, measured on annotated objects of the same class.

    Args:
        boxes: of the train images; boxes without a class are left out.
        truth: annotated objects, also of further images.

    Returns:
        boxes: number of boxes with a class.
        centre_share: share of these boxes that contain the centre of an object of their class.
        mean_best_iou: mean over these boxes of the largest IoU with such an object, 0 if there is none.
        recall: share of the pairs of image and present class (by an object that is not difficult) with a box of that
            class that contains the centre of one of the objects. The three shares are NaN of no boxes or pairs.
    """
    row_of = {image_id: row for row, image_id in enumerate(boxes.image_ids)}
    owner = np.array([row_of.get(truth.image_ids[i], -1) for i in truth.object_image_index], dtype=np.int64)
    here = owner >= 0
    owner, kind = owner[here], truth.object_class_index[here]
    objects, difficult = truth.object_box[here], truth.object_difficult[here]
    present = set(zip(owner[~difficult].tolist(), kind[~difficult].tolist(), strict=True))
    classes = len(boxes.class_names)
    known = boxes.class_index >= 0
    box_pair = boxes.image_index[known] * classes + boxes.class_index[known]
    object_pair = owner * classes + kind
    best, hits = best_overlaps(boxes.box[known], box_pair, objects, object_pair)
    hit_pairs = {divmod(int(pair), classes) for pair in box_pair[hits]}
    return {
        "boxes": int(known.sum()),
        "centre_share": mean(hits),
        "mean_best_iou": mean(best),
        "recall": len(present & hit_pairs) / len(present) if present else float("nan"),
    }


def best_overlaps(
    boxes: np.ndarray, box_pair: np.ndarray, objects: np.ndarray, object_pair: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Largest IoU of each box with an object of its pair, and whether the box contains the centre of one.

    Args:
        boxes: float32 [M, 4], xyxy.
        box_pair: int [M], number of the pair of image and class.
        objects: float32 [K, 4], xyxy.
        object_pair: int [K].

    Returns:
        float64 [M] in [0, 1] and bool [M].
    """
    best, hits = np.zeros(len(boxes)), np.zeros(len(boxes), dtype=bool)
    order = np.argsort(object_pair, kind="stable")
    starts = np.searchsorted(object_pair[order], box_pair, side="left")
    stops = np.searchsorted(object_pair[order], box_pair, side="right")
    for m, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        if start == stop:
            continue
        candidates = objects[order[start:stop]]
        x, y = (candidates[:, :2] + candidates[:, 2:]).T / 2
        x1, y1, x2, y2 = boxes[m]
        hits[m] = ((x1 <= x) & (x < x2) & (y1 <= y) & (y < y2)).any()
        best[m] = overlaps(boxes[m], candidates).max()
    return best, hits


def overlaps(box: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """IoU of one box [4] with each of K objects [K, 4], float64 [K] in [0, 1]; xyxy."""
    box, objects = box.astype(np.float64), objects.astype(np.float64)
    shared = (np.minimum(box[2:], objects[:, 2:]) - np.maximum(box[:2], objects[:, :2])).clip(0).prod(axis=1)
    areas = (objects[:, 2:] - objects[:, :2]).prod(axis=1)
    return shared / ((box[2:] - box[:2]).prod() + areas - shared)


def mean(values: np.ndarray) -> float:
    """Mean; NaN of an empty array."""
    return float(values.mean()) if len(values) else float("nan")
