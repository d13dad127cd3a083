"""What the fault checks share: a table of checks, forked children, tiny runs, fingerprints.

A check measures twice: as the package is, which must pass, and sabotaged (a protection taken
away), which must fail. A check that passes sabotaged proves nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from charrnn.config.schema import unused_keys
from charrnn.runs.checkpoint import Checkpoint, load_checkpoint
from charrnn.runs.directory import Run


@dataclass(frozen=True)
class Effort:
    """How much to do: everything, or the fast part that runs for every change."""

    fast: bool

    def of(self, whole: int, fast: int) -> int:
        """Return the count for this effort."""
        return fast if self.fast else whole


@dataclass(frozen=True)
class Result:
    """Whether the check passed, and the figure to print."""

    holds: bool
    figure: str


@dataclass(frozen=True)
class Check:
    """A row of the table."""

    name: str
    sabotage: str
    measure: Callable[[Effort, bool], Result]
    slow: bool
    ci: bool


CHECKS: list[Check] = []


def check(
    name: str, *, sabotage: str, slow: bool = False, ci: bool = False
) -> Callable[[Any], Any]:
    """Add `measure(effort, sabotaged)` to the table as a row.

    `--fast` leaves out `slow` rows; `.ci/run` measures only `ci` rows.
    """

    def decorate(measure: Callable[[Effort, bool], Result]) -> Callable[[Effort, bool], Result]:
        CHECKS.append(Check(name, sabotage, measure, slow, ci))
        return measure

    return decorate


def tally(good: int, count: int, word: str = "", problems: Sequence[str] = ()) -> Result:
    """Make the result "good of count": it passes if all are good, else shows the first problem."""
    shown = f"; first: {problems[0][:160]}" if problems else ""
    return Result(good == count and count > 0, f"{good} of {count} {word}".rstrip() + shown)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Make a temporary folder that is also the cache folder of everything started in it."""
    with tempfile.TemporaryDirectory(prefix="charrnn-faults-") as name:
        folder = Path(name)
        with (
            mock.patch.dict(os.environ, {"CHARRNN_CACHE_DIR": str(folder / "cache")}),
            mock.patch.object(tempfile, "tempdir", name),
        ):
            yield folder


# Children ------------------------------------------------------------------------------------


@dataclass
class Ended:
    """How a child ended. As in `subprocess`, `code` is negative if a signal ended it."""

    code: int
    output: str
    errors: str
    seconds: float
    peak: int  # the most bytes of resident memory
    processor: float  # seconds of processor time, which a busy machine does not lengthen

    @property
    def traceback(self) -> bool:
        """Return whether it printed a traceback, which no fault or user's mistake may cause."""
        return "Traceback (most recent call last)" in self.errors


