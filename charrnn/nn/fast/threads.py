"""The number of CPU threads that torch uses, for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def most_threads() -> int:
    """Return the most threads that torch is given: more would only take memory."""
    return 4 * (os.cpu_count() or 1)


@contextmanager
def use_threads(threads: int) -> Iterator[None]:
    """Let torch use a number of threads, and the earlier number again when the block ends.

    With one thread, sums are always taken in the same order, and no core is taken from the other
    processes of a training step.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(threads, most_threads()))
    try:
        yield
    finally:
        torch.set_num_threads(before)
