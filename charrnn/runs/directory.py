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
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from charrnn.errors import CheckpointError, ConfigError, LockedError, StorageError
from charrnn.runs.checkpoint import (
    MAX_HEADER,
    SCHEMA,
    SUFFIX,
    Arrays,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    sweep,
    write_atomically,
)
from charrnn.runs.checkpoint_check import check_layout, usable_best

_STEP = re.compile(r"step-(\d{8,18})\.safetensors")
_OWN = {"lock", "owner.json", "checkpoints"}  # what taking the lock makes
_EARLY = {"environment.json", "config.yaml"}  # what a start writes before its first checkpoint

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

    @contextmanager
    def lock(self, new: bool = False) -> Iterator[None]:
        """Be the only trainer here, and make the directory where there is none.

        The lock dies with the process; taking it again in the same process is free. What a killed
        process left half-written is swept. A directory in which nothing was recorded is taken
        away again. Raises LockedError naming the process and host that hold it, and ConfigError
        where the run is to be `new` and there is something at its path already.
        """
        owner = self.path / "owner.json"
        foreign = self.path.exists() and not self.path.is_dir()
        ours = (self.path / "lock").exists()
        if new and not ours and (foreign or self._is_used(_OWN)):
            raise self._refusal()
        fresh = not self._entries()
        try:
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            who = _living_owner(owner)
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
            for folder in (self.path, self.path / "checkpoints"):
                sweep(folder)
            # A run that was killed before its first checkpoint may begin again in its place.
            if new and self._is_used(_OWN | _EARLY if ours else _OWN):
                raise self._refusal()
            identity = {"pid": os.getpid(), "host": socket.gethostname()}
            write_atomically(owner, json.dumps(identity).encode())
            yield
        finally:
            if self._lock.lock_counter == 1:
                with contextlib.suppress(OSError):
                    owner.unlink(missing_ok=True)
                    if fresh and not self._is_used(_OWN):
                        (self.path / "checkpoints").rmdir()
                        (self.path / "lock").unlink(missing_ok=True)
                        self.path.rmdir()
            self._lock.release()

    def is_locked(self) -> bool:
        """Whether a trainer is at work here.

        The lock itself is tried only where a trainer signed for it, so that asking never keeps
        one from starting.
        """
        if not (self.path / "owner.json").is_file():
            return False
        try:
            with filelock.FileLock(self.path / "lock").acquire(timeout=0):
                return False  # It was killed.
        except (filelock.Timeout, OSError, NotImplementedError):
            return True

    def _entries(self) -> list[str]:
        return os.listdir(self.path) if self.path.is_dir() else []

    def _is_used(self, nothing: set[str]) -> bool:
        return bool(self.steps()) or not nothing.issuperset(self._entries())

    def _refusal(self) -> ConfigError:
        other = "delete it, or use another --out"
        remedy = f"use charrnn resume {self.path}" if self.steps() else other
        return ConfigError(f"{self.path} exists already; {remedy}")

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
        return load_checkpoint(self.checkpoint_path(step), check_layout)

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
        step = self.read_best().get("step")
        if step is None:
            newest = self.latest(warn)
            recorded = newest.metadata["session"]["best"]
            step = recorded["step"] if recorded else None
            if step is None or step == newest.metadata["progress"]["step"]:
                return newest
        try:
            return self.load(step)
        except CheckpointError as error:
            warn(f"{error}; falling back to the latest one")
            return self.latest(warn)

    def save(self, step: int, tensors: Arrays, metadata: dict[str, Any]) -> None:
        """Write the checkpoint of a step, durably."""
        save_checkpoint(self.checkpoint_path(step), tensors, metadata)

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
        """What `write_best` recorded, or nothing where that is missing or not usable."""
        return usable_best(_read_json(self.path / "best.json"))

    def record_environment(self, entry: dict[str, Any]) -> None:
        """Add an entry for this start."""
        path = self.path / "environment.json"
        entries = _read_json(path)
        entries = entries if isinstance(entries, list) else []
        write_atomically(path, _json([*entries, entry]).encode())

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a line that was cut off by a crash does not count."""
        lines = []
        path = self.path / "metrics.jsonl"
        for line in path.read_bytes().splitlines() if path.is_file() else []:
            with contextlib.suppress(ValueError, RecursionError):
                entry = json.loads(line)
                if isinstance(entry, dict) and isinstance(entry.get("step"), int):
                    lines.append(entry)
        return lines

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add one line. Raises StorageError."""
        path = self.path / "metrics.jsonl"
        text = json.dumps({"schema": SCHEMA, **line}, allow_nan=False) + "\n"
        if path.exists() and not path.is_file():
            raise StorageError(f"cannot write {path}: it is no regular file; take it away")
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(
                f"cannot write {path} ({len(text):,} bytes): {error.strerror}"
            ) from error

    def cut_metrics(self, step: int) -> None:
        """Drop the lines of steps after `step`, which are about to be taken again, and `final`.

        A line that a crash cut off goes as well, or the next one would be written behind it.
        """
        path = self.path / "metrics.jsonl"
        kept = [line for line in self.metrics() if line["step"] <= step and "final" not in line]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        if path.is_file() and path.read_bytes() != text.encode():
            write_atomically(path, text.encode())


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
        return load_checkpoint(found, check_layout)
    if step is not None:
        return found.load(step)
    return found.latest(warn) if last else found.best(warn)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _living_owner(path: Path) -> dict[str, Any]:
    """Who holds the lock; where that is a dead process, its successor is about to sign."""
    who: Any = {}
    for _ in range(20):
        who = _read_json(path)
        who = who if isinstance(who, dict) else {}
        here = os.name == "posix" and who.get("host") == socket.gethostname()
        if not here or not isinstance(who.get("pid"), int) or who["pid"] <= 0:
            break
        try:
            os.kill(who["pid"], 0)  # Only asks whether it is there.
            break
        except PermissionError:
            break
        except (OSError, OverflowError):
            time.sleep(0.05)
    return dict(who)


def _read_json(path: Path) -> Any:
    try:
        if not path.is_file() or path.stat().st_size > MAX_HEADER:
            return None  # Never a pipe or a device: reading one may not end.
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # Missing or torn: whoever asks has another source.
