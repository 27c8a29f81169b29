"""The stages of a run and their files: commands, `all`, `status`, states and make derive from this table.

Modules and option classes are named as text, so that reading the graph imports neither.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Literal


@dataclass(frozen=True)
class Stage:
    """A stage: its command, module, options and files."""

    name: str
    """Name of the command, the make target and the table in the settings."""
    summary: str
    """Help of the command, one sentence."""
    module: str
    """Module in `pipeline.stages`; its `run` does the work."""
    options: str
    """Class in `pipeline.runs.options`."""
    makes: tuple[str, ...]
    """Artifacts; all have the same provenance."""
    reads: tuple[str, ...] = ()
    """Required artifacts of earlier stages."""
    may_read: tuple[str, ...] = ()
    """Optional artifacts that it reads if they exist."""
    may_make: tuple[str, ...] = ()
    """Artifacts that it makes only for some datasets."""
    beside: tuple[str, ...] = ()
    """Other files and folders that it writes; no stage needs them."""
    formulas: tuple[str, ...] = ()
    """Names in `pipeline.method.FORMULAS` that determine the content; a test derives them from the source."""
    network: Literal["", "teacher", "classifier"] = ""
    """The network that it runs or trains, for which it needs a device."""
    maps: bool = False
    """Whether it fills or reads the feature maps that the stages of one command share."""
    shared: bool = False
    """Whether the processes of torchrun share the work; otherwise the first one does it alone."""


STAGES = (
    Stage(
        "prepare",
        "Check the images of a dataset; write the manifest and, if the dataset has labels, the ground truth.",
        module="prepare",
        options="PrepareConfig",
        makes=("manifest.csv",),
        may_make=("ground_truth.h5",),
        beside=("manifest.json", "photos.csv"),
    ),
    Stage(
        "embed",
        "Score the images with the teacher: embeddings, class probabilities, entropy and bias.",
        module="embed",
        options="EmbedConfig",
        reads=("manifest.csv",),
        makes=("embeddings.h5",),
        beside=("image_embeddings",),
        formulas=("probabilities", "labels", "cells", "crops", "snapping"),
        network="teacher",
        maps=True,
        shared=True,
    ),
    Stage(
        "init-labels",
        "Turn the teacher's probabilities of the train images into initial pseudo-labels.",
        module="init_labels",
        options="InitLabelsConfig",
        reads=("embeddings.h5",),
        makes=("initial_labels.h5",),
        formulas=("labels",),
    ),
    Stage(
        "warmup",
        "Train the warm-up classifier on the initial labels.",
        module="warmup",
        options="WarmupConfig",
        reads=("manifest.csv", "initial_labels.h5"),
        makes=("warmup.pt",),
        beside=("warmup.csv", "tensorboard", "wandb", "mlflow.db"),
        formulas=("losses", "boost", "ranking", "snapping"),
        network="classifier",
        maps=True,
        shared=True,
    ),
    Stage(
        "boxes",
        "Extract boxes from the warm-up classifier's class activation maps.",
        module="boxes",
        options="BoxesConfig",
        reads=("manifest.csv", "warmup.pt"),
        may_read=("embeddings.h5",),
        makes=("boxes.h5",),
        formulas=("cam", "cells", "crops", "boost"),
        network="classifier",
        maps=True,
        shared=True,
    ),
    Stage(
        "score-crops",
        "Score the crops of boxes whose label is not sure with the teacher, cut from the original photo.",
        module="score_crops",
        options="ScoreCropsConfig",
        reads=("manifest.csv", "embeddings.h5", "initial_labels.h5", "boxes.h5"),
        makes=("crop_scores.h5",),
        formulas=("probabilities", "cells", "crops", "snapping"),
        network="teacher",
        shared=True,
    ),
    Stage(
        "fuse",
        "Combine initial labels, crop scores and corrections into final labels.",
        module="fuse",
        options="FuseConfig",
        reads=("embeddings.h5", "initial_labels.h5", "crop_scores.h5"),
        may_read=("corrections.h5",),
        makes=("final_labels.h5",),
        formulas=("labels",),
    ),
    Stage(
        "train",
        "Train the final classifier on the final labels, starting from the warm-up.",
        module="train",
        options="TrainConfig",
        reads=("manifest.csv", "warmup.pt", "final_labels.h5"),
        may_read=("embeddings.h5", "initial_labels.h5", "corrections.h5"),
        makes=("classifier.pt", "epoch_scores.h5", "cross_fitted_labels.h5"),
        beside=("train.csv",),
        formulas=("losses", "boost", "ranking", "labels", "calibration", "epoch_choice", "two_heads"),
        network="classifier",
        maps=True,
        shared=True,
    ),
    Stage(
        "evaluate",
        "Measure teacher, classifiers and labels on ground truth.",
        module="evaluate",
        options="EvaluateConfig",
        reads=(
            "manifest.csv",
            "ground_truth.h5",
            "embeddings.h5",
            "initial_labels.h5",
            "final_labels.h5",
            "cross_fitted_labels.h5",
            "classifier.pt",
            "epoch_scores.h5",
        ),
        makes=("metrics.json",),
        beside=("predictions.csv",),
        formulas=("labels", "ranking", "metrics", "intervals", "two_heads"),
    ),
)

BY_PEOPLE = {"corrections.h5": "import-labels"}
"""Artifacts with people's input, and the command that makes them."""

