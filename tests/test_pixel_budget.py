import ctypes
import re
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from worlds.bad_requests import claiming_png
from worlds.commands import start

from pipeline.deploy.classifier import Classifier, score_photos, square_or_error
from pipeline.photos.images import UnreadableImage, load_image
from pipeline.photos.pixel_budget import PixelBudget
from pipeline.photos.prefetch import Prefetch


def test_frames_that_wait_to_be_scored_are_small(tiny_classifier):
    classifier, seen = Classifier.load(tiny_classifier), []

    class Frame(np.ndarray):
        pass

    def frames():
        for _ in range(12):
            frame = np.zeros((64, 64, 3), np.uint8).view(Frame)
            seen.append(weakref.ref(frame))
            assert sum(each() is not None for each in seen) <= 2
            yield frame

    assert score_photos(classifier, frames(), ["a"] * 12, 12, 4).rows == list(range(12))


def resident():
    """Memory of this process in MB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def test_images_wait_for_room_and_a_large_one_is_not_overtaken():
    budget, order, go = PixelBudget(10), [], threading.Event()

    def take(pixels):
        with budget.take(pixels):
            order.append(pixels)
            go.wait(10)

    threads = [threading.Thread(target=take, args=(pixels,)) for pixels in (6, 99, 1)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    assert order == [6]  # 1 would fit, but it came after 99
    go.set()
    for thread in threads:
        thread.join(10)
    assert order == [6, 99, 1]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_errors_of_photos_keep_no_pixels(tmp_path):
    # in a process of its own: what earlier tests have freed would be used again
    process = start(keep_errors, log=tmp_path / "log")
    process.join()
    assert process.exitcode == 0, (tmp_path / "log").read_text()


def keep_errors():
    """Body of a process: keep the errors of photos, and compare its memory."""
    content = claiming_png(5000, 5000)
    with pytest.raises(UnreadableImage, match="truncated"):
        load_image(content)
    before = resident()
    errors = list(Prefetch(lambda _: square_or_error(content, 32, "bicubic"), range(8), workers=2, ahead=8))
    raised = []
    for _ in range(4):
        with pytest.raises(UnreadableImage) as caught:
            load_image(content)
        raised.append(caught.value)
    assert all(error.__context__ is None and error.__cause__ is None for error in (*errors, *raised))
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # glibc keeps what threads have freed
    assert resident() - before < 150  # one image has 100 MB
