"""Settings of the C library for memory that torch frees."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
KEEP = 1 << 30


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next batch; do nothing with another C library.

    By default, glibc returns every tensor above 32 MB to the kernel. The page faults of new ones take up to half of the time
    of a forward pass on a CPU.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)  # memory that one thread frees serves the others
        for parameter, value in ((M_MMAP_THRESHOLD, KEEP), (M_TRIM_THRESHOLD, 2 * KEEP - 1), (M_TOP_PAD, KEEP >> 4)):
            mallopt(parameter, value)


def return_freed_memory() -> None:
    """Return to the kernel the memory that `keep_freed_memory` keeps."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
