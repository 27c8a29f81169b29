"""Damaged files of a run: readers and commands ignore the damage or fail with one line."""

import os
import shutil
from importlib.resources import files

import numpy as np
import pytest
from mutations import damage_bytes, damage_settings, mutate
from worlds.commands import ccd, invoke

from pipeline.artifacts.checkpoints import read_header
from pipeline.artifacts.manifest import read_manifest
from pipeline.artifacts.state import file_states, read_provenance
from pipeline.evaluation.read import read
from pipeline.evaluation.run_files import read_run
from pipeline.runs import settings
from pipeline.runs.graph import MAKERS
from pipeline.stages.plan import show_plan
from pipeline.study.ablation import read_plan
from pipeline.system.errors import PipelineError

ROUNDS = int(os.environ.get("CCD_FUZZ_ROUNDS", "12"))
"""Mutations of each file; more of them are a matter of patience."""
SEED = int(os.environ.get("CCD_FUZZ_SEED", "7"))

SIDE_FILES = ("manifest.json", "run.toml", "timings.json", "warmup.csv", "train.csv")
FILES = [*MAKERS, *SIDE_FILES]

COMMANDS = [
    lambda run, name: ("inspect", run / name),
    lambda run, name: ("inspect", run),
    lambda run, name: ("inspect", run, "--image", "0.png"),
    lambda run, name: ("inspect", run, "--class", "red"),
    lambda run, name: ("status", "--run", run),
    lambda run, name: ("config", "--run", run),
    lambda run, name: ("fuse", "--run", run, "--ratio", "0.4"),
    lambda run, name: ("init-labels", "--run", run, "--label-floor", "1"),
    lambda run, name: ("evaluate", "--run", run, "--force"),
    lambda run, name: ("report", "--run", run, "--images", "2"),
    lambda run, name: ("export-labels", run, "--format", "coco"),
    lambda run, name: ("export-review", "--run", run),
    lambda run, name: ("import-labels", run.parent / "said.csv", "--run", run),
    lambda run, name: ("predict", run / name if name.endswith(".pt") else run, run.parent / "photo.png"),
]


def tolerated(call, *arguments):
    """Call a reader, which may raise only a PipelineError."""
    try:
        call(*arguments)
    except PipelineError as error:
        assert "\n" not in str(error), error
    except RecursionError as error:  # pytest would print a thousand frames
        raise AssertionError(f"{call.__name__} followed a nested value to its end") from error


@pytest.fixture(scope="module")
def sound(finished, photos, tmp_path_factory):
    """The finished run with corrections; not to be changed."""
    folder = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(finished, folder / "sound")
    shutil.copy(photos / "train" / "0.png", folder / "photo.png")
    (folder / "said.csv").write_text("image_id,red\ntrain/0.png,0\n")
    ccd("import-labels", folder / "said.csv", "--run", folder / "sound")
    return folder / "sound"


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_one_line_or_harmless(name, sound, capsys):
    rng = np.random.default_rng([SEED, FILES.index(name)])
    others = sorted(path for path in sound.iterdir() if path.is_file() and path.stat().st_size)
    run = sound.with_name("run")
    for _ in range(ROUNDS):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(sound, run)
        what = mutate(run / name, rng, others)
        print("tried", what)  # shown where a test fails
        for reader in (read, read_provenance):
            if name in MAKERS:
                tolerated(reader, run / name)
        if name.endswith(".pt"):
            tolerated(read_header, run / name)
        for reader in (read_manifest, file_states, read_run, settings.read_run):
            tolerated(reader, run)
        for number in rng.choice(len(COMMANDS), size=2, replace=False):
            command = COMMANDS[number](run, name)
            print("ccd", *command)
            code, output = invoke(*command)
            assert code in (0, 1, 2), output
            assert code == 0 or "Traceback" not in output
    with capsys.disabled():
        print(f"\n{ROUNDS} mutations of {name} tried", end="")


@pytest.mark.parametrize("kind", ["presets", "recipes", "plans"])
def test_a_damaged_preset_recipe_or_plan_is_one_line(kind, sound, tmp_path):
    rng = np.random.default_rng([SEED, 11])
    shipped = [files("pipeline").joinpath(kind, f"{name}.toml") for name in settings.shipped(kind)]
    path = tmp_path / "own.toml"
    for _ in range(4 * ROUNDS):
        path.write_text(shipped[rng.integers(len(shipped))].read_text(encoding="utf-8"))
        print("tried", damage_settings(path, rng) if rng.random() < 0.7 else damage_bytes(path, rng, [path]))
        if kind == "plans":
            tolerated(read_plan, str(path))
        else:
            tolerated(lambda: show_plan(sound, settings.load(kind, str(path))))
