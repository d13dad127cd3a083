"""`charrnn train` and `charrnn resume`."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli.display import (
    Bar,
    describe_model,
    describe_path,
    duration,
    measured,
    say,
    visible,
    warn,
)
from charrnn.registry import CELLS, one_of

if TYPE_CHECKING:
    from charrnn.config.merge import Layer
    from charrnn.config.schema import Config
    from charrnn.inference.trained_model import TrainedModel
    from charrnn.runs.checkpoint import Checkpoint
    from charrnn.runs.directory import Run
    from charrnn.session.loop import Session
    from charrnn.tasks.task import Data

# Flag, configuration key, placeholder, help.
BUDGET_FLAGS = [
    ("--steps", "training.steps", "N", "Budget: optimizer steps."),
    ("--epochs", "training.epochs", "N", "Budget: passes over the training text."),
    ("--max-time", "training.max_time", "TIME", "Budget: wall-clock time, as 90s, 10m, 1h30m."),
]
FLAGS = [
    *BUDGET_FLAGS,
    ("--task", "task", "TASK", "language_model, classification, generation, tagging, translation."),
    ("--cell", "model.cell", "CELL", f"{one_of(CELLS)}."),
    ("--layers", "model.layers", "N", "Layers."),
    ("--hidden-size", "model.hidden_size", "N", "Hidden width, or [N, M] for one a layer."),
    ("--embedding-size", "model.embedding_size", "N", "Embedding width, or one_hot."),
    ("--dropout", "model.dropout", "P", "Dropout between layers."),
    ("--batch-size", "training.batch_size", "N", "Lanes read side by side."),
    ("--window", "training.window", "N", "Characters between two steps (truncated BPTT)."),
    ("--learning-rate", "training.learning_rate", "X", "Highest learning rate."),
    ("--seed", "training.seed", "N", "Seed of weights and dropout."),
    ("--device", "device", "NAME", "auto, cpu, cuda, cuda:N or mps."),
    ("--vocabulary", "data.vocabulary", "KIND", "character, byte or word."),
    ("--encoding", "data.encoding", "NAME", "Encoding of the text."),
    ("--errors", "data.errors", "HOW", "What to do with bad bytes: strict, replace, ..."),
    ("--unknown", "data.unknown", "HOW", "Characters an adopted vocabulary lacks: error, skip."),
]


def _flags(table: list[tuple[str, str, str, str]]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for flag, key, metavar, text in reversed(table):
            command = click.option(flag, key.replace(".", "__"), metavar=metavar, help=text)(
                command
            )
        return command

    return decorate


def _flag_layers(table: list[tuple[str, str, str, str]], given: Mapping[str, Any]) -> list[Layer]:
    """The flags that were given; a budget takes the place of all that a config file sets."""
    from charrnn.config.strict_yaml import parse_yaml

    layers: list[Layer] = []
    budget = [key for _, key, _, _ in BUDGET_FLAGS]
    if any(given.get(key.replace(".", "__")) is not None for key in budget):
        layers.append(("flags", dict.fromkeys(budget)))
    for flag, key, _, _ in table:
        value = given.get(key.replace(".", "__"))
        if value is not None:
            text = key in {"data.encoding", "data.errors", "device"}
            layers.append((flag, {key: value if text else parse_yaml(value, flag)}))
    return layers


@click.command()
@click.argument("data", nargs=-1, metavar="[DATA]...")
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="A YAML config.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set any config key.")
@click.option("--out", type=click.Path(path_type=Path), help="Run directory [runs/<corpus>-<n>].")
@click.option("--from", "origin", metavar="RUN", help="Start from the weights of another model.")
@click.option("--validation", multiple=True, metavar="DATA", help="Separate validation text.")
@click.option("--test", multiple=True, metavar="DATA", help="Separate test text.")
@_flags(FLAGS)
@click.option("--json", "as_json", is_flag=True, help="JSON lines on standard output.")
@click.pass_obj
def train(
    began: float,
    /,
    data: tuple[str, ...],
    config_path: Path | None,
    overrides: tuple[str, ...],
    out: Path | None,
    origin: str | None,
    validation: tuple[str, ...],
    test: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> int:
    """Train a model on DATA, or on the source of Python itself when there is none.

    DATA is files, folders, patterns, URLs, `-` for standard input, or the named corpus
    `shakespeare`; .gz, .bz2, .xz and .zst files are decompressed. What is not chosen is chosen
    from the text and the machine. Prints the run directory.

    \b
    Examples:
      charrnn train book.txt
      charrnn train book.txt --max-time 2m --out runs/quick
      charrnn train src/ --cell gru --hidden-size 256 --vocabulary byte
      charrnn train --config configs/lstm.yaml shakespeare
      charrnn train poems.txt --from runs/shakespeare-1
      charrnn train names/ --task classification
      charrnn train pairs.tsv --task translation
    """
    from charrnn.config.merge import build_config, environment_layers, file_layer, override_layers
    from charrnn.runs.directory import Run

    layers: list[Layer] = []
    source = None
    if origin is not None:
        say(f"starting from {origin}")
        source = _load_model(origin)
        layers.append((f"--from {origin}", _model_of(source.config)))
    from charrnn.tasks.data import find_texts, read_data, with_absolute_paths

    if config_path is not None:
        layers.append(file_layer(config_path))
    layers += environment_layers(os.environ)
    layers += _flag_layers(FLAGS, flags) + override_layers(overrides)
    for name, given in (("sources", data), ("validation", validation), ("test", test)):
        if given:
            layers.append((name, {f"data.{name}": list(given)}))
    config, _ = build_config(layers)

    run = Run(out) if out else None
    with run.lock(new=True) if run else contextlib.nullcontext():
        say(f"reading {_describe_arguments(config.data.sources)}")
        with find_texts(config, warn) as texts:
            found = read_data(config, texts)
        main = texts["sources"]
        config = with_absolute_paths(config, texts)
        return _start(began, run, config, found, main.name, main.described, as_json, origin=source)


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--data", multiple=True, metavar="DATA", help="The text, where it has moved.")
@click.option("--validation", multiple=True, metavar="DATA", help="Likewise, the validation text.")
@click.option("--test", multiple=True, metavar="DATA", help="Likewise, the test text.")
@click.option("--out", type=click.Path(path_type=Path), help="Run directory for a lone checkpoint.")
@_flags(BUDGET_FLAGS)
@click.option("--unknown", type=click.Choice(["error", "skip"]), default=None,
              help="Characters that the model's vocabulary lacks.")  # fmt: skip
@click.option("--device", metavar="NAME", help="Go on on another device.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines on standard output.")
@click.pass_obj
def resume(
    began: float,
    /,
    run: str,
    data: tuple[str, ...],
    validation: tuple[str, ...],
    test: tuple[str, ...],
    out: Path | None,
    unknown: str | None,
    device: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Go on with RUN where it stopped, exactly as if it had not.

    RUN is a run directory, its name under runs/, or a checkpoint file (which begins a new run
    directory). A new budget counts from the start of the run for --steps and --epochs, and from
    now for --max-time.

    \b
    Examples:
      charrnn resume book-1
      charrnn resume book-1 --max-time 30m
      charrnn resume step-00000500.safetensors --data book.txt
    """
    from charrnn.runs.checkpoint import load_checkpoint
    from charrnn.runs.checkpoint_check import check_layout
    from charrnn.runs.directory import Run, find_run

    changes = {
        key: value for _, layer in _flag_layers(BUDGET_FLAGS, flags) for key, value in layer.items()
    }
    if changes:
        changes |= {"evaluation.every": "auto", "checkpoints.every": "auto"}
    changes |= {"data.unknown": unknown} if unknown else {}
    changes |= {"device": device} if device else {}
    moved = {"sources": data, "validation": validation, "test": test}
    found = find_run(run)
    if isinstance(found, Run):
        if out is not None:
            raise click.UsageError("a run goes on in its own directory; --out is for a checkpoint")
        with found.lock():
            checkpoint = found.latest(warn)
            return _go_on(began, found, checkpoint, changes, moved, as_json)
    checkpoint = load_checkpoint(found, check_layout)
    target = Run(out) if out else None
    with target.lock(new=True) if target else contextlib.nullcontext():
        return _go_on(began, target, checkpoint, changes, moved, as_json)


