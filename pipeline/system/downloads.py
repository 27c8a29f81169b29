"""A URL to a complete, checked file on disk. Interrupted downloads are resumed, which fsspec's `filecache` does not do."""

import math
import os
import time
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from pipeline.system.errors import PipelineError, reason_of
from pipeline.system.files import sha256_of

TIMEOUT = 30
"""Seconds without a byte after which a connection counts as broken."""
SLOWEST = 10_000
"""Bytes per second, on average after `TIMEOUT`, below which a download fails."""
BLOCK = 1 << 20
"""Bytes per read."""


class SlowError(TimeoutError):
    """A server that sends too few bytes per second."""


class Allowance:
    """Bytes and time that one download may take.

    Args:
        most_bytes: largest number of bytes.
        most_seconds: longest time from now on.
    """

    def __init__(self, most_bytes: float = math.inf, most_seconds: float = math.inf) -> None:
        self._most_bytes = most_bytes
        self._most_seconds = most_seconds
        self._bytes = 0
        self._start = time.monotonic()

    def spend(self, count: int) -> None:
        """Count bytes that have arrived.

        Raises:
            SlowError: they took too long.
            ValueError: they are too many.
        """
        self._bytes += count
        seconds = time.monotonic() - self._start
        if self._bytes > self._most_bytes:
            raise ValueError(f"it is larger than {self._most_bytes / 1e6:,.0f} MB")
        if seconds > min(self._most_seconds, TIMEOUT + self._bytes / SLOWEST):
            raise SlowError(f"it is too slow: {self._bytes:,} bytes in {seconds:.0f} s")


def cache_folder() -> Path:
    """The folder of downloads: `$CCD_CACHE`, else ~/.cache/ccd."""
    return Path(os.environ.get("CCD_CACHE") or "~/.cache/ccd").expanduser()


def download(url: str, path: Path, sha256: str | None = None) -> Path:
    """Download `url` to `path` unless `path` exists, and return `path`.

    An interrupted download stays in `<path>.partial`, and the next call requests only the rest.

    Args:
        url: http or https address.
        path: of the file; its folder is created.
        sha256: expected hash, of an existing file too; None to check nothing.

    Raises:
        PipelineError: the address cannot be reached, the file has another hash, or the disk is full.
    """
    if path.exists():
        if sha256 and (actual := sha256_of(path)) != sha256:
            raise PipelineError(
                f"{path} has SHA-256 {actual}, expected {sha256}. Delete it to download it again from {url}."
            )
        return path
    partial = path.with_name(f"{path.name}.partial")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with Progress(*columns, console=Console(stderr=True)) as progress:
            reason = _fetch(url, partial, progress, progress.add_task(path.name, total=None))
    except OSError as error:
        raise PipelineError(
            f"{partial} could not be written ({reason_of(error)}). Make room, and run again."
        ) from error
    if reason:
        file = f"the file with SHA-256 {sha256}" if sha256 else "the file"
        raise PipelineError(
            f"{url} could not be downloaded ({reason}). Run again to resume, or copy {file} from another machine to {path}."
        )
    if sha256 and (actual := sha256_of(partial)) != sha256:
        partial.unlink()
        raise PipelineError(
            f"{url} has a file with SHA-256 {actual}, expected {sha256}. Run again, or copy the right file to {path}."
        )
    partial.replace(path)
    return path


def _fetch(url: str, partial: Path, progress: Progress, task: TaskID) -> str | None:
    """Complete `partial`, with a new request after each break as long as bytes arrive; return why it is incomplete."""
    allowance = Allowance()
    while True:
        before = _size(partial)
        try:
            _fetch_rest(url, partial, allowance, progress, task)
            return None
        except HTTPError as error:
            if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not before:
                return f"HTTP status {error.code}"
            # the server has no more bytes: `partial` is complete, or is part of another file
            if error.headers["Content-Range"] == f"bytes */{before}":
                return None
            partial.unlink()
            continue
        except SlowError as error:
            return str(error)
        except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(getattr(error, "reason", error))
        if _size(partial) <= before:
            return reason


def _fetch_rest(url: str, partial: Path, allowance: Allowance, progress: Progress, task: TaskID) -> None:
    """Append the rest to `partial`, or start it again if the server does not resume.

    Raises:
        ConnectionError: fewer bytes arrive than Content-Length.
    """
    request = Request(url, headers={"Range": f"bytes={_size(partial)}-"})
    with urlopen(request, timeout=TIMEOUT) as response:
        resumed = response.status == HTTPStatus.PARTIAL_CONTENT
        with partial.open("ab" if resumed else "wb") as file:
            length = response.headers["Content-Length"]
            total = file.tell() + int(length) if length else None
            while block := response.read1(BLOCK):  # what has arrived, as a whole block of a slow server takes days
                file.write(block)
                allowance.spend(len(block))
                progress.update(task, completed=file.tell(), total=total)
            if total is not None and file.tell() < total:
                raise ConnectionError(f"broke off after {file.tell()} of {total} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
