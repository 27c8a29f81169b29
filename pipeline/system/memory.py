"""Settings of the C library for memory that torch frees."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
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
        for parameter, value in ((M_MMAP_THRESHOLD, KEEP), (M_TRIM_THRESHOLD, 2 * KEEP - 1), (M_TOP_PAD, KEEP >> 4)):
            mallopt(parameter, value)