@dataclass
class Child:
    """A running child process, with its standard streams in files."""

    pid: int
    folder: Path
    began: float = field(default_factory=time.monotonic)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the child."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def errors(self) -> str:
        """Return the standard error so far."""
        return (self.folder / "errors").read_text("utf-8", "replace")

    def _resident(self) -> int:
        """Return its peak memory. (`ru_maxrss` would include the parent's before `exec`.)"""
        with contextlib.suppress(OSError, IndexError):
            status = Path(f"/proc/{self.pid}/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) * 1024
        return 0

    def wait(self, seconds: float = 120) -> Ended:
        """Wait for the end. After `seconds` the child is killed; its code is that of SIGKILL."""
        peak = 0
        while True:
            peak = max(peak, self._resident())
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - self.began > seconds:
                self.kill()
            time.sleep(0.002)
        took = time.monotonic() - self.began
        output = (self.folder / "output").read_text("utf-8", "replace")
        code = os.waitstatus_to_exitcode(status)
        peak = peak or usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Ended(code, output, self.errors(), took, peak, usage.ru_utime + usage.ru_stime)


def fork(function: Callable[[], object], limits: dict[int, int] | None = None) -> Child:
    """Run `function` in a forked child with resource limits (RLIMIT_FSIZE, RLIMIT_AS, ...).

    torch is imported in the parent, but not used, so a child starts in milliseconds. An
    integer returned by `function` is the exit code; an exception prints a traceback and gives 99.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    folder = Path(tempfile.mkdtemp(prefix="child-"))
    for name in ("output", "errors"):
        (folder / name).touch()
    pid = os.fork()
    if pid:
        return Child(pid, folder)
    code = 99
    try:
        for number, name in ((1, "output"), (2, "errors")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_APPEND), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
            setattr(sys, stream, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for kind, value in (limits or {}).items():
            resource.setrlimit(kind, (value, value))
        import torch

        torch.set_num_threads(1)
        returned = function()
        code = returned if isinstance(returned, int) else 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1 if error.code else 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 0xFF)


def command(*arguments: object) -> Callable[[], object]:
    """Return `charrnn ARGUMENTS` as a function for `fork`."""

    def run() -> None:
        from charrnn.cli.main import main

        sys.argv = ["charrnn", *map(str, arguments)]
        main()

    return run


def start_cold(
    *arguments: object, program: str | None = None, output: int | None = None, **environment: str
) -> Child:
    """Start `python -m charrnn ARGUMENTS`, or another program, in a fresh interpreter.

    Its standard output goes to the file descriptor `output`, or to a file.
    """
    folder = Path(tempfile.mkdtemp(prefix="cold-"))
    with (folder / "output").open("wb") as kept, (folder / "errors").open("wb") as errors:
        pid = os.posix_spawn(
            sys.executable,
            [
                sys.executable,
                *(["-c", program] if program else ["-m", "charrnn"]),
                *map(str, arguments),
            ],
            os.environ | environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, kept.fileno() if output is None else output, 1),
                (os.POSIX_SPAWN_DUP2, errors.fileno(), 2),
            ],
        )
    return Child(pid, folder)


def cold(*arguments: object, program: str | None = None, **environment: str) -> Ended:
    """Run `start_cold` to its end."""
    return start_cold(*arguments, program=program, **environment).wait()


def side_by_side(work: Callable[[list[Any]], list[str]], cases: Sequence[Any]) -> list[str]:
    """Run `work` on the cases in two children; return one text for each case, in any order."""

    def half(own: list[Any]) -> Callable[[], None]:
        return lambda: print(json.dumps(work(own)))

    children = [fork(half(list(cases[i::2]))) for i in range(2)]
    found: list[str] = []
    for child in children:
        ended = child.wait(900)
        if ended.code:
            raise RuntimeError(ended.errors)
        found += json.loads(ended.output.splitlines()[-1])
    return found


# Tiny runs ---------------------------------------------------------------------------------------

TEXT = "".join(chr(97 + (i * i + i // 7) % 13) + ("\n" if i % 17 == 0 else "") for i in range(1500))


ON_EXAMPLES = ("classification", "generation")


def write_text(folder: Path, task: object = "language_model") -> Path:
    """Write the text of the tiny runs; for a task on examples, each line has a class."""
    if task not in ON_EXAMPLES:
        path = folder / "text.txt"
        path.write_text(TEXT, "utf-8")
        return path
    path = folder / "rows.tsv"
    rows = [f"{line}\t{'early' if line[0] < 'f' else 'late'}\n" for line in TEXT.split()]
    path.write_text("".join(rows), "utf-8")
    return path


def tiny_arguments(steps: int = 100, **changes: object) -> list[str]:
    """Return flags of `charrnn train` for a tiny run: hidden 32, dropout on, a checkpoint every 10
    steps; only keys that its task uses."""
    ignored = unused_keys(str(changes.get("task", "language_model")))
    values = {
        "model.hidden_size": 32,
        "model.layers": 1,
        "model.embedding_size": 8,
        "model.dropout": 0.2,
        "model.input_dropout": 0.2,
        "model.output_dropout": 0.2,
        "training.steps": steps,
        "training.batch_size": 4,
        "training.window": 8,
        "training.warmup_steps": 10,
        "evaluation.every": 10,
        "evaluation.lanes": 4,
        "evaluation.warmup": 10,
        "evaluation.sample_length": 4,
        "device": "cpu",
        "threads": 1,
    } | changes
    return [
        word
        for key, value in values.items()
        if key not in ignored
        for word in ("--set", f"{key}={value}")
    ]


def train(
    folder: Path, run: str = "run", steps: int = 100, **changes: object
) -> Callable[[], object]:
    """Return `charrnn train` of the tiny run in `folder / run`, for `fork`."""
    out = folder / run
    text = write_text(folder, changes.get("task"))
    return command("train", text, "--out", out, *tiny_arguments(steps, **changes))


def resume(folder: Path, run: str = "run", *arguments: object) -> Callable[[], object]:
    """Return `charrnn resume` of the tiny run, for `fork`."""
    return command("resume", folder / run, *arguments)


TIMES = {"trained_seconds"}  # Two equal runs may differ in these.


def fingerprint(checkpoint: Checkpoint) -> str:
    """Return the SHA-256 of a checkpoint's content, without times and the machine."""
    digest = hashlib.sha256()
    for name, value in sorted(checkpoint.tensors.items()):
        digest.update(f"{name} {value.dtype} {value.shape} ".encode())
        digest.update(value.tobytes())
    metadata = {k: v for k, v in checkpoint.metadata.items() if k != "environment"}
    metadata["session"] = {k: v for k, v in metadata["session"].items() if k not in TIMES}
    metadata["session"]["rows"] = [row[:-1] for row in metadata["session"].get("rows", [])]
    digest.update(json.dumps(metadata, sort_keys=True).encode())
    return digest.hexdigest()


def record(path: Path) -> dict[str, Any]:
    """Return what two equal runs share: last checkpoint, best score, metrics without times."""
    run = Run(path)
    last = load_checkpoint(run.checkpoint_path(run.steps()[-1]))
    metrics, steps, samples = (
        [
            {k: v for k, v in line.items() if k not in {"seconds", "characters_per_second"}}
            for line in lines
        ]
        for lines in (run.metrics(), run.records("steps"), run.records("samples"))
    )
    return {
        "checkpoint": fingerprint(last),
        "steps": run.steps(),
        "best": run.read_best(),
        "metrics": metrics,
        "records": [steps, samples],
    }
