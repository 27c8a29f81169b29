"""Safe unpacking of archives."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.runs.options import PrepareConfig
from pipeline.system.errors import PipelineError
from pipeline.system.files import regular_file, replacing

_BROKEN_ARCHIVE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError)


@dataclass(frozen=True)
class Limit:
    """Largest content of one archive; a file of some kB can claim terabytes."""

    gigabytes: float = PrepareConfig.unpack_gb
    """Of all files together; the largest archive of a benchmark has 13.5."""
    files: int = PrepareConfig.unpack_files


def extract(archive: Path, target: Path, limit: Limit = Limit()) -> None:
    """Unpack the regular files of a tar (compressed or not) or zip archive below a folder.

    A file that already exists with its full size stays, so that an interrupted call continues.

    Raises:
        PipelineError: the archive is missing or broken, or its content exceeds `limit` or the free space of the disk; a
            member is a link, a device or outside of `target`, by `tarfile.data_filter`.
    """
    members = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    try:
        target.mkdir(parents=True, exist_ok=True)
        unpacked = 0
        for number, (member, content) in enumerate(members(archive), start=1):
            path = _path_inside(target, member, archive)
            unpacked += member.size
            if unpacked > limit.gigabytes * 1e9 or number > limit.files:
                raise PipelineError(
                    f"{archive} unpacks to more than {limit.gigabytes:g} GB or {limit.files} files. "
                    "Raise it with --unpack-gb or --unpack-files if you trust the archive."
                )
            if path.is_file() and path.stat().st_size == member.size:
                continue
            if member.size > shutil.disk_usage(target).free:
                raise PipelineError(
                    f"{archive} contains {member.name!r} of {member.size / 1e9:.1f} GB, more than is free on the disk of "
                    f"{target}. Free some space, or unpack to another folder."
                )
            # not durable: after a power failure the size shows an incomplete file, which is unpacked again
            with replacing(path, durable=False) as partial, content() as source, partial.open("wb") as file:
                shutil.copyfileobj(source, file)
    except _BROKEN_ARCHIVE as error:
        raise PipelineError(f"{archive} is not a complete tar or zip archive ({error}). Fetch it again.") from error
    except OSError as error:
        raise PipelineError(f"{archive} cannot be unpacked to {target}: {error}. Check both.") from error


Member = tuple[tarfile.TarInfo, Callable[[], IO[bytes]]]
"""A member that is not a folder, with the fields of tar, and a function that opens its content."""


def _tar_members(archive: Path) -> Iterator[Member]:
    with tarfile.open(regular_file(archive), "r:*") as tar:
        for member in tar:
            if not member.isdir():
                yield member, lambda member=member: tar.extractfile(member)


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(regular_file(archive)) as zipped:
        for entry in zipped.infolist():
            if entry.is_dir():
                continue
            member = tarfile.TarInfo(entry.filename)
            member.size = entry.file_size
            mode = entry.external_attr >> 16
            if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
                member.type = tarfile.SYMTYPE if stat.S_ISLNK(mode) else tarfile.CHRTYPE
            yield member, lambda entry=entry: zipped.open(entry)


def _path_inside(target: Path, member: tarfile.TarInfo, archive: Path) -> Path:
    """Path of a member; raises for all links and whatever `tarfile.data_filter` refuses."""
    reason = "" if member.isfile() else "a link or a device"
    try:
        path = target / tarfile.data_filter(member, str(target)).name
        if path.resolve() == target.resolve():
            reason = "the folder itself"
    except tarfile.FilterError as error:
        reason = reason or f"outside of the folder ({error})"
    if reason:
        raise PipelineError(
            f"{archive} contains {member.name!r}, which is {reason}; expected only files. Do not trust this archive."
        )
    return path
