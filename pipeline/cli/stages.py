"""Commands of the stages, and `all`."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.app import (
    DeviceOption,
    ForceOption,
    NewRunArgument,
    PresetOption,
    RecipeOption,
    ResetOption,
    RunArgument,
    SameRunOption,
    SetOption,
    YesOption,
    app,
    chosen_run,
    given_options,
    named_run,
    option_parameter,
    with_options,
)
from pipeline.runs import settings
from pipeline.runs.graph import STAGE_NAMES, STAGES, Stage, find_stage, options_of, up_to
from pipeline.runs.lock import locked
from pipeline.runs.no_effect import without_effect
from pipeline.runs.options import EmbedConfig, PrepareConfig
from pipeline.stages.started import keep_settings, started_run
from pipeline.system import distributed
from pipeline.system.errors import PipelineError
from pipeline.system.progress import log

SHORT_HELP = {
    "epochs": "Passes over the train images in the final training.",
    "image_size": "Side of the classifier's square input, in pixels. 0: 320, or that of a backbone from the teacher (paper: 448, and "
    "640 for boxes).",
    "seed": "Seed of training and of random boxes.",
}
"""Help of these options where that of the last stage is too narrow."""


def short_options() -> list[Any]:
    """The parameters of `all` for the options in `settings.SHORT`."""
    known = {
        name: {item.name: item for item in fields(options_of(find_stage(stages[-1])))}
        for name, stages in settings.SHORT.items()
    }
    return [option_parameter(known[name][name], SHORT_HELP.get(name, "")) for name in known]


def split_short(given: Mapping[str, Any]) -> tuple[dict[str, Any], settings.Settings]:
    """Split the options of `all` into those of `prepare` and the settings that its short options stand for."""
    short = {name: value for name, value in given.items() if name in settings.SHORT}
    return {name: value for name, value in given.items() if name not in short}, settings.short_settings(short)


def add_stage(stage: Stage) -> None:
    """Register the command of a stage."""

    @with_options(options_of(stage))
    def command(
        name: RunArgument = "",
        *,
        run: SameRunOption = "",
        device: DeviceOption = "auto",
        force: ForceOption = False,
        **given: Any,
    ) -> None:
        run_alone(stage, chosen_run(named_run(name, run)), given, device, force)

    app.command(stage.name, help=stage.summary, rich_help_panel="Stages")(command)


def run_alone(
    stage: Stage, folder: Path, given: Mapping[str, Any], device: str, force: bool, *, yes: bool | None = None
) -> None:
    """Run one stage with the options that its command got; see `ask_if_long` for `yes`, None for no estimate."""
    from pipeline.stages.chain import run_stage

    with locked(folder):
        before = settings.read_run(folder)
        if not (folder / settings.FILE).exists():
            log(f"warning: {folder} has no {settings.FILE}, so this stage runs with the default settings.")
        own = before.merged(settings.Settings({stage.name: given_options(given)}, where=before.where)).absolute()
        for line in without_effect(own, {stage.name: given_options(given)}):
            log(f"warning: {line}")
        if yes is not None:
            ask_if_long(folder, own, [stage], device, force, yes)
        run_stage(stage, folder, own, device, force)
        keep_settings(folder, before, own)
        if stage.name == "evaluate":
            show_figures(folder)
        if stage.name == "train" and distributed.is_main():
            log_unused_calibration(folder)


def ask_if_long(
    folder: Path, own: settings.Settings, stages: Sequence[Stage], device: str, force: bool, yes: bool
) -> None:
    """Log the estimate of a run that takes longer than about a minute, and ask before more than a day.

    Raises:
        PipelineError: the run would take longer than a day, and neither `yes` nor a person at the terminal agrees.
    """
    from pipeline.stages.forecast import DAY, WORTH_SAYING, forecast

    if not distributed.is_main():
        return
    estimate = forecast(folder, own, device, stages, force)
    if estimate is None or estimate.total < WORTH_SAYING:
        return
    log(estimate.sentence(folder))
    if estimate.total <= DAY or yes:
        return
    agreed = (
        sys.stdin is not None and sys.stdin.isatty() and typer.confirm("This takes longer than a day. Start?", err=True)
    )
    if not agreed:
        raise PipelineError(
            f"{folder} would take longer than a day, so nothing was started. Add --yes to start it, or choose a smaller "
            "teacher, fewer photos or a GPU."
        )


@app.command("prepare", help=find_stage("prepare").summary, rich_help_panel="Stages")
@with_options(PrepareConfig, panel="Run")
def prepare(
    name: NewRunArgument = "",
    *,
    run: SameRunOption = "",
    preset: PresetOption = "",
    recipe: RecipeOption = "",
    assignments: SetOption = [],  # noqa: B006 - typer copies it
    force: ForceOption = False,
    reset: ResetOption = False,
    **given: Any,
) -> None:
    """Start a run. Only `prepare` and `all` take a preset."""
    more = settings.assignments_to_settings(assignments)
    with started_run(named_run(name, run), preset, recipe, given_options(given), more, reset, force):
        pass


@app.command("all", rich_help_panel="Start")
@with_options(PrepareConfig, short_options(), panel="Run")
def run_all(
    name: NewRunArgument = "",
    *,
    run: SameRunOption = "",
    preset: PresetOption = "",
    recipe: RecipeOption = "",
    assignments: SetOption = [],  # noqa: B006 - typer copies it
    device: DeviceOption = "auto",
    force: ForceOption = False,
    reset: ResetOption = False,
    yes: YesOption = False,
    to: Annotated[str, typer.Option("--to", help=f"Last stage to run: {', '.join(STAGE_NAMES)}.")] = "evaluate",
    **given: Any,
) -> None:
    """Run every stage, from photos and class names to a trained classifier and its figures.

    Example: ccd all --images photos --classes "dog,cat,car"
    """
    from pipeline.stages.chain import run_chain
    from pipeline.stages.plan import log_end
    from pipeline.teachers.recommended import log_better_teacher

    if to not in STAGE_NAMES:
        raise PipelineError(f"--to names the stage {to!r}, expected one of {', '.join(STAGE_NAMES)}.")
    prepared, short = split_short(given_options(given))
    more = short.merged(settings.assignments_to_settings(assignments))
    with started_run(named_run(name, run), preset, recipe, prepared, more, reset, force) as (folder, own):
        stages = up_to(to)[1:]
        if stages:
            log_better_teacher(folder, own.config("embed", EmbedConfig, {}), device)
        ask_if_long(folder, own, stages, device, force, yes)
        run_chain(folder, own, device, force, stages)
        if to == "evaluate" and is_measured(folder):
            show_figures(folder, headline=False)
        if distributed.is_main():
            headline = log_warnings(folder)
            log_unused_calibration(folder)
            log_end(folder, to)
            log(headline)


@app.command("embed", help=find_stage("embed").summary, rich_help_panel="Stages")
@with_options(EmbedConfig)
def embed(
    name: RunArgument = "",
    *,
    run: SameRunOption = "",
    device: DeviceOption = "auto",
    force: ForceOption = False,
    yes: YesOption = False,
    **given: Any,
) -> None:
    """Score the images with the teacher, after an estimate of the time that this takes."""
    run_alone(find_stage("embed"), chosen_run(named_run(name, run)), given, device, force, yes=yes)


def is_measured(folder: Path) -> bool:
    """Whether the run's figures are up to date; removed labels leave old figures behind."""
    from pipeline.artifacts.state import UP_TO_DATE, file_states

    return file_states(folder)["metrics.json"].state == UP_TO_DATE


def log_warnings(folder: Path) -> str:
    """Log the warnings of the run's report, and return its first sentence."""
    from pipeline.evaluation.run_files import read_run
    from pipeline.report.verdict import closing_lines, sentence

    files = read_run(folder, without=("boxes.h5", "crop_scores.h5"))
    for line in closing_lines(files):
        log(line)
    return sentence(files)


def log_unused_calibration(folder: Path) -> None:
    """Log that the calibrated thresholds of the run are not those of its classifier."""
    from pipeline.deploy.files import unused_calibration

    if warning := unused_calibration(folder):
        log(warning)


def show_figures(folder: Path, *, headline: bool = True) -> None:
    """Print the figures of a measured run; see `show_metrics`."""
    from pipeline.evaluation.tables import show_metrics

    if distributed.is_main():
        show_metrics(folder, headline=headline)


for _stage in STAGES[2:]:
    add_stage(_stage)
