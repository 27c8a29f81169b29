"""Damaged photos and videos: each is decoded, or refused in one line that names it."""

import faulthandler
import os
import time
import warnings
from collections import Counter

import numpy as np
import pytest
from damaged_photos import MODES, damaged, formats, sound_photos

from pipeline.photos.images import UnreadableImage, image_size, load_image, verify_image
from pipeline.photos.video import frame_count, frames

COUNT = int(os.environ.get("CCD_FUZZ_PHOTOS", "0"))
"""Damaged files of each format; 0 for as many as `SECONDS` allow."""
SEED = int(os.environ.get("CCD_FUZZ_SEED", "23"))
SECONDS = 0.25
HANG = 60
"""Seconds after which one file counts as a hang; the process ends with the place."""


def tries():
    """Numbers of tries, within the bounds of count or time."""
    end = time.monotonic() + SECONDS
    number = 0
    while number < COUNT or (not COUNT and time.monotonic() < end):
        faulthandler.dump_traceback_later(HANG, exit=True)
        yield number
        number += 1
    faulthandler.cancel_dump_traceback_later()


def refusal(read, path):
    """The result of a reader, or its error, which is one line that names the file."""
    try:
        return read(path)
    except UnreadableImage as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return str(error)


@pytest.mark.parametrize("kind", formats())
def test_a_damaged_photo_is_decoded_or_refused_in_one_line(kind, tmp_path, capfd):
    rng = np.random.default_rng([SEED, sorted(MODES).index(kind)])
    sound = sound_photos(kind, rng)
    assert sound
    path = tmp_path / "photo.jpg"
    totals = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in tries():
            base, other = (sound[rng.integers(len(sound))] for _ in range(2))
            content, what = damaged(base, rng, other)
            path.write_bytes(content)
            header, checked = refusal(image_size, path), refusal(verify_image, path)
            pixels = refusal(load_image, path)
            found = pixels if isinstance(pixels, str) else tuple(pixels.shape[1:])
            # `prepare` accepts exactly the photos that later stages can decode, with their size
            assert (checked == found) or (isinstance(checked, str) and isinstance(found, str)), what
            assert isinstance(found, str) or header == found, what
            totals["refused" if isinstance(found, str) else "decoded"] += 1
    with capfd.disabled():
        print(f"\n{kind}: {dict(totals)}", end="")


def write_video(path, suffix, rng):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as video:
        stream = video.add_stream({".webm": "libvpx", ".avi": "mpeg4"}.get(suffix, "libx264"), rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(6):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            video.mux(stream.encode(frame))
        video.mux(stream.encode())
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".webm"])
def test_a_damaged_video_gives_frames_or_one_line(suffix, tmp_path, capfd):
    rng = np.random.default_rng([SEED, len(suffix), ord(suffix[2])])
    path = tmp_path / f"video{suffix}"
    sound = write_video(path, suffix, rng)
    totals = Counter()
    for _ in tries():
        path.write_bytes(damaged(sound, rng, sound[::-1])[0])
        assert frame_count(path, 1.0) >= 1
        found = refusal(lambda path: len([pixels.shape for _, pixels in frames(path, 0.5)]), path)
        totals["refused" if isinstance(found, str) else "decoded"] += 1
    with capfd.disabled():
        print(f"\n{suffix}: {dict(totals)}", end="")


def test_a_video_that_is_a_pipe_is_refused(tmp_path):
    pytest.importorskip("av")
    os.mkfifo(tmp_path / "a.mp4")
    assert frame_count(tmp_path / "a.mp4", 1.0) == 1
    assert "not a file" in refusal(lambda path: list(frames(path, 1.0)), tmp_path / "a.mp4")
