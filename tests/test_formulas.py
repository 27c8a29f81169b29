"""A changed formula changes its version, and stages declare the formulas that they use.

A change of results without a change of `FORMULAS` would leave old artifacts "up to date". After a change of a module,
raise its version if its results change, then record it with `python tests/test_formulas.py`.
"""

import ast
import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from reach import reached
from worlds.photos import noise_photos

from pipeline.artifacts.state import file_states
from pipeline.deploy import calibrate
from pipeline.deploy.files import calibrated_file
from pipeline.method import FORMULAS, labels
from pipeline.runs.graph import STAGES, find_stage
from pipeline.runs.options import CalibrateConfig

NO_FORMULAS = {"ground_truth", "tables"}
"""Modules of `pipeline.evaluation` that read and print."""

RECORD = Path(__file__).with_name("formulas.json")
FOLDERS = ("method", "method.extras", "method.published", "evaluation")


def code_digest(source):
    """Digest of a module that ignores docstrings, annotations, messages of errors and names of variables, which change no result."""
    tree = ast.parse(source)
    variables = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            variables.setdefault(node.id, f"variable {len(variables)}")
        elif isinstance(node, ast.arg):
            variables.setdefault(node.arg, f"variable {len(variables)}")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            strings = [
                each for each in node.body if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
            ]
            node.body = [each for each in node.body if each not in strings]
        for field in {"annotation", "returns", "exc"} & set(node._fields):
            setattr(node, field, None)
    rows = [
        [
            type(node).__name__,
            *(variables.get(v, v) for _, v in ast.iter_fields(node) if isinstance(v, str | int | float)),
        ]
        for node in ast.walk(tree)
    ]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def code_of(name):
    (place,) = (f"pipeline.{folder}.{name}" for folder in FOLDERS if find_spec(f"pipeline.{folder}.{name}"))
    return Path(find_spec(place).origin).read_text()


@pytest.mark.parametrize("name", FORMULAS)
def test_a_changed_module_is_recorded_with_its_version(name):
    recorded = json.loads(RECORD.read_text())[name]
    assert recorded == f"{FORMULAS[name]} {code_digest(code_of(name))}", (
        f"{name} has changed: raise its version in FORMULAS if its results change, then `python tests/test_formulas.py`"
    )


def test_a_digest_depends_on_the_arithmetic_alone():
    code = (
        'def mean(values: list) -> float:\n    """Mean."""\n    total = sum(values)\n    return total / len(values)\n'
    )
    digest = code_digest(code)
    for same in (code.replace("Mean", "Average"), code.replace("values", "numbers"), code.replace(": list", ": tuple")):
        assert same != code and code_digest(same) == digest
    for other in (("/", "//"), ("sum", "max"), ("total /", "values /"), ("len(values)", "2")):
        assert code_digest(code.replace(*other)) != digest


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
    assert formulas_of("pipeline.method.epoch_choice", "authors_epoch") == {"epoch_choice"}


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
    versions = {name: f"{version} {code_digest(code_of(name))}" for name, version in FORMULAS.items()}
    RECORD.write_text(json.dumps(versions, indent=1) + "\n")
