"""Run folders: names, paths and what a command may replace in them."""

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.system.errors import PipelineError, hint
from pipeline.system.files import check_ours

ARTIFACTS = Path("artifacts")
FILE_SUFFIXES = (".h5", ".pt", ".json", ".csv")
"""Suffixes of a run's files: an argument with one of them that is not a run names a file."""


def run_folder(run: str) -> Path:
    """The folder of a run: a text with a slash, "." or ".." is a path, any other a name under artifacts/.

    A bare name never means a folder in the working directory: photos in `photos` make the run artifacts/photos.
    """
    is_path = run in (os.curdir, os.pardir) or "/" in run or os.sep in run
    return Path(run).expanduser() if is_path else ARTIFACTS / run


def run_text(run: str | Path) -> str:
    """A run or file as on the command line; a `Path` is never a name under artifacts/."""
    text = str(run)
    return f"{os.curdir}{os.sep}{text}" if isinstance(run, Path) and os.sep not in text else text


def absolute_run(run: str) -> str:
    """The absolute path of a run, which is valid in any working directory; a text that is not a run stays."""
    return str(run_folder(run).absolute()) if run and is_run(run_folder(run)) else run


def existing_run(run: str) -> Path:
    """The folder of a run that has been started.

    Raises:
        PipelineError: there is no such run; lists the existing ones.
    """
    folder = run_folder(run)
    if is_run(folder):
        return folder
    if is_run(Path(run)):
        raise PipelineError(f"{folder} is not a run, but the working directory has one: write ./{run}.")
    raise PipelineError(
        f"{folder} is not a run. {hint(folder.name, known_runs())} "
        'Start one with `ccd all --images DIR --classes "dog,cat"`.'
    )


def is_run(folder: Path) -> bool:
    """Whether a folder is a run: it has settings, a manifest or a classifier."""
    return any((folder / name).exists() for name in ("run.toml", "manifest.csv", "manifest.json", "classifier.pt"))


def known_runs() -> list[str]:
    """Names of the runs under artifacts/, sorted."""
    if not ARTIFACTS.is_dir():
        return []
    return sorted(folder.name for folder in ARTIFACTS.iterdir() if (folder / "run.toml").exists())


def missing_folders(folder: Path) -> list[Path]:
    """The folder and its parents that do not exist yet, the innermost first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def discard(folder: Path, new: Sequence[Path]) -> None:
    """Remove a run folder in which nothing was started, and its parents, if they are among the new folders and empty."""
    leftovers = {".lock", "photos.csv"}
    if folder not in new or not {path.name for path in folder.iterdir()} <= leftovers:
        return
    for name in leftovers:
        (folder / name).unlink(missing_ok=True)
    for each in new:
        if any(each.iterdir()):
            return
        each.rmdir()


def check_free(*outs: Path | None, force: bool, folder: bool = False) -> None:
    """Raise if an output exists and must not be replaced.

    One rule for all outputs: nothing is replaced without --force, and a folder only if ccd wrote every file in it.

    Args:
        outs: files or folders; None for standard output.
        force: whether --force was given.
        folder: whether `outs` are folders.
    """
    for out in outs:
        if out is None or not out.exists():
            continue
        if not force:
            raise PipelineError(f"{out} exists already. Name another with --out, or give --force to replace it.")
        if folder:
            check_ours(out)
        elif out.is_dir():
            raise PipelineError(f"{out} is a folder, expected a file. Name another.")


def run_or_file(text: str) -> Path:
    """The run folder or the file that an argument names; a bare name is a run under artifacts/ first, then a file.

    Raises:
        PipelineError: there is neither; lists the existing runs.
    """
    path = Path(text).expanduser()
    if not is_run(run_folder(text)) and (path.is_file() or path.suffix in FILE_SUFFIXES):
        return path
    return existing_run(text)
