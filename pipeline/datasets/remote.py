"""Addresses as s3://bucket/photos to files in a cache folder, each kept once by its content."""

import hashlib
import json
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pipeline.datasets.listing import NOT_PHOTOS, describe_passed_over, why_passed_over
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
"""Addresses of a list that are asked at a time."""
_ERRORS = (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError"), ("gcsfs.retry", "HttpError"))
"""What the packages behind fsspec raise in addition to OSError."""


def is_address(source: Path | str) -> bool:
    """Whether a source is an address, not a path."""
    return isinstance(source, str) and "://" in source


def path_of(address: str) -> PurePosixPath:
    """The path in an address; what a web server is told behind a head mark is none of it."""
    return PurePosixPath(address.split("?")[0] if address.startswith(("http://", "https://")) else address)


@dataclass(frozen=True)
class Fetched:
    """What was fetched from an address."""

    files: dict[str, Path]
    """Name from the folder's address (of a file, its own) to path, sorted by name."""
    passed_over: dict[str, list[str]]
    """Why other files were not fetched, to their names."""


def fetch(address: str, cache: Path, exclude: Sequence[str] = (), *, shown: bool = True) -> Fetched:
    """The photos, tar and Parquet files at an address, as files on this machine.

    Each is at cache/remote/SHA-256/name, and is fetched again only when the server says that it has changed.

    Args:
        address: of a file or a folder, which is searched to any depth; `SCHEMES` are known.
        cache: folder.
        exclude: patterns of names that are not fetched; see `listing.excluded_by`.
        shown: whether a bar is drawn.

    Raises:
        PipelineError: the address is none of these, cannot be reached or holds nothing; a package is missing.
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
        found, passed_over = _list(system, root, exclude)
        if not found:
            passed = f" Passed over: {describe_passed_over(passed_over)}." if passed_over else ""
            raise PipelineError(f"{address} has no photos, tar or Parquet files. Check the address.{passed}")
        index: dict[str, dict[str, Any]] = {}
        with bar("fetch", len(found)) if shown else nullcontext() as progress:
            names = sorted(found)
            for name, entry in zip(
                names, Prefetch(lambda n: _fetch_one(system, n, found[n], known, cache), names, ahead=32), strict=True
            ):
                index[name] = entry
                if progress:
                    progress.advance(1)
    except (OSError, *_more_errors()) as error:
        raise PipelineError(f"{address} could not be fetched ({first_line(error)}). Check it, or run again.") from error
    write_json(index_path, index)
    files = {_relative(name, root): cache / "remote" / entry["place"] for name, entry in index.items()}
    return Fetched(files, passed_over)


def fetch_each(
    addresses: Sequence[str], cache: Path, exclude: Sequence[str] = ()
) -> dict[str, Fetched | PipelineError]:
    """What `fetch` gives of each address, or why it gives nothing; many at a time."""

    def one(address: str) -> Fetched | PipelineError:
        try:
            return fetch(address, cache, exclude, shown=False)
        except PipelineError as error:
            return error

    with bar("fetch", len(addresses)) as progress:
        found = {}
        for address, content in zip(addresses, Prefetch(one, addresses, AT_ONCE), strict=True):
            found[address] = content
            progress.advance(1)
    return found


def _list(system: Any, root: str, exclude: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """What can be used below a root, and why other files are passed over, to their names.

    What can be used is by name to a mark that changes with its content; None for no mark.
    """
    suffixes = (*PHOTO_SUFFIXES, *SHARD_SUFFIXES)
    # to a web server everything is a file, folders too
    is_file = path_of(root).suffix.lower() in suffixes and system.isfile(root)
    files = {root: system.info(root)} if is_file else system.find(root, detail=True)
    marks, passed_over = {}, {}
    for name, info in files.items():
        relative = _relative(name, root)
        around = map(str, list(PurePosixPath(relative).parents)[:-1])
        reason = why_passed_over(relative, exclude) or next(
            filter(None, (why_passed_over(folder, exclude, is_folder=True) for folder in around)), None
        )
        if reason is None and path_of(name).suffix.lower() not in suffixes:
            reason = NOT_PHOTOS
        if reason:
            passed_over.setdefault(reason, []).append(relative)
        else:
            marks[name] = _mark(info)
    return marks, passed_over


def _mark(info: dict[str, Any]) -> list[str] | None:
    marks = [
        f"{key}={info[key]}"
        for key in ("ETag", "etag", "size", "LastModified", "mtime", "updated", "created")
        if info.get(key)
    ]
    return marks if len(marks) > 1 or any(mark.lower().startswith("etag") for mark in marks) else None


def _fetch_one(system: Any, name: str, mark: Any, known: dict[str, Any], cache: Path) -> dict[str, Any]:
    """Entry of the index for one file, which is in the cache afterwards."""
    before = known.get(name)
    if before and mark is not None and before["mark"] == mark and (cache / "remote" / before["place"]).is_file():
        return before
    folder = cache / "remote"
    # an address and that of a folder around it may be fetched at the same time
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
    """PartialResults of a remote file; an error of the network is told from one of the disk that they go to."""
    try:
        while block := source.read(BLOCK):
            yield block
    except (OSError, *_more_errors()) as error:
        raise PipelineError(f"{name} broke off ({first_line(error)}). Run again.") from error


def _relative(name: str, root: str) -> str:
    relative = name.removeprefix(root.rstrip("/")).lstrip("/")
    return relative or path_of(name).name


def _read_index(path: Path) -> dict[str, Any]:
    """What was fetched from an address before; nothing where the file is missing or no such index."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        return {}
    sound = isinstance(index, dict) and all(
        isinstance(entry, dict) and isinstance(entry.get("place"), str) and "mark" in entry for entry in index.values()
    )
    return index if sound else {}


def _more_errors() -> Sequence[type[Exception]]:
    """Error types of the packages that have been imported."""
    return [getattr(sys.modules[module], name) for module, name in _ERRORS if module in sys.modules]
