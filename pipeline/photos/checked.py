"""Photos whose content is that of the manifest: what is stored by a photo's hash was computed from that content."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pipeline.photos.images import UnreadableImage, guarded
from pipeline.system.errors import PipelineError
from pipeline.system.files import regular_file

Loaded = TypeVar("Loaded")


def load_checked(path: str, digests: Mapping[str, str], load: Callable[[str | bytes], Loaded]) -> Loaded:
    """`load` of a photo's content, once its SHA-256 is the expected one; of its path if none is expected.

    Args:
        path: the photo.
        digests: expected SHA-256 by path.
        load: decodes a path or the bytes of a file.

    Raises:
        PipelineError: the photo has changed.
        UnreadableImage: it cannot be read.
    """
    expected = digests.get(path)
    if expected is None:
        return load(path)
    content = guarded(path, lambda: regular_file(Path(path)).read_bytes())
    if hashlib.sha256(content).hexdigest() != expected:
        raise PipelineError(f"{path} has changed since it was prepared. Use its new content with `ccd prepare`.")
    try:
        return load(content)
    except UnreadableImage:
        return load(path)  # which names the photo in its error
