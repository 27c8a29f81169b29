"""Zip archives that end in a hash of their content and place, such as `.pt` and `.npz` files.

Readers of zip archives check at most the checksums of members, and torch not even these.
"""

import hashlib
import zipfile
from pathlib import Path
from typing import BinaryIO

from pipeline.system.files import regular_file

SIZE = 64
"""Bytes of the hash, which is the comment of the archive."""
BLOCK = 2**20


def seal(stream: BinaryIO, place: str) -> None:
    """End a zip archive with the hash of its content and of a name that belongs to its place."""
    stream.seek(0)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.comment = bytes(SIZE)
    size = stream.seek(0, 2) - SIZE
    digest = hash_of(stream, size, place)
    stream.seek(size)
    stream.write(digest)


def check_seal(path: Path, place: str) -> None:
    """Raise ValueError unless a file ends with the hash of its content and place."""
    with regular_file(path).open("rb") as stream:
        size = max(stream.seek(0, 2) - SIZE, 0)
        digest = hash_of(stream, size, place)
        stream.seek(size)
        if stream.read() != digest:
            raise ValueError("its content does not match its checksum")


def hash_of(stream: BinaryIO, size: int, place: str) -> bytes:
    """SHA-256 of a name and the first bytes of a stream, as hexadecimal digits."""
    digest = hashlib.sha256(f"{place}\0".encode())
    stream.seek(0)
    while size > 0 and (block := stream.read(min(size, BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest().encode()