def _go_on(
    began: float,
    run: Run | None,
    checkpoint: Checkpoint,
    changes: dict[str, Any],
    moved: dict[str, tuple[str, ...]],
    as_json: bool,
) -> int:
    """Resume from a checkpoint, in `run` or in a new one."""
    from charrnn.config.merge import config_from_data, with_values
    from charrnn.errors import ConfigError
    from charrnn.tasks.data import data_of_checkpoint
    from charrnn.training.hardware import choose_device, choose_precision, choose_processes

    config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
    config = with_values(config, changes)
    say(f"going on from {checkpoint.path}")
    try:
        device = choose_device(config.device)
    except ConfigError as error:
        if "device" in changes:
            raise
        warn(f"{error}; going on with --device auto")
        device = choose_device("auto")
        config = with_values(config, {"device": "auto"})
    try:
        choose_precision(config.precision, device, config.model.cell)
    except ConfigError as error:
        warn(f"not bit for bit what the run would have been: {error}; going on with float32")
        config = with_values(config, {"precision": "float32"})
    try:
        choose_processes(config.processes, device, int(config.training.batch_size), 1)
    except ConfigError as error:
        warn(f"not bit for bit what the run would have been: {error}; going on with one process")
        config = with_values(config, {"processes": 1})
    config, data = data_of_checkpoint(config, checkpoint, moved, warn)
    recorded = checkpoint.metadata["corpus"]
    name, described = str(recorded["name"]), visible(str(recorded["described"]))
    if moved["sources"]:
        described = ", ".join(moved["sources"])
    return _start(began, run, config, data, name, described, as_json, checkpoint)


