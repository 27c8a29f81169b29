"""Threads that compute results ahead of their use, such as decoded photos for batches."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import TypeVar

from pipeline.system.distributed import local_world_size

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """Default number of threads: the cores, divided by the processes on this machine."""
    return max(usable_cores() // local_world_size(), 1)


class Prefetch(Iterable[Result]):
    """Results of `function` over `items`, in order, computed ahead by threads.

    Threads are enough, because Pillow and torch release the interpreter lock while they decode and resize. At most `ahead`
    results are in memory.

    Args:
        function: called in a thread with one item.
        items: read only when there is room.
        workers: number of threads; 0 for `default_workers`.
        ahead: results that may wait for the consumer; 0 for twice the workers.
    """

    def __init__(
        self, function: Callable[[Item], Result], items: Iterable[Item], workers: int = 0, ahead: int = 0
    ) -> None:
        self._function = function
        self._items = items
        self._workers = workers or default_workers()
        self._ahead = ahead or 2 * self._workers
        self.waited = 0.0
        """Seconds that the consumer has waited for data."""

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


class Stream(Iterable[list[Result]]):
    """Batches of the results of `function`, in order.

    All threads work on the items of the next batch while one is in use. In memory are the batch in use, the next one, and one
    item per thread.

    Args:
        function: called in a thread with one item.
        batches: the items of each batch; some may be empty.
        workers: number of threads; 0 for `default_workers`.
    """

    def __init__(self, function: Callable[[Item], Result], batches: Sequence[Sequence[Item]], workers: int = 0) -> None:
        workers = workers or default_workers()
        largest = max(map(len, batches), default=0)
        items = (item for batch in batches for item in batch)
        self._loader = Prefetch(function, items, workers, ahead=workers + largest)
        self._lengths = [len(batch) for batch in batches]

    @property
    def waited(self) -> float:
        """Seconds that the consumer has waited for data."""
        return self._loader.waited

    def __iter__(self) -> Iterator[list[Result]]:
        with closing(iter(self._loader)) as results:
            for length in self._lengths:
                yield list(islice(results, length))


def chunks(count: int, size: int) -> list[range]:
    """Consecutive ranges of at most `size` that cover 0 to `count`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
