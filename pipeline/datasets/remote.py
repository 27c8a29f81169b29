"""Download of photos from addresses such as s3://bucket/photos to a cache folder, one file per content.

fsspec's `filecache` keeps a copy per address, and does not notice that a file of a web server has changed. Addresses and
web servers may be anyone's, so bytes and time are limited, and private addresses are refused; see `datasets.web`.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pipeline.datasets import web
from pipeline.datasets.listing import NOT_PHOTOS, describe_ignored, why_ignored
from pipeline.datasets.scan import SHARD_SUFFIXES
from pipeline.photos.formats import PHOTO_SUFFIXES
from pipeline.photos.prefetch import Prefetch
from pipeline.runs.options import PrepareConfig
from pipeline.system.downloads import Allowance
from pipeline.system.errors import PipelineError, first_line, printable
from pipeline.system.files import replacing, write_json
from pipeline.system.progress import bar

SCHEMES = ("s3", "gs", "gcs", "https", "http")
BLOCK = 1 << 20
"""Bytes per read."""
AT_ONCE = 16
"""Addresses of a list that are fetched at the same time."""
MOST_BYTES = 500_000_000
"""Largest photo; uncompressed photos of 100 megapixels have 300 MB."""
MOST_SECONDS = 600.0
"""Longest time that one photo may take."""


def is_address(source: Path | str) -> bool:
    """Whether a source is an address and not a path."""
    return isinstance(source, str) and "://" in source


def path_of(address: str) -> PurePosixPath:
    """The path in an address, without the query of a web address."""
    return PurePosixPath(address.split("?")[0] if address.startswith(("http://", "https://")) else address)


@dataclass(frozen=True)
class Fetched:
    """The files of an address."""

    files: dict[str, Path]
    """Path from the address of the folder (for a file, its own name) to local path, sorted by name."""
    ignored: dict[str, list[str]]
    """Reason why files are not fetched, to their names."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Name of a file that cannot be fetched, to the reason."""


@dataclass(frozen=True)
class Rules:
    """Which files of addresses are fetched, and which servers may be contacted."""

    exclude: Sequence[str] = ()
    """Patterns of names that are not fetched; see `listing.excluded_by`."""
    trusted: Set[str] = frozenset()
    """Hosts from the command line, which may be in a private network."""
    archive_bytes: float = 1e9 * PrepareConfig.unpack_gb
    """Largest tar or Parquet file."""


def fetch(address: str, cache: Path, rules: Rules = Rules(), *, shown: bool = True) -> Fetched:
    """The photos, tar and Parquet files at an address, as files on this machine.

    Each is in cache/remote/SHA-256/name. It is fetched again only if the server reports another size, time or tag.

    Args:
        address: of a file or of a folder, which is searched to any depth; begins with one of `SCHEMES`.
        cache: folder.
        rules: see `Rules`.
        shown: draw a progress bar.

    Raises:
        PipelineError: the address has another scheme, cannot be reached or has no such file, none of its files or not all
            its tar and Parquet files can be fetched; a package is missing; the disk is full.
    """
    scheme = address.split("://")[0].lower()
    if scheme not in SCHEMES:
        raise PipelineError(f"{address} begins with {scheme}://, expected {', '.join(f'{s}://' for s in SCHEMES)}.")
    index_path = cache / "remote" / f"{_digest(address)[:32]}.json"
    known = _read_index(index_path)
    with _reported(address):
        system, root = web.open_system(address, rules.trusted)
        marks, ignored = _list(system, root, rules.exclude)
    if not marks:
        rest = f" Ignored: {describe_ignored(ignored)}." if ignored else ""
        raise PipelineError(f"{address} has no photos, tar or Parquet files. Check the address.{rest}")
    names = sorted(marks)

    def one(name: str) -> dict[str, Any] | FetchError:
        try:
            return _fetch_one(system, name, marks[name], known, cache, rules)
        except FetchError as error:
            return error

    index: dict[str, dict[str, Any]] = {}
    errors: dict[str, FetchError] = {}
    with bar("fetch", len(names)) if shown else nullcontext() as progress:
        for name, entry in zip(names, Prefetch(one, names, ahead=32), strict=True):
            if isinstance(entry, FetchError):
                errors[name] = entry
            else:
                index[name] = entry
            if progress:
                progress.advance(1)
    if index:
        write_json(index_path, index)
    for name, error in errors.items():
        if not index or path_of(name).suffix.lower() in SHARD_SUFFIXES:
            raise error
    files = {_relative(name, root): cache / "remote" / entry["place"] for name, entry in index.items()}
    return Fetched(files, ignored, {_relative(name, root): str(error) for name, error in errors.items()})


