"""One writer at a time in a run folder."""

import fcntl
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from pipeline.system import distributed
from pipeline.system.errors import PipelineError, first_line
from pipeline.system.progress import log

FILE = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other commands from writing to a run folder meanwhile.

    The kernel forgets the lock when its process ends, however that happens, so that none can be left behind. Of
    torchrun's processes the first one holds it.

    Raises:
        PipelineError: another process holds it (says which), or the folder cannot be written to.
    """
    if not distributed.is_main():
        yield
        return
    with open_lock(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise PipelineError(
                f"{folder} is in use by {holder}. Wait for it, or end it, and type the command again."
            ) from None
        except OSError as error:
            log(
                f"warning: {folder} is on a file system without locks ({error.strerror}). "
                "Run one command at a time on it: nothing stops a second one from writing the same files."
            )
        with suppress(OSError):  # a full disk: the lock holds, and only who holds it is not said
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} ({shlex.join(['ccd', *sys.argv[1:]])})")
            file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def open_lock(folder: Path) -> TextIO:
    """The lock's file, made where there is none; what its holder has written there stays."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise PipelineError(
            f"{folder} cannot be written to ({first_line(error)}). Check it, or name another run."
        ) from error
