"""Commands that need no network import no torch and start quickly."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.runs.graph import STAGE_NAMES, STAGES, options_of

HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "sentence_transformers",
    "transformers",
    "matplotlib",
    "scipy",
    "sklearn",
}
ROOT = Path(__file__).parents[1]

PROBE = """
import json, sys
from pipeline import cli
sys.argv = ["ccd", *sys.argv[1:]]
try:
    cli.main()
except SystemExit as end:
    code = end.code
else:
    code = 0
print(json.dumps([code or 0, sorted(name for name in sys.modules if "." not in name)]))
"""


def imported_by(*arguments, cwd=None):
    """Exit code of a command, and the packages that it imported."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROBE, *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=cwd)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1])


def test_help_imports_neither_a_network_nor_arrays():
    code, modules = imported_by("--help")
    assert code == 0 and not (HEAVY | {"pandas", "PIL"}) & set(modules)


@pytest.mark.parametrize(
    "command", [*STAGE_NAMES, "all", "predict", "export", "report", "ablation", "calibrate", "serve"]
)
def test_help_of_a_command_imports_no_network(command):
    code, modules = imported_by(command, "--help")
    assert code == 0 and not (HEAVY | {"pandas"}) & set(modules)


@pytest.mark.parametrize("stage", [*STAGE_NAMES, "all"])
def test_an_up_to_date_stage_imports_no_network(stage, finished):
    code, modules = imported_by(stage, "--run", finished)
    assert code == 0 and not HEAVY & set(modules)


@pytest.mark.parametrize("stage", ["init-labels", "fuse", "evaluate"])
def test_work_on_labels_and_scores_imports_no_network(stage, run):
    code, modules = imported_by(stage, "--run", run, "--force")
    assert code == 0 and not HEAVY & set(modules)


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "RUN"],
        *(["inspect", f"RUN/{name}"] for name in ("final_labels.h5", "boxes.h5", "classifier.pt", "metrics.json")),
        ["inspect", "RUN", "--image", "0.png"],
        ["inspect", "RUN", "--class", "red"],
        ["export-labels", "RUN", "--out", "OUT/labels.csv"],
        ["export-labels", "RUN/epoch_scores.h5", "--out", "OUT/test.csv"],
        ["export-review", "--run", "RUN", "--out", "OUT/review.json"],
        ["status", "--run", "RUN"],
        ["config", "--run", "RUN"],
        ["list"],
    ],
    ids=" ".join,
)
def test_looking_at_a_run_imports_no_network(arguments, finished, tmp_path):
    arguments = [text.replace("RUN", str(finished)).replace("OUT", str(tmp_path)) for text in arguments]
    code, modules = imported_by(*arguments, cwd=tmp_path)
    assert code == 0 and not HEAVY & set(modules)


def test_the_package_gives_its_api_at_first_use():
    code = """
import sys
from pipeline import PipelineError, Run, fit
assert "numpy" not in sys.modules
from pipeline import read
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_the_labels_and_figures_of_a_run_need_no_network(finished):
    code = """
import sys
from pipeline import Run
run = Run(sys.argv[1])
run.labels.frame(), run.metrics, repr(run)
assert "torch" not in sys.modules
"""
    command = [sys.executable, "-c", code, str(finished)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_the_makefile_has_the_stages_of_the_graph():
    found = re.search(r"^STAGES := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found.group(1).split() == STAGE_NAMES


def test_the_graph_reads_only_what_earlier_stages_make():
    made = set()
    for stage in STAGES:
        assert set(stage.reads) <= made
        made |= {*stage.makes, *stage.may_make}
        options_of(stage)()  # a class whose defaults are valid
