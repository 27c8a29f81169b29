"""The stages of a run and its files, written once: commands, `all`, `plan`, states, staleness and make follow from here.

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
    """A stage as the command line, the chain and the readers of a run see it."""

    name: str
    """Of the command, the make target and the table in the settings."""
    summary: str
    """One sentence, the command's help."""
    module: str
    """Below `pipeline.stages`; its `run` is called when there is work."""
    options: str
    """Class in `pipeline.runs.options`."""
    makes: tuple[str, ...]
    """Artifacts; all carry the same origin."""
    reads: tuple[str, ...] = ()
    """Artifacts of earlier stages, without which it cannot run."""
    may_read: tuple[str, ...] = ()
    """Artifacts that it reads where they are there."""
    may_make: tuple[str, ...] = ()
    """Artifacts that it makes where the dataset has what they hold."""
    beside: tuple[str, ...] = ()
    """Files and folders that it writes next to its artifacts; no stage needs them."""
    formulas: tuple[str, ...] = ()
    """Names in `pipeline.method.FORMULAS` of all that decide the content; a test derives them from the source."""
    asks: Literal["", "teacher", "classifier"] = ""
    """The network that it asks or trains, for which it needs a device."""
    shared: bool = False
    """Whether the processes of torchrun share the work; else the first one does it alone."""


STAGES = (
    Stage(
        "prepare",
        "Check the images of a dataset and write the run's manifest and, where it is labelled, ground truth.",
        module="prepare",
        options="PrepareConfig",
        makes=("manifest.csv",),
        may_make=("ground_truth.h5",),
        beside=("manifest.json", "photos.csv"),
    ),
    Stage(
        "embed",
        "Ask the teacher about images and class names: embeddings, class probabilities, entropy and bias.",
        module="embed",
        options="EmbedConfig",
        reads=("manifest.csv",),
        makes=("embeddings.h5",),
        beside=("image_embeddings",),
        formulas=("probabilities", "labels", "snapping"),
        asks="teacher",
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
        "Train the warm-up classifier on the initial labels, so that it knows roughly where things are.",
        module="warmup",
        options="WarmupConfig",
        reads=("manifest.csv", "initial_labels.h5"),
        makes=("warmup.pt",),
        beside=("warmup.csv", "tensorboard", "wandb", "mlflow.db"),
        formulas=("losses", "boost", "ranking"),
        asks="classifier",
        shared=True,
    ),
    Stage(
        "boxes",
        "Draw boxes around what the warm-up classifier takes for each class.",
        module="boxes",
        options="BoxesConfig",
        reads=("manifest.csv", "warmup.pt"),
        makes=("boxes.h5",),
        formulas=("cam", "crops", "boost"),
        asks="classifier",
        shared=True,
    ),
    Stage(
        "score-crops",
        "Ask the teacher about the crop of each box, cut from the original photo.",
        module="score_crops",
        options="ScoreCropsConfig",
        reads=("manifest.csv", "embeddings.h5", "boxes.h5"),
        makes=("crop_scores.h5",),
        formulas=("probabilities", "crops", "snapping"),
        asks="teacher",
        shared=True,
    ),
    Stage(
        "fuse",
        "Combine initial labels, the scores of crops and what people corrected into final labels.",
        module="fuse",
        options="FuseConfig",
        reads=("embeddings.h5", "initial_labels.h5", "crop_scores.h5"),
        may_read=("corrections.h5",),
        makes=("final_labels.h5",),
        formulas=("labels",),
    ),
    Stage(
        "train",
        "Refine the final labels and train the final classifier on them, continued from the warm-up, with two views.",
        module="train",
        options="TrainConfig",
        reads=("manifest.csv", "warmup.pt", "final_labels.h5"),
        may_read=("corrections.h5",),
        makes=("classifier.pt", "epoch_scores.h5", "cross_fitted_labels.h5"),
        beside=("train.csv",),
        formulas=("losses", "boost", "ranking", "labels", "calibration", "epoch_choice"),
        asks="classifier",
        shared=True,
    ),
    Stage(
        "evaluate",
        "Measure teacher, classifiers and labels against ground truth.",
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
        formulas=("ranking", "metrics", "intervals"),
    ),
)

BY_PEOPLE = {"corrections.h5": "import-labels"}
"""Artifacts that a tool makes from what a person said, and its command."""

VERSIONS = {
    "manifest": 2,
    "ground_truth": 3,
    "embeddings": 3,
    "initial_labels": 1,
    "warmup": 3,
    "boxes": 1,
    "crop_scores": 4,
    "corrections": 1,
    "final_labels": 1,
    "cross_fitted_labels": 1,
    "classifier": 3,
    "epoch_scores": 3,
    "metrics": 2,
}
"""Of the schema of each artifact; the schema is the file's name without its ending."""

STAGE_NAMES = [stage.name for stage in STAGES]
MAKERS = {name: stage.name for stage in STAGES for name in stage.makes + stage.may_make} | BY_PEOPLE
"""Artifact to the command that makes it, in the order of the stages."""

OPTIONAL = {name for stage in STAGES for name in stage.may_make + stage.may_read}
"""Artifacts that a finished run need not have."""

HISTORIES = {f"{stage.name}.csv": stage.makes[0] for stage in STAGES if f"{stage.name}.csv" in stage.beside}
"""Tables of epochs, called as the stage that trains, and the artifact that each belongs to."""


def find_stage(name: str) -> Stage:
    """The stage of a name in `STAGE_NAMES`."""
    return STAGES[STAGE_NAMES.index(name)]


def files_of(stage: Stage) -> list[str]:
    """Everything that a stage writes into the run folder."""
    return [*stage.makes, *stage.may_make, *stage.beside]


def options_of(stage: Stage) -> type:
    """The class of a stage's options."""
    return getattr(import_module("pipeline.runs.options"), stage.options)


def module_of(stage: Stage) -> ModuleType:
    """The module whose `run` does a stage's work; imports what the work needs, perhaps torch."""
    return import_module(f"pipeline.stages.{stage.module}")


def up_to(name: str) -> Sequence[Stage]:
    """The stages up to and with this one."""
    return STAGES[: STAGE_NAMES.index(name) + 1]


def maker_of(name: str) -> str | None:
    """The command that makes a file of a run; None for a file that no command makes."""
    return next((stage.name for stage in STAGES if name in files_of(stage)), BY_PEOPLE.get(name))


def remedy(path: Path, force: bool = False) -> str:
    """The command that makes a file, for an error message; it works as it is typed."""
    return f"`ccd {maker_of(path.name) or 'all'} --run {run_argument(path.parent)}{' --force' if force else ''}`"


def advice(path: Path, verb: str, force: bool = False) -> str:
    """What to do about a file that is missing or damaged: a sentence, which names a command only if one makes the file.

    Args:
        path: the file.
        verb: what the command does with it, as "Create" or "Rebuild".
        force: whether the command has to make it although it is there.
    """
    if path.name == "calibrated.pt":
        return f"{verb} it with `ccd calibrate {run_argument(path.parent)} TABLE{' --force' if force else ''}`."
    if maker_of(path.name):
        return f"{verb} it with {remedy(path, force)}."
    return "Check the path."


def run_argument(folder: Path) -> str:
    """What names a run folder on a command line: its name below `artifacts/` or its path, quoted where a shell needs it."""
    text = str(folder)
    if folder.parent == Path("artifacts") and not folder.name.startswith("-"):  # which would be an option
        text = folder.name
    elif "/" not in text and text not in (".", ".."):
        text = f"./{text}"
    return shlex.quote(text)
