"""Start training, new or resumed, from Python: the same as `charrnn train` and `charrnn resume`.

`train` and `resume` run to the end and return a `TrainedRun`. `begin` and `begin_again` take the
same arguments and give the session instead, for a caller that wants to watch its events:

    with begin("book.txt", cell="gru", max_time="2m") as session:
        for event in session.events():
            print(event)

Nothing here prints. Warnings go to `warn`, which is Python's `warnings.warn` if it is not given.
torch is imported only after the text has been read, so that a mistyped path is refused at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn.config.merge import Layer, all_keys
from charrnn.errors import ConfigError
from charrnn.runs.directory import Run
from charrnn.session.opening import (
    TEXTS,
    Warn,
    clock_from,
    load_source,
    merge_settings,
    replace_budgets,
    resume_run,
    start_run,
)

if TYPE_CHECKING:
    from charrnn.evaluation.score import Evaluation
    from charrnn.session.events import Finished
    from charrnn.session.loop import Session

Texts = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def warn_in_python(text: str) -> None:
    """Give a warning as Python's own `warnings` do."""
    warnings.warn(text, stacklevel=2)


@dataclass(frozen=True)
class TrainedRun:
    """A run that has been trained: its directory, how training ended, and the best model.

    It can be given wherever a run is named, as in `charrnn.resume(run)` and `charrnn.load(run)`.
    """

    run: Run
    finished: Finished

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.run.path

    @property
    def step(self) -> int:
        """The number of steps taken since the run began."""
        return self.finished.step

    @property
    def score(self) -> Evaluation | None:
        """The best checkpoint's score on all of validation; None if that would take too long."""
        return self.finished.score

    @cached_property
    def model(self) -> Any:
        """The best model, for use on the CPU: a model that writes texts, or else a predictor."""
        from charrnn.inference.trained_model import writer_of
        from charrnn.registry import writer_of_task
        from charrnn.tasks.task import task_of

        checkpoint = self.run.best(warn_in_python)
        task = str(checkpoint.metadata["config"]["task"])
        if writer_of_task(task):
            return writer_of(checkpoint).from_checkpoint(checkpoint)
        return task_of(task).predictor(checkpoint, "cpu")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one for each evaluation and one for the final score."""
        return self.run.metrics()

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        parts = [repr(str(self.path)), f"step {self.step:,}"]
        if self.score is not None:
            parts.append(f"validation {self.score.nats:.4f} nats per {self.score.unit}")
        return f"TrainedRun({', '.join(parts)})"


def train(
    data: Texts = (),
    *,
    config: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    start_from: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    warn: Warn = warn_in_python,
    **keywords: Any,
) -> TrainedRun:
    """Train a model on a text, and return the run with its trained model.

    This is `charrnn train`: the same arguments give the same checkpoints, bit for bit.

    Args:
        data: files, folders, patterns, URLs or named corpora such as `shakespeare`; the source of
            Python's standard library if there are none
        config: a YAML file with settings
        out: the run directory; `runs/<text>-<n>` if it is not given
        start_from: a run or checkpoint whose weights are the initial weights
        settings: values by their full names, as `{"training.learning_rate": 3e-4}`
        warn: called with each warning
        keywords: settings by the last part of their names, as `cell="gru"` and `max_time="2m"`,
            or in full as `evaluation__every=100`; `steps`, `epochs` or `max_time` replaces every
            budget of the config file

    If a setting is given twice, the order of precedence is: keywords, `settings`, the environment
    (`CHARRNN_*`), the config file.
    On Ctrl-C, training finishes the current step, saves and ends; then KeyboardInterrupt is
    raised with a message that says how to resume. A second Ctrl-C is raised at once. Training
    restores the settings of the process that it changes, such as torch's random state
    (`session.process`).

    Raises ConfigError, DataError, CheckpointError, LockedError, DivergedError and StorageError
    (`charrnn.errors`).

    >>> import charrnn
    >>> run = charrnn.train("book.txt", cell="gru", hidden_size=16, steps=20, device="cpu")
    >>> run
    TrainedRun('runs/book-1', step 20, validation 2.4... nats per character)
    >>> len(run.model.sample_text(12, prompt="a", seed=1))
    12
    """
    new = begin(
        data,
        config=config,
        out=out,
        start_from=start_from,
        settings=settings,
        warn=warn,
        **keywords,
    )
    with new as session, _finish_the_step() as stop:
        return _to_the_end(session, stop)


def resume(
    run: str | os.PathLike[str],
    *,
    data: Texts = (),
    validation: Texts = (),
    test: Texts = (),
    out: str | os.PathLike[str] | None = None,
    warn: Warn = warn_in_python,
    **keywords: Any,
) -> TrainedRun:
    """Continue a run where it stopped, exactly as if it had never stopped.

    This is `charrnn resume`.

    Args:
        run: what `train` returned, a run directory, its name under `runs/`, or a checkpoint file,
            from which a new run directory begins
        data, validation, test: the new place of a text that has moved
        out: the new run directory of a checkpoint file
        warn: called with each warning
        keywords: a new budget as `steps` or `epochs`, counted from the start of the run, or
            `max_time`, counted from now; `device` and `unknown`

    Ctrl-C and errors are as in `train`.

    >>> import charrnn
    >>> run = charrnn.resume("runs/book-1", steps=30)
    >>> run.step
    30
    """
    again = begin_again(
        run, data=data, validation=validation, test=test, out=out, warn=warn, **keywords
    )
    with again as session, _finish_the_step() as stop:
        return _to_the_end(session, stop)


@contextmanager
def begin(
    data: Texts = (),
    *,
    config: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    start_from: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    warn: Warn = warn_in_python,
    **keywords: Any,
) -> Iterator[Session]:
    """Start a run like `train`, for a caller who iterates over `session.events()`.

    Until the block ends, the run is locked and the process has its training settings.
    """
    clock = clock_from(time.monotonic())
    source = load_source(os.fspath(start_from), warn) if start_from is not None else None
    layers: list[Layer] = [("settings", {k: _plain(k, v) for k, v in (settings or {}).items()})]
    layers += keyword_layers(keywords)
    if texts := _plain("data.sources", data):
        layers.append(("data", {"data.sources": texts}))
    chosen = merge_settings(layers, config, source, warn)
    with start_run(chosen, out=out, source=source, clock=clock, warn=warn) as session:
        yield session


@contextmanager
def begin_again(
    run: str | os.PathLike[str],
    *,
    data: Texts = (),
    validation: Texts = (),
    test: Texts = (),
    out: str | os.PathLike[str] | None = None,
    warn: Warn = warn_in_python,
    **keywords: Any,
) -> Iterator[Session]:
    """Start a run like `resume`, for a caller who iterates over `session.events()`."""
    clock = clock_from(time.monotonic())
    moved = dict(zip(TEXTS, (data, validation, test), strict=True))
    layers: list[Layer] = [
        (key, {key: texts}) for key, value in moved.items() if (texts := _plain(key, value))
    ]
    layers += keyword_layers(keywords)
    with resume_run(run, layers, out=out, clock=clock, warn=warn) as session:
        yield session


def _to_the_end(session: Session, stop: Callable[[], bool]) -> TrainedRun:
    """Train without showing anything. Raises KeyboardInterrupt if a stop was requested."""
    from charrnn.session.events import Finished

    finished = next(event for event in session.events(stop) if isinstance(event, Finished))
    if finished.reason in {"interrupted", "unscored"}:
        raise KeyboardInterrupt(
            f"stopped at step {finished.step:,} and saved; "
            f"charrnn.resume({str(session.run.path)!r}) goes on"
        )
    return TrainedRun(session.run, finished)


@contextmanager
def _finish_the_step() -> Iterator[Callable[[], bool]]:
    """Request a stop at the first Ctrl-C, and raise KeyboardInterrupt at the second.

    Yields a function that returns whether a stop was requested. Python delivers signals to the main
    thread, so in any other thread nothing changes.
    """
    asked = False

    def handle(_number: int, _frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or before in (None, signal.SIG_IGN):
        yield lambda: False
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def keyword_layers(keywords: Mapping[str, Any]) -> list[Layer]:
    """Settings from keyword arguments, named by the last part of their keys.

    If several keys have the same last part, it names the key of the section `training`, like
    `window` on the command line. `build_config` refuses a name that no key has.

    >>> keyword_layers({"cell": "gru", "evaluation__every": 5})
    [('the argument cell', {'model.cell': 'gru'}),
     ('the argument evaluation__every', {'evaluation.every': 5})]
    """
    layers: list[Layer] = []
    for name, value in keywords.items():
        full = name.replace("__", ".")
        keys = [key for key in all_keys() if full in (key, key.rpartition(".")[2])]
        keys = [key for key in keys if key.startswith("training.")] or keys
        if len(keys) > 1:
            several = " or ".join(key.replace(".", "__") for key in keys)
            raise ConfigError(f"several settings are named {name}; give {several}")
        key = keys[0] if keys else full
        layers.append((f"the argument {name}", {key: _plain(key, value)}))
    return replace_budgets(layers)


def _plain(key: str, value: Any) -> Any:
    """A value as YAML would read it: paths as strings, tuples as lists, one text as a list."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if key in TEXTS and isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [_plain("", part) for part in value]
    return value
