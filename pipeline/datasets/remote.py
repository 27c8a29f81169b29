"""Download of photos from addresses such as s3://bucket/photos to a cache folder, one file per content.

fsspec's `filecache` keeps a copy per address, and does not notice that a file of a web server has changed.
"""

import hashlib
import json
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pipeline.datasets.listing import NOT_PHOTOS, describe_ignored, why_ignored
from pipeline.datasets.scan import SHARD_SUFFIXES
from pipeline.photos.formats import PHOTO_SUFFIXES
from pipeline.photos.prefetch import Prefetch
from pipeline.system.errors import PipelineError, first_line
from pipeline.system.files import replacing, write_json
from pipeline.system.progress import bar

SCHEMES = ("s3", "gs", "gcs", "https", "http")
BLOCK = 1 << 20
"""Bytes per read."""
AT_ONCE = 16
"""Addresses of a list that are fetched at the same time."""
_ERRORS = (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError"), ("gcsfs.retry", "HttpError"))
"""Module and error that the packages behind fsspec raise in addition to OSError."""


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


def fetch(address: str, cache: Path, exclude: Sequence[str] = (), *, shown: bool = True) -> Fetched:
    """The photos, tar and Parquet files at an address, as files on this machine.

    Each is in cache/remote/SHA-256/name. It is fetched again only if the server reports another size, time or tag.

    Args:
        address: of a file or of a folder, which is searched to any depth; begins with one of `SCHEMES`.
        cache: folder.
        exclude: patterns of names that are not fetched; see `listing.excluded_by`.
        shown: draw a progress bar.

    Raises:
        PipelineError: the address has another scheme, cannot be reached or has no such file; a package is missing.
    """
    scheme = address.split("://")[0].lower()
    if scheme not in SCHEMES:
        raise PipelineError(f"{address} begins with {scheme}://, expected {', '.join(f'{s}://' for s in SCHEMES)}.")
    try:
        import fsspec

        system, root = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise PipelineError(
            f"{address} needs a package that is missing ({first_line(error)}). Install with `pip install '.[remote]'`."
        ) from error
    index_path = cache / "remote" / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}.json"
    known = _read_index(index_path)
    try:
        marks, ignored = _list(system, root, exclude)
        if not marks:
            rest = f" Ignored: {describe_ignored(ignored)}." if ignored else ""
            raise PipelineError(f"{address} has no photos, tar or Parquet files. Check the address.{rest}")
        index: dict[str, dict[str, Any]] = {}
        with bar("fetch", len(marks)) if shown else nullcontext() as progress:
            names = sorted(marks)
            entries = Prefetch(lambda name: _fetch_one(system, name, marks[name], known, cache), names, ahead=32)
            for name, entry in zip(names, entries, strict=True):
                index[name] = entry
                if progress:
                    progress.advance(1)
    except (OSError, *_more_errors()) as error:
        raise PipelineError(f"{address} could not be fetched ({first_line(error)}). Check it, or run again.") from error
    write_json(index_path, index)
    files = {_relative(name, root): cache / "remote" / entry["place"] for name, entry in index.items()}
    return Fetched(files, ignored)


def fetch_each(
    addresses: Sequence[str], cache: Path, exclude: Sequence[str] = ()
) -> dict[str, Fetched | PipelineError]:
    """The result of `fetch` for each address, or its error; many at a time."""

    def one(address: str) -> Fetched | PipelineError:
        try:
            return fetch(address, cache, exclude, shown=False)
        except PipelineError as error:
            return error

    with bar("fetch", len(addresses)) as progress:
        results = {}
        for address, result in zip(addresses, Prefetch(one, addresses, AT_ONCE), strict=True):
            results[address] = result
            progress.advance(1)
    return results


def _list(system: Any, root: str, exclude: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The files to fetch below a root, and the ignored ones by reason.

    The first dict gives each name a mark that changes with the content, or None if the server gives none.
    """
    suffixes = (*PHOTO_SUFFIXES, *SHARD_SUFFIXES)
    # to a web server everything is a file, folders too
    is_file = path_of(root).suffix.lower() in suffixes and system.isfile(root)
    files = {root: system.info(root)} if is_file else system.find(root, detail=True)
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


def _fetch_one(system: Any, name: str, mark: Any, known: dict[str, Any], cache: Path) -> dict[str, Any]:
    """Fetch one file to the cache, and return its entry of the index."""
    before = known.get(name)
    if before and mark is not None and before["mark"] == mark and (cache / "remote" / before["place"]).is_file():
        return before
    folder = cache / "remote"
    # two threads may fetch the same file: by its own address and by that of its folder
    arriving = folder / "arriving" / f"{hashlib.sha256(name.encode()).hexdigest()}-{threading.get_ident()}"
    digest = hashlib.sha256()
    with system.open(name, "rb") as source, replacing(arriving, durable=False) as partial, partial.open("wb") as file:
        for block in _blocks(source, name):
            digest.update(block)
            file.write(block)
    sha256 = digest.hexdigest()
    place = f"{sha256[:2]}/{sha256}/{path_of(name).name}"
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    arriving.replace(folder / place)
    return {"mark": mark, "place": place}


def _blocks(source: IO[bytes], name: str) -> Iterator[bytes]:
    """Blocks of a remote file; raises PipelineError on a network error, so that errors of the disk stay OSErrors."""
    try:
        while block := source.read(BLOCK):
            yield block
    except (OSError, *_more_errors()) as error:
        raise PipelineError(f"{name} broke off ({first_line(error)}). Run again.") from error


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


def _more_errors() -> Sequence[type[Exception]]:
    """The errors of `_ERRORS` whose packages are imported."""
    return [getattr(sys.modules[module], name) for module, name in _ERRORS if module in sys.modules]
