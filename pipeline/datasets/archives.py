"""Archives to folders, safely."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from pipeline.machine.errors import PipelineError

_BROKEN_ARCHIVE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError)


def extract(archive: Path, target: Path) -> None:
    """Unpack the regular files of a tar (compressed or not) or zip archive below a folder.

    A file that is there already with its full size stays, so that an interrupted call continues.

    Raises:
        PipelineError: the archive is missing or broken; a member is a link, a device or outside of `target`.
    """
    members = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    target.mkdir(parents=True, exist_ok=True)
    try:
        for name, size, content in members(archive):
            path = _path_inside(target, name, archive)
            if path.is_file() and path.stat().st_size == size:
                continue
            _write_whole(path, content())
    except _BROKEN_ARCHIVE as error:
        raise PipelineError(f"{archive} is no whole tar or zip archive ({error}). Fetch it again.") from error
    except OSError as error:
        raise PipelineError(f"{archive} cannot be unpacked to {target}: {error}. Check both.") from error


Member = tuple[str, int, Callable[[], IO[bytes]]]
"""Name, size in bytes and content of a regular file."""


def _tar_members(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            if member.isfile():
                yield member.name, member.size, lambda member=member: tar.extractfile(member)
            elif not member.isdir():
                raise PipelineError(_refusal(archive, member.name, "a link or a device"))


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            if stat.S_ISLNK(member.external_attr >> 16):
                raise PipelineError(_refusal(archive, member.filename, "a link"))
            if not member.is_dir():
                yield member.filename, member.file_size, lambda member=member: zipped.open(member)


def _path_inside(target: Path, name: str, archive: Path) -> Path:
    path = target / name
    if not path.resolve().is_relative_to(target.resolve()) or path.resolve() == target.resolve():
        raise PipelineError(_refusal(archive, name, "outside of the folder"))
    return path


def _refusal(archive: Path, name: str, what: str) -> str:
    return f"{archive} holds {name!r}, which is {what}; expected files alone. Do not trust this archive."


def _write_whole(path: Path, content: IO[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with content, partial.open("wb") as file:
        shutil.copyfileobj(content, file)
    partial.replace(path)
