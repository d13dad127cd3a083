"""Open a training session: merge its settings, read its texts, and hold its run directory.

`start_run` and `resume_run` are context managers that give a session. The command line and
`charrnn.session.start` call them; they print nothing. torch is imported only after the text has
been read, so that a mistyped path is refused at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn.config.merge import (
    Layer,
    build_config,
    config_from_data,
    dump_yaml,
    environment_layers,
    file_layer,
    flatten,
    with_values,
)
from charrnn.config.schema import CHANGEABLE, Config
from charrnn.errors import CheckpointError, ConfigError
from charrnn.runs.checkpoint import Checkpoint, load_checkpoint
from charrnn.runs.checkpoint_check import check_layout
from charrnn.runs.directory import Run, claim_run, find_checkpoint, find_run
from charrnn.tasks.data import (
    data_of_checkpoint,
    find_texts,
    hints,
    read_data,
    with_absolute_paths,
    with_corpus_settings,
)

if TYPE_CHECKING:
    import torch

    from charrnn.config.resolved import ResolvedConfig
    from charrnn.inference.trained_model import TrainedModel
    from charrnn.session.loop import Session
    from charrnn.tasks.task import Data

BUDGETS = ("training.steps", "training.epochs", "training.max_time")
TEXTS = ("data.sources", "data.validation", "data.test")
MAY_CHANGE = {
    *BUDGETS,
    *CHANGEABLE,
    *("device", "threads", "processes", "precision", "graph", "deterministic", "logging"),
    *("evaluation.sample_length", "checkpoints.keep_last"),
}
"""The settings that may change when a run is resumed, besides the texts."""
Warn = Callable[[str], None]
"""A function that is called with each warning."""


# Settings ----------------------------------------------------------------------------------------


def replace_budgets(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers; if one of them sets a budget, add a layer that removes all older ones.

    `training.epochs` becomes `auto`, so that planning limits the passes within a time budget.
    """
    if any(key in BUDGETS for _, layer in layers for key in layer):
        removed: dict[str, Any] = dict.fromkeys(BUDGETS)
        anew = {"training.epochs": "auto", "training.earlier": []}
        return [("a new budget", removed | anew), *layers]
    return list(layers)


def merge_settings(
    layers: Sequence[Layer],
    file: str | os.PathLike[str] | None,
    source: TrainedModel | None,
    warn: Warn,
) -> Config:
    """Merge the configuration of a new run: `layers`, the environment, a file, the defaults.

    Earlier ones take precedence. Right before the defaults come the shape of `source`, the model to
    start from, and then the usual settings of a named corpus. Raises ConfigError.
    """
    before: list[Layer] = []
    if source is not None:
        before.append(("the model to start from", _shape_of(source.config)))
    if file is not None:
        before.append(file_layer(Path(file)))
    before += environment_layers(os.environ)
    config, origins = build_config(with_corpus_settings([*before, *layers]))
    if file is not None and origins["data.sources"] == "default":
        warn(
            f"{os.fspath(file)} names no text, so this trains on the source of Python's standard "
            f"library; name another text with data.sources"
        )
    if source is not None and config.data.unknown != "error":
        raise ConfigError(
            "a new run adds the symbols that the model to start from lacks; leave out data.unknown"
        )
    if isinstance(config.model.parameters, str):
        from charrnn.training.parameter_budget import count_parameters_of_run

        count = count_parameters_of_run(config.model.parameters, warn)
        config = with_values(config, {"model.parameters": count})
    return config


def _shape_of(config: Config) -> dict[str, Any]:
    """The settings that decide the shapes of a model's weights, and its vocabulary."""
    fixed = ("cell", "activation", "recurrence_depth", "layers", "hidden_size", "embedding_size",
             "words", "character_embedding_size", "character_hidden_size",
             "tie_embeddings", "skip_connections", "layer_norm")  # fmt: skip
    return {f"model.{name}": getattr(config.model, name) for name in fixed} | {
        "data.vocabulary": config.data.vocabulary,
        "data.minimum_count": config.data.minimum_count,
    }


# Opening -----------------------------------------------------------------------------------------


