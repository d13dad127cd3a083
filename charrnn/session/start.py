"""Start training, new or resumed: what `charrnn train` and `charrnn resume` do, from Python.

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
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn.config.merge import (
    Layer,
    all_keys,
    build_config,
    config_from_data,
    dump_yaml,
    environment_layers,
    file_layer,
    flatten,
    with_values,
)
from charrnn.config.schema import Config
from charrnn.errors import ConfigError, DataError
from charrnn.runs.checkpoint import Checkpoint, load_checkpoint
from charrnn.runs.checkpoint_check import check_layout
from charrnn.runs.directory import Run, claim_run, find_checkpoint, find_run
from charrnn.tasks.data import data_of_checkpoint, find_texts, read_data, with_absolute_paths

if TYPE_CHECKING:
    import torch

    from charrnn.evaluation.score import Evaluation
    from charrnn.inference.trained_model import TrainedModel
    from charrnn.session.events import Finished
    from charrnn.session.loop import Session
    from charrnn.tasks.task import Data

BUDGETS = ("training.steps", "training.epochs", "training.max_time")
TEXTS = ("data.sources", "data.validation", "data.test")
Texts = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Warn = Callable[[str], None]


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
        """The best model, for use on the CPU: one that writes texts, else one that predicts."""
        from charrnn.inference.trained_model import writer_of
        from charrnn.registry import TASKS
        from charrnn.tasks.task import task_of

        checkpoint = self.run.best(warn_in_python)
        task = str(checkpoint.metadata["config"]["task"])
        if TASKS[task].writer:
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


# For use from Python --------------------------------------------------------------------------


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
        data: files, folders, patterns, URLs or the named corpus `shakespeare`; the source of
            Python's standard library if there are none
        config: a YAML file with settings
        out: the run directory; `runs/<text>-<n>` if it is not given
        start_from: a run or checkpoint to take the first weights from
        settings: values by their full names, as `{"training.learning_rate": 3e-4}`
        warn: called with each warning
        keywords: settings by the last part of their names, as `cell="gru"` and `max_time="2m"`,
            or in full as `evaluation__every=100`; `steps`, `epochs` or `max_time` replaces every
            budget of the config file

    Keywords win over `settings`, these over the environment (`CHARRNN_*`), that over the file.
    Ctrl-C ends training after the step that is being taken and saves; then KeyboardInterrupt is
    raised with a message that says how to go on. A second Ctrl-C is raised at once. What training
    changes in the process, such as torch's random state, is put back (`session.process`).

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
    """Go on with a run where it stopped, exactly as if it had not.

    This is `charrnn resume`.

    Args:
        run: what `train` returned, a run directory, its name under `runs/`, or a checkpoint file,
            from which a new run directory begins
        data, validation, test: the text, where it has moved
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
    """Start what `train` would train, for a caller who goes through `session.events()`.

    The run is locked and the process is set up until the block ends.
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
    """Start what `resume` would train, for a caller who goes through `session.events()`."""
    clock = clock_from(time.monotonic())
    moved = dict(zip(TEXTS, (data, validation, test), strict=True))
    layers: list[Layer] = [
        (key, {key: texts}) for key, value in moved.items() if (texts := _plain(key, value))
    ]
    layers += keyword_layers(keywords)
    with resume_run(run, layers, out=out, clock=clock, warn=warn) as session:
        yield session


def _to_the_end(session: Session, stop: Callable[[], bool]) -> TrainedRun:
    """Train without showing anything. Raises KeyboardInterrupt where a stop was asked for."""
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
    """Have a first Ctrl-C only ask for a stop, and a second one raise KeyboardInterrupt.

    Yields the function that says whether a stop was asked for. Python delivers signals to the main
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


# Settings -------------------------------------------------------------------------------------


