"""Files and folders that are written completely or not at all, and hashes of their content."""

import errno
import glob
import hashlib
import io
import json
import os
import shutil
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.system.errors import PipelineError, SpecialFileError, first_line, reason_of, system_refusal

LIST = ".written-by-ccd.json"
"""List of the files in a folder that `replacing_folder` wrote."""

UNFINISHED = ".unfinished"
"""Suffix of a file or folder that is being written; nothing reads it."""


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A path to write a file to, which replaces `path` at the end, or is removed after an error.

    Args:
        path: of the file.
        durable: wait until the file is on the disk, and remove files of killed processes. Both take milliseconds: use False for
            many files that can be rebuilt.

    Raises:
        PipelineError: the disk is full or the folder cannot be written to; an old file does not change.
    """
    partial = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            regular_file(path)  # /dev/null must stay what it is
        if durable:
            _remove_left_over(path)
        yield partial
        if durable:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # a library can report a full disk as RuntimeError
        raise _unwritten(path, error) from error
    finally:
        with suppress(OSError):  # as on a disk that cannot be written to
            partial.unlink(missing_ok=True)


def _unwritten(path: Path, error: Exception) -> PipelineError:
    reason = system_refusal(error) or f"({first_line(error)})."
    return PipelineError(f"{path} could not be written {reason} What was there is unchanged.")


class CheckedStream(io.FileIO):
    """A new file for a library that crashes when a write fails, as on a full disk.

    After the first failed write the file only pretends to be written; `error` is what went wrong.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all bytes of a buffer, and return their number."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while self.error is None and len(rest):
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        self.seek(len(rest), os.SEEK_CUR)
        return size


@contextmanager
def checked_stream(path: Path) -> Iterator[CheckedStream]:
    """A `CheckedStream`; raises the error of its first failed write at the end."""
    with CheckedStream(path) as stream:
        try:
            yield stream
        finally:
            if stream.error is not None:
                raise stream.error


@contextmanager
def replacing_stream(path: Path) -> Iterator[CheckedStream]:
    """A stream to write a file through, which takes the place of `path` at the end, see `replacing`.

    Raises:
        PipelineError: the disk is full or the folder cannot be written to; the old file stays.
    """
    with replacing(path) as partial, checked_stream(partial) as stream:
        yield stream


@contextmanager
def replacing_folder(path: Path, *, listed: bool = True) -> Iterator[Path]:
    """A new folder to write into, which replaces `path` at the end, or is removed after an error.

    It replaces an old folder only if ccd wrote all files in that.

    Args:
        path: of the folder.
        listed: write `LIST` into the new folder.

    Raises:
        PipelineError: the old folder has files that ccd did not write, the disk is full, or the folder cannot be written to; an
            old folder does not change.
    """
    path = path.resolve()  # replaces the target of a link
    partial, aside = _beside(path), _beside(path, "old")
    check_ours(path)
    try:
        _remove_left_over(path)
        partial.mkdir(parents=True)
        yield partial
        if listed:
            (partial / LIST).write_text(json.dumps(sorted(_files_below(partial)), indent=0), encoding="utf-8")
        check_ours(path)  # again, as writing takes time
        if path.exists():
            path.rename(aside)
        try:
            partial.rename(path)
        except OSError:
            if aside.exists():
                aside.rename(path)
            raise
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def check_ours(folder: Path) -> None:
    """Raise PipelineError if a folder has a file that ccd did not write, or is a file."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise PipelineError(f"{folder} is a file, expected a folder or nothing. Name another folder.")
    try:
        listed = json.loads((folder / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        listed = []
    ours = {LIST, *(name for name in (listed if isinstance(listed, list) else ()) if isinstance(name, str))}
    foreign = next((name for name in sorted(_files_below(folder)) if name not in ours), None)
    if foreign is not None:
        raise PipelineError(
            f"{folder} has a file that ccd did not write, {foreign}, so it is not replaced. Move that file, or name "
            "another folder."
        )


def _files_below(folder: Path) -> Iterator[str]:
    """Relative paths of all files and links below a folder."""
    for root, folders, names in os.walk(folder):
        links = [name for name in folders if Path(root, name).is_symlink()]  # os.walk does not follow them
        for name in (*names, *links):
            yield Path(root, name).relative_to(folder).as_posix()


def remove_folder(path: Path) -> None:
    """Remove a folder with its content, if it exists.

    Raises:
        PipelineError: part of it cannot be removed.
    """
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        if path.exists():
            raise PipelineError(f"{path} changed while it was removed. Run one command at a time on a run.") from None
    except OSError as error:
        raise PipelineError(f"{path} could not be removed ({reason_of(error)}). Remove it by hand.") from error


def _beside(path: Path, role: str = "") -> Path:
    """A path next to `path` that no other process or machine uses, nor another thread if there is no role."""
    owner = f"{socket.gethostname()}-{os.getpid()}-{role or threading.get_ident()}"
    return path.with_name(f"{path.name}.{owner}{UNFINISHED}")


def _remove_left_over(path: Path) -> None:
    """Remove unfinished files and folders of this path by killed processes of this machine."""
    for name in path.parent.glob(f"{glob.escape(path.name)}.{glob.escape(socket.gethostname())}-*{UNFINISHED}"):
        pid = name.name.removesuffix(UNFINISHED).rsplit("-", 2)[1]
        if not is_running(int(pid)):
            shutil.rmtree(name) if name.is_dir() else name.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Whether this machine has a process with this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def regular_file(path: Path) -> Path:
    """The same path, unless it is a pipe, socket or device: reading one can block, or never end.

    Raises:
        SpecialFileError: it is one of these.
        OSError: it does not exist.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise SpecialFileError(errno.ENXIO, f"it is {kind_of(mode)}, not a file", str(path))
    return path


def kind_of(mode: int) -> str:
    """What a path is that is neither a file nor a folder, by its `os.stat` mode."""
    kinds = (
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "not a regular file")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: Any, *, durable: bool = True) -> None:
    """Write the bytes of a buffer whole or not at all, see `replacing`.

    Libraries that write to a file themselves often lose the reason why the disk refuses.
    """
    with replacing(path, durable=durable) as partial:
        partial.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically; NaN raises ValueError."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def file_key(path: str | Path) -> str:
    """What identifies a file whose content is not hashed: absolute path, size in bytes and modification time."""
    status = Path(path).stat()
    return f"{Path(path).absolute()}\0{status.st_size}\0{status.st_mtime_ns}"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files below a folder, as hexadecimal digits.

    Raises:
        PipelineError: it cannot be read.
    """
    try:
        if not path.is_dir():
            with regular_file(path).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        for item in sorted(item for item in path.rglob("*") if item.is_file()):
            digest.update(f"{item.relative_to(path).as_posix()}\0{sha256_of(item)}\n".encode())
        return digest.hexdigest()
    except OSError as error:
        raise PipelineError(f"{path} cannot be read ({reason_of(error)}). Check the path.") from error
