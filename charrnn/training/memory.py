"""Estimate how many symbols of examples fit into the memory in a training step."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from pathlib import Path

import torch

from charrnn.config.schema import ModelConfig

SHARE = 4  # a batch may take a quarter of the memory
EXAMPLES = 4  # so many of the longest examples fit into a batch
LONGEST = 1 << 14  # symbols; a longer example takes seconds, for a single gradient
FLOATS_A_UNIT = 24  # kept for the backward pass, for each unit of a layer and each symbol
WIDTH = 128  # assumed for a layer while `model.hidden_size` is auto
FLOATS_A_CELL = 6  # kept for each pair of a source and a target symbol in an alignment
FLOATS_A_LOGIT = 4  # kept for each logit, in tasks that predict symbols
UNKNOWN_MEMORY = 4 << 30  # bytes, if the system does not say how much it has


def memory_of(device: torch.device) -> int:
    """Return the memory of a GPU, or the memory that this process may use, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    limits = []
    with contextlib.suppress(AttributeError, OSError, ValueError):  # Windows has no sysconf.
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(ImportError, OSError):
        import resource

        limits += [n for n in resource.getrlimit(resource.RLIMIT_AS) if n != resource.RLIM_INFINITY]
    with contextlib.suppress(OSError, ValueError):  # The limit of a container; "max" for none.
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits, default=UNKNOWN_MEMORY)


def peak_memory(device: torch.device, processes: int = 1) -> int | None:
    """Return the most memory that this process has taken, in bytes, with ended child processes.

    On a GPU, it is the GPU's memory. None if the system does not say.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if processes > 1 else 0
    return unit * (own + (processes - 1) * largest)


def batch_memory(device: torch.device) -> int:
    """Return how much memory a batch may take, in bytes."""
    return memory_of(device) // SHARE


def symbol_bytes(model: ModelConfig) -> int:
    """Estimate the memory that the layers take for each symbol in training, in bytes."""
    units = WIDTH * model.layers if model.hidden_size == "auto" else sum(model.widths)
    return 4 * FLOATS_A_UNIT * units * (2 if model.bidirectional else 1)


def longest_example(model: ModelConfig, device: torch.device, floats_a_cell: int = 0) -> int:
    """Estimate how long an example may be, so that four of them fit into a batch; at most 16,384.

    Four examples of n symbols take 4 n (b + c n / 4) bytes: b for each symbol and, for pairs with
    n / 2 symbols on each side, c for each cell of the alignment.

    >>> longest_example(ModelConfig(hidden_size=64), torch.device("cpu")) > 100
    True
    """
    linear, square = EXAMPLES * symbol_bytes(model), EXAMPLES * floats_a_cell
    memory = batch_memory(device)
    length = memory / linear
    if square:
        length = (math.sqrt(linear**2 + 4 * square * memory) - linear) / (2 * square)
    return max(1, min(LONGEST, int(length)))
