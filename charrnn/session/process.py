"""The settings of the whole process that training changes, and restores afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from charrnn.config.resolved import ResolvedConfig
from charrnn.training.hardware import prepare_process

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def process_settings(config: ResolvedConfig, device: torch.device) -> Iterator[None]:
    """Set torch up for a run, and restore the earlier settings when the block ends.

    It restores the number of threads, whether only deterministic algorithms are used, the variable
    `CUBLAS_WORKSPACE_CONFIG`, and the random state of the CPU and, if this process uses CUDA, of
    every GPU. The C library's setting for freed memory cannot be read, so it is not restored: freed
    memory stays with the process (`nn.fast.memory`).
    """
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    workspace = os.environ.get(CUBLAS)
    uses_cuda = device.type == "cuda" or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpus = list(range(torch.cuda.device_count())) if uses_cuda else []
    with torch.random.fork_rng(gpus):
        try:
            if config.deterministic:
                os.environ.setdefault(CUBLAS, ":4096:8")
                torch.use_deterministic_algorithms(True)
            prepare_process(config.threads)
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            if workspace is None:
                os.environ.pop(CUBLAS, None)
            else:
                os.environ[CUBLAS] = workspace
