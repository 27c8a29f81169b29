import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from sklearn import metrics as sk

from pipeline.datasets.dataset import DIFFICULT, UNKNOWN
from pipeline.evaluation.metrics import (
    average_precision,
    label_metrics,
    mean_average_precision,
    multilabel_metrics,
    precision_recall,
    tied_fraction,
)
from pipeline.system.errors import PipelineError

NAMES = ["cat", "dog", "cow"]
# Class cat ranks + - + -: AP = (1/1 + 2/3) / 2 = 5/6. Dog ranks - + - -: AP = 1/2. No cow.
SCORES = np.array([[0.9, 0.1, 0.2], [0.8, 0.7, 0.1], [0.7, 0.6, 0.3], [0.1, 0.2, 0.4]])
TRUTH = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=np.int8)


def random_case(n: int = 60, c: int = 7, difficult: float = 0.0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(3)
    truth = (rng.random((n, c)) < 0.3).astype(np.int8)
    scores = np.clip(0.35 * truth + 0.6 * rng.random((n, c)), 0, 1).round(2)  # rounded: with ties
    truth[rng.random((n, c)) < difficult] = DIFFICULT
    return scores, truth, [f"class {i}" for i in range(c)]


def test_figures_of_a_hand_computed_case():
    figures = multilabel_metrics(SCORES, TRUTH, NAMES)
    assert figures["AP"] == {"cat": pytest.approx(5 / 6), "dog": 0.5, "cow": None}
    assert figures["mAP"] == pytest.approx(2 / 3)
    assert figures["left_out"] == ["cow"]
    # At 0.5 the cats found are 3, of which 2 are right; the dogs 2, of which 1.
    assert figures["CP"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert figures["CR"] == 1.0
    assert figures["OP"] == pytest.approx(3 / 5)
    assert figures["OR"] == 1.0
    assert figures["OF1"] == pytest.approx(0.75)
    assert figures["sample_F1"] == pytest.approx((1 + 0 + 1 + 0) / 4)
    assert figures["hit_at_1"] == 1.0  # both images that hold something
    assert json.loads(json.dumps(figures)) == figures


def test_empty_class_counts_zero_by_the_single_positive_convention():
    figures = multilabel_metrics(SCORES, TRUTH, NAMES, empty_class="zero")
    assert figures["mAP"] == pytest.approx((5 / 6 + 1 / 2 + 0) / 3)
    assert figures["CR"] == pytest.approx(2 / 3)
    assert figures["left_out"] == ["cow"]


@pytest.mark.parametrize(("difficult", "cat"), [("ignore", 1.0), ("negative", 5 / 6), ("positive", 1.0)])
def test_difficult_objects(difficult: str, cat: float):
    truth = TRUTH.copy()
    truth[1, 0] = DIFFICULT  # the false alarm between the two cats
    figures = multilabel_metrics(SCORES, truth, NAMES, difficult=difficult)
    assert figures["AP"]["cat"] == pytest.approx(cat)
    assert figures["OP"] == pytest.approx({"ignore": 3 / 4, "negative": 3 / 5, "positive": 4 / 5}[difficult])
    assert figures["difficult"] == difficult


@pytest.mark.parametrize("difficult", ["ignore", "negative", "positive"])
@pytest.mark.parametrize("unknown", [(1, 0), (3, 1)])
def test_an_unlabelled_pair_counts_nowhere_whatever_difficult_objects_count_as(difficult, unknown):
    truth = TRUTH.copy()
    truth[unknown] = UNKNOWN
    perfect = np.where(TRUTH == 1, 0.9, 0.1)
    perfect[unknown] = 0.95  # as sure as can be, and nobody has looked
    shares = {(1, 0): 2 / 3 + 1 / 4, (3, 1): 2 / 4 + 1 / 3}  # of the images where a class is known, summed over classes
    figures = multilabel_metrics(perfect, truth, NAMES, difficult=difficult)
    assert (figures["mAP"], figures["CF1"], figures["OF1"]) == (1, 1, 1)
    assert mean_average_precision(perfect, truth, difficult=difficult) == 1
    assert label_metrics(perfect, truth, NAMES, difficult=difficult)["classes_per_image"] == pytest.approx(
        shares[unknown]
    )


def test_ignored_pair_frees_its_place_in_the_top():
    truth = np.array([[-1, 1, 0, 0]], dtype=np.int8)
    figures = multilabel_metrics(np.array([[0.9, 0.8, 0.7, 0.6]]), truth, list("abcd"))
    assert figures["hit_at_1"] == 1.0
    assert figures["top3"]["OP"] == pytest.approx(1 / 3)  # b, c, d


def test_agrees_with_scikit_learn():
    scores, truth, names = random_case()
    figures = multilabel_metrics(scores, truth, names)
    decisions = (scores >= 0.5).astype(int)
    assert figures["mAP"] == pytest.approx(sk.average_precision_score(truth, scores, average="macro"), abs=1e-6)
    assert list(figures["AP"].values()) == pytest.approx(
        sk.average_precision_score(truth, scores, average=None), abs=1e-6
    )
    for key, average in (("C", "macro"), ("O", "micro")):
        precision, recall, _, _ = sk.precision_recall_fscore_support(truth, decisions, average=average)
        assert figures[f"{key}P"] == pytest.approx(precision)
        assert figures[f"{key}R"] == pytest.approx(recall)
        assert figures[f"{key}F1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert figures["sample_F1"] == pytest.approx(
        sk.f1_score(truth, decisions, average="samples", zero_division=0), abs=1e-6
    )


def test_top3_and_hit_at_1_against_a_loop():
    scores, truth, names = random_case()
    scores = scores + np.arange(7) * 1e-4  # no ties
    figures = multilabel_metrics(scores, truth, names)
    top3 = np.zeros_like(truth)
    hits = []
    for row, (image_scores, image_truth) in enumerate(zip(scores, truth, strict=True)):
        best = sorted(range(7), key=lambda c: -image_scores[c])
        top3[row, best[:3]] = 1
        if image_truth.any():
            hits.append(image_truth[best[0]])
    assert figures["hit_at_1"] == pytest.approx(np.mean(hits))
    assert figures["top3"]["OF1"] == pytest.approx(sk.f1_score(truth, top3, average="micro"))
    assert figures["top3"]["CR"] == pytest.approx(sk.recall_score(truth, top3, average="macro"))


def test_ignored_pairs_against_scikit_learn_on_what_remains():
    scores, truth, names = random_case(difficult=0.2)
    figures = multilabel_metrics(scores, truth, names)
    for column, name in enumerate(names):
        known = truth[:, column] >= 0
        expected = sk.average_precision_score(truth[known, column], scores[known, column])
        assert figures["AP"][name] == pytest.approx(expected, abs=1e-6)
    known = truth >= 0
    assert figures["OP"] == pytest.approx(sk.precision_score(truth[known], scores[known] >= 0.5))


def test_calibration_error_against_a_loop_over_bins():
    scores, truth, names = random_case(difficult=0.2)
    known = truth >= 0
    confidence, present = scores[known], truth[known]
    expected = 0.0
    for index in range(15):
        inside = np.minimum((confidence * 15).astype(int), 14) == index
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - present[inside].mean())
    assert multilabel_metrics(scores, truth, names)["calibration_error"] == pytest.approx(expected, abs=1e-5)
    assert multilabel_metrics(scores * 2, truth, names)["calibration_error"] is None


@pytest.mark.parametrize("transform", [lambda s: s * 1e-9, lambda s: s * 40 + 30, lambda s: -1 / (s + 0.1)])
def test_average_precision_depends_on_order_alone(transform):
    scores, truth, _ = random_case()
    assert average_precision(transform(scores), truth) == pytest.approx(average_precision(scores, truth))


@pytest.mark.parametrize("value", [-3, 2, 0.5])
def test_other_ground_truth_than_present_absent_and_difficult_is_refused(value: float):
    truth = TRUTH.astype(float)
    truth[0, 0] = value
    with pytest.raises(PipelineError, match="expected only 1, 0, -1 and -2"):
        multilabel_metrics(SCORES, truth, NAMES)


def test_threshold_per_class():
    figures = multilabel_metrics(SCORES, TRUTH, NAMES, threshold=np.array([0.85, 0.7, 0.5]))
    assert (figures["OP"], figures["OR"]) == (0.5, pytest.approx(1 / 3))
    assert figures["threshold"] == [0.85, 0.7, 0.5]


def test_one_image_and_fewer_classes_than_three():
    figures = multilabel_metrics(np.array([[0.9, 0.2]]), np.array([[1, 0]], dtype=np.int8), ["a", "b"])
    assert (figures["mAP"], figures["sample_F1"], figures["top3"]["OP"]) == (1.0, 1.0, 0.5)


def test_refuses_what_has_no_figure():
    with pytest.raises(PipelineError, match=r"3 classes .*4 images"):
        multilabel_metrics(SCORES, np.zeros_like(TRUTH), NAMES)
    with pytest.raises(PipelineError, match="1 of 12 scores are not finite"):
        multilabel_metrics(np.where(SCORES == 0.9, np.nan, SCORES), TRUTH, NAMES)
    with pytest.raises(PipelineError, match=r"expected both \(images, 2\)"):
        multilabel_metrics(SCORES, TRUTH, NAMES[:2])
    with pytest.raises(PipelineError, match=r"contains \[0, 2\]"):
        multilabel_metrics(SCORES, TRUTH * 2, NAMES)
    with pytest.raises(PipelineError, match="'maybe', expected ignore"):
        multilabel_metrics(SCORES, TRUTH, NAMES, difficult="maybe")


def test_label_figures():
    labels = np.array([[1.0, 0.05], [1.0, 0.2], [0.3, 0.05]])
    truth = np.array([[1, 0], [1, 1], [0, 0]], dtype=np.int8)
    figures = label_metrics(labels, truth, ["a", "b"])
    assert figures["ties"] == pytest.approx(4 / 6)
    assert figures["label_sum"] == pytest.approx(2.6 / 3)
    assert figures["positives_per_image"] == pytest.approx(2 / 3)
    assert figures["classes_per_image"] == 1.0
    assert figures["mAP"] == 1.0


def test_ties_are_counted_within_a_class_alone():
    assert tied_fraction(np.array([[0.5, 0.5], [0.1, 0.2]])) == 0.0


def test_figures_of_real_clip_scores(shared_data: Path):
    with h5py.File(shared_data / "clip_rn50x64_voc12_train.h5") as file:
        scores, truth = file["probabilities"][:].astype(np.float64), file["ground_truth"][:]
        names = [name.decode() for name in file["classes"]]
    figures = multilabel_metrics(scores, truth, names)
    assert figures["mAP"] == pytest.approx(0.8534, abs=5e-5)
    assert figures["OF1"] == pytest.approx(0.717, abs=5e-4)


def test_precision_recall_agrees_with_average_precision():
    scores, truth, _ = random_case(difficult=0.1)
    recall, precision = precision_recall(scores[:, 0], truth[:, 0])
    area = (np.diff(recall, prepend=0) * precision).sum()
    assert recall[-1] == 1 and (np.diff(recall) > 0).all()
    assert area == pytest.approx(average_precision(scores[:, :1], truth[:, :1])[0], abs=1e-6)
    assert [len(v) for v in precision_recall(np.zeros(0), np.zeros(0, np.int8))] == [0, 0]
    assert [len(v) for v in precision_recall(np.ones(3), np.zeros(3, np.int8))] == [0, 0]
