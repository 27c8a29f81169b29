"""A URL to a whole, checked file on disk: resumes what was interrupted and shows progress."""

import os
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from pipeline.system.errors import PipelineError
from pipeline.system.files import sha256_of

TIMEOUT = 30
"""Seconds without a byte after which a connection counts as broken."""
BLOCK = 1 << 20
"""Bytes per read."""


def cache_folder(option: Path | None = None) -> Path:
    """Where downloads are kept: `option`, else `$CCD_CACHE`, else ~/.cache/ccd."""
    return Path(option or os.environ.get("CCD_CACHE") or "~/.cache/ccd").expanduser()


def download(url: str, path: Path, sha256: str | None = None) -> Path:
    """Put the file at `url` at `path`, unless it is there already.

    What has arrived is in `<path>.partial`, and a later call asks only for the rest.

    Args:
        url: http or https address.
        path: of the whole file; its folder is created.
        sha256: what the file must have, also one that is there already; not checked if None.

    Returns:
        `path`.

    Raises:
        PipelineError: if the address cannot be reached, or the file is not the expected one.
    """
    if path.exists():
        if sha256 and (found := sha256_of(path)) != sha256:
            raise PipelineError(
                f"{path} has SHA-256 {found}, expected {sha256}. Delete it to download it again from {url}."
            )
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        reason = _fetch(url, partial, progress, progress.add_task(path.name, total=None))
    if reason:
        file = f"the file with SHA-256 {sha256}" if sha256 else "the file"
        raise PipelineError(
            f"{url} could not be downloaded ({reason}). Run again once it can be reached, which resumes, "
            f"or get {file} elsewhere and put it at {path}."
        )
    if sha256 and (found := sha256_of(partial)) != sha256:
        partial.unlink()
        raise PipelineError(
            f"{url} sent a file with SHA-256 {found}, expected {sha256}. Run again, or put the right file at {path}."
        )
    partial.replace(path)
    return path


def _fetch(url: str, partial: Path, progress: Progress, task: TaskID) -> str | None:
    """Complete `partial`, with a new request after a break for as long as each brings bytes.

    Returns:
        None once the file is whole, otherwise why it is not.
    """
    while True:
        before = _size(partial)
        try:
            _fetch_rest(url, partial, progress, task)
            return None
        except HTTPError as error:
            if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not before:
                return f"HTTP status {error.code}"
            # Nothing lies beyond what we have: it is the whole file, or what is left of another one.
            if error.headers["Content-Range"] == f"bytes */{before}":
                return None
            partial.unlink()
            continue
        except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(getattr(error, "reason", error))
        if _size(partial) <= before:
            return reason


def _fetch_rest(url: str, partial: Path, progress: Progress, task: TaskID) -> None:
    """Append what `partial` lacks, or begin it again if the server does not resume.

    Raises:
        ConnectionError: if fewer bytes arrive than were announced.
    """
    request = Request(url, headers={"Range": f"bytes={_size(partial)}-"})
    with urlopen(request, timeout=TIMEOUT) as response:
        resumed = response.status == HTTPStatus.PARTIAL_CONTENT
        with partial.open("ab" if resumed else "wb") as file:
            announced = response.headers["Content-Length"]
            total = file.tell() + int(announced) if announced else None
            while block := response.read(BLOCK):
                file.write(block)
                progress.update(task, completed=file.tell(), total=total)
            if total is not None and file.tell() < total:
                raise ConnectionError(f"broke off after {file.tell()} of {total} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
