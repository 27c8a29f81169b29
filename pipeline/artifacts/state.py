"""What is built, what is out of date and why; needs no network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py

from pipeline.artifacts.checkpoints import read_description
from pipeline.artifacts.damage import reporting_damage
from pipeline.artifacts.hdf5_file import take_attributes
from pipeline.artifacts.manifest import read_display_names
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
    build_command,
    find_stage,
    options_of,
    remedy,
)
from pipeline.runs.settings import FILE, Settings, read_run, words_of
from pipeline.system.errors import NotBuiltError, PipelineError, UnreadableError

UP_TO_DATE = "up to date"
MISSING = "missing"
NAMED = 4
"""Largest number of classes in a message."""
NOT_MADE = "not made"
"""State of a file that is missing and not needed: `ground_truth.h5`, and without it `metrics.json`."""


def read_provenance(path: Path) -> Provenance:
    """Provenance of any artifact of a run, without reading its content.

    Raises:
        PipelineError: missing, damaged, or of another schema than its name.
    """
    path = Path(path)
    side = path.with_suffix(".json") if path.suffix == ".csv" else path
    if path.suffix == ".csv" and not path.exists():
        raise NotBuiltError(f"{path} is missing.", f"Create it with {remedy(path)}.")
    with reporting_damage(side):
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                provenance = Provenance.from_attributes(take_attributes(file))
        elif path.suffix == ".pt":
            provenance = Provenance.from_attributes(read_description(path)["attributes"])
        else:
            provenance = Provenance.from_attributes(json.loads(side.read_text(encoding="utf-8"))["attributes"])
        check_schema(path, provenance)
        return provenance


def up_to_date(path: Path) -> Path:
    """The path of a file for reading, after a check that the file is up to date with its inputs and the run's settings.

    Corrections that `fuse` has not used yet do not count here: the readers of labels name them.

    Raises:
        PipelineError: it, or a file that it was made from, is missing, damaged or out of date; names the command.
    """
    check_up_to_date(path, ignore=tuple(BY_PEOPLE), own=settings_of(path.parent))
    return path


def settings_of(folder: Path) -> Settings | None:
    """The settings of a run; None for a folder without `run.toml`, such as a copy of some files of a run."""
    return read_run(folder) if (folder / FILE).exists() else None


def check_up_to_date(
    path: Path,
    known: dict[Path, Provenance] | None = None,
    ignore: Sequence[str] = (),
    own: Settings | None = None,
) -> Provenance:
    """Provenance of a file, after a check that it and all files it was made from are up to date.

    Args:
        path: the file.
        known: files that are already checked; gets those that are checked now.
        ignore: names of inputs whose changes do not count.
        own: settings of the run; None to compare no options.

    Raises:
        PipelineError: the file, or one that it was made from, is missing, damaged or out of date; names the command.
    """
    known = {} if known is None else known
    if path in known:
        return known[path]
    provenance, rebuild = read_provenance(path), f"Rebuild it with {remedy(path)}."
    for name, fingerprint in provenance.inputs.items():
        if name in ignore:
            continue
        if name in BY_PEOPLE and not path.with_name(name).exists():
            raise NotBuiltError(f"{path} is out of date: {name} was removed.", rebuild)
        if check_up_to_date(path.with_name(name), known, ignore, own).fingerprint != fingerprint:
            raise NotBuiltError(f"{path} is out of date: {name} has changed since it was made.", rebuild)
    if own is not None and path.name == "manifest.csv":
        known_names = read_display_names(path.parent)
        changed = [name for name, words in known_names.items() if words != words_of(name, own.classes)]
        if changed:
            names = ", ".join(changed[:NAMED]) + (" ..." if len(changed) > NAMED else "")
            raise NotBuiltError(
                f"{path} is out of date: {FILE} has other display names of {names} since it was made.",
                f"Rebuild the run with {build_command(path.parent, STAGE_NAMES[-1])}.",
            )
    for name, version in provenance.formulas.items():
        if FORMULAS.get(name) != version:
            raise NotBuiltError(f"{path} is out of date: the formulas of {name} have changed.", rebuild)
    if own is not None and MAKERS.get(path.name) in STAGE_NAMES[1:]:
        stage = find_stage(MAKERS[path.name])
        changes = own.config(stage.name, options_of(stage), {}).changes_since(provenance.config)
        if changes:
            raise NotBuiltError(
                f"{path} is out of date: the settings of the run have changed since it was made ({'; '.join(changes)}).",
                rebuild,
            )
    known[path] = provenance
    return provenance


def inputs_of(stage: Stage, folder: Path, config: Config) -> list[str]:
    """Files that a stage with these options reads from a run folder."""
    optional = [name for name in stage.may_read if (folder / name).exists()]
    truth = ["ground_truth.h5"] if config.uses_ground_truth and "ground_truth.h5" not in stage.reads else []
    return [*stage.reads, *config.also_reads, *optional, *truth]


def origin_of(stage: Stage, folder: Path, config: Config) -> Provenance:
    """The provenance that a stage would give its first artifact now; for the other ones see `Provenance.of`.

    Args:
        stage: any but `prepare`, whose provenance depends on the dataset.
        folder: the run folder.
        config: the stage's options.

    Raises:
        PipelineError: an input is missing, damaged or out of date; names the command to run.
    """
    known: dict[Path, Provenance] = {}
    own, sources = settings_of(folder), {}
    for name in inputs_of(stage, folder, config):
        try:
            sources[name] = check_up_to_date(folder / name, known, own=own)
        except NotBuiltError as error:
            if name in OPTIONAL or own is None:
                raise
            advice = f"Run every stage up to {stage.name} with {build_command(folder, stage.name)}."
            raise NotBuiltError(error.problem, advice) from None
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
    """Whether all artifacts of a stage exist with this provenance."""
    return not why_build(stage, folder, origin)


def why_build(stage: Stage, folder: Path, origin: Provenance) -> str:
    """Why a stage has to run, in a few words; empty if all its artifacts are up to date."""
    for name in stage.makes:
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        try:
            stored = read_provenance(path)
        except UnreadableError:
            raise
        except PipelineError:
            return f"{name} is damaged, or of another version"
        if stored.fingerprint != origin.of(name).fingerprint:
            return difference(stored, origin)
    return ""


def difference(stored: Provenance, origin: Provenance) -> str:
    """The changed options, inputs or formulas that make a file out of date."""
    changed = [
        f"{name} {stored.config.get(name, 'unset')!r} -> {origin.config.get(name, 'unset')!r}"
        for name in sorted({*stored.config, *origin.config})
        if stored.config.get(name) != origin.config.get(name)
    ]
    changed += [f"{name} has changed" for name in changed_keys(stored.inputs, origin.inputs)]
    changed += [f"the formulas of {name} have changed" for name in changed_keys(stored.formulas, origin.formulas)]
    return "; ".join(changed) or "it was made by another version of ccd"


def changed_keys(first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    """Keys whose values differ, or that only one of the two has."""
    return [name for name in {**first, **second} if first.get(name) != second.get(name)]


@dataclass(frozen=True)
class FileState:
    """State of one file of a run, from its provenance alone."""

    name: str
    command: str
    """The command that makes it."""
    state: str
    """UP_TO_DATE, MISSING, NOT_MADE or the error that the file gives."""
    provenance: Provenance | None
    """Provenance of a file that is up to date."""


def file_states(folder: Path) -> dict[str, FileState]:
    """The state of every artifact that a run can have, in the order of the stages."""
    known: dict[Path, Provenance] = {}
    own = settings_of(folder)
    return {name: _state(folder / name, known, own) for name in MAKERS}


def next_stage(states: Mapping[str, str]) -> str:
    """The first stage with an artifact that is missing or out of date; empty if there is none.

    Args:
        states: `FileState.state` of every artifact that a run can have. Without ground truth, `evaluate` has nothing to do.
    """
    for name, command in MAKERS.items():
        needed = command in STAGE_NAMES and (command != "evaluate" or states["ground_truth.h5"] == UP_TO_DATE)
        if needed and states[name] not in (UP_TO_DATE, NOT_MADE):
            return command
    return ""


def file_state(path: Path) -> FileState:
    """The state of one artifact."""
    return _state(path, {}, settings_of(path.parent))


def _state(path: Path, known: dict[Path, Provenance], own: Settings | None) -> FileState:
    command = MAKERS[path.name]
    if not path.exists():
        unmeasured = command == "evaluate" and not (path.parent / "ground_truth.h5").exists()
        return FileState(path.name, command, NOT_MADE if path.name in OPTIONAL or unmeasured else MISSING, None)
    try:
        return FileState(path.name, command, UP_TO_DATE, check_up_to_date(path, known, own=own))
    except PipelineError as error:
        return FileState(path.name, command, str(error), None)
