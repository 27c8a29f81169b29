"""One writer at a time in a run folder."""

import fcntl
import os
import shlex
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from pipeline.system import distributed
from pipeline.system.errors import PipelineError, reason_of
from pipeline.system.progress import log

FILE = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder against other commands that write to it.

    The kernel releases the lock when the process ends in any way, so none is left behind. Under torchrun the first
    process holds it.

    Raises:
        PipelineError: another process holds the lock (named in the message), or the folder is not writable.
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
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])  # ccd, a script or a notebook's kernel
        holder = f"process {os.getpid()} on {socket.gethostname()} ({command})"
        with suppress(OSError):  # a full disk: the lock holds, only its holder is not named
            file.truncate(0)
            os.write(file.fileno(), os.fsencode(holder))  # without a buffer, which closing would write again
        try:
            yield
        finally:
            file.truncate(0)


def open_lock(folder: Path) -> TextIO:
    """The lock file, created if missing; its content stays. A link or a special file is refused: locking writes to it."""
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise PipelineError(f"{path} is not a regular file, so it cannot be the lock. Remove it.")
        return os.fdopen(descriptor, "a+", encoding="utf-8", errors="replace")
    except OSError as error:
        if path.is_symlink():
            raise PipelineError(f"{path} is a link, so it cannot be the lock. Remove it.") from error
        raise PipelineError(
            f"{folder} cannot be written to ({reason_of(error)}). Check it, or name another run."
        ) from error
