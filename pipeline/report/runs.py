"""The runs under artifacts/, and the options of one run."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

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


def show_config(title: str, own: Settings) -> None:
    """Print every option of a run with its value and origin."""
    own.check()
    table = PlainTable("option", "value", "from", title=title)
    for option, value, origin in effective(own):
        table.add_row(option, value, origin)
    show(table)


def effective(own: Settings) -> Iterator[tuple[str, str, str]]:
    """Name, value and origin of every option of every stage, and of the display names of every class."""
    loaded = {
        f"{kind} {own.origins[kind]}": settings.load(f"{kind}s", own.origins[kind])
        for kind in ("recipe", "preset")
        if kind in own.origins
    }
    for stage in STAGES:
        config, table = own.config(stage.name, options_of(stage), {}), own.tables.get(stage.name, {})
        tables = {origin: each.tables.get(stage.name, {}) for origin, each in loaded.items()}
        for item in fields(config):
            origin = origin_of(item.name, table[item.name], tables) if item.name in table else "default"
            yield f"{stage.name}.{item.name}", repr(getattr(config, item.name)), origin
    classes = {origin: each.classes for origin, each in loaded.items()}
    for name, words in own.classes.items():
        yield f"classes.{name}", repr(words), origin_of(name, words, classes)


def origin_of(name: str, value: object, tables: Mapping[str, Mapping[str, Any]]) -> str:
    """The first recipe or preset whose table has this value; else the user ("given")."""
    return next((origin for origin, table in tables.items() if table.get(name) == value), "given")
