"""Commands that show runs: their list, state and settings."""

from pipeline.cli.app import PresetOption, RecipeOption, RunArgument, SameRunOption, app, chosen_run, named_run
from pipeline.runs import settings
from pipeline.stages.started import check_kind, log_unknown_classes, settings_if_started


@app.command(rich_help_panel="Housekeeping")
def status(name: RunArgument = "", run: SameRunOption = "") -> None:
    """Print the stages that `all` would run, why, and their estimated time; runs nothing."""
    from pipeline.stages.plan import show_plan

    folder = chosen_run(named_run(name, run))
    own = settings.read_run(folder)
    check_kind(folder, own, {})
    show_plan(folder, own)
    if (folder / "manifest.json").exists():
        log_unknown_classes(folder, own)


@app.command("list", rich_help_panel="Housekeeping")
def list_runs() -> None:
    """List the runs under artifacts/."""
    from pipeline.report.runs import show_runs

    show_runs()


@app.command(rich_help_panel="Housekeeping")
def config(
    name: RunArgument = "",
    run: SameRunOption = "",
    preset: PresetOption = "",
    recipe: RecipeOption = "",
) -> None:
    """Print the settings of a run, or those that `all` would start it with for a preset and a recipe; changes nothing."""
    from pipeline.report.runs import show_config

    named = named_run(name, run)
    if preset or recipe:
        show_config(*settings_if_started(named, preset, recipe))
    else:
        folder = chosen_run(named)
        show_config(str(folder / settings.FILE), settings.read_run(folder))
