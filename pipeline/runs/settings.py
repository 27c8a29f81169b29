"""Settings of a run: a preset, a recipe and what the user gave, kept in the run's own `run.toml`."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomli_w

from pipeline.machine.errors import PipelineError
from pipeline.runs.config import Config
from pipeline.runs.files import replacing

FILE = "run.toml"


@dataclass(frozen=True)
class Settings:
    """Tables of options by stage, and the words that prompts use for the classes.

    A table holds only what differs from the defaults, so that a default changed in the code reaches every run.
    """

    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    classes: Mapping[str, list[str]] = field(default_factory=dict)
    """Class name to display names; a class that is missing is called by its name."""
    where: str = FILE
    """Names the settings in an error."""

    def config(self, stage: str, kind: type[Config], given: Mapping[str, Any]) -> Config:
        """Options of one stage; `given` on the command line wins over the tables, which win over the defaults."""
        return kind.from_table({**self.tables.get(stage, {}), **given}, f"[{stage}] in {self.where}")

    def merged(self, other: "Settings") -> "Settings":
        """These settings with another's on top."""
        stages = [*self.tables, *(s for s in other.tables if s not in self.tables)]
        tables = {s: {**self.tables.get(s, {}), **other.tables.get(s, {})} for s in stages}
        return Settings(tables, {**self.classes, **other.classes}, other.where)


def parse(text: str, where: str, stages: list[str]) -> Settings:
    """Settings from TOML.

    Raises:
        PipelineError: no valid TOML, or a table that is no stage (names the nearest).
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PipelineError(f"{where} is no valid TOML: {error}.") from None
    classes = tables.pop("classes", {})
    for name, table in tables.items():
        if name not in stages or not isinstance(table, dict):
            near = difflib.get_close_matches(name, stages, n=1)
            hint = f"did you mean [{near[0]}]?" if near else f"expected one of {', '.join(stages)} and classes."
            raise PipelineError(f"{where} has an unknown table [{name}]; {hint}")
    words = {name: [value] if isinstance(value, str) else list(value) for name, value in classes.items()}
    return Settings(tables, words, where)


def read_file(path: Path, stages: list[str]) -> Settings:
    """Settings from a TOML file."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path), stages)
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path} could not be read ({error}).") from None


def shipped(kind: str) -> list[str]:
    """Names of the presets or recipes in the package."""
    return sorted(
        p.name.removesuffix(".toml") for p in files("pipeline").joinpath(kind).iterdir() if p.name.endswith(".toml")
    )


def load(kind: str, name: str, stages: list[str]) -> Settings:
    """A preset or recipe by name, or any TOML file by path.

    Args:
        kind: "presets" or "recipes".
        name: one of `shipped(kind)`, or a path that ends in .toml.
        stages: names of the tables that may stand in it.
    """
    if name.endswith(".toml"):
        return read_file(Path(name), stages)
    known = shipped(kind)
    if name not in known:
        raise PipelineError(
            f"there is no {kind.removesuffix('s')} {name!r}; there are {', '.join(known)}, or give a .toml file."
        )
    return parse(files("pipeline").joinpath(kind, f"{name}.toml").read_text(encoding="utf-8"), name, stages)


def read_run(folder: Path, stages: list[str]) -> Settings:
    """Settings of a run; the defaults where it has none yet."""
    path = folder / FILE
    return read_file(path, stages) if path.exists() else Settings()


def write_run(folder: Path, settings: Settings) -> None:
    """Write `run.toml`, which a person may edit."""
    tables = {name: dict(table) for name, table in settings.tables.items() if table}
    if settings.classes:
        tables["classes"] = dict(settings.classes)
    with replacing(folder / FILE) as partial:
        partial.write_text(tomli_w.dumps(tables), encoding="utf-8")


def parse_assignment(text: str) -> tuple[str, str, Any]:
    """Stage, option and value of "train.epochs=12"; the value is read as TOML, or as text where it is none."""
    name, equals, value = text.partition("=")
    stage, dot, option = name.strip().partition(".")
    if not (equals and dot and option):
        raise PipelineError(f"--set {text!r} has not the form STAGE.OPTION=VALUE, as train.epochs=12.")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return stage, option.strip().replace("-", "_"), parsed
