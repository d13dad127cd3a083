"""How this process gets its memory from the system."""

from __future__ import annotations

import contextlib
import ctypes
import sys


def keep_freed_memory() -> None:
    """Have what a step frees lie ready for the next one.

    By default glibc returns large buffers to the system when they are freed, and the next step
    finds them again page by page: in training 1.3 times slower at 2 x 256, and slower still after
    an evaluation (docs/experiments/freed-memory.md). Other C libraries are left as they are.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # Other C libraries have no mallopt.
            mallopt = ctypes.CDLL(None).mallopt
            trim_threshold, mmap_threshold = -1, -3  # Their names in malloc.h: M_...
            mallopt(trim_threshold, 2**31 - 1)
            # Where glibc takes no more than its own limit of 32 MiB, that has to do.
            mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25)
