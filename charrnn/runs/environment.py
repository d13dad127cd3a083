"""What a result depends on beside the configuration."""

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
    """What a result depends on beside the configuration: versions, machine, command line."""
    packages = {}
    for package in (DISTRIBUTION, "torch", "numpy", "safetensors"):
        with contextlib.suppress(PackageNotFoundError):
            packages[package] = version(package)
    commit = None
    checkout = Path(__file__).parents[2]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit = (checkout / ".git").exists() and subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=checkout,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "packages": packages,
        "device": device,
        "threads": threads,
        "commit": commit,
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What has changed between two environments of the things bit-exact resume depends on."""
    found = []
    for key in ("python", "platform", "processor", "packages", "device", "threads"):
        if before.get(key) != now.get(key):
            found.append(f"{key}: {before.get(key)} before, {now.get(key)} now")
    return found


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
