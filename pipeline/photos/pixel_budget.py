"""A number of pixels that the threads of this process may have in memory together."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class PixelBudget:
    """Makes threads wait while other threads have too many pixels in memory.

    Args:
        limit: pixels in memory; a larger image is alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._freed = threading.Condition()
        self._turn = threading.Lock()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Wait until an image of so many pixels fits, and count it during the block."""
        pixels = min(pixels, self._limit)
        with self._turn, self._freed:  # one after another, as small images could overtake a large one for ever
            self._freed.wait_for(lambda: self._used + pixels <= self._limit)
            self._used += pixels
        try:
            yield
        finally:
            with self._freed:
                self._used -= pixels
                self._freed.notify_all()
