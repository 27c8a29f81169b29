"""Settings of a run: a preset, a recipe and the user's options, stored in the run's `run.toml`."""

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from pipeline.runs.config import Config, absolute_path
from pipeline.runs.graph import STAGE_NAMES, STAGES, options_of
from pipeline.system.errors import PipelineError, first_line, hint, reason_of
from pipeline.system.files import regular_file, write_text
from pipeline.system.text import nfc

FILE = "run.toml"

RENAMED = {"paper": "ccd"}
"""Old names of recipes."""
ORIGINS = ("preset", "recipe")
"""Keys of the table [run]."""

SHORT = {
    "teacher": ("embed",),
    "backbone": ("warmup",),
    "epochs": ("train",),
    "batch_size": ("warmup", "train"),
    "image_size": ("warmup", "boxes", "train"),
    "seed": ("warmup", "boxes", "train"),
}
"""Options of `ccd all` and `fit`, and the stages in which each sets the option of the same name."""


Words = list[str] | dict[str, float]
"""Display names of a class in prompts: a list, or a dict from name to weight."""


@dataclass(frozen=True)
class Settings:
    """Tables of options by stage, and the display names of the classes.

    A table contains only options that differ from the defaults, so a changed default reaches every run.
    """

    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    classes: Mapping[str, Words] = field(default_factory=dict)
    """Class name to display names; the default is the class name."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Name of the "preset" and the "recipe" in the tables."""
    where: str = FILE
    """Names the settings in errors."""

    def config(self, stage: str, kind: type[Config], given: Mapping[str, Any]) -> Config:
        """Options of one stage: `given` on the command line, else the tables, else the defaults."""
        return kind.from_table({**self.tables.get(stage, {}), **given}, f"[{stage}] in {self.where}")

    def merged(self, other: "Settings") -> "Settings":
        """These settings, overridden by another's."""
        stages = [*self.tables, *(s for s in other.tables if s not in self.tables)]
        tables = {s: {**self.tables.get(s, {}), **other.tables.get(s, {})} for s in stages}
        return Settings(tables, {**self.classes, **other.classes}, {**self.origins, **other.origins}, other.where)

    def given(self, kind: str, name: str) -> "Settings":
        """These settings after `--preset NAME` or `--recipe NAME`.

        A preset or recipe that the run already has does not override later settings; a new one does.

        Args:
            kind: one of `ORIGINS`.
            name: see `load`; empty: no change.
        """
        if not name:
            return self
        name = absolute_origin(name)
        loaded = replace(load(f"{kind}s", name), origins={kind: name})
        return replace(loaded.merged(self), where=self.where) if self.origins.get(kind) == name else self.merged(loaded)

    def absolute(self) -> "Settings":
        """These settings with every path absolute, so that they are valid in any working directory."""
        kinds = {stage.name: options_of(stage) for stage in STAGES}
        tables = {name: kinds[name].absolute(table) if name in kinds else table for name, table in self.tables.items()}
        origins = {kind: absolute_origin(name) for kind, name in self.origins.items()}
        return replace(self, tables=tables, origins=origins)

    def unknown_classes(self, class_names: Sequence[str]) -> list[str]:
        """Names in `[classes]` that are no classes of the run, without those that its preset or recipe has."""
        shipped: set[str] = set()
        for kind, name in self.origins.items():
            shipped |= load(f"{kind}s", name).classes.keys()
        return [name for name in self.classes if name not in shipped.union(class_names)]

    def check(self) -> None:
        """Raise on a wrong option or value, before any stage runs."""
        for stage in STAGES:
            self.config(stage.name, options_of(stage), {})

    def changes(self, other: "Settings") -> Iterator[str]:
        """A line per option whose value another's settings change, as "train.epochs: 8 -> 12"."""
        for stage in STAGES:
            before, after = (each.tables.get(stage.name, {}) for each in (self, other))
            for name in {**before, **after}:
                if before.get(name) != after.get(name):
                    values = [f"{each[name]!r}" if name in each else "default" for each in (before, after)]
                    yield f"{stage.name}.{name}: {' -> '.join(values)}"


def absolute_origin(name: str) -> str:
    """A preset or recipe as a run stores it: the name of a shipped one, or the absolute path of a file."""
    return absolute_path(name) if name.endswith(".toml") else name


def are_words(value: object) -> bool:
    """Whether a value of `[classes]` is a list of texts, or a table of texts with finite positive weights."""
    if isinstance(value, dict):
        numbers = all(type(weight) in (int, float) and 0 < weight < math.inf for weight in value.values())
        return bool(value) and numbers
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) for word in value)


