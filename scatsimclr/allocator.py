"""Memory that a process keeps between its batches."""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MB = 1 << 20


def keep_freed_memory() -> bool:
    """Tells glibc's malloc to keep freed memory for the next batch.

    Without it, malloc returns the end of its heap to the system, and getting it back costs a page fault per 4 kB:
    training steps of 16 images of 96×96 took 569 and 532 ms and take 520 and 504; of 64 images of 32×32, 257 and 282 ms
    and now 255 and 249; with the same peak memory (EPYC Zen 4, two threads, bfloat16, 2026-11-25). Making views of
    96×96 alone lost 40 % of its time to page faults. Blocks of more than 32 MB still come from the system and go back
    to it: keeping them too brought no more speed, and a heap of seven times the size of one block.

    This is a setting of the whole process, hence for command lines and not for libraries.

    Returns:
        Whether it worked: False where the C library is not glibc.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    settings = ((_M_MMAP_THRESHOLD, 32 * _MB), (_M_TRIM_THRESHOLD, 1024 * _MB))
    return mallopt is not None and all(mallopt(*setting) == 1 for setting in settings)
