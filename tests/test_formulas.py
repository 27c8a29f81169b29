"""Every module in `FORMULAS` gives what it gave when its version was raised last, and stages declare those they use.

A change of results without a change of `FORMULAS` would leave stale artifacts "up to date". After raising a version:
`python tests/test_formulas.py` records the new results in `formulas.json`.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reach import reached
from small import noise_photos

from pipeline.artifacts.state import file_states
from pipeline.deploy import calibrate
from pipeline.deploy.files import calibrated_file
from pipeline.evaluation import intervals, metrics
from pipeline.method import FORMULAS, boost, cam, crops, epoch_choice, labels, losses, probabilities, ranking, snapping
from pipeline.method.extras import calibration, thresholds
from pipeline.runs.graph import STAGES, find_stage
from pipeline.runs.options import CalibrateConfig

NO_FORMULAS = {"ground_truth", "tables"}
"""Modules of `pipeline.evaluation` that read and print."""

RECORD = Path(__file__).with_name("formulas.json")


def draws(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def distributions(count, classes, seed=0):
    values = draws(count, classes, seed=seed) ** 4 + 0.01
    return values / values.sum(1, keepdims=True)


def of_probabilities():
    images, texts = (torch.from_numpy(draws(n, 5, seed=n)) for n in (4, 3))
    images, texts = (values / values.norm(dim=1, keepdim=True) for values in (images, texts))
    logits = probabilities.class_logits(images, texts, 10.0, torch.tensor([0, 1, 1]))
    logits = torch.cat([logits, 20 * torch.from_numpy(draws(4, 2, seed=5)) - 10], 1)
    found = [probabilities.softmax_probabilities(logits, 2), probabilities.sigmoid_probabilities(logits)]
    return [value for each in found for value in vars(each).values()]


def of_labels():
    found = distributions(12, 4)
    confident = labels.confident_images(-(found * np.log(found)).sum(1), 4, 0.7)
    bias, counts = labels.class_bias(found, confident, 0.5)
    scores = labels.debias(found, bias, 0.2)
    crop, owner, spoken = distributions(9, 4, seed=1), np.array([0, 0, 1, 3, 3, 3, 7, 8, 11]), np.arange(9) % 5 - 1
    local = [labels.local_scores(crop, owner, 12, combine, spoken) for combine in ("max", "mean")]
    fused = labels.fuse_scores(scores, local[0][0], local[0][1] > 0, 0.3)
    said = (np.arange(48).reshape(12, 4) % 7 - 1).clip(-1, 1).astype(np.int8)
    said = np.where(np.arange(48).reshape(12, 4) % 5 == 0, said, np.int8(-1))
    return [
        confident,
        bias,
        counts,
        scores,
        *local[0],
        *local[1],
        fused,
        labels.clamp_labels(fused),
        labels.correct(fused, said),
    ]


def of_losses():
    logits, targets = torch.from_numpy(4 * draws(3, 4) - 2), torch.from_numpy(draws(3, 4, seed=1))
    weights = losses.image_weights(torch.tensor([True, False, True]), 0.3)
    return [
        losses.training_targets(targets, 2.0, 0.05),
        weights,
        losses.label_loss(logits, targets, weights),
        losses.consistency_loss(logits.flip(0), logits),
        np.array([losses.mean_label_entropy(targets**4), losses.mean_label_entropy(targets.round())]),
    ]


def of_cam():
    maps, scores = torch.from_numpy(draws(3, 4, 5) - 0.3), torch.from_numpy(draws(6, 4, seed=2))
    found = [cam.quantile_threshold(scores, 1.5), cam.z_scores(scores), cam.normalise(maps)]
    found += [cam.normalise(maps, 1e-2)]
    for rule in ("extent", "corners", "peaks"):
        found += cam.cam_boxes(maps, (32, 40), threshold=0.8, margin=0.1, rule=rule, peak_limit=2, epsilon=0.0)
    return [*found, cam.rescale_boxes(found[-2], (32, 40), torch.tensor([[64, 80]] * len(found[-2])))]


def of_crops():
    boxes = torch.tensor([[1.0, 2.0, 9.0, 30.0], [10.0, 0.0, 40.0, 12.0]])
    sizes = torch.tensor([[32, 48], [32, 48]])
    moved = crops.random_boxes(boxes, (32, 48), torch.Generator().manual_seed(0))
    views = [crops.view_size(box, 320) for box in boxes]
    views += [crops.truncated_size(28, 8, 320), crops.truncated_size(12, 30, 100)]
    return [crops.grid_boxes((32, 48), 2), moved, crops.square_boxes(boxes, sizes), np.array(views)]


def of_boost():
    return [boost.boost_positive(torch.from_numpy(draws(3, 4, 5) - 0.3), 3.0)]


def of_snapping():
    sizes = ((640, 427), (10, 3), (48, 80), (47.9, 16.1))
    return [np.array([snapping.snapped_size(*size, stride) for size in sizes for stride in (14, 32)])]


def of_ranking():
    scores, truth = draws(20, 4).round(1), (draws(20, 4, seed=3) > 0.6).astype(np.int8)
    truth[:, 3] = 0
    truth[::7, 1] = -1
    return [ranking.average_precision(scores, truth)]


def of_metrics():
    scores, truth = draws(30, 4).round(2), (draws(30, 4, seed=3) > 0.6).astype(np.int8)
    truth[:, 3], truth[::7, 1], truth[::5, 2] = 0, metrics.UNKNOWN, metrics.DIFFICULT
    found = []
    for how in (("ignore", "skip"), ("negative", "zero")):
        options = dict(zip(("difficult", "empty_class"), how, strict=True))
        for measure in (metrics.multilabel_metrics, metrics.label_metrics, metrics.ranking_metrics):
            found += numbers_of(measure(scores, truth, list("abcd"), **options))
        found += [metrics.mean_average_precision(scores, truth, **options)]
    return [*found, *metrics.precision_recall(scores[:, 0], truth[:, 0])]


def of_intervals():
    scores, truth = draws(60, 4).round(2), (draws(60, 4, seed=3) > 0.6).astype(np.int8)
    truth[:, 3], truth[::7, 1], truth[::5, 2] = 0, metrics.UNKNOWN, metrics.DIFFICULT
    found, changes = [], []
    for how in (("ignore", "skip"), ("negative", "zero")):
        options = dict(zip(("difficult", "empty_class"), how, strict=True))
        changes.append(intervals.leave_one_out(scores, truth, **options))
        found += [changes[-1].value, changes[-1].changes, intervals.map_interval(changes[-1]).edges()]
        found += [intervals.scores_gain_interval([scores], [scores**2, draws(60, 4)], truth, **options).edges()]
    return found


def numbers_of(figures):
    """The numbers of nested figures, in order; NaN for None."""
    if isinstance(figures, dict | list):
        return [
            number
            for each in (figures.values() if isinstance(figures, dict) else figures)
            for number in numbers_of(each)
        ]
    return [] if isinstance(figures, str) else [np.nan if figures is None else figures]


def of_thresholds():
    scores, truth = draws(20, 3), (draws(20, 3, seed=3) > 0.6).astype(np.int8)
    best = thresholds.out_of_fold_thresholds(scores, truth, folds=4, seed=1)
    better = thresholds.better_thresholds(scores, truth, np.array([0.3, 0.5, 0.7]), folds=4, seed=1)
    common = thresholds.predicted_nearly_everywhere(scores > [0.01, 0.5, 0.02], truth)
    found = [better.thresholds, better.kept, better.f1_before, better.f1_expected, common]
    return [*best, thresholds.class_f1(scores > 0.5, truth), *(each.astype(float) for each in found)]


def of_calibration():
    logits = 3 * draws(40, 3, seed=4) - 4
    return [
        *calibration.fit_calibration(logits, draws(40, 3, seed=5) ** 3),
        *calibration.platt(logits[:, 0], draws(40)),
    ]


def of_epoch_choice():
    curves = ([0.5, 0.7, 0.8, 0.86, 0.88], [0.6, 0.65, 0.66, 0.7, 0.8], [0.9])
    found = [epoch_choice.choose_epoch(rule, c) for c in curves for rule in ("last", "second-difference")]
    found += [epoch_choice.choose_epoch("authors", c[2:], c) for c in curves[:2]]
    return [np.array(found)]


def results(name):
    """What a module gives for frozen inputs, as nested lists of numbers."""
    return [np.asarray(value, dtype=np.float64).tolist() for value in globals()[f"of_{name}"]()]


@pytest.mark.parametrize("name", FORMULAS)
def test_results_change_with_the_version_alone(name):
    recorded = json.loads(RECORD.read_text())[name]
    found = results(name)
    same = len(found) == len(recorded["results"]) and all(
        np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
        for a, b in zip(found, recorded["results"], strict=True)
    )
    raised = recorded["version"] != FORMULAS[name]
    assert same or raised, f"pipeline.method.{name} gives other results: raise its version in FORMULAS and record them"
    assert not raised, f"the version of {name} was raised: record its results with `python tests/test_formulas.py`"


def test_every_module_has_a_version():
    modules = {path.stem for path in Path(labels.__file__).parent.rglob("*.py")} - {"__init__"}
    assert modules | {"metrics", "intervals"} == set(FORMULAS)


def formulas_of(module, name):
    """Modules with formulas whose functions or classes a function may use."""
    found = {tuple(each.split(".")[1:]) for each, _ in reached(module, name)}
    return {names[-1] for names in found if names[0] in ("method", "evaluation") and names[-1] not in NO_FORMULAS}


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES])
def test_a_stage_declares_the_formulas_that_its_code_can_come_to(stage):
    stage = find_stage(stage)
    assert set(stage.formulas) == formulas_of(f"pipeline.stages.{stage.module}", "run")


def test_the_source_leads_to_formulas_through_modules_methods_and_late_imports():
    assert "labels" in formulas_of("pipeline.stages.embed", "run")  # class_bias, called directly
    assert "boost" in formulas_of("pipeline.stages.warmup", "run")  # a method of what build_classifier returns
    assert "snapping" in formulas_of("pipeline.teachers.teacher", "load_teacher")  # imported inside a function
    assert "thresholds" in formulas_of("pipeline.deploy.calibrate", "run")
    assert formulas_of("pipeline.method.epoch_choice", "second_difference_epoch") == {"epoch_choice"}


@pytest.mark.parametrize(
    ("formula", "stale"),
    [
        ("metrics", {"metrics.json"}),
        ("boost", {"warmup.pt", "boxes.h5", "classifier.pt", "epoch_scores.h5", "cross_fitted_labels.h5"}),
    ],
)
def test_a_corrected_formula_makes_stale_what_it_decides(formula, stale, finished, monkeypatch):
    assert {state.state for state in file_states(finished).values()} <= {"up to date", "not made"}
    monkeypatch.setitem(FORMULAS, formula, FORMULAS[formula] + 1)
    states = file_states(finished)
    assert {name for name, state in states.items() if f"the formulas of {formula}" in state.state} >= stale
    assert states["embeddings.h5"].state == "up to date" != states["metrics.json"].state


def test_thresholds_of_an_earlier_formula_are_not_used(tmp_path, tiny_classifier, monkeypatch):
    (tmp_path / "classifier.pt").write_bytes(tiny_classifier.read_bytes())
    paths = noise_photos(tmp_path, [(32, 32)] * 6)
    rows = [f"{path},{'cat' if n % 2 else 'dog'}" for n, path in enumerate(paths)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,labels", *rows]) + "\n")
    how = {"batch_size": 4, "device": "cpu"}
    files = [tmp_path / name for name in ("classifier.pt", "labels.csv", "calibrated.pt")]
    calibrate.run(*files, CalibrateConfig(folds=2), **how)
    assert calibrated_file(tmp_path).name == "calibrated.pt"
    monkeypatch.setitem(FORMULAS, "thresholds", FORMULAS["thresholds"] + 1)
    assert calibrated_file(tmp_path).name == "classifier.pt"


if __name__ == "__main__":
    RECORD.write_text(
        json.dumps({name: {"version": version, "results": results(name)} for name, version in FORMULAS.items()}) + "\n"
    )
