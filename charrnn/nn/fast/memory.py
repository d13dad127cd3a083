"""Keep freed memory in the process instead of returning it to the system."""

from __future__ import annotations

import contextlib
import ctypes
import sys


def keep_freed_memory() -> None:
    """Let the next training step reuse the memory that the last one freed.

    By default glibc returns large buffers to the system when they are freed, and the next step
    gets them back page by page. That made training of two layers of 256 units 1.3 times slower, and
    slower still after an evaluation (docs/experiments/freed-memory.md). Other C libraries are left
    alone.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # Other C libraries have no mallopt.
            mallopt = ctypes.CDLL(None).mallopt
            trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            mallopt(trim_threshold, 2**31 - 1)
            # Some versions of glibc refuse more than their limit of 32 MiB.
            mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25)