def _start(
    began: float,
    run: Run | None,
    config: Config,
    data: Data,
    name: str,
    described: str,
    as_json: bool,
    checkpoint: Checkpoint | None = None,
    origin: TrainedModel | None = None,
) -> int:
    """From a configuration and a text to the end of this start, for `train` and `resume`."""
    import torch

    from charrnn.cli.tensorboard import require_tensorboard
    from charrnn.config.merge import dump_yaml
    from charrnn.runs.directory import claim_run
    from charrnn.runs.environment import differences, environment
    from charrnn.session.loop import Session
    from charrnn.tasks.task import task_of
    from charrnn.training.budget import steps_bound
    from charrnn.training.hardware import choose_device, prepare_process

    if config.tensorboard:
        require_tensorboard()
    device = choose_device(config.device)
    _be_deterministic(config)
    prepare_process(config.threads)
    kind = task_of(config.task)
    config = kind.plan(config, data, device)
    here = environment(str(device), torch.get_num_threads())
    about = {
        "corpus": {
            "name": name,
            "described": described,
            "sha256": data.sha256,
            "key": data.key,
            "splits": {split: len(part) for split, part in data.splits.items()},
            **kind.facts(data),
        },
        "environment": here,
    }
    session = Session(config, data, about, lambda: time.monotonic() - began)
    if checkpoint is not None:
        session.restore(checkpoint)
        bound = steps_bound(config, session.task.batches_per_epoch)
        unscored = run is not None and session.best and run.read_best().get("score") is None
        if bound is not None and bound <= session.trainer.progress.step and not unscored:
            raise click.UsageError(
                f"{checkpoint.path} has reached its budget of {bound:,} steps; "
                f"give more with --steps, --epochs or --max-time"
            )
        for line in differences(checkpoint.metadata.get("environment", {}), here):
            warn(f"not bit for bit what the run would have been: {line}")
    elif origin is not None:
        added, dropped = session.adopt_weights(origin)
        say(f"from the other model: {_changes(added, dropped)}")
    run = run or claim_run(name)
    with run.lock():
        run.cut_metrics(session.trainer.progress.step)
        run.record_environment(here)
        run.write_config(dump_yaml(session.config))
        _banner(session, described, run.path)
        code = _drive(session, run, as_json)
    if not as_json:
        click.echo(str(run.path))
    return code