def keyword_layers(keywords: Mapping[str, Any]) -> list[Layer]:
    """Settings from keyword arguments, named by the last part of their keys.

    Where several keys end the same, the one of the section `training` is meant, as `window` is on
    the command line. A name that no key has is left for `build_config` to refuse.

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


def replace_budgets(layers: Sequence[Layer]) -> list[Layer]:
    """The layers; if one of them sets a budget, all budgets of earlier layers are removed first."""
    if any(key in BUDGETS for _, layer in layers for key in layer):
        return [("a new budget", dict.fromkeys(BUDGETS)), *layers]
    return list(layers)


def merge_settings(
    layers: Sequence[Layer],
    file: str | os.PathLike[str] | None,
    source: TrainedModel | None,
    warn: Warn,
) -> Config:
    """The configuration of a new run: `layers` over the environment over a file over defaults.

    With `source`, its shape takes the place of the defaults. Raises ConfigError.
    """
    before: list[Layer] = []
    if source is not None:
        before.append(("the model to start from", _shape_of(source.config)))
    if file is not None:
        before.append(file_layer(Path(file)))
    before += environment_layers(os.environ)
    config, origins = build_config([*before, *layers])
    if file is not None and origins["data.sources"] == "default":
        warn(
            f"{os.fspath(file)} names no text, so this trains on the source of Python's standard "
            f"library; name another text with data.sources"
        )
    if source is not None and config.data.unknown != "error":
        raise ConfigError(
            "a new run takes its vocabulary from its own text, and symbols that the model to start "
            "from lacks are added; leave out data.unknown"
        )
    return config


def _shape_of(config: Config) -> dict[str, Any]:
    """The settings that another model's weights depend on."""
    fixed = ("cell", "activation", "recurrence_depth", "layers", "hidden_size", "embedding_size",
             "words", "character_embedding_size", "character_hidden_size",
             "tie_embeddings", "skip_connections", "layer_norm")  # fmt: skip
    return {f"model.{name}": getattr(config.model, name) for name in fixed} | {
        "data.vocabulary": config.data.vocabulary,
        "data.minimum_count": config.data.minimum_count,
    }


