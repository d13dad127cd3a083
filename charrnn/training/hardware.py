"""Choose device, precision and processes, and measure speed."""

from __future__ import annotations

import os
import re
import time

import torch

from charrnn.errors import ConfigError
from charrnn.nn.fast.memory import keep_freed_memory
from charrnn.training import lane_processes

FEWEST_LANES = 8  # worth a process of their own


def choose_device(wanted: str) -> torch.device:
    """`auto` is CUDA where there is any, else the CPU; MPS has to be asked for.

    Raises ConfigError for a device that this machine or this torch does not have.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", wanted):
        raise ConfigError(f"unknown device {wanted!r}; use auto, cpu, cuda, cuda:N or mps")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {wanted!r} is not available: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices here; use --device cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"device {wanted!r} is not available here; use --device cpu")
    return device


def choose_precision(wanted: str, device: torch.device, cell: str, work: int = 0) -> str:
    """`auto` is bfloat16 on a GPU that has it, and on a CPU that computes with it for the standard
    cells where `work`, lanes a process times width, is at least 1,024. The choice follows from the
    machine and the plan, not from a measurement, so that the same command trains the same way
    twice. The scores are the same: docs/experiments/bfloat16-or-float32.md.

    Raises ConfigError for bfloat16 where there is none.
    """
    if device.type == "cuda":
        supported = native = torch.cuda.is_bf16_supported()
    else:
        supported = device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        # Elsewhere oneDNN makes do with float32 instructions, which is slower than float32.
        native = supported and torch.cpu._is_avx512_bf16_supported()
    if wanted == "bfloat16" and not supported:
        raise ConfigError(f"precision bfloat16 is not available on {device}; use float32, or auto")
    if wanted != "auto":
        return wanted
    pays = device.type == "cuda" or (cell in {"vanilla", "lstm", "gru"} and work >= 1024)
    return "bfloat16" if native and pays else "float32"


def choose_processes(wanted: int | str, device: torch.device, lanes: int, threads: int) -> int:
    """`auto` is one process a CPU thread, each with enough lanes to be worth it.

    Raises ConfigError where lanes cannot be shared among so many processes.
    """
    possible = device.type == "cpu" and lane_processes.available()
    if wanted == "auto":
        return max(1, min(threads, lanes // FEWEST_LANES)) if possible else 1
    if int(wanted) > 1 and not possible:
        raise ConfigError(f"processes: {wanted} needs a CPU under Linux; use 1, or auto")
    if int(wanted) > lanes:
        raise ConfigError(f"{lanes} lanes cannot be shared among {wanted} processes; use auto")
    return int(wanted)


def measure_speed(device: torch.device) -> float:
    """Floating-point operations a second in a matrix product of a recurrent step's shape."""
    size = 4096 if device.type != "cpu" else 512
    a, b = torch.ones(size, size, device=device), torch.ones(size, size, device=device)
    times = []
    for _ in range(60):  # A processor takes a while to get up to speed.
        start = time.perf_counter()
        float((a @ b)[0, 0])
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def prepare_process(threads: int | str) -> None:
    """Use so many CPU threads, and keep freed memory for the next step."""
    if isinstance(threads, int):
        torch.set_num_threads(min(threads, 4 * (os.cpu_count() or 1)))
    keep_freed_memory()
