"""Choose device, precision and processes, and measure speed."""

from __future__ import annotations

import contextlib
import glob
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from charrnn.errors import ConfigError
from charrnn.nn.fast.memory import keep_freed_memory
from charrnn.nn.fast.threads import most_threads
from charrnn.training import lane_processes

FEWEST_LANES = 8  # the fewest lanes of a process (a round number)
FEWEST_LANES_TIMES_WIDTH = 1024  # bfloat16 pays on a CPU from here on (no page has these runs)
BFLOAT16_CELLS = frozenset({"vanilla", "lstm", "gru"})  # have kernels for bfloat16 on a CPU


def choose_device(wanted: str) -> torch.device:
    """Return the device for the setting `device`: `auto` is CUDA if there is any, else the CPU.

    MPS is used only if it is named. Raises ConfigError for a device that this machine or this
    build of torch does not have.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", wanted):
        raise ConfigError(f"unknown device {wanted!r}; use auto, cpu, cuda, cuda:N or mps")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {wanted!r} is not available: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices here; set device to cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"device {wanted!r} is not available here; set device to cpu")
    return device


def choose_precision(wanted: str, device: torch.device, cell: str, work: int = 0) -> str:
    """Return the precision of matrix products for the setting `precision`, float32 or bfloat16.

    `auto` is bfloat16 on a GPU that computes with it. On a CPU that computes with it, `auto` is
    bfloat16 for the standard cells if `work` (the lanes of a process times the width) is at least
    1,024. The scores are the same (docs/experiments/bfloat16-or-float32.md). The choice does not
    depend on a measurement, so the same command trains the same way twice.

    Raises ConfigError if bfloat16 was chosen and the device does not have it.
    """
    if device.type == "cuda":
        supported = native = torch.cuda.is_bf16_supported()
    else:
        supported = device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        # Without these instructions, oneDNN emulates bfloat16, which is slower than float32.
        native = supported and torch.cpu._is_avx512_bf16_supported()
    if wanted == "bfloat16" and not supported:
        raise ConfigError(
            f"precision bfloat16 is not available on {device}; set precision to float32 or auto"
        )
    if wanted != "auto":
        return wanted
    pays = device.type == "cuda" or (cell in BFLOAT16_CELLS and work >= FEWEST_LANES_TIMES_WIDTH)
    return "bfloat16" if native and pays else "float32"


def choose_processes(wanted: int | str, device: torch.device, lanes: int, threads: int) -> int:
    """Return the number of processes that share the lanes, for the setting `processes`.

    `auto` is one for each CPU thread, or fewer, so that each has at least 8 lanes. Raises
    ConfigError if some of the chosen processes would have no lane, or if this system cannot fork
    them.
    """
    possible = device.type == "cpu" and lane_processes.available()
    if wanted == "auto":
        return max(1, min(threads, lanes // FEWEST_LANES)) if possible else 1
    if int(wanted) > 1 and not possible:
        raise ConfigError(f"processes = {wanted} needs a CPU and Linux; set processes to 1 or auto")
    if int(wanted) > lanes:
        raise ConfigError(
            f"{lanes} lanes cannot be shared among {wanted} processes; set processes to auto"
        )
    return int(wanted)


def measure_speed(device: torch.device) -> float:
    """Measure floating-point operations per second, in a matrix product as large as a step's."""
    size = 4096 if device.type != "cpu" else 512
    a, b = torch.ones(size, size, device=device), torch.ones(size, size, device=device)
    times = []
    for _ in range(60):  # A processor takes a while to reach its full clock rate.
        start = time.perf_counter()
        float((a @ b)[0, 0])
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


class CoreTime(NamedTuple):
    """How long processes computed, and how long they waited for a free core, in seconds."""

    computed: float
    waited: float

    def waiting_share(self, before: CoreTime) -> float:
        """Return the share of the time since `before` in which other programs held the cores."""
        computed, waited = self.computed - before.computed, self.waited - before.waited
        return waited / max(computed + waited, 1e-9)


def core_time(process_ids: Iterable[int]) -> CoreTime | None:
    """Read the times of processes and their threads; None on a system without Linux's schedstat."""
    computed = waited = 0
    for process in process_ids:
        files = glob.glob(f"/proc/{process}/task/*/schedstat")
        for path in files:
            with contextlib.suppress(OSError, ValueError):  # The thread may have ended.
                ran, stood, _ = map(int, Path(path).read_text().split())
                computed, waited = computed + ran, waited + stood
        if not files:
            return None
    return CoreTime(computed / 1e9, waited / 1e9)


def prepare_process(threads: int) -> None:
    """Use `threads` CPU threads, and keep freed memory.

    Both settings hold for the whole process; `charrnn.session.process` restores the threads after
    training.
    """
    torch.set_num_threads(min(threads, most_threads()))
    keep_freed_memory()
