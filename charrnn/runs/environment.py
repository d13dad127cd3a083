"""The versions, the machine and the command line that a result depends on."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

DISTRIBUTION = "charrnn-trainer"


def environment(device: str, threads: int) -> dict[str, Any]:
    """Describe this process: versions, machine, command line, and the commit of a checkout.

    `device` and `threads` are those that training uses.
    """
    packages = {}
    for package in (DISTRIBUTION, "torch", "numpy", "safetensors"):
        with contextlib.suppress(PackageNotFoundError):
            packages[package] = version(package)
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "packages": packages,
        "device": device,
        "threads": threads,
        "commit": _commit(),
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """List the changes between two environments that may change the bits of a resumed run.

    >>> differences({"threads": 1, "time": "9:00"}, {"threads": 2, "time": "9:30"})
    ['threads: 1 before, 2 now']
    """
    keys = ("python", "platform", "processor", "packages", "device", "threads")
    return [
        f"{key}: {before.get(key)} before, {now.get(key)} now"
        for key in keys
        if before.get(key) != now.get(key)
    ]


def _commit() -> str | None:
    """The commit of the checkout that this package runs from; None without a checkout or git."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "rev-parse", "HEAD"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            command, cwd=checkout, capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
    return None


def _processor() -> str:
    """The model name of the processor, from /proc/cpuinfo or else from Python."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
