"""How the C library treats memory that torch frees."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEEP = 1 << 30


def keep_freed_memory() -> None:
    """Make glibc keep freed activations for the next batch instead of returning them to the kernel.

    By default every tensor above 32 MB is mapped again and page-faulted in at each use, which on a CPU costs up
    to half of the time of a forward pass on large images. Does nothing where the C library is not glibc.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((M_MMAP_THRESHOLD, KEEP), (M_TRIM_THRESHOLD, 2 * KEEP - 1), (M_TOP_PAD, KEEP >> 4)):
            mallopt(parameter, value)
