"""Options of a stage: one declaration sets default, check, help text and fingerprint."""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

from pipeline.system.errors import PipelineError, hint
from pipeline.system.files import sha256_of
from pipeline.system.text import check_text

LOADERS = {"conse": 2, "open_clip": 3}
"""Version of a teacher loader, by kind of spec; raise it when embeddings from the same weights change."""

RENAMED = {
    "others": "background",
    "choose": "checkpoint_selection",
    "known_from": "reuse_embeddings",
    "votes": "crop_scope",
    "informed_head": "init_head_bias",
    "refine_rounds": "cross_fit_rounds",
    "refine_folds": "cross_fit_folds",
    "refine_share": "cross_fit_weight",
    "squash": "resize_filter",
}
"""Old names of options, for the error that a run.toml with one of them causes."""

REMOVED = (
    *("accumulate", "scale_batch", "sampling", "lr_warmup", "ema", "frozen_stages"),
    *("combine", "tau", "search_size", "search_passes", "peaks"),
)
"""Options of earlier versions that no longer exist."""


def option(
    default: Any,
    help: str,
    *,
    min: float | None = None,
    max: float | None = None,
    identity: bool = True,
    content: Callable[[str], str] | None = None,
    path: Callable[[str], str] | None = None,
    kinds: tuple[str, ...] = (),
    several: bool = False,
) -> Any:
    """Dataclass field of a `Config`.

    Args:
        default: value if neither the run's settings nor the command line set one.
        help: description with unit, range and the paper's value.
        min: smallest allowed value.
        max: largest allowed value.
        identity: whether the value is part of the artifact's fingerprint; False for options that only change the speed.
        content: maps a value that names a file to its identity in the fingerprint.
        path: makes the path in a value absolute.
        kinds: datasets that the option applies to; empty: all.
        several: whether the value may be a list of texts, and the option be repeated.
    """
    metadata = {"help": help, "min": min, "max": max, "identity": identity, "content": content, "path": path}
    metadata |= {"kinds": kinds, "several": several}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """Base class of the options of every stage; checks types, choices and ranges."""

    def __post_init__(self) -> None:
        for item in fields(self):
            check_value(item, getattr(self, item.name))

    @property
    def uses_ground_truth(self) -> bool:
        """Whether a stage with these options reads ground truth, as an ablation."""
        return False

    @property
    def also_reads(self) -> tuple[str, ...]:
        """Artifacts of the run that a stage reads because of these options."""
        return ()

    def identity(self) -> dict[str, Any]:
        """Options that determine the content of the stage's artifact, as JSON values; files count by content.

        Raises:
            PipelineError: a file cannot be read.
        """
        identity = {}
        for item in fields(self):
            value, content = getattr(self, item.name), item.metadata.get("content")
            if item.metadata.get("identity", True):
                identity[item.name] = content(value) if content else value
        return identity

    @classmethod
    def absolute(cls, table: Mapping[str, Any]) -> dict[str, Any]:
        """A table of these options with every path absolute."""
        rules = {item.name: item.metadata["path"] for item in fields(cls) if item.metadata.get("path")}

        def changed(name: str, value: Any) -> Any:
            if name in rules and isinstance(value, list):
                return [changed(name, each) for each in value]
            return rules[name](value) if name in rules and isinstance(value, str) else value

        return {name: changed(name, value) for name, value in table.items()}

    def changes_since(self, made: Mapping[str, Any]) -> list[str]:
        """Options that differ from those of an artifact, as "ratio 0.5 -> 0.6".

        Files are not hashed, so only `identity` notices a replaced file.

        Args:
            made: the `config` of the artifact.
        """
        changes = []
        for item in fields(self):
            name, value, content = item.name, getattr(self, item.name), item.metadata.get("content")
            if not item.metadata.get("identity", True):
                continue
            before = made.get(name, "unset")
            if content and names_file(value):
                differs = "sha256:" not in str(before)
            else:
                value = content(value) if content else value
                differs = before != value
            if differs:
                changes.append(f"{name} {before!r} -> {value!r}")
        return changes

    def replace(self, **changes: Any) -> Self:
        """Copy with some options changed."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str) -> Self:
        """Config from one table of a settings file.

        Args:
            table: option names and values.
            where: names the table in errors, as "[fuse] in run.toml".

        Raises:
            PipelineError: an unknown option (names the most similar one), a wrong type or a value out of range.
        """
        known = [f.name for f in fields(cls)]
        for name in table:
            if name in REMOVED and name not in known:
                raise PipelineError(f"{where} has the option {name!r}, which no longer exists. Delete the line.")
            if RENAMED.get(name) in known:
                raise PipelineError(f"{where} has the option {name!r}, which is now {RENAMED[name]!r}. Rename it.")
            if name not in known:
                raise PipelineError(f"{where} has an unknown option {name!r}. {hint(name, known)}")
        try:
            return cls(**table)
        except PipelineError as error:
            raise PipelineError(f"{where}: {error}") from None


def each_of(value: str | list[str]) -> list[str]:
    """The values of an option that may be repeated."""
    return [each for each in ([value] if isinstance(value, str) else value) if each]


def absolute_path(value: str) -> str:
    """The absolute path of a file or folder; URLs and empty texts stay."""
    return value if not value or "://" in value else os.path.abspath(os.path.expanduser(value))  # noqa: PTH100, PTH111


def absolute_file(value: str) -> str:
    """The absolute path of an existing file; any other text stays."""
    try:
        return absolute_path(value) if Path(value).expanduser().is_file() else value
    except (OSError, ValueError):  # too long for a file name, or not one
        return value


def absolute_teacher(spec: str) -> str:
    """The spec of a teacher with its path, if any, absolute."""
    prefix, path = split_teacher(spec)
    return prefix + absolute_path(path) if path else spec


def split_teacher(spec: str) -> tuple[str, str]:
    """Split the spec of a teacher into prefix and path; the path is empty if the spec names no file or folder."""
    kind, _, model = spec.partition(":")
    if model.startswith("local-dir:"):
        candidates = [model.removeprefix("local-dir:")]
    elif kind == "open_clip":  # MODEL/TAG, MODEL/FILE or MODEL/TAG@FILE
        weights = model.partition("/")[2]
        candidates = [weights, weights.partition("@")[2]]
    else:
        candidates = [model] if kind == "openai" else []
    for path in filter(None, candidates):
        whole = Path(path).expanduser()
        # a folder with the name of a tag is not a weights file
        if whole.is_dir() if model.startswith("local-dir:") else whole.is_file():
            return spec.removesuffix(path), path
    return spec, ""


def names_file(value: object) -> bool:
    """Whether a stored option contains an absolute path, alone or at the end of a spec."""
    return isinstance(value, str) and re.search("(^|[:/@])/", value) is not None


def file_identity(path: str) -> str:
    """Hash of the content of a file or folder; empty for an empty path."""
    return f"sha256:{sha256_of(Path(path).expanduser())[:16]}" if path else ""


def teacher_identity(spec: str) -> str:
    """The spec of a teacher with a hash instead of a path, and the version of its loader."""
    prefix, path = split_teacher(spec)
    loader = LOADERS.get(spec.partition(":")[0])
    return (prefix + file_identity(path) if path else spec) + (f" loader={loader}" if loader else "")


def check_value(item: dataclasses.Field, value: Any) -> None:
    """Raise `PipelineError` unless `value` has the field's type and is in its choices and range."""
    name, kind = item.name, item.type
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str):
            check_text(text, name)
    if item.metadata.get("several"):
        if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise PipelineError(f"{name} is {value!r}, expected a text or a list of texts.")
        return
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise PipelineError(f"{name} is {value!r}, expected one of {', '.join(map(str, get_args(kind)))}.")
        return
    accepted = {float: (int, float), int: (int,), bool: (bool,), str: (str,)}.get(kind)
    if accepted and (not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool))):
        raise PipelineError(f"{name} is {value!r}, expected {kind.__name__}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise PipelineError(f"{name} is {value}, expected a number.")
    low, high = item.metadata.get("min"), item.metadata.get("max")
    if low is not None and value < low:
        raise PipelineError(f"{name} is {value}, expected at least {low}.")
    if high is not None and value > high:
        raise PipelineError(f"{name} is {value}, expected at most {high}.")