def _plain(key: str, value: Any) -> Any:
    """A value as YAML would give it: paths as strings, tuples as lists, one text as a list."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if key in TEXTS and isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [_plain("", part) for part in value]
    return value


# Starting -------------------------------------------------------------------------------------


def clock_from(began: float) -> Callable[[], float]:
    """A clock that gives the seconds since `began`, a reading of `time.monotonic`."""
    return lambda: time.monotonic() - began


def load_source(name: str, warn: Warn) -> TrainedModel:
    """The language model to start from. Raises CheckpointError."""
    checkpoint = find_checkpoint(name, warn)
    from charrnn.inference.trained_model import TrainedModel

    return TrainedModel.from_checkpoint(checkpoint)


@contextmanager
def start_run(
    config: Config,
    *,
    out: str | os.PathLike[str] | None = None,
    source: TrainedModel | None = None,
    clock: Callable[[], float],
    warn: Warn,
) -> Iterator[Session]:
    """Read the texts of a configuration and start a new run, locked until the block ends.

    `source` is a model to take the first weights from. Raises ConfigError where `out` is in use.
    """
    run = Run(Path(out)) if out is not None else None
    with run.lock(new=True) if run else nullcontext():
        with find_texts(config, warn) as texts:
            data = read_data(config, texts)
        text = texts["sources"]
        config = with_absolute_paths(config, texts)
        with _open(config, data, text.name, text.described, clock, run, warn, source) as session:
            yield session


@contextmanager
def resume_run(
    run: str | os.PathLike[str] | Run,
    layers: Sequence[Layer],
    *,
    out: str | os.PathLike[str] | None = None,
    clock: Callable[[], float],
    warn: Warn,
) -> Iterator[Session]:
    """Start again from the newest checkpoint of a run, or from a checkpoint file in a new run.

    `layers` change settings: the texts, the device, or the budget, which also sets the intervals
    anew. Raises ConfigError where the budget is used up.
    """
    place = run if isinstance(run, Run) else find_run(os.fspath(run))
    if isinstance(place, Run):
        if out is not None:
            raise ConfigError(
                "a run goes on in its own directory; a new directory is for a checkpoint file"
            )
        target: Run | None = place
    else:
        target = Run(Path(out)) if out is not None else None
    with target.lock(new=target is not place) if target else nullcontext():
        if isinstance(place, Run):
            checkpoint = place.latest(warn)
        else:
            checkpoint = load_checkpoint(place, check_layout)
        with _reopen(checkpoint, layers, clock, target, warn) as session:
            yield session


@contextmanager
def _reopen(
    checkpoint: Checkpoint,
    layers: Sequence[Layer],
    clock: Callable[[], float],
    run: Run | None,
    warn: Warn,
) -> Iterator[Session]:
    """Read what a checkpoint was trained on, and go on from it."""
    name = str(checkpoint.path)
    config = config_from_data(checkpoint.metadata["config"], name)
    if any(key in BUDGETS for _, layer in layers for key in layer):
        anew = {"evaluation.every": "auto", "checkpoints.every": "auto"}
        layers = [*layers, ("a new budget", anew)]
    config, origins = build_config([(name, flatten(config.model_dump())), *layers])
    config = _fit_to_machine(config, origins["device"] != name, warn)
    changes = {key: value for _, layer in layers for key, value in layer.items()}
    moved = {key.removeprefix("data."): changes[key] for key in TEXTS if key in changes}
    try:
        config, data = data_of_checkpoint(config, checkpoint, moved, warn)
    except DataError as error:
        if moved:
            raise
        raise DataError(f"{error}; if the text has moved, name it with data.sources") from error
    corpus = checkpoint.metadata["corpus"]
    described = ", ".join(moved.get("sources", [])) or str(corpus["described"])
    with _open(
        config, data, str(corpus["name"]), described, clock, run, warn, checkpoint
    ) as session:
        yield session


def _fit_to_machine(config: Config, device_is_chosen: bool, warn: Warn) -> Config:
    """Replace a device, precision or number of processes that this machine does not have."""
    from charrnn.training.hardware import choose_device, choose_precision, choose_processes

    try:
        device = choose_device(config.device)
    except ConfigError as error:
        if device_is_chosen:
            raise
        warn(f"{error}; going on with device auto")
        device = choose_device("auto")
        config = with_values(config, {"device": "auto"})
    lanes = int(config.training.batch_size)
    choices: list[tuple[str, Any, Callable[[], object]]] = [
        ("precision", "float32",
         lambda: choose_precision(config.precision, device, config.model.cell)),
        ("processes", 1, lambda: choose_processes(config.processes, device, lanes, 1)),
    ]  # fmt: skip
    instead = {}
    for key, value, choose in choices:
        try:
            choose()
        except ConfigError as error:
            warn(
                f"not bit for bit what the run would have been: {error}; "
                f"going on with {key} {value}"
            )
            instead[key] = value
    return with_values(config, instead)


@contextmanager
def _open(
    config: Config,
    data: Data,
    name: str,
    described: str,
    clock: Callable[[], float],
    run: Run | None,
    warn: Warn,
    origin: Checkpoint | TrainedModel | None,
) -> Iterator[Session]:
    """Build a session, restore it or adopt weights, and hold its run directory."""
    from charrnn.session.process import process_settings
    from charrnn.session.tensorboard import require_tensorboard
    from charrnn.training.hardware import choose_device

    if config.tensorboard:
        require_tensorboard()
    device = choose_device(config.device)
    with process_settings(config, device):
        session = new_session(config, data, device, name, described, clock)
        if isinstance(origin, Checkpoint):
            _restore(session, origin, run, warn)
        elif origin is not None:
            session.adopt_weights(origin)
        session.run = run or claim_run(name)
        with session.run.lock():
            session.run.cut_metrics(session.trainer.progress.step)
            session.run.record_environment(session.about["environment"])
            session.run.write_config(dump_yaml(session.config))
            yield session


def new_session(
    config: Config,
    data: Data,
    device: torch.device,
    name: str,
    described: str,
    clock: Callable[[], float],
) -> Session:
    """A session that trains on `data`, with the `auto` settings decided for `device`.

    `name` and `described` are a short and a long name of the text. Its `run` is not set.
    """
    import torch

    from charrnn.runs.environment import environment
    from charrnn.session.loop import Session
    from charrnn.tasks.task import task_of

    kind = task_of(config.task)
    before = flatten(config.model_dump())
    config = kind.plan(config, data, device)
    planned = flatten(config.model_dump())
    about = {
        "corpus": {
            "name": name,
            "described": described,
            "sha256": data.sha256,
            "key": data.key,
            "splits": {split: len(part) for split, part in data.splits.items()},
            **kind.facts(data),
        },
        "environment": environment(str(device), torch.get_num_threads()),
    }
    session = Session(config, data, about, clock)
    session.chosen = {key: planned[key] for key, value in before.items() if value == "auto"}
    return session


def _restore(session: Session, checkpoint: Checkpoint, run: Run | None, warn: Warn) -> None:
    """Go on from a checkpoint. Raises ConfigError where nothing is left to do."""
    from charrnn.runs.environment import differences

    session.restore(checkpoint)
    bound, step = session.bound, session.trainer.progress.step
    is_unscored = run is not None and session.best and run.read_best().get("score") is None
    if bound is not None and bound <= step and not is_unscored:
        raise ConfigError(
            f"{checkpoint.path} has reached its budget of {bound:,} steps; "
            f"give more with training.steps, training.epochs or training.max_time"
        )
    before = checkpoint.metadata.get("environment", {})
    for line in differences(before, session.about["environment"]):
        warn(f"not bit for bit what the run would have been: {line}")
