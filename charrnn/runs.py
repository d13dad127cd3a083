"""The run directory: what is where, which checkpoint counts, and who may write.

::

    runs/<name>/
      config.yaml        every value resolved; `charrnn train --config` on it repeats the run
      environment.json   one entry a start: versions, device, threads, command line
      metrics.jsonl      one object an evaluation
      checkpoints/step-00000500.safetensors
      best.json          which step, which score; can be rebuilt from the checkpoints
      lock, owner.json   held while a trainer runs
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import filelock

from charrnn.checkpoint import (
    SUFFIX,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    write_atomically,
)
from charrnn.errors import CheckpointError, ConfigError, LockedError, StorageError

SCHEMA = 1
DISTRIBUTION = "charrnn-trainer"
_STEP = re.compile(r"step-(\d+)\.safetensors")

Warn = Callable[[str], None]


class Run:
    """One run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = filelock.FileLock(path / "lock")

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.path.name

    def require_free(self) -> None:
        """Raise ConfigError where there is something at this path already."""
        path = self.path
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            other = "delete it, or use another --out"
            remedy = f"use charrnn resume {path}" if self.steps() else other
            raise ConfigError(f"{path} exists already; {remedy}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only trainer here, and make the directory where there is none.

        The lock dies with the process; taking it again in the same process is free. Raises
        LockedError naming the process and host that hold it.
        """
        owner = self.path / "owner.json"
        try:
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            who = _read_json(owner) or {}
            raise LockedError(
                f"{self.path} is in use by process {who.get('pid', '?')} on "
                f"{who.get('host', '?')}; wait for it, or stop it first"
            ) from error
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StorageError(
                f"cannot make or lock the run directory {self.path}: {reason}"
            ) from error
        try:
            identity = {"pid": os.getpid(), "host": socket.gethostname()}
            write_atomically(owner, json.dumps(identity).encode())
            yield
        finally:
            if self._lock.lock_counter == 1:
                with contextlib.suppress(OSError):
                    owner.unlink(missing_ok=True)
            self._lock.release()

    # Checkpoints -------------------------------------------------------------------------------

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.path / "checkpoints" / f"step-{step:08d}{SUFFIX}"

    def steps(self) -> list[int]:
        """The steps that have a checkpoint file, in order."""
        folder = self.path / "checkpoints"
        names = os.listdir(folder) if folder.is_dir() else []
        return sorted(int(match[1]) for name in names if (match := _STEP.fullmatch(name)))

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of a step. Raises CheckpointError naming those that exist."""
        if step not in self.steps():
            have = ", ".join(f"{s:,}" for s in self.steps()) or "none"
            raise CheckpointError(f"{self.path} has no checkpoint of step {step:,}; it has {have}")
        return load_checkpoint(self.checkpoint_path(step))

    def latest(self, warn: Warn) -> Checkpoint:
        """The newest checkpoint that is whole, with a warning for each newer one that is not."""
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except CheckpointError as error:
                warn(f"{error}; falling back to an older one")
        raise CheckpointError(
            f"{self.path} has no usable checkpoint; start again with "
            f"charrnn train --config {self.path / 'config.yaml'} --out ANOTHER"
        )

    def best(self, warn: Warn) -> Checkpoint:
        """The checkpoint with the best validation score, else the latest."""
        best = _read_json(self.path / "best.json")
        step = best.get("step") if isinstance(best, dict) else None
        if step is None:
            newest = self.latest(warn)
            recorded = newest.metadata.get("session", {}).get("best")
            step = recorded["step"] if recorded else None
            if step is None or step == newest.metadata["progress"]["step"]:
                return newest
        try:
            return self.load(step)
        except CheckpointError as error:
            warn(f"{error}; falling back to the latest one")
            return self.latest(warn)

    def save(self, step: int, checkpoint: Callable[[], tuple[Any, dict[str, Any]]]) -> Path:
        """Write the checkpoint of a step, durably."""
        tensors, metadata = checkpoint()
        path = self.checkpoint_path(step)
        save_checkpoint(path, tensors, metadata)
        return path

    def prune(self, step: int, keep_last: int, best_step: int | None) -> None:
        """Delete all up to `step`, just written and verified, but the last ones and the best."""
        steps = [s for s in self.steps() if s <= step]
        for old in steps[:-keep_last]:
            if old != best_step:
                self.checkpoint_path(old).unlink(missing_ok=True)

    # Records -----------------------------------------------------------------------------------

    def write_config(self, text: str) -> None:
        """Record the resolved configuration."""
        write_atomically(self.path / "config.yaml", text.encode())

    def write_best(self, best: dict[str, Any]) -> None:
        """Record which step is the best."""
        write_atomically(self.path / "best.json", _json(best).encode())

    def read_best(self) -> dict[str, Any]:
        """What `write_best` recorded, or nothing."""
        best = _read_json(self.path / "best.json")
        return best if isinstance(best, dict) else {}

    def record_environment(self, entry: dict[str, Any]) -> None:
        """Add an entry for this start."""
        path = self.path / "environment.json"
        entries = _read_json(path)
        entries = entries if isinstance(entries, list) else []
        write_atomically(path, _json([*entries, entry]).encode())

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a line that was cut off by a crash does not count."""
        lines = []
        with contextlib.suppress(FileNotFoundError):
            for line in (self.path / "metrics.jsonl").read_text("utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    lines.append(json.loads(line))
        return lines

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add one line. Raises StorageError."""
        path = self.path / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"schema": SCHEMA, **line}, allow_nan=False) + "\n")
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error

    def cut_metrics(self, step: int) -> None:
        """Drop the lines of steps after `step`, which are about to be taken again, and `final`."""
        kept = [line for line in self.metrics() if line["step"] <= step and "final" not in line]
        if len(kept) != len(self.metrics()):
            text = "".join(json.dumps(line) + "\n" for line in kept)
            write_atomically(self.path / "metrics.jsonl", text.encode())