def _drive(session: Session, run: Run, as_json: bool) -> int:
    """Show a session's events; the exit code."""
    from charrnn.cli.tensorboard import event_writer
    from charrnn.errors import CharrnnError, is_out_of_memory
    from charrnn.runs.checkpoint import SCHEMA
    from charrnn.session.events import Evaluated, Finished, Planned, Stepped

    stopper = Stopper()
    bar = Bar(shown=not as_json)
    write_event = event_writer(run.path) if session.config.tensorboard else None
    emit = _emitter() if as_json else lambda _: None
    total = code = 0
    bar.start(None, session.trainer.progress.step)
    try:
        for event in session.events(run, stopper.requested):
            match event:
                case Stepped():
                    bar.advance()
                case Planned():
                    total = event.steps
                    bar.close()
                    measured = (
                        f" at {event.characters_per_second:,.0f} {session.experiment.unit}s/s"
                        if event.characters_per_second
                        else ""
                    )
                    say(
                        f"steps   {total:,} ({event.epochs:.1f} epochs){measured}; "
                        f"evaluating every {event.evaluate_every:,}"
                    )
                    bar.start(total, session.trainer.progress.step)
                case Evaluated():
                    _show_evaluation(bar, event, total)
                    emit({"event": "evaluation", "schema": SCHEMA, **event.metrics})
                    if write_event:
                        write_event(event.metrics)
                case Finished():
                    bar.close()
                    stopped = event.reason in {"interrupted", "unscored"}
                    code = stopper.exit_code if stopped else 0
                    _show_end(run.path, event, session.experiment.use)
                    emit(_summary(session, run.path, event))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        lanes = int(session.config.training.batch_size)
        less = f"--batch-size {lanes // 2}" if lanes > 1 else "a smaller --hidden-size"
        raise CharrnnError(
            f"out of memory with {lanes:,} lanes; start again with {less}, or a smaller --window; "
            f"{run.path} keeps its last checkpoint, of step {run.steps()[-1]:,}"
        ) from error
    finally:
        bar.close()
        stopper.restore()
    return code


class Stopper:
    """Ctrl-C once or SIGTERM asks for an orderly end; a second Ctrl-C leaves at once."""

    def __init__(self) -> None:
        self.exit_code = 0
        self._before = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, signal.SIGTERM)
        }

    def requested(self) -> bool:
        """Whether to stop after this step."""
        return self.exit_code != 0

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: Any) -> None:
        if number == signal.SIGTERM:
            self.exit_code = 143
        elif self.exit_code == 130:
            os._exit(130)
        else:
            self.exit_code = 130
            message = b"\nstopping after this step, then saving; Ctrl-C again leaves at once\n"
            with contextlib.suppress(OSError):  # Standard error may be closed.
                os.write(2, message)


def _show_evaluation(bar: Bar, event: Any, total: int) -> None:
    from charrnn.evaluation.score import key_unit

    metrics, unit = event.metrics, event.score.unit
    key = key_unit(unit)
    train, validation = metrics["train"], metrics["validation"]
    others = "".join(
        f"  {n.replace('_', ' ')} {measured(v)}" for n, v in event.score.metrics.items()
    )
    bar.say(
        f"step {metrics['step']:,}/{total:,}  epoch {metrics['epoch']:.1f}  "
        f"train {train[f'nats_per_{key}']:.4f} nats ({train[f'bits_per_{key}']:.3f} bits)  "
        f"validation {validation[f'nats_per_{key}']:.4f} nats "
        f"({validation[f'bits_per_{key}']:.3f} bits) per {unit}{others}"
        f"{'  best' if event.is_best else ''}  "
        f"{metrics['characters_per_second']:,.0f} {unit}s/s  "
        f"{duration(event.seconds_left)} left",
        bold=event.is_best,
    )
    for line in visible(event.sample).splitlines()[:6]:
        bar.say(f"    {line}", dim=True)


def _show_end(path: Path, event: Any, use: str) -> None:
    if event.reason == "interrupted":
        say(f"stopped at step {event.step:,}; saved {event.checkpoint}")
        say(f"go on with: charrnn resume {path}")
        return
    if event.reason == "unscored":
        say("stopped during the final score; all steps are trained and saved")
        say(f"score it with: charrnn resume {path}")
    if event.reason == "patience":
        say(f"stopped at step {event.step:,}: validation has not improved for a while")
    say(
        f"trained {event.step:,} steps in {duration(event.seconds)}, "
        f"{event.characters_per_second:,.0f} {event.unit}s/s"
    )
    if (score := event.score) is not None:
        metrics = score.metrics.items()
        others = "".join(f", {name.replace('_', ' ')} {measured(v)}" for name, v in metrics)
        say(
            f"best    step {event.best['step']:,}: validation {score.nats:.4f} nats, "
            f"{score.bits:.3f} bits per {score.unit}{others} "
            f"({score.protocol}, {score.count:,} {score.unit}s)",
            bold=True,
        )
    elif key := next((key for key in event.best if key.startswith("nats_per_")), None):
        say(
            f"best    step {event.best['step']:,}: validation {event.best[key]:.4f} "
            f"{key.replace('_', ' ')} ({event.best['protocol']}); charrnn eval scores it whole"
        )
    say(f"files   {path}")
    say(f"next    charrnn {use} {path}")
    say(f"        charrnn resume {path} --max-time 10m")