def clock_from(began: float) -> Callable[[], float]:
    """Return a function that gives the seconds since `began`, a reading of `time.monotonic`."""
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
    dry: bool = False,
) -> Iterator[Session]:
    """Read the texts of a configuration and start a new run, locked until the block ends.

    The initial weights are copied from `source`, if it is given. A `dry` session has no run, and
    nothing is written: it can only `rehearse`. Raises ConfigError if `out` is already in use.
    """
    run = Run(Path(out)) if out is not None else None
    if dry and run:
        run.check_unused()
    with run.lock(new=True) if run and not dry else nullcontext():
        with find_texts(config, warn) as texts:
            data = read_data(config, texts)
            for hint in hints(config, texts, data):
                warn(hint)
        text = texts["sources"]
        config = with_absolute_paths(config, texts)
        with _open(
            config, data, text.name, text.described, clock, run, warn, source, dry
        ) as session:
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

    `layers` change settings: the texts, the device, or the budget, which also sets new intervals.
    Raises ConfigError if the budget is used up.
    """
    place = run if isinstance(run, Run) else find_run(os.fspath(run))
    if isinstance(place, Run):
        if out is not None:
            raise ConfigError(
                "a run goes on in its own directory; leave out the new directory, or name a "
                "checkpoint file"
            )
        target: Run | None = place
    else:
        target = Run(Path(out)) if out is not None else None
    with target.lock(new=target is not place) if target else nullcontext():
        if isinstance(place, Run):
            checkpoint = place.latest(warn)
        else:
            checkpoint = load_checkpoint(place, check_layout)
            if checkpoint.metadata.get("weights_only"):
                raise CheckpointError(
                    f"{place} holds weights without the optimizer's state, so it cannot be "
                    f"resumed; start a new run from its weights with start_from"
                )
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
    """Read the data that a checkpoint was trained on, and continue from the checkpoint."""
    name = str(checkpoint.path)
    config = config_from_data(checkpoint.metadata["config"], name)
    _check_changes(layers)
    if any(key in BUDGETS for _, layer in layers for key in layer):
        anew = dict.fromkeys(("evaluation.every", "evaluation.first", "checkpoints.every"), "auto")
        layers = [*layers, ("a new budget", anew)]
    config, origins = build_config([(name, flatten(config.model_dump())), *layers])
    if config.training.epochs == "auto":  # A new time budget is not bounded by passes.
        config = with_values(config, {"training.epochs": None})
    config = _fit_to_machine(config, origins["device"] != name, warn)
    changes = {key: value for _, layer in layers for key, value in layer.items()}
    moved = {key.removeprefix("data."): changes[key] for key in TEXTS if key in changes}
    config, data = data_of_checkpoint(config, checkpoint, moved, warn)
    corpus = checkpoint.metadata["corpus"]
    described = ", ".join(moved.get("sources", [])) or str(corpus["described"])
    with _open(
        config, data, str(corpus["name"]), described, clock, run, warn, checkpoint
    ) as session:
        yield session


def _check_changes(layers: Sequence[Layer]) -> None:
    """Raise ConfigError for a setting that cannot change in a run that has begun."""
    for source, layer in layers:
        for key in layer:
            if key not in MAY_CHANGE and not key.startswith(("data.", "training.earlier")):
                raise ConfigError(
                    f"{source}: {key} cannot change while a run is under way; start a new run from "
                    f"the weights of this one"
                )


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
                f"not bit for bit the same as an uninterrupted run: {error}; "
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
    dry: bool = False,
) -> Iterator[Session]:
    """Build a session, restore it or adopt weights, and hold its run directory unless `dry`."""
    from charrnn.session.process import process_settings
    from charrnn.training.hardware import choose_device

    device = choose_device(config.device)
    planned = plan_run(config, data, device)
    with process_settings(planned, device):
        session = new_session(planned, data, name, described, clock)
        before = flatten(config.model_dump())
        session.chosen = {
            key: value
            for key, value in flatten(planned.model_dump()).items()
            if before[key] == "auto" != value
        }
        if isinstance(origin, Checkpoint):
            _restore(session, origin, run, warn)
        elif origin is not None:
            session.adopt_weights(origin)
        if dry:
            yield session
            return
        session.run = run or claim_run(name)
        session.warn = warn
        with session.run.lock():
            session.run.cut_metrics(session.trainer.progress.step)
            session.run.record_environment(session.about["environment"])
            session.run.write_schema()
            session.run.write_config(dump_yaml(session.config))
            yield session


def plan_run(config: Config, data: Data, device: torch.device) -> ResolvedConfig:
    """Decide the `auto` settings of a run on `data`, for a device. Raises ConfigError."""
    from charrnn.tasks.task import task_of
    from charrnn.training.parameter_budget import plan_within_budget

    kind = task_of(config.task)
    return plan_within_budget(
        lambda config: kind.plan(config, data, device), config, data.vocabulary_data
    )


def new_session(
    config: ResolvedConfig,
    data: Data,
    name: str,
    described: str,
    clock: Callable[[], float],
) -> Session:
    """A session that trains on `data`, with a planned configuration.

    `name` and `described` are a short and a long name of the text. Its `run` is not set.
    """
    import torch

    from charrnn.runs.environment import environment
    from charrnn.session.loop import Session
    from charrnn.tasks.task import task_of

    about = {
        "corpus": {
            "name": name,
            "described": described,
            "sha256": data.sha256,
            "key": data.key,
            "splits": {split: len(part) for split, part in data.splits.items()},
            **task_of(config.task).facts(data),
        },
        "environment": environment(config.device, torch.get_num_threads()),
    }
    return Session(config, data, about, clock)


def _restore(session: Session, checkpoint: Checkpoint, run: Run | None, warn: Warn) -> None:
    """Continue from a checkpoint. Raises ConfigError if nothing is left to do."""
    from charrnn.runs.environment import differences

    session.restore(checkpoint)
    bound, step = session.plan.bound, session.trainer.progress.step
    is_unscored = run is not None and session.best and run.read_best().get("score") is None
    if bound is not None and bound <= step and not is_unscored:
        raise ConfigError(
            f"{checkpoint.path} has reached its budget of {bound:,} steps; "
            f"give more with training.steps, training.epochs or training.max_time"
        )
    before = checkpoint.metadata.get("environment", {})
    for line in differences(before, session.about["environment"]):
        warn(f"not bit for bit the same as an uninterrupted run: {line}")
