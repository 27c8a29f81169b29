"""Video files to single frames, with PyAV."""

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.photos.images import MAX_PIXELS, UnreadableImage, guarded
from pipeline.system.errors import PipelineError
from pipeline.system.files import regular_file

VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".3gp"))

LOCAL_ONLY = {"protocol_whitelist": "file"}
"""Option of FFmpeg: a playlist in place of a video must not open network addresses."""


def import_av(path: Path) -> Any:
    """The package PyAV.

    Raises:
        PipelineError: it is not installed; names `path`, which needs it.
    """
    try:
        import av
    except ImportError as error:
        raise PipelineError(f"{path} is a video and needs PyAV. Install it with `pip install '.[video]'`.") from error
    return av


def frame_count(path: Path, frame_interval: float) -> int:
    """Approximate number of results of `frames`, from the duration in the header; 1 if there is none."""
    av = import_av(path)

    def count() -> int:
        with _opened(av, path) as video:
            return (
                int(max(video.duration or 0, 0) / av.time_base / frame_interval) + 1
            )  # damaged files have negative durations

    with suppress(UnreadableImage):
        return guarded(path, count, "a video")
    return 1


def _opened(av: Any, path: Path) -> Any:
    return av.open(str(regular_file(path)), options=LOCAL_ONLY)


def frames(path: Path, frame_interval: float) -> Iterator[tuple[float, np.ndarray]]:
    """Frames at regular times: the time in seconds, and the frame as uint8 [H, W, 3], RGB, upright.

    Args:
        path: a video file; only its first video stream is read.
        frame_interval: seconds, above 0; each result is the first frame at or after a multiple of it.

    Raises:
        UnreadableImage: the file, or its rest, cannot be decoded.
        PipelineError: PyAV is not installed.
    """
    with closing(_frames(import_av(path), path, frame_interval)) as found:
        while (frame := guarded(path, lambda: next(found, None), "a video")) is not None:
            yield frame


def _frames(av: Any, path: Path, frame_interval: float) -> Iterator[tuple[float, np.ndarray]]:
    """`frames` with the errors of the decoders."""
    with _opened(av, path) as video:
        if not video.streams.video:
            raise UnreadableImage(f"{path} has no pictures, expected a video. Leave it out.")
        stream = video.streams.video[0]
        stream.thread_type = "AUTO"
        first, number = None, 0
        for frame in video.decode(stream):
            first = (frame.time or 0.0) if first is None else first
            time = (frame.time or 0.0) - first
            if time < number * frame_interval - 1e-6:
                continue
            if frame.width * frame.height > MAX_PIXELS:
                raise UnreadableImage(f"{path} has frames above {MAX_PIXELS / 1e6:.0f} megapixels. Scale it down.")
            yield time, np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            number = int((time + 1e-6) / frame_interval) + 1
