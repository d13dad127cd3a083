"""The run directory: its files, its checkpoints, and the lock that keeps a second trainer out.

::

    runs/<name>/
      config.yaml        every setting, without `auto`: a config that repeats the run
      config.schema.json its JSON schema, by which an editor completes and checks it
      environment.json   one entry for each start or resume: versions, device, threads, command line
      metrics.jsonl      one line for each evaluation, one of `"kind": "final"` for the last score
      steps.jsonl        the training steps, as at most 2,000 lines (`session.history`)
      samples.jsonl      the sample of each evaluation
      checkpoints/step-00000500.safetensors
      best.json          the step and the score of the best checkpoint
      lock, owner.json   held while a trainer runs
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock

from charrnn.config.merge import build_config, config_from_data, file_layer
from charrnn.config.schema import Config
from charrnn.errors import CheckpointError, ConfigError, LockedError, StorageError, did_you_mean
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
from charrnn.runs.hub import check_copies, download, is_hub_address, weights_in

_STEP = re.compile(r"step-(\d{8,18})\.safetensors")
_OF_LOCK = {"lock", "owner.json", "checkpoints"}  # files that taking the lock makes
_OF_START = {
    "environment.json",
    "config.yaml",
    "config.schema.json",
}  # files written before the first checkpoint

Warn = Callable[[str], None]


class Run:
    """One run directory.

    >>> run = Run(Path("runs/book-1"))
    >>> run.name, run.checkpoint_path(500).as_posix()
    ('book-1', 'runs/book-1/checkpoints/step-00000500.safetensors')
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = filelock.FileLock(path / "lock")

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.path.name

    @contextmanager
    def lock(self, new: bool = False) -> Iterator[None]:
        """Hold the run directory as its only trainer; make it if it does not exist.

        The lock ends with the process; the same `Run` may take it several times. Half-written files
        of killed processes are deleted. A directory that was made here is removed again if nothing
        was recorded in it.

        Raises LockedError naming the process and the host that hold the lock, and, with `new`,
        ConfigError if the path is already used.
        """
        was_locked_before = (self.path / "lock").exists()
        if new and not was_locked_before:
            self.check_unused()
        is_made_here = not self._entries()
        self._acquire()
        try:
            for folder in (self.path, self.path / "checkpoints"):
                sweep(folder)
            # A new run may begin in the place of one that was killed before its first checkpoint.
            if new and self._is_used(_OF_LOCK | _OF_START if was_locked_before else _OF_LOCK):
                raise self._refusal()
            identity = {"pid": os.getpid(), "host": socket.gethostname()}
            write_atomically(self._owner, json.dumps(identity).encode())
            yield
        finally:
            if self._lock.lock_counter == 1:
                with contextlib.suppress(OSError):
                    self._leave(is_made_here)
            self._lock.release()

    @property
    def _owner(self) -> Path:
        """The file that says which process holds the lock."""
        return self.path / "owner.json"

    def _acquire(self) -> None:
        """Take the lock. Raises LockedError, and StorageError if it cannot be locked."""
        try:
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            owner = _living_owner(self._owner)
            raise LockedError(
                f"{self.path} is in use by process {owner.get('pid', '?')} on "
                f"{owner.get('host', '?')}; wait for it, or stop it first"
            ) from error
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StorageError(
                f"cannot make or lock the run directory {self.path}: {reason}"
            ) from error

    def _leave(self, is_made_here: bool) -> None:
        """Remove the owner's name, and the directory if it was made here and is still empty."""
        self._owner.unlink(missing_ok=True)
        if is_made_here and not self._is_used(_OF_LOCK):
            (self.path / "checkpoints").rmdir()
            (self.path / "lock").unlink(missing_ok=True)
            self.path.rmdir()

    def is_locked(self) -> bool:
        """Whether a process is training in this run directory.

        The check tries the lock only if owner.json names a process; otherwise it could keep a
        process that is about to train from taking the lock.
        """
        if not (self.path / "owner.json").is_file():
            return False
        try:
            with filelock.FileLock(self.path / "lock").acquire(timeout=0):
                return False  # The trainer was killed.
        except (filelock.Timeout, OSError, NotImplementedError):
            return True

    def _entries(self) -> list[str]:
        return os.listdir(self.path) if self.path.is_dir() else []

    def _is_used(self, ignored: set[str]) -> bool:
        """Whether there is a checkpoint, or any file that is not among the `ignored` ones."""
        return bool(self.steps()) or not ignored.issuperset(self._entries())

    def check_unused(self) -> None:
        """Raise ConfigError if a new run cannot begin in this directory."""
        if (self.path.exists() and not self.path.is_dir()) or self._is_used(_OF_LOCK):
            raise self._refusal()

    def _refusal(self) -> ConfigError:
        other = "delete it, or choose another directory"
        remedy = f"use charrnn resume {self.path}" if self.steps() else other
        return ConfigError(f"{self.path} exists already; {remedy}")

    # Checkpoints -------------------------------------------------------------------------------

    def checkpoint_path(self, step: int) -> Path:
        """The path of a step's checkpoint, whether it exists or not."""
        return self.path / "checkpoints" / f"step-{step:08d}{SUFFIX}"

    def steps(self) -> list[int]:
        """The steps that have a checkpoint file, in ascending order."""
        folder = self.path / "checkpoints"
        names = os.listdir(folder) if folder.is_dir() else []
        return sorted(int(match[1]) for name in names if (match := _STEP.fullmatch(name)))

    def load(self, step: int) -> Checkpoint:
        """Load the checkpoint of a step. Raises CheckpointError naming the steps that have one."""
        if step not in self.steps():
            existing = ", ".join(f"{s:,}" for s in self.steps()) or "none"
            raise CheckpointError(
                f"{self.path} has no checkpoint of step {step:,}; it has {existing}"
            )
        return load_checkpoint(self.checkpoint_path(step), check_layout)

    def latest(self, warn: Warn) -> Checkpoint:
        """Load the newest undamaged checkpoint, with a warning for each damaged one.

        Raises CheckpointError if there is none.
        """
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except CheckpointError as error:
                warn(f"{error}; falling back to an older one")
        raise CheckpointError(
            f"{self.path} has no usable checkpoint; train again with the config "
            f"{self.path / 'config.yaml'} into another directory"
        )

    def best(self, warn: Warn) -> Checkpoint:
        """Load the checkpoint with the best validation score; the latest if none is recorded."""
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
        """Write the checkpoint of a step, so that it survives a crash right after."""
        save_checkpoint(self.checkpoint_path(step), tensors, metadata)

    def prune(self, step: int, keep_last: int, best_step: int | None) -> None:
        """Delete old checkpoints, after that of `step` was written and verified.

        The last `keep_last` up to `step`, the best, and all after `step` are kept.
        """
        steps = [s for s in self.steps() if s <= step]
        for old in steps[:-keep_last]:
            if old != best_step:
                self.checkpoint_path(old).unlink(missing_ok=True)

    # Records -----------------------------------------------------------------------------------

    def write_schema(self) -> None:
        """Write the schema of the configuration, so that editors need no network for it."""
        schema = json.dumps(Config.model_json_schema())
        write_atomically(self.path / "config.schema.json", schema.encode())

    def write_config(self, text: str) -> None:
        """Write the configuration to config.yaml, after the line that gives editors its schema."""
        line = "# yaml-language-server: $schema=config.schema.json\n"
        write_atomically(self.path / "config.yaml", (line + text).encode())

    def write_best(self, best: dict[str, Any]) -> None:
        """Write the step and the score of the best checkpoint to best.json."""
        write_atomically(self.path / "best.json", _json(best).encode())

    def read_best(self) -> dict[str, Any]:
        """Read best.json; an empty dictionary if it is missing or damaged."""
        return usable_best(_read_json(self.path / "best.json"))

    def record_score(self, score: Mapping[str, Any]) -> bool:
        """Add a missing score of the best checkpoint to best.json; return whether it was added.

        Nothing is added while a process is training in this directory, because that process will
        score the checkpoint. A directory that cannot be written is left as it is, without an
        error.
        """
        best = self.read_best()
        if not best or best.get("score") is not None or best["step"] != score["step"]:
            return False
        try:
            with self.lock():
                self.write_best(best | {"score": dict(score)})
        except (LockedError, StorageError):
            return False
        return True

    def record_environment(self, entry: dict[str, Any]) -> None:
        """Add an entry for this start or resume to environment.json."""
        path = self.path / "environment.json"
        entries = _read_json(path)
        entries = entries if isinstance(entries, list) else []
        write_atomically(path, _json([*entries, entry]).encode())

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, except those that a crash cut off.

        Each has `kind`: `evaluation` during training, `final` for the score of the best checkpoint.
        Lines of older versions have no `kind` in the file.
        """
        return [
            {"kind": "final" if "final" in line else "evaluation"} | line
            for line in self.records("metrics")
        ]

    def records(self, name: str, warn: Warn = lambda _: None) -> list[dict[str, Any]]:
        """The lines of `<name>.jsonl` that are whole and have a step; `warn` names the others."""
        lines = []
        path = self.path / f"{name}.jsonl"
        texts = path.read_bytes().splitlines() if path.is_file() else []
        for number, text in enumerate(texts, 1):
            line = None
            with contextlib.suppress(ValueError, RecursionError):
                line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
            else:
                warn(f"{path}: line {number} cannot be read; skipped")
        return lines

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl. Raises StorageError."""
        kind = "final" if "final" in line else "evaluation"
        self.append_records("metrics", [{"schema": SCHEMA, "kind": kind, **line}])

    def append_records(self, name: str, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add lines to `<name>.jsonl`. Raises StorageError."""
        path = self.path / f"{name}.jsonl"
        text = _json_lines(lines)
        if path.exists() and not path.is_file():
            raise StorageError(f"cannot write {path}: it is not a regular file; remove it")
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
        """Drop the final score, and the lines and samples after `step`: training continues there.

        A line that a crash cut off is dropped as well; otherwise the next line would be appended
        to it.
        """
        for name in ("metrics", "samples"):
            lines = self.records(name)
            kept = [line for line in lines if line["step"] <= step and "final" not in line]
            if (self.path / f"{name}.jsonl").is_file():
                self.write_records(name, kept)

    def write_records(self, name: str, lines: Iterable[Mapping[str, Any]]) -> None:
        """Replace the lines of `<name>.jsonl`. Raises StorageError."""
        path, content = self.path / f"{name}.jsonl", _json_lines(lines).encode()
        if not path.is_file() or path.read_bytes() != content:
            write_atomically(path, content)


def claim_run(name: str, root: Path = Path("runs")) -> Run:
    """Make the directory `runs/<name>-<n>` with the first free n; no two starts get the same one.

    Raises StorageError if it cannot be made.
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
    """The runs in `root`, sorted by name."""
    folders = sorted(root.iterdir()) if root.is_dir() else []
    return [Run(folder) for folder in folders if (folder / "checkpoints").is_dir()]


def newest_run(root: Path = Path("runs")) -> Run:
    """Return the run in `root` that has the newest checkpoint.

    Raises CheckpointError if there is none.
    """
    ages = {
        run.checkpoint_path(steps[-1]).stat().st_mtime_ns: run
        for run in all_runs(root)
        if (steps := run.steps())
    }
    if not ages:
        raise CheckpointError(f"there is no run under {root}/; name one, or train one first")
    return ages[max(ages)]


def find_run(name: str) -> Run | Path:
    """Find a run by its path or its name under runs/, or else a checkpoint file by its path.

    The file may also be named by a folder in the Hub's layout, or by an address `hf://OWNER/NAME`.
    Raises CheckpointError with the most similar name.
    """
    if is_hub_address(name):
        return download(name)
    for path in (Path(name).expanduser(), Path("runs") / name):
        if (path / "checkpoints").is_dir():
            return Run(path)
        if path.is_file():
            return path
        if path.is_dir() and (weights := weights_in(path)):
            return weights
    names = [run.name for run in all_runs()]
    hint = did_you_mean(Path(name).name, names, cutoff=0.6) or "charrnn list shows the runs here"
    raise CheckpointError(f"no run or checkpoint {name!r}; {hint}")


def find_checkpoint(
    name: str, warn: Warn, step: int | None = None, last: bool = False
) -> Checkpoint:
    """Load a checkpoint file, or a run's checkpoint: its best, its last or the one of a step.

    If the checkpoint's score was recorded, its metadata has it as `score`. Raises CheckpointError.
    """
    if step is not None and last:
        raise ConfigError("a step and the last checkpoint were both chosen; choose one of them")
    run = find_run(name)
    if isinstance(run, Path):
        if step is not None or last:
            raise ConfigError(
                f"{run} is a single checkpoint; name a run to choose a step of it, or its last"
            )
        checkpoint = load_checkpoint(run, check_layout)
        if checkpoint.metadata.get("weights_only"):
            check_copies(checkpoint)
        return checkpoint
    if step is not None:
        checkpoint = run.load(step)
    else:
        checkpoint = run.latest(warn) if last else run.best(warn)
    best = run.read_best()
    if best.get("score") and best["step"] == checkpoint.metadata["progress"]["step"]:
        return replace(checkpoint, metadata=checkpoint.metadata | {"score": best["score"]})
    return checkpoint


def read_config(name: str) -> Config:
    """Read the configuration of a run, of a checkpoint file, or of a YAML file.

    Raises CheckpointError and ConfigError.
    """
    place = find_run(name)
    if isinstance(place, Path) and place.suffix != SUFFIX:
        return build_config([file_layer(place)])[0]
    if isinstance(place, Run) and (place.path / "config.yaml").is_file():
        return build_config([file_layer(place.path / "config.yaml")])[0]
    path = (
        place if isinstance(place, Path) else place.checkpoint_path(max(place.steps(), default=0))
    )
    return config_from_data(load_checkpoint(path, check_layout).metadata["config"], str(path))


def _json_lines(lines: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _living_owner(path: Path) -> dict[str, Any]:
    """The process that holds the lock; owner.json may name a dead one for up to a second."""
    owner: dict[str, Any] = {}
    for _ in range(20):
        content = _read_json(path)
        owner = content if isinstance(content, dict) else {}
        if not _has_died(owner):
            break
        time.sleep(0.05)
    return owner


def _has_died(owner: dict[str, Any]) -> bool:
    """Whether a process of this machine is certain to have ended."""
    pid = owner.get("pid")
    is_ours = os.name == "posix" and owner.get("host") == socket.gethostname()
    if not is_ours or not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)  # Signal 0 only checks that the process exists.
    except PermissionError:
        return False
    except (OSError, OverflowError):
        return True
    return False


def _read_json(path: Path) -> Any:
    """The content of a JSON file; None if it is missing, damaged or too large."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_HEADER:
            return None  # Reading a pipe or a device might never end.
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
