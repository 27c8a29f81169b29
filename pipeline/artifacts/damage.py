"""Errors of libraries on missing, damaged or unreadable files, turned into one line that names the command to run."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.runs.graph import advice
from pipeline.system.errors import NotBuiltError, PipelineError, UnreadableError, first_line, system_refusal
from pipeline.system.files import regular_file


@contextmanager
def reporting_damage(path: Path) -> Iterator[None]:
    """Turn a library's error about a missing, damaged or locked file into one line with the remedy.

    Raises:
        UnreadableError: the operating system refuses access, so the content may be fine.
        PipelineError: it is missing or damaged.
    """
    if not path.exists():
        raise NotBuiltError(f"{path} is missing.", advice(path, "Create"))
    try:
        regular_file(path)
        yield
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        EOFError,
        MemoryError,
        OverflowError,
        RecursionError,
        zipfile.BadZipFile,
    ) as error:
        if refusal := system_refusal(error):
            raise UnreadableError(f"{path} cannot be read {refusal}") from error
        what = f"is damaged or not an artifact of this tool ({first_line(error)})"
        if isinstance(error, KeyError):  # most often a file of another program
            what = f"is not an artifact of this tool (it lacks {error}), or it is damaged"
        raise PipelineError(f"{path} {what}. {advice(path, 'Rebuild', force=True)}") from error