def fetch_each(addresses: Sequence[str], cache: Path, rules: Rules = Rules()) -> dict[str, Fetched | PipelineError]:
    """The result of `fetch` for each address, or its error; many at a time."""

    def one(address: str) -> Fetched | PipelineError:
        try:
            return fetch(address, cache, rules, shown=False)
        except PipelineError as error:
            return error

    with bar("fetch", len(addresses)) as progress:
        results = {}
        for address, result in zip(addresses, Prefetch(one, addresses, AT_ONCE), strict=True):
            results[address] = result
            progress.advance(1)
    return results


class FetchError(PipelineError):
    """An address or a file of it that cannot be fetched."""


@contextmanager
def _reported(name: str, what: str = "could not be fetched") -> Iterator[None]:
    """Turn each error of a fetcher into FetchError, which names the address."""
    try:
        yield
    except PipelineError:
        raise
    # a malformed address, a server and a package each raise what they want: ValueError, UnicodeError, ClientError ...
    except Exception as error:
        cause = error.__cause__ or error
        reason = "not found" if isinstance(cause, FileNotFoundError) else first_line(cause)
        raise FetchError(f"{name} {what} ({reason}). Check it, or run again.") from error


def _list(system: Any, root: str, exclude: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The files to fetch below a root, and the ignored ones by reason.

    The first dict gives each name a mark that changes with the content, or None if the server gives none.
    """
    suffixes = (*PHOTO_SUFFIXES, *SHARD_SUFFIXES)
    # to a web server everything is a file, folders too
    is_file = path_of(root).suffix.lower() in suffixes and web.is_file(system, root)
    files = {root: system.info(root)} if is_file else system.find(root, detail=True, **web.find_options(root))
    marks, ignored = {}, {}
    for name, info in files.items():
        relative = _relative(name, root)
        around = map(str, list(PurePosixPath(relative).parents)[:-1])
        reason = why_ignored(relative, exclude) or next(
            filter(None, (why_ignored(folder, exclude, is_folder=True) for folder in around)), None
        )
        if reason is None and path_of(name).suffix.lower() not in suffixes:
            reason = NOT_PHOTOS
        if reason:
            ignored.setdefault(reason, []).append(relative)
        else:
            marks[name] = _mark(info)
    return marks, ignored


def _mark(info: dict[str, Any]) -> list[str] | None:
    marks = [
        f"{key}={info[key]}"
        for key in ("ETag", "etag", "size", "LastModified", "mtime", "updated", "created")
        if info.get(key)
    ]
    return marks if len(marks) > 1 or any(mark.lower().startswith("etag") for mark in marks) else None


def _fetch_one(system: Any, name: str, mark: Any, known: dict[str, Any], cache: Path, rules: Rules) -> dict[str, Any]:
    """Fetch one file to the cache, and return its entry of the index."""
    before = known.get(name)
    if before and mark is not None and before["mark"] == mark and (cache / "remote" / before["place"]).is_file():
        return before
    folder = cache / "remote"
    # two threads may fetch the same file: by its own address and by that of its folder
    arriving = folder / "arriving" / f"{_digest(name)}-{threading.get_ident()}"
    is_archive = path_of(name).suffix.lower() in SHARD_SUFFIXES
    allowance = Allowance(rules.archive_bytes) if is_archive else Allowance(MOST_BYTES, MOST_SECONDS)
    digest = hashlib.sha256()
    with _reported(name):
        source = system.open(name, "rb", **web.open_options(name))
    with source, replacing(arriving, durable=False) as partial, partial.open("wb") as file:
        for block in _blocks(source, name, allowance):
            digest.update(block)
            file.write(block)
    sha256 = digest.hexdigest()
    place = f"{sha256[:2]}/{sha256}/{_file_name(name)}"
    with replacing(folder / place, durable=False) as partial:
        arriving.replace(partial)
    return {"mark": mark, "place": place}


def _file_name(name: str) -> str:
    """The last part of the name of a remote file, as the name of a file on any disk."""
    return printable(path_of(name).name).encode(errors="replace")[-100:].decode(errors="ignore")


def _blocks(source: IO[bytes], name: str, allowance: Allowance) -> Iterator[bytes]:
    """Decoded blocks of a remote file; its errors become FetchError, so that those of the disk stay OSErrors."""
    while True:
        with _reported(name, "broke off"):
            block = source.read(BLOCK)
            allowance.spend(len(block))
        if not block:
            return
        yield block


def _digest(name: str) -> str:
    """SHA-256 of an address or name, which may have bytes that are not UTF-8."""
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()


def _relative(name: str, root: str) -> str:
    relative = name.removeprefix(root.rstrip("/")).lstrip("/")
    return relative or path_of(name).name


def _read_index(path: Path) -> dict[str, Any]:
    """The index of an earlier fetch; empty if the file is missing or damaged."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        return {}
    sound = isinstance(index, dict) and all(
        isinstance(entry, dict) and isinstance(entry.get("place"), str) and "mark" in entry for entry in index.values()
    )
    return index if sound else {}