def words_of(class_name: str, classes: Mapping[str, Words]) -> dict[str, float]:
    """The display names of a class in prompts, with their weights; the default is its name, with spaces for underscores.

    Args:
        class_name: the class.
        classes: `[classes]` of a preset or run; it may lack classes and contain other ones.
    """
    words = classes.get(class_name, [class_name.replace("_", " ")])
    weights = words if isinstance(words, dict) else dict.fromkeys(words, 1.0)
    return {word: float(weight) for word, weight in weights.items()}


def checked_words(classes: Mapping[str, Any], where: str) -> dict[str, Words]:
    """Display names by class name, with a single text as a list of one.

    Raises:
        PipelineError: a value is neither a text, a list of texts nor a table of texts with weights.
    """
    words = {nfc(name): [value] if isinstance(value, str) else value for name, value in classes.items()}
    for name, value in words.items():
        if not are_words(value):
            raise PipelineError(
                f"{where} has {name} = {value!r}, expected a text, a list of texts, or a table of texts with positive weights."
            )
    return words


def parse(text: str, where: str) -> Settings:
    """Settings from TOML.

    Raises:
        PipelineError: invalid TOML, or a table that is not a stage (names the most similar one).
    """
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"{where} is not valid TOML: {first_line(error)}.") from None
    for name, table in tables.items():
        if name not in (*STAGE_NAMES, "classes", "run") or not isinstance(table, dict):
            raise PipelineError(f"{where} has an unknown table [{name}]. {hint(name, [*STAGE_NAMES, 'classes'])}")
    classes, origins = tables.pop("classes", {}), tables.pop("run", {})
    words = checked_words(classes, f"[classes] in {where}")
    for name, value in origins.items():
        if name not in ORIGINS or not isinstance(value, str):
            raise PipelineError(f"[run] in {where} has {name} = {value!r}, expected the name of a preset or recipe.")
    return Settings(tables, words, origins, where)


def read_file(path: Path) -> Settings:
    """Settings from a TOML file."""
    try:
        return parse(regular_file(path).read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else first_line(error)
        raise PipelineError(f"{path} could not be read ({reason}). Check the path.") from None


def shipped(kind: str) -> list[str]:
    """Names of the presets, recipes or plans in the package."""
    return sorted(
        p.name.removesuffix(".toml") for p in files("pipeline").joinpath(kind).iterdir() if p.name.endswith(".toml")
    )


def load(kind: str, name: str) -> Settings:
    """A preset or recipe by name, or any TOML file by path.

    Args:
        kind: "presets" or "recipes".
        name: one of `shipped(kind)`, or a path that ends in .toml.
    """
    if name.endswith(".toml"):
        return read_file(Path(name))
    known = shipped(kind)
    if name not in known:
        new_name = f" ({name!r} is {RENAMED[name]!r} now)" if name in RENAMED else ""
        raise PipelineError(
            f"there is no {kind.removesuffix('s')} {name!r}{new_name}; there are {', '.join(known)}, or give a .toml file."
        )
    return parse(files("pipeline").joinpath(kind, f"{name}.toml").read_text(encoding="utf-8"), name)


def read_run(folder: Path) -> Settings:
    """Settings of a run; the defaults where it has none yet."""
    path = folder / FILE
    return read_file(path) if path.exists() else Settings(where=str(path))


def write_run(folder: Path, settings: Settings) -> None:
    """Write `run.toml`, which the user may edit."""
    import tomli_w

    tables: dict[str, Any] = {"run": dict(settings.origins)} if settings.origins else {}
    tables |= {name: dict(table) for name, table in settings.tables.items() if table}
    if settings.classes:
        tables["classes"] = dict(settings.classes)
    write_text(folder / FILE, tomli_w.dumps(tables))


def parse_assignment(text: str) -> tuple[str, str, Any]:
    """Stage, option and value of "train.epochs=12"; a value that is not TOML is a text.

    Raises:
        PipelineError: it does not have this form, or the stage does not exist.
    """
    name, equals, value = text.partition("=")
    stage, dot, option = name.strip().partition(".")
    if not (equals and dot and option):
        raise PipelineError(f"--set {text!r} does not have the form STAGE.OPTION=VALUE, as train.epochs=12.")
    if stage not in STAGE_NAMES:
        raise PipelineError(f"--set {text!r} names the stage {stage!r}. {hint(stage, STAGE_NAMES)}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        parsed = value.strip()
    return stage, option.strip().replace("-", "_"), parsed


def assignments_to_settings(assignments: list[str] | tuple[str, ...], where: str = FILE) -> Settings:
    """Settings of "STAGE.OPTION=VALUE" texts."""
    tables: dict[str, dict[str, Any]] = {}
    for text in assignments:
        stage, option, value = parse_assignment(text)
        tables.setdefault(stage, {})[option] = value
    return Settings(tables, where=where)


def short_settings(given: Mapping[str, Any]) -> Settings:
    """Settings of options in `SHORT`."""
    tables: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        for stage in SHORT[name]:
            tables.setdefault(stage, {})[name] = value
    return Settings(tables)
