"""The settings of a run that is started or continued: its own, the preset, the recipe and those given now."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pipeline.runs import settings
from pipeline.runs.config import each_of
from pipeline.runs.folders import (
    ARTIFACTS,
    discard,
    missing_folders,
    run_folder,
)
from pipeline.runs.graph import STAGES, run_argument
from pipeline.runs.lock import locked
from pipeline.runs.no_effect import without_effect
from pipeline.runs.options import EmbedConfig, PrepareConfig
from pipeline.system import distributed
from pipeline.system.errors import PipelineError, hint
from pipeline.system.progress import log

SHOWN = 10
"""Largest number of changed settings that are printed."""


@contextmanager
def started_run(
    run: str, preset: str, recipe: str, given: dict[str, Any], more: settings.Settings, reset: bool, force: bool
) -> Iterator[tuple[Path, settings.Settings]]:
    """Folder and settings of a run that is started or continued, with its images prepared and its folder locked.

    The settings are written to the run's `run.toml` once the images are prepared: a command that fails changes nothing.

    Args:
        run: name or path of the run; empty for the name of the photo folder or the preset.
        preset: see `Settings.given`.
        recipe: see `Settings.given`.
        given: options of `prepare`.
        more: options of any stage, and display names.
        reset: discard the settings of the run.
        force: prepare the images again even if they are up to date.
    """
    from pipeline.stages.chain import run_stage

    if given.get("images") and not preset and given.get("kind", "folder") == "folder":
        preset = "folder"
    folder = run_folder(run or default_run(preset, recipe, given))
    before = settings.Settings() if reset else settings.read_run(folder)
    own = compose(folder, before, preset, recipe, given, more)
    check_kind(folder, own, given)
    for line in without_effect(own, more.tables):
        log(f"warning: {line}")
    check_new_reuse(before, own)
    if not run and not reset:
        check_same_photos(folder, before, own)
    new = missing_folders(folder)
    with locked(folder):
        try:
            run_stage(STAGES[0], folder, own, "cpu", force)
        except (PipelineError, OSError):
            if distributed.is_main():
                discard(folder, new)
            raise
        keep_settings(folder, before, own)
        distributed.barrier()  # every process compares files with the settings that the first one wrote
        log_unknown_classes(folder, own)
        yield folder, own


def log_unknown_classes(folder: Path, own: settings.Settings) -> None:
    """Log the names under [classes] that are no classes of a run with a manifest."""
    from pipeline.artifacts.manifest import read_class_names  # imports pandas, which `--help` does not need

    class_names = read_class_names(folder)
    for name in own.unknown_classes(class_names):
        log(
            f"warning: {own.where} has {name!r} under [classes], which is not a class and has no effect. "
            f"{hint(name, class_names)}"
        )


def check_new_reuse(before: settings.Settings, own: settings.Settings) -> None:
    """Raise, before photos are read, if `reuse_embeddings` has changed to a run that cannot be reused."""
    embed = own.config("embed", EmbedConfig, {})
    if embed.reuse_embeddings and not embed.precomputed and embed != before.config("embed", EmbedConfig, {}):
        from pipeline.teachers.embedding_cache import check_reuse

        check_reuse(embed)


def keep_settings(folder: Path, before: settings.Settings, own: settings.Settings) -> None:
    """Write the settings of a run where they are new, and print the changes.

    Unchanged settings are not written, so that your comments in the file stay.
    """
    if distributed.is_main() and (own != before or not (folder / settings.FILE).exists()):
        changes = list(before.changes(own)) if before.tables else []
        for line in changes[:SHOWN]:
            log(f"changed for this run: {line}")
        if len(changes) > SHOWN:
            log(f"changed for this run: {len(changes) - SHOWN} more; `ccd config {run_argument(folder)}` shows all.")
        settings.write_run(folder, own)


def default_run(preset: str, recipe: str, given: Mapping[str, Any]) -> str:
    """Name of a run without --run: that of the photo folder or the preset, with the recipe if there is one."""
    suffix = f"-{Path(recipe).stem}" if recipe else ""
    if sources := each_of(given.get("images") or ""):
        from pipeline.datasets.folder import name_of

        name = name_of(sources[0])
        if not name:
            raise PipelineError(f"{sources[0]} has no name to derive the name of a run from. Name the run with --run.")
        return name + suffix
    if not preset:
        raise PipelineError(
            'no photos are named. Give --images DIR --classes "dog,cat,car", or --preset demo (scenes that ship with ccd) or '
            "voc12, or --run NAME of a run that you have started."
        )
    return Path(preset).stem + suffix


def compose(
    folder: Path,
    before: settings.Settings,
    preset: str,
    recipe: str,
    given: Mapping[str, Any],
    more: settings.Settings,
) -> settings.Settings:
    """Settings of a run: its own, then the preset, the recipe and those given now; later ones win."""
    where = str(folder / settings.FILE)
    own = before.given("preset", preset).given("recipe", recipe)
    own = own.merged(settings.Settings({"prepare": dict(given)}, where=where))
    own = own.merged(replace(more, where=where))
    own.check()
    return own.absolute()


def settings_if_started(run: str, preset: str, recipe: str) -> tuple[str, settings.Settings]:
    """Title and settings that `all` would give a run; without a run and a preset, those of the recipe."""
    if not run and not preset:
        return f"recipe {recipe}", compose(Path(), settings.Settings(), "", recipe, {}, settings.Settings())
    folder = run_folder(run or default_run(preset, recipe, {}))
    own = compose(folder, settings.read_run(folder), preset, recipe, {}, settings.Settings())
    return f"{folder / settings.FILE}, as `ccd all` would write it", own


def check_kind(folder: Path, own: settings.Settings, given: Mapping[str, Any]) -> None:
    """Raise if no dataset is named, or an option belongs to another kind of dataset."""
    kind = own.tables.get("prepare", {}).get("kind", "")
    if not kind:
        photos = shlex.quote(folder.name) if folder.parent == ARTIFACTS and Path(folder.name).is_dir() else "DIR"
        raise PipelineError(
            f'no photos are named for {folder}. Give --images {photos} --classes "dog,cat,car", or --preset demo or voc12.'
        )
    for item in fields(PrepareConfig):
        if item.name in given and item.metadata["kinds"] and kind not in item.metadata["kinds"]:
            name = item.name.replace("_", "-")
            raise PipelineError(
                f"--{name} is for datasets of kind {' or '.join(item.metadata['kinds'])}, but this one is of kind {kind}."
            )


def check_same_photos(folder: Path, before: settings.Settings, own: settings.Settings) -> None:
    """Raise if a run of the same name has other photos, unless --run names it."""
    old, new = (each.tables.get("prepare", {}).get("images", "") for each in (before, own))
    if old and new and real_places(old) != real_places(new):
        raise PipelineError(
            f"{folder} is the run of {old}. Name another run for {new} with --run, or pass --run {run_argument(folder)} "
            "if the same photos have moved there."
        )


def real_places(sources: str | list[str]) -> list[str]:
    """Sources with links followed; addresses as they are."""
    return [each if "://" in each else str(Path(each).expanduser().resolve()) for each in each_of(sources)]
