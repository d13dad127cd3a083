"""Show a training session: its banner, its events, how it ended; and stop it on Ctrl-C."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli.chart import chart_for
from charrnn.cli.display import (
    Bar,
    describe_model,
    describe_path,
    duration,
    is_terminal,
    measured,
    say,
    show,
    visible,
    warn,
)
from charrnn.errors import CharrnnError, ExitCode

if TYPE_CHECKING:
    from charrnn.session.events import Evaluated, Finished, Planned
    from charrnn.session.loop import Session

BUSY = 0.15  # tell the user if processes wait for a core for more than this share of the time
LONG_RUN = 120.0  # seconds of training: a shorter run gets no picture, which takes up to 4 seconds
BUDGETS = ("training.steps", "training.epochs", "training.max_time")
NOT_SHOWN = (
    "device",
    "threads",
    "processes",
    "data.split_by",
    "data.maximum_length",
    "training.batch_symbols",
)


def describe_arguments(arguments: list[str]) -> str:
    """Name the first texts of a command, for the line that says what is being read."""
    shown = ", ".join(arguments[:3]) or "the source of Python's standard library"
    return shown + (f" and {len(arguments) - 3} more" if len(arguments) > 3 else "")


def show_banner(session: Session, tell: Callable[[str], None] = say) -> None:
    """Show the model, the text and the device before training starts, by calling `tell`."""
    config, data, kind = session.config, session.data, session.experiment
    if session.resumed_from is not None:
        tell(f"going on from {session.resumed_from}")
    if session.adopted is not None:
        tell(f"from the other model: {_changes(*session.adopted)}")
    splits = ", ".join(f"{len(part):,} {name}" for name, part in data.splits.items())
    described = session.about["corpus"]["described"]
    first, *more = kind.describe(data).split("\n")
    held_out = getattr(data, "held_out", "")
    where = f" ({held_out})" if held_out else ""
    tell(f"text    {described}: {first}; {splits}{where}")
    for line in more:
        tell(f"        {line}")
    tell(f"model   {describe_model(config)}; {session.parameters:,} parameters")
    processes = f" in {config.processes} processes" if config.processes > 1 else ""
    threads = f"{config.threads} thread{'s' * (config.threads > 1)}"
    tell(f"device  {config.device}, {threads}{processes}; {describe_path(config)}")
    training = config.training
    budget = [
        f"{training.steps:,} steps" if training.steps else "",
        f"{training.epochs:g} epochs" if training.epochs else "",
        duration(training.max_time) if training.max_time else "",
    ]
    tell(
        f"plan    at most {' or '.join(filter(None, budget))}; {kind.per_step} a step, "
        f"{training.optimizer} {training.learning_rate:g}, {training.schedule}"
    )
    if not session.chooses:
        tell(
            f"note    {_unchosen(session)}, so the last checkpoint is kept as the best; "
            f"give more text to choose by"
        )
    if session.chosen:
        tell(f"chosen  {_describe_choices(session.chosen)}")


def show_rehearsal(session: Session, as_json: bool) -> None:
    """Measure the speed in a few steps, and print what the run would be, on standard output."""
    from charrnn.config.merge import flatten
    from charrnn.runs.checkpoint import SCHEMA

    result, unit = session.rehearse(), session.experiment.unit
    if as_json:
        record = {
            "schema": SCHEMA, "event": "plan", "parameters": session.parameters, **vars(result),
            "settings": flatten(session.config.model_dump(mode="json")),
        }  # fmt: skip
        click.echo(json.dumps(record))
        return
    show_banner(session, show)
    memory = result.peak_memory
    show(f"memory  {f'about {memory / 1e6:,.0f} MB' if memory else 'unknown on this system'}")
    show(
        f"time    about {result.steps:,} steps in {duration(result.seconds)} at "
        f"{result.characters_per_second:,.0f} {unit}s/s, without evaluations"
    )
    say("a dry run: nothing was written")


def _unchosen(session: Session) -> str:
    """Say why no checkpoint can be chosen by its score."""
    if not session.validates:
        return "there is no validation split"
    count, noun = len(session.data.splits["validation"]), session.experiment.noun
    return f"validation is too short to choose by ({count:,} {noun})"


def _describe_choices(chosen: dict[str, Any]) -> str:
    """List the settings that were chosen for the user and that no other line shows."""
    shown = {
        key.rpartition(".")[2]: f"{value:g}" if isinstance(value, float) else str(value)
        for key, value in chosen.items()
        if value is not None and key not in {*NOT_SHOWN, *BUDGETS}
    }
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _changes(added: list[str], dropped: list[str]) -> str:
    parts = []
    for symbols, verb in ((added, "added"), (dropped, "dropped")):
        shown = " ".join(ascii(s) for s in symbols[:20]) + (" ..." if len(symbols) > 20 else "")
        parts.append(f"{len(symbols)} symbols {verb}" + (f" ({shown})" if symbols else ""))
    return ", ".join(parts)


def drive(session: Session, as_json: bool) -> int:
    """Train to the end and show the events of the session; return the exit code.

    Raises CharrnnError if memory runs out.
    """
    from charrnn.errors import is_out_of_memory

    stopper = Stopper()
    bar = Bar(shown=not as_json)
    bar.start(None, session.trainer.progress.step)
    try:
        return _show_events(session, stopper, bar, as_json)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise _out_of_memory(session) from error
    finally:
        bar.close()
        stopper.restore()


def _show_events(session: Session, stopper: Stopper, bar: Bar, as_json: bool) -> int:
    from charrnn.runs.checkpoint import SCHEMA
    from charrnn.session.events import (
        Evaluated,
        Finished,
        Planned,
        Replanned,
        Restarted,
        Saved,
        Stepped,
    )

    emit = _emitter() if as_json else lambda _: None
    total, code = 0, ExitCode.DONE
    for event in session.events(stopper.requested):
        match event:
            case Stepped():
                bar.advance()
            case Planned():
                total = event.steps
                bar.close()
                _show_plan(event, session.experiment.unit)
                bar.start(total, session.trainer.progress.step)
            case Replanned():
                total = event.steps
                bar.aim_at(total)
            case Saved():
                left = duration(event.seconds_left)
                bar.say(f"step {event.step:,}/{total:,}  saved  {left} left", dim=True)
            case Restarted():
                warn(
                    f"{event.reason}; going on from step {event.step:,} at half the rate, "
                    f"{event.learning_rate:g}"
                )
                bar.start(total or None, event.step)
            case Evaluated():
                _show_evaluation(bar, event, total, session.experiment.unit)
                emit({"event": "evaluation", "schema": SCHEMA, **event.metrics})
            case Finished():
                bar.close()
                stopped = event.reason in {"interrupted", "unscored"}
                code = stopper.exit_code if stopped else ExitCode.DONE
                _show_end(session.run.path, event, session)
                emit(_summary(session, session.run.path, event))
    return code


def _out_of_memory(session: Session) -> CharrnnError:
    """Say which settings to lower: lanes and window, or the size of a batch of examples."""
    from charrnn.registry import traits_of

    config, steps = session.config, session.run.steps()
    lanes = config.training.batch_size
    less = f"--batch-size {lanes // 2}" if lanes > 1 else "a smaller --hidden-size"
    noun, other = "lanes", "a smaller --window"
    if "examples" in traits_of(config.task):
        longest = session.experiment.objective.longest
        symbols = min(config.training.batch_symbols or lanes * longest, lanes * longest)
        noun = "examples a step"
        less = f"--set training.batch_symbols={max(1, symbols // 2)}"
        other = f"--set data.maximum_length={max(1, longest // 2)} (the longest has {longest:,})"
    kept = f"; {session.run.path} keeps its last checkpoint, of step {steps[-1]:,}" if steps else ""
    return CharrnnError(
        f"out of memory with {lanes:,} {noun}; start again with {less}, or {other}{kept}"
    )


def _show_plan(event: Planned, unit: str) -> None:
    speed = event.characters_per_second
    speed_shown = f" at {speed:,.0f} {unit}s/s" if speed else ""
    passes = f"{event.epochs:,.0f}" if event.epochs >= 10 else f"{event.epochs:.1f}"
    say(
        f"steps   {event.steps:,}{speed_shown}, which read the training text {passes} times; "
        f"evaluating at most every {event.evaluate_every:,}"
    )
    if event.waiting_share > BUSY:
        say(
            f"busy    other programs hold the cores {event.waiting_share:.0%} of the time that "
            f"training wants them; expect about {event.steps:,} steps"
        )
    if event.note:
        warn(event.note)


def _show_evaluation(bar: Bar, event: Evaluated, total: int, unit: str) -> None:
    from charrnn.evaluation.score import key_unit

    metrics = event.metrics
    key = key_unit(unit)
    losses = "  ".join(
        f"{split} {metrics[split][f'nats_per_{key}']:.4f} nats "
        f"({metrics[split][f'bits_per_{key}']:.3f} bits)"
        for split in ("train", "validation")
        if split in metrics
    )
    scored = event.score.metrics if event.score else {}
    others = "".join(f"  {n.replace('_', ' ')} {measured(v)}" for n, v in scored.items())
    bar.say(
        f"step {metrics['step']:,}/{total:,}  epoch {metrics['epoch']:.1f}  "
        f"{losses} per {unit}{others}{'  best' if event.is_best else ''}  "
        f"{metrics['characters_per_second']:,.0f} {unit}s/s  "
        f"{duration(event.seconds_left or 0)} left",
        bold=event.is_best,
    )
    for line in visible(event.sample).splitlines()[:6]:
        bar.say(f"    {line}", dim=True)


def _show_end(path: Path, event: Finished, session: Session) -> None:
    use = session.experiment.use
    if event.reason == "interrupted":
        say(f"stopped at step {event.step:,}; saved {event.checkpoint}")
        say(f"go on with: charrnn resume {path}")
        return
    if event.reason == "unscored":
        say("stopped during the final score; all steps are trained and saved")
        say(f"score it with: charrnn resume {path}")
    if event.reason == "patience":
        say(f"stopped at step {event.step:,}: validation has not improved since step "
            f"{event.best['step']:,}")  # fmt: skip
    if event.overfits:
        say(
            f"best at step {event.best['step']:,} of {event.step:,}; the steps after it made it "
            f"worse: more time will not help, more text would"
        )
    say(
        f"trained to step {event.step:,} in {duration(event.seconds)}, "
        f"{event.characters_per_second:,.0f} {event.unit}s/s with evaluations and saving"
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
        then = "; charrnn eval scores the whole split" if session.validates else ""
        say(
            f"best    step {event.best['step']:,}: {event.best[key]:.4f} "
            f"{key.replace('_', ' ')} ({event.best['protocol']}){then}"
        )
    _show_curve(session)
    say(f"files   {path}")
    say(f"next    charrnn {use} {path}")
    if not event.overfits:
        say(f"        charrnn resume {path} --max-time 10m")


def _show_curve(session: Session) -> None:
    """Show the curve on a terminal; leave it as curves.svg if matplotlib is installed.

    Training is over, so nothing that fails here costs more than a warning.
    """
    from charrnn.sharing.curves import chart_of, read_curves

    has_time = session.trained_seconds >= LONG_RUN
    draws = has_time and importlib.util.find_spec("matplotlib") is not None
    if not (draws or is_terminal(sys.stderr)):
        return
    try:
        chart = chart_of([read_curves(session.run, warn)], warn)
        if is_terminal(sys.stderr):
            for line in chart_for(sys.stderr, chart):
                say(line)
        if draws:
            from charrnn.cli.pictures import save_curves

            save_curves(session.run.path / "curves.svg", chart)
    except Exception as error:
        warn(f"cannot draw the curve: {error}; charrnn plot {session.run.path} tries again")


def _summary(session: Session, path: Path, event: Finished) -> dict[str, Any]:
    """The last object of `train --json`: the score, and the protocol it was measured by."""
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
    """A function that prints JSON lines until nobody reads them or the disk is full."""
    open_still = True

    def emit(value: dict[str, Any]) -> None:
        nonlocal open_still
        try:
            if open_still:
                click.echo(json.dumps(value))
        except OSError as error:
            open_still = False
            warn(f"cannot write to standard output ({error.strerror}): going on without it")

    return emit


ENDED_BY = {15: ExitCode.TERMINATED, 1: ExitCode.HANGUP}
"""The exit codes of SIGTERM and SIGHUP."""


class Stopper:
    """Ask for an orderly end on Ctrl-C, SIGTERM or SIGHUP; leave at once on a second Ctrl-C.

    `exit_code` is that of the last signal; before the first one, it is `DONE`.
    """

    def __init__(self) -> None:
        self.exit_code = ExitCode.DONE
        self._terminals = [number for number in range(3) if os.isatty(number)]
        numbers = [signal.SIGINT, signal.SIGTERM]
        # Under nohup the signal of a closed terminal is ignored; Windows has no such signal.
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._handle) for number in numbers}

    def requested(self) -> bool:
        """Whether to stop after this step."""
        return self.exit_code != ExitCode.DONE

    def restore(self) -> None:
        """Restore the earlier signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: Any) -> None:
        if number in ENDED_BY:
            self.exit_code = ENDED_BY[number]
            if self.exit_code == ExitCode.HANGUP:  # Writing to a closed terminal is an error.
                for terminal in self._terminals:
                    os.dup2(os.open(os.devnull, os.O_RDWR), terminal)
        elif self.exit_code == ExitCode.INTERRUPTED:
            os._exit(ExitCode.INTERRUPTED)
        else:
            self.exit_code = ExitCode.INTERRUPTED
            message = b"\nstopping after this step, then saving; Ctrl-C again leaves at once\n"
            with contextlib.suppress(OSError):  # Standard error may be closed.
                os.write(2, message)
