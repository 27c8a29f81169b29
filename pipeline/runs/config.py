"""Options of a stage: one declaration gives the default, the check, the help text and the fingerprint."""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, get_args, get_origin

from pipeline.machine.errors import PipelineError


def option(
    default: Any,
    help: str,
    *,
    min: float | None = None,
    max: float | None = None,
    identity: bool = True,
) -> Any:
    """Dataclass field of a `Config`.

    Args:
        default: value where neither the run's settings nor the command line give one.
        help: what it is, with unit and range and, where it comes from a paper, the place.
        min: smallest allowed value.
        max: largest allowed value.
        identity: whether the value is part of the artifact's fingerprint; False for what changes only the speed.
    """
    metadata = {"help": help, "min": min, "max": max, "identity": identity}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """Base of every stage's options; refuses values out of range, quoting them."""

    def __post_init__(self) -> None:
        for item in fields(self):
            check_value(item, getattr(self, item.name))

    def identity(self) -> dict[str, Any]:
        """Options that decide the content of the stage's artifact, ready for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("identity", True)}

    def replace(self, **changes: Any) -> Self:
        """Copy with some options changed."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str) -> Self:
        """Config from one table of a settings file.

        Args:
            table: option names and values.
            where: names the table in an error, as "[fuse] in run.toml".

        Raises:
            PipelineError: an unknown option (names the nearest one), a wrong type or a value out of range.
        """
        known = [f.name for f in fields(cls)]
        for name in table:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it may hold {', '.join(known)}."
                raise PipelineError(f"{where} has an unknown option {name!r}; {hint}")
        try:
            return cls(**table)
        except PipelineError as error:
            raise PipelineError(f"{where}: {error}") from None


def check_value(item: dataclasses.Field, value: Any) -> None:
    """Raise `PipelineError` unless `value` suits the field's type, choices and range."""
    name, kind = item.name, item.type
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise PipelineError(f"{name} is {value!r}, expected one of {', '.join(map(str, get_args(kind)))}.")
        return
    accepted = {float: (int, float), int: (int,), bool: (bool,), str: (str,)}.get(kind)
    if accepted and (not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool))):
        raise PipelineError(f"{name} is {value!r}, expected {kind.__name__}.")
    low, high = item.metadata.get("min"), item.metadata.get("max")
    # `not (low <= value)` also refuses NaN.
    if low is not None and not low <= value:
        raise PipelineError(f"{name} is {value}, expected at least {low}.")
    if high is not None and not value <= high:
        raise PipelineError(f"{name} is {value}, expected at most {high}.")
