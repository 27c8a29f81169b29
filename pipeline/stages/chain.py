"""Stages one after another: the whole chain of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.machine import distributed
from pipeline.machine.errors import PipelineError
from pipeline.machine.progress import say
from pipeline.runs.artifacts import MAKERS
from pipeline.runs.settings import Settings
from pipeline.stages import STAGES, Stage

STAGE_NAMES = [stage.name for stage in STAGES]
SIDE_FILES = {"warmup": ["warmup.csv"], "train": ["train.csv"], "evaluate": ["predictions.csv"]}
"""What a stage writes beside its artifacts."""


def run_stage(
    stage: Stage, folder: Path, own: Settings, device: str, force: bool, given: Mapping[str, Any] | None = None
) -> None:
    """Run one stage on a run folder, with the run's own settings and what was given for this time."""
    arguments: dict[str, Any] = {"force": force}
    if stage.uses_device:
        arguments["device"] = device
    if stage.name == "prepare":
        arguments["display_names"] = own.classes
    config = own.config(stage.name, stage.config, given or {})
    if stage.shared or distributed.is_main():
        stage.run(folder, config, **arguments)
    distributed.barrier()  # what follows reads what the first process wrote


def run_chain(folder: Path, own: Settings, device: str, force: bool = False, stages: Sequence[Stage] = STAGES) -> None:
    """Run stages in order; `evaluate` is left out where there is no ground truth."""
    for stage in stages:
        if stage.name == "evaluate" and not (folder / "ground_truth.h5").exists():
            say(f"{folder} has no ground truth, so nothing is measured. See the labels: `ccd inspect {folder}`.")
            continue
        run_stage(stage, folder, own, device, force)


def check_settings(own: Settings) -> None:
    """Raise on a wrong table, option or value now and not an hour into the run."""
    for name in own.tables:
        if name not in STAGE_NAMES:
            raise PipelineError(f"{own.where} names the stage {name!r}; the stages are {', '.join(STAGE_NAMES)}.")
    for stage in STAGES:
        own.config(stage.name, stage.config, {})


def files_of(stage: str) -> list[str]:
    """Files that a stage writes."""
    return [name for name, (command, _) in MAKERS.items() if command == stage] + SIDE_FILES.get(stage, [])