VERSIONS = {
    "manifest": 3,
    "ground_truth": 4,
    "embeddings": 8,
    "initial_labels": 2,
    "warmup": 8,
    "boxes": 4,
    "crop_scores": 7,
    "corrections": 2,
    "final_labels": 2,
    "cross_fitted_labels": 3,
    "classifier": 11,
    "epoch_scores": 9,
    "metrics": 5,
}
"""Schema version of each artifact; the schema is the file name without suffix."""

STAGE_NAMES = [stage.name for stage in STAGES]
MAKERS = {name: stage.name for stage in STAGES for name in stage.makes + stage.may_make} | BY_PEOPLE
"""Artifact to the command that makes it, in stage order."""

OPTIONAL = {name for stage in STAGES for name in stage.may_make} | set(BY_PEOPLE)
"""Artifacts that a finished run may lack."""

HISTORIES = {f"{stage.name}.csv": stage.makes[0] for stage in STAGES if f"{stage.name}.csv" in stage.beside}
"""Tables of epochs, and the artifact that each belongs to."""


def find_stage(name: str) -> Stage:
    """The stage with a name in `STAGE_NAMES`."""
    return STAGES[STAGE_NAMES.index(name)]


def files_of(stage: Stage) -> list[str]:
    """Everything that a stage writes into the run folder."""
    return [*stage.makes, *stage.may_make, *stage.beside]


def options_of(stage: Stage) -> type:
    """The options class of a stage."""
    return getattr(import_module("pipeline.runs.options"), stage.options)


def module_of(stage: Stage) -> ModuleType:
    """The module of a stage; importing it may import torch."""
    return import_module(f"pipeline.stages.{stage.module}")


def up_to(name: str) -> Sequence[Stage]:
    """The stages up to and including this one."""
    return STAGES[: STAGE_NAMES.index(name) + 1]


def maker_of(name: str) -> str | None:
    """The command that makes a file of a run, or None."""
    return next((stage.name for stage in STAGES if name in files_of(stage)), BY_PEOPLE.get(name))


def remedy(path: Path, force: bool = False) -> str:
    """The command that makes a file, in backticks, for an error message.

    It also makes what the file is made from, except with `force`, and in a folder without settings, such as a copy of some
    files of a run.
    """
    stage, run = maker_of(path.name) or "all", run_argument(path.parent)
    if stage in STAGE_NAMES[1:] and not force and (path.parent / "run.toml").exists():
        return build_command(path.parent, stage)
    target = f"{run} TABLE" if stage == "import-labels" else run
    return f"`ccd {stage} {target}{' --force' if force else ''}`"


def build_command(folder: Path, stage: str) -> str:
    """The command that runs every stage of a run up to one, where they have work, in backticks."""
    return f"`ccd all {run_argument(folder)}{'' if stage == STAGE_NAMES[-1] else f' --to {stage}'}`"


def advice(path: Path, verb: str, force: bool = False) -> str:
    """Remedy for a missing or damaged file, one sentence; names a command if one makes the file.

    Args:
        path: the file.
        verb: "Create" or "Rebuild".
        force: whether the command needs --force.
    """
    if path.name == "calibrated.pt":
        return f"{verb} it with `ccd calibrate {run_argument(path.parent)} TABLE`."
    if maker_of(path.name):
        return f"{verb} it with {remedy(path, force)}."
    return "Check the path."


def run_argument(folder: Path) -> str:
    """A run folder as a command-line argument: its name under `artifacts/` or its path, quoted for a shell."""
    text = str(folder)
    if folder.parent == Path("artifacts") and not folder.name.startswith("-"):  # which would be an option
        text = folder.name
    elif "/" not in text and text not in (".", ".."):
        text = f"./{text}"
    return shlex.quote(text)
