"""The runs under artifacts/, and the options of one run."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from pipeline.artifacts.state import UP_TO_DATE, file_states
from pipeline.runs import settings
from pipeline.runs.folders import ARTIFACTS, known_runs
from pipeline.runs.graph import STAGES, options_of
from pipeline.runs.settings import Settings
from pipeline.runs.timings import count_images
from pipeline.system.errors import PipelineError
from pipeline.system.progress import PlainTable, log, show


def show_runs() -> None:
    """Print one row per run under artifacts/."""
    names = known_runs()
    if not names:
        log(f'there is no run under {ARTIFACTS}/. Start one with `ccd all --images DIR --classes "dog,cat"`.')
        return
    table = PlainTable("run", "kind", "images", "finished")
    for name in names:
        folder = ARTIFACTS / name
        table.add_row(name, kind_of(folder), str(count_images(folder)), finished(folder))
    show(table)


def kind_of(folder: Path) -> str:
    """Kind of the dataset of a run."""
    try:
        return str(settings.read_run(folder).tables.get("prepare", {}).get("kind", ""))
    except PipelineError:
        return "?"


def finished(folder: Path) -> str:
    """The last stage whose artifacts are all up to date."""
    try:
        states = file_states(folder)
    except PipelineError:
        return "?"
    done = [stage.name for stage in STAGES if all(states[name].state == UP_TO_DATE for name in stage.makes)]
    return done[-1] if done else "nothing"


def show_config(folder: Path, own: Settings) -> None:
    """Print every option of a run with its value and origin."""
    own.check()
    table = PlainTable("option", "value", "from", title=str(folder / settings.FILE))
    for option, value, origin in effective(own):
        table.add_row(option, value, origin)
    show(table)


def effective(own: Settings) -> Iterator[tuple[str, str, str]]:
    """Option, value and origin of every option of every stage."""
    loaded = {kind: settings.load(f"{kind}s", name) for kind, name in own.origins.items()}
    for stage in STAGES:
        config, table = own.config(stage.name, options_of(stage), {}), own.tables.get(stage.name, {})
        for item in fields(config):
            value = getattr(config, item.name)
            yield f"{stage.name}.{item.name}", repr(value), origin_of_option(stage.name, item.name, table, loaded)


def origin_of_option(stage: str, name: str, table: object, loaded: dict[str, Settings]) -> str:
    """The origin of an option's value: a recipe or preset with the same value, the user ("given"), or the code ("default")."""
    if not isinstance(table, dict) or name not in table:
        return "default"
    for kind in ("recipe", "preset"):
        if kind in loaded and loaded[kind].tables.get(stage, {}).get(name) == table[name]:
            return f"{kind} {loaded[kind].origins.get(kind) or loaded[kind].where}"
    return "given"
