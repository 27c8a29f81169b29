"""Boxes and annotated objects to figures of how well the boxes lie; for people to look at, never for training."""

import numpy as np

from pipeline.artifacts.boxes import Boxes
from pipeline.evaluation.ground_truth import GroundTruth


def box_quality(boxes: Boxes, truth: GroundTruth) -> dict[str, float]:
    """How well the boxes of a run lie on annotated objects of their own class.

    Args:
        boxes: of the train images; those that know no class are left out.
        truth: annotated objects of those images, and perhaps of others.

    Returns:
        boxes: number of boxes that are judged.
        centre_share: share of them that hold the centre of an object of their class.
        mean_best_iou: mean over them of the largest IoU with such an object, 0 where there is none.
        recall: share of the pairs of image and present class (by an object that is not difficult) that have a box
            of that class which holds the centre of one of the objects. All three are NaN where there is nothing to
            judge.
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
    best, holds = best_overlaps(boxes.box[known], box_pair, objects, object_pair)
    found = {divmod(int(pair), classes) for pair in box_pair[holds]}
    return {
        "boxes": int(known.sum()),
        "centre_share": mean(holds),
        "mean_best_iou": mean(best),
        "recall": len(present & found) / len(present) if present else float("nan"),
    }


def best_overlaps(
    boxes: np.ndarray, box_pair: np.ndarray, objects: np.ndarray, object_pair: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Largest IoU of each box with an object of its pair, and whether it holds the centre of one.

    Args:
        boxes: float32 [M, 4], xyxy.
        box_pair: int [M], a number for each pair of image and class.
        objects: float32 [K, 4], xyxy.
        object_pair: int [K].

    Returns:
        float64 [M] in [0, 1] and bool [M].
    """
    best, holds = np.zeros(len(boxes)), np.zeros(len(boxes), dtype=bool)
    order = np.argsort(object_pair, kind="stable")
    starts = np.searchsorted(object_pair[order], box_pair, side="left")
    stops = np.searchsorted(object_pair[order], box_pair, side="right")
    for m, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        if start == stop:
            continue
        candidates = objects[order[start:stop]]
        x, y = (candidates[:, :2] + candidates[:, 2:]).T / 2
        x1, y1, x2, y2 = boxes[m]
        holds[m] = ((x1 <= x) & (x < x2) & (y1 <= y) & (y < y2)).any()
        best[m] = overlaps(boxes[m], candidates).max()
    return best, holds


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of one box [4] with each of K others [K, 4], float64 [K] in [0, 1]; xyxy."""
    box, others = box.astype(np.float64), others.astype(np.float64)
    shared = (np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])).clip(0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    return shared / ((box[2:] - box[:2]).prod() + areas - shared)


def mean(values: np.ndarray) -> float:
    """Mean, NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")
