"""Entry point: turns our errors and Ctrl-C into one line and an exit code."""

import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from pipeline.cli.app import app, reporting
from pipeline.runs.graph import STAGES
from pipeline.system import distributed, interrupts
from pipeline.system.errors import PipelineError, printable, reason_of
from pipeline.system.memory import keep_freed_memory
from pipeline.system.progress import console, drop_output, log

INTERRUPTED = 130
"""Exit code after Ctrl-C; Typer raises it."""


KEEPS_WORK = {"prepare", "all", "ablation", "download", *(stage.name for stage in STAGES if stage.network)}
"""Commands that continue where they were stopped; all other commands start from the beginning."""


def next_step(arguments: Sequence[str]) -> str:
    """Whether a command that Ctrl-C ended keeps its work, and how to continue."""
    command = next((each for each in arguments if not each.startswith("-")), "")
    typed = f"`{shlex.join(['ccd', *arguments])}`"
    if command in KEEPS_WORK:
        return f"finished work is kept. Continue with {typed}"
    return f"no work is kept. Start again with {typed}"


def end_with(error: BaseException, text: str) -> NoReturn:
    """Print an error as one line, after the traceback with --verbose, and exit with code 1."""
    if reporting["traceback"]:
        traceback.print_exception(error)
    process = "" if distributed.is_main() else f"process {distributed.rank()}: "
    console.quiet = False
    console.print(f"{process}error: {printable(text)}", style="red", soft_wrap=True, markup=False)
    sys.exit(1)


def main() -> None:
    """Run the command line; turn errors that a user can fix, and Ctrl-C, into one line and an exit code."""
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(errors="backslashreplace")  # for terminals that are not UTF-8
    interrupts.watch()
    try:
        distributed.join()
        app()
    except PipelineError as error:
        end_with(error, str(error))
    except UnicodeEncodeError as error:
        # part of a name that the command line does not contain, such as the working directory
        around = error.object[max(error.start - 60, 0) : error.end + 20]
        end_with(error, f"{around!r} is not valid UTF-8 text. Rename the file or folder.")
    except BrokenPipeError:
        # the reader of our output, such as `head`, has closed it
        drop_output()
        sys.exit(1)
    except OSError as error:
        # a disk, folder or device failed outside the places that name it, or the one that output goes to
        drop_output()
        place = f"{error.filename}: " if error.filename else ""
        end_with(error, f"{place}{reason_of(error)}. Check the disk and the permissions.")
    except SystemExit as end:
        if end.code == INTERRUPTED:
            log(f"interrupted; {next_step(sys.argv[1:])}.")
        raise
    finally:
        distributed.leave()