def _summary(session: Session, path: Path, event: Any) -> dict[str, Any]:
    """The last object of `train --json`: the score, and how it was come by."""
    from charrnn.evaluation.score import key_unit
    from charrnn.runs.checkpoint import SCHEMA

    if event.score is not None:
        score = event.score.record()
    else:
        unit = key_unit(session.experiment.unit)
        nats = event.best.get(f"nats_per_{unit}")
        score = {
            "split": "validation",
            "text": session.about["corpus"]["described"],
            f"nats_per_{unit}": nats,
            f"bits_per_{unit}": nats / math.log(2) if nats is not None else None,
            "bits_per_byte": None,
            f"{unit}s": None,
            f"unknown_{unit}s": 0,
            "step": event.best["step"],
            "protocol": event.best.get("protocol"),
            "text_sha256": session.data.sha256,
            "schema": SCHEMA,
        }
    return {
        "event": "end",
        "reason": event.reason,
        "run": str(path),
        "parameters": event.parameters,
        "steps": event.step,
        "characters_per_second": event.characters_per_second,
        "seconds": event.seconds,
        **score,
    }


def _emitter() -> Callable[[dict[str, Any]], None]:
    """Objects as JSON lines; a reader who leaves, or a full disk, is no reason to end a run."""
    open_still = True

    def emit(value: dict[str, Any]) -> None:
        nonlocal open_still
        try:
            if open_still:
                click.echo(json.dumps(value))
        except OSError as error:
            open_still = False
            warn(f"standard output takes no more ({error.strerror}): going on without it")

    return emit


def _banner(session: Session, described: str, path: Path) -> None:
    config, data = session.config, session.data
    splits = ", ".join(f"{len(part):,} {name}" for name, part in data.splits.items())
    say(f"text    {described}: {session.experiment.describe(data)}; {splits}")
    say(f"model   {describe_model(config)}; {session.parameters:,} parameters")
    processes = f" in {config.processes} processes" if int(config.processes) > 1 else ""
    say(f"device  {config.device}, {config.threads} threads{processes}; {describe_path(config)}")
    training = config.training
    budget = [
        f"{training.steps:,} steps" if training.steps else "",
        f"{training.epochs:g} epochs" if isinstance(training.epochs, float) else "",
        duration(training.max_time) if isinstance(training.max_time, float) else "",
    ]
    say(
        f"plan    at most {' or '.join(filter(None, budget))}; "
        f"{session.experiment.per_step} a step, "
        f"{training.optimizer} {training.learning_rate:g}, {training.schedule}"
    )
    say(f"run     {path}")


def _describe_arguments(arguments: list[str]) -> str:
    shown = ", ".join(arguments[:3]) or "the source of Python's standard library"
    return shown + (f" and {len(arguments) - 3} more" if len(arguments) > 3 else "")


def _load_model(name: str) -> Any:
    from charrnn.runs.directory import find_checkpoint

    checkpoint = find_checkpoint(name, warn)  # Judged before torch is imported.
    from charrnn.inference.trained_model import TrainedModel

    return TrainedModel.from_checkpoint(checkpoint)


def _model_of(config: Config) -> dict[str, Any]:
    """The settings that another model's weights need, as a layer that flags may override."""
    fixed = ("cell", "activation", "recurrence_depth", "layers", "hidden_size", "embedding_size",
             "words", "character_embedding_size", "character_hidden_size",
             "tie_embeddings", "skip_connections", "layer_norm")  # fmt: skip
    return {f"model.{name}": getattr(config.model, name) for name in fixed} | {
        "data.vocabulary": config.data.vocabulary,
        "data.minimum_count": config.data.minimum_count,
    }


def _changes(added: list[str], dropped: list[str]) -> str:
    parts = []
    for symbols, verb in ((added, "added"), (dropped, "dropped")):
        shown = " ".join(ascii(s) for s in symbols[:20]) + (" ..." if len(symbols) > 20 else "")
        parts.append(f"{len(symbols)} symbols {verb}" + (f" ({shown})" if symbols else ""))
    return ", ".join(parts)


def _be_deterministic(config: Config) -> None:
    if config.deterministic:
        import torch

        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