def claim_run(name: str, root: Path = Path("runs")) -> Run:
    """Make `runs/<name>-<n>` with the first n that is free; no two starts get the same one.

    Raises StorageError where nothing can be made.
    """
    clean = re.sub(r"[^\w.-]+", "-", name).strip(".-") or "text"
    for n in itertools.count(1):
        path = root / f"{clean}-{n}"
        try:
            path.mkdir(parents=True)
            return Run(path)
        except FileExistsError:
            continue
        except OSError as error:
            raise StorageError(f"cannot make {path}: {error.strerror}") from error
    raise AssertionError("unreachable")


def all_runs(root: Path = Path("runs")) -> list[Run]:
    """The runs below `root`, by name."""
    folders = sorted(root.iterdir()) if root.is_dir() else []
    return [Run(folder) for folder in folders if (folder / "checkpoints").is_dir()]


def find_run(name: str) -> Run | Path:
    """A run by path or by its name under runs/, or the path of a checkpoint file.

    Raises CheckpointError with the nearest name.
    """
    for path in (Path(name).expanduser(), Path("runs") / name):
        if (path / "checkpoints").is_dir():
            return Run(path)
        if path.is_file():
            return path
    names = [run.name for run in all_runs()]
    close = difflib.get_close_matches(Path(name).name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else "charrnn list shows the runs here"
    raise CheckpointError(f"no run or checkpoint {name!r}; {hint}")


def find_checkpoint(
    name: str, warn: Warn, step: int | None = None, last: bool = False
) -> Checkpoint:
    """The checkpoint a user means: of a run the best one unless told, or the file itself."""
    found = find_run(name)
    if isinstance(found, Path):
        if step is not None or last:
            raise ConfigError(f"--step and --last choose within a run; {found} is one checkpoint")
        return load_checkpoint(found)
    if step is not None:
        return found.load(step)
    return found.latest(warn) if last else found.best(warn)


def environment(device: str, threads: int) -> dict[str, Any]:
    """What a result depends on beside the configuration: versions, machine, command line."""
    packages = {}
    for package in (DISTRIBUTION, "torch", "numpy", "safetensors"):
        with contextlib.suppress(PackageNotFoundError):
            packages[package] = version(package)
    commit = None
    checkout = Path(__file__).parents[1]
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


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None  # Missing or torn: whoever asks has another source.
