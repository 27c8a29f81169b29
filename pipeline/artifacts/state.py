"""What is built, what is stale and why: the head that every command asks first, answered without a network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py

from pipeline.artifacts.checkpoints import read_description
from pipeline.artifacts.damage import reporting_damage
from pipeline.artifacts.provenance import Provenance, check_schema
from pipeline.method import FORMULAS
from pipeline.runs.config import Config
from pipeline.runs.graph import (
    BY_PEOPLE,
    MAKERS,
    OPTIONAL,
    STAGE_NAMES,
    VERSIONS,
    Stage,
    find_stage,
    options_of,
    remedy,
)
from pipeline.runs.settings import FILE, Settings, read_run
from pipeline.system.errors import PipelineError, UnreadableError


def read_provenance(path: Path) -> Provenance:
    """Provenance of any artifact of a run, without reading its content.

    Raises:
        PipelineError: missing, damaged, or not what its name says.
    """
    path = Path(path)
    side = path.with_suffix(".json") if path.suffix == ".csv" else path
    if path.suffix == ".csv" and not path.exists():
        raise PipelineError(f"{path} is missing. Create it with {remedy(path)}.")
    with reporting_damage(side):
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                provenance = Provenance.from_attributes(file.attrs)
        elif path.suffix == ".pt":
            provenance = Provenance.from_attributes(read_description(path)["attributes"])
        else:
            provenance = Provenance.from_attributes(json.loads(side.read_text(encoding="utf-8"))["attributes"])
        check_schema(path, provenance)
        return provenance


def up_to_date(path: Path) -> Path:
    """A file of a run that people look at or use: the path itself, once the file is up to date.

    It is out of date if the run's settings are no longer those that it was made with, too. Corrections that `fuse` has
    not used yet make nothing out of date here: the readers of labels name them.

    Raises:
        PipelineError: it, or a file that it was made from, is missing, damaged or out of date; names the command.
    """
    check_current(path, ignore=tuple(BY_PEOPLE), own=settings_of(path.parent))
    return path


def settings_of(folder: Path) -> Settings | None:
    """The settings of a run; None for a folder without any, as one whose files were copied out of a run."""
    return read_run(folder) if (folder / FILE).exists() else None


def check_current(
    path: Path,
    known: dict[Path, Provenance] | None = None,
    ignore: Sequence[str] = (),
    own: Settings | None = None,
) -> Provenance:
    """Provenance of a file whose inputs, options and formulas are still those that it was made with, and theirs, and so on.

    Args:
        path: the file.
        known: files that are already checked; gets those that are checked now.
        ignore: names of inputs whose changes do not count.
        own: settings of the run, whose options count; None to compare none.

    Raises:
        PipelineError: it, or a file it was made from, is missing, damaged, or has changed since.
    """
    known = {} if known is None else known
    if path in known:
        return known[path]
    provenance = read_provenance(path)
    for name, fingerprint in provenance.inputs.items():
        if name in ignore:
            continue
        if name in BY_PEOPLE and not path.with_name(name).exists():
            raise PipelineError(f"{path} is stale: {name} was taken away since. Rebuild it with {remedy(path)}.")
        if check_current(path.with_name(name), known, ignore, own).fingerprint != fingerprint:
            raise PipelineError(
                f"{path} is stale: {name} has changed since it was made. Rebuild it with {remedy(path)}."
            )
    for name, version in provenance.formulas.items():
        if FORMULAS.get(name) != version:
            raise PipelineError(
                f"{path} is stale: the formulas of {name} have changed. Rebuild it with {remedy(path)}."
            )
    if own is not None and MAKERS.get(path.name) in STAGE_NAMES[1:]:
        stage = find_stage(MAKERS[path.name])
        changes = own.config(stage.name, options_of(stage), {}).changes_since(provenance.config)
        if changes:
            raise PipelineError(
                f"{path} is stale: the settings of the run have changed since it was made ({'; '.join(changes)}). "
                f"Rebuild it with {remedy(path)}."
            )
    known[path] = provenance
    return provenance


def inputs_of(stage: Stage, folder: Path, config: Config) -> list[str]:
    """Files that a stage with these options reads from a run folder."""
    optional = [name for name in stage.may_read if (folder / name).exists()]
    truth = ["ground_truth.h5"] if config.uses_ground_truth and "ground_truth.h5" not in stage.reads else []
    return [*stage.reads, *optional, *truth]


def origin_of(stage: Stage, folder: Path, config: Config, known: dict[Path, Provenance] | None = None) -> Provenance:
    """What the artifacts of a stage would carry if it ran now; the first of them, see `Provenance.of`.

    Args:
        stage: any but `prepare`, whose origin is what it finds.
        folder: the run folder.
        config: the stage's options.
        known: as of `check_current`.

    Raises:
        PipelineError: an input is missing, damaged or stale; names the command to run.
    """
    known, own = {} if known is None else known, settings_of(folder)
    sources = {name: check_current(folder / name, known, own=own) for name in inputs_of(stage, folder, config)}
    schema = Path(stage.makes[0]).stem
    return Provenance(
        schema=schema,
        version=VERSIONS[schema],
        config=config.identity(),
        inputs={name: source.fingerprint for name, source in sources.items()},
        formulas={name: FORMULAS[name] for name in stage.formulas},
        uses_ground_truth=config.uses_ground_truth or any(s.uses_ground_truth for s in sources.values()),
    )


def is_built(stage: Stage, folder: Path, origin: Provenance) -> bool:
    """Whether sound files with this origin are there, all that the stage makes."""
    return not why_build(stage, folder, origin)


def why_build(stage: Stage, folder: Path, origin: Provenance) -> str:
    """Why a stage has to run, in a few words; empty if all that it makes is there and current."""
    for name in stage.makes:
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        try:
            found = read_provenance(path)
        except UnreadableError:
            raise
        except PipelineError:
            return f"{name} is damaged, or of another version"
        if found.fingerprint != origin.of(name).fingerprint:
            return difference(found, origin)
    return ""


def difference(found: Provenance, origin: Provenance) -> str:
    """What makes a file stale: options, inputs or formulas that have changed."""
    changed = [
        f"{name} {found.config.get(name, 'unset')!r} -> {origin.config.get(name, 'unset')!r}"
        for name in sorted({*found.config, *origin.config})
        if found.config.get(name) != origin.config.get(name)
    ]
    changed += [f"{name} has changed" for name in changed_keys(found.inputs, origin.inputs)]
    changed += [f"the formulas of {name} have changed" for name in changed_keys(found.formulas, origin.formulas)]
    return "; ".join(changed) or "it was made by another version"


def changed_keys(first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    """Keys whose values differ, or that one of both lacks."""
    return [name for name in {**first, **second} if first.get(name) != second.get(name)]


@dataclass(frozen=True)
class FileState:
    """What is known of one file of a run without reading its content."""

    name: str
    command: str
    """That makes it."""
    state: str
    """"current", "missing", "none" (of one that need not be there) or what is wrong with it."""
    provenance: Provenance | None
    """Of a current file."""


def file_states(folder: Path) -> dict[str, FileState]:
    """The state of every artifact that a run has or may have, in the order of the stages."""
    known: dict[Path, Provenance] = {}
    own = settings_of(folder)
    return {name: _state(folder / name, known, own) for name in MAKERS}


def file_state(path: Path) -> FileState:
    """The state of one artifact."""
    return _state(path, {}, settings_of(path.parent))


def _state(path: Path, known: dict[Path, Provenance], own: Settings | None) -> FileState:
    command = MAKERS[path.name]
    if not path.exists():
        return FileState(path.name, command, "none" if path.name in OPTIONAL else "missing", None)
    try:
        return FileState(path.name, command, "current", check_current(path, known, own=own))
    except PipelineError as error:
        return FileState(path.name, command, str(error), None)
