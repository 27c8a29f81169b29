import math

import numpy as np
import pytest

from pipeline.artifacts.boxes import Boxes
from pipeline.artifacts.provenance import Provenance
from pipeline.evaluation.box_quality import box_quality
from pipeline.evaluation.ground_truth import GroundTruth
from pipeline.runs.graph import VERSIONS


def boxes(rows):
    """Boxes from (image, class, x1, y1, x2, y2) of the images a and b."""
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Boxes(
        provenance=Provenance("boxes", VERSIONS["boxes"], {}, {}),
        image_ids=["a", "b"],
        class_names=["cat", "dog"],
        image_index=table[:, 0].astype(np.int64),
        class_index=table[:, 1].astype(np.int64),
        box=table[:, 2:],
        cam_peak=np.ones(len(table), np.float32),
        tau=0.5,
    )


def truth(rows, difficult=()):
    """Objects from (image, class, x1, y1, x2, y2) of the images test, b and a, in this order."""
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return GroundTruth(
        provenance=Provenance("ground_truth", 1, {}, {}),
        image_ids=["test", "b", "a"],
        class_names=["cat", "dog"],
        labels=np.zeros((3, 2), np.int8),
        object_image_index=table[:, 0].astype(np.int64),
        object_class_index=table[:, 1].astype(np.int64),
        object_box=table[:, 2:],
        object_difficult=np.isin(np.arange(len(table)), difficult),
    )


def test_by_hand():
    # in a a cat and a dog; the cat's box covers half of it and holds its centre, the dog's box lies elsewhere
    objects = truth([(2, 0, 0, 0, 10, 10), (2, 1, 20, 20, 30, 30), (0, 0, 0, 0, 10, 10)])
    found = box_quality(boxes([(0, 0, 0, 0, 10, 6), (0, 1, 0, 0, 10, 10)]), objects)
    assert found == {"boxes": 2, "centre_share": 0.5, "mean_best_iou": pytest.approx(0.3), "recall": 0.5}


def test_a_box_of_another_class_or_image_is_a_miss():
    objects = truth([(1, 0, 0, 0, 10, 10)])
    assert box_quality(boxes([(0, 0, 0, 0, 10, 10)]), objects)["centre_share"] == 0
    found = box_quality(boxes([(1, 1, 0, 0, 10, 10)]), objects)
    assert found["centre_share"] == 0 and found["recall"] == 0


def test_boxes_that_know_no_class_are_left_out():
    objects = truth([(2, 0, 0, 0, 10, 10)])
    found = box_quality(boxes([(0, -1, 0, 0, 10, 10), (0, 0, 0, 0, 10, 10)]), objects)
    assert found == {"boxes": 1, "centre_share": 1, "mean_best_iou": 1, "recall": 1}


def test_difficult_objects_may_be_hit_but_need_not():
    objects = truth([(2, 0, 0, 0, 10, 10), (2, 1, 0, 0, 4, 4)], difficult=[1])
    found = box_quality(boxes([(0, 1, 0, 0, 4, 4)]), objects)
    assert found["centre_share"] == 1 and found["recall"] == 0


def test_nothing_to_judge():
    found = box_quality(boxes([]), truth([]))
    assert found["boxes"] == 0 and all(math.isnan(found[key]) for key in ("centre_share", "mean_best_iou", "recall"))
