"""Images from disk to batches, decoded by a few threads ahead of whoever uses them."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from pipeline.machine.distributed import local_world_size

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """Decoding threads where no number was asked for: one a core of this process's part, at most 8."""
    return min(max((os.cpu_count() or 1) // local_world_size(), 1), 8)


class Prefetch(Iterable[Result]):
    """Results of `function` over `items`, in order, computed ahead by threads.

    Pillow and torch release the interpreter lock while they decode and resize, so threads suffice and nothing is
    copied between processes. At most `ahead` results are held at any time, whatever the number of items.
    """

    def __init__(
        self, function: Callable[[Item], Result], items: Iterable[Item], workers: int = 0, ahead: int = 4
    ) -> None:
        self._function = function
        self._items = items
        self._workers = workers or default_workers()
        self._ahead = max(ahead, 1)
        self.waited = 0.0
        """Seconds that the consumer has spent waiting for data."""

    def __iter__(self) -> Iterator[Result]:
        with ThreadPoolExecutor(self._workers) as pool:
            items = iter(self._items)
            pending = deque(pool.submit(self._function, item) for item in islice(items, self._ahead))
            try:
                while pending:
                    start = time.perf_counter()
                    result = pending.popleft().result()
                    self.waited += time.perf_counter() - start
                    pending.extend(pool.submit(self._function, item) for item in islice(items, 1))
                    yield result
            finally:
                for future in pending:
                    future.cancel()


def chunks(count: int, size: int) -> list[range]:
    """Consecutive ranges of at most `size` that cover 0 to `count`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
