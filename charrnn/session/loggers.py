"""Publish the records of a run to TensorBoard, Weights & Biases, MLflow or Trackio.

A logger reads the files of the run: after each evaluation it publishes the new lines of
`steps.jsonl` and `metrics.jsonl`. The last published step is kept in `loggers.json`. So a run that
was killed and resumed gives one curve without a step twice, and a logger that is added to a run
later gets the whole curve.

Each logger works in a thread of its own, so that training never waits for a network. A logger that
raises, hangs or is not installed costs one warning.
"""

from __future__ import annotations

import functools
import json
import os
import queue
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from charrnn.errors import require_extra
from charrnn.runs.checkpoint import write_atomically
from charrnn.runs.directory import Run

PATIENCE = 20.0  # seconds to wait at the end for a logger that is still publishing
BATCH = 1_000  # metrics that MLflow takes at a time
Warn = Callable[[str], None]
Line = tuple[int, Mapping[str, float]]
"""A step, and its values by the names of the metrics."""


class Logger(Protocol):
    """One run as another program records it."""

    identity: str
    """The name by which the program finds the run again when it is resumed."""

    def log(self, lines: Sequence[Line]) -> None:
        """Record the values of some steps; steps never decrease."""
        ...

    def close(self) -> None:
        """Write what is still waiting, and end."""
        ...


class TensorBoard:
    """Writes event files into the run directory."""

    def __init__(self, run: Run, _config: Mapping[str, Any], _identity: str | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.identity = "."
        self._writer = SummaryWriter(str(run.path))

    def log(self, lines: Sequence[Line]) -> None:
        """Record the values of some steps."""
        for step, values in lines:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WeightsAndBiases:
    """Writes a run of the project `charrnn`; offline unless an account is configured."""

    def __init__(self, run: Run, config: Mapping[str, Any], identity: str | None) -> None:
        import wandb

        self._run = wandb.init(
            project="charrnn",
            name=run.name,
            id=identity or secrets.token_hex(4),
            resume="allow",
            dir=str(run.path),
            config=dict(config),
            mode=None if _has_account() else "offline",
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.identity = self._run.id

    def log(self, lines: Sequence[Line]) -> None:
        """Record the values of some steps."""
        for step, values in lines:
            self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _has_account() -> bool:
    """Whether Weights & Biases can be reached with an account, without asking for one."""
    import wandb

    if os.environ.get("WANDB_MODE"):
        return True  # The user has decided.
    try:
        return bool(wandb.login(prompt=False))
    except wandb.errors.Error:
        return False


class MLflow:
    """Writes a run of the experiment `charrnn` to the tracking address that MLflow is set to."""

    def __init__(self, run: Run, config: Mapping[str, Any], identity: str | None) -> None:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        if identity is None:
            known = self._client.get_experiment_by_name("charrnn")
            experiment = known.experiment_id if known else self._client.create_experiment("charrnn")
            identity = self._client.create_run(experiment, run_name=run.name).info.run_id
            parameters = [Param(key, str(value)[:500]) for key, value in config.items()]
            self._client.log_batch(identity, params=parameters)
        else:
            self._client.update_run(identity, "RUNNING")
        self.identity = identity

    def log(self, lines: Sequence[Line]) -> None:
        """Record the values of some steps."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, x, now, step) for step, values in lines for name, x in values.items()
        ]
        for i in range(0, len(metrics), BATCH):
            self._client.log_batch(self.identity, metrics=metrics[i : i + BATCH])

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self.identity)


class Trackio:
    """Writes a run of the local project `charrnn`."""

    def __init__(self, run: Run, config: Mapping[str, Any], identity: str | None) -> None:
        import trackio

        # Its prints go to standard error, because standard output is for our own data.
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == "trackio":
                vars(module)["print"] = functools.partial(print, file=sys.stderr)
        self.identity = identity or f"{run.name}-{secrets.token_hex(3)}"
        self._run = trackio.init(
            "charrnn",
            name=self.identity,
            config=dict(config),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def log(self, lines: Sequence[Line]) -> None:
        """Record the values of some steps."""
        for step, values in lines:
            self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Send what is left, and end."""
        self._run.finish()


KINDS: dict[str, Callable[[Run, Mapping[str, Any], str | None], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}


class Loggers:
    """The loggers of a run; the trainer's thread calls all methods.

    Args:
        names: keys of `KINDS`
        run: its files are published
        config: the settings, by their dotted keys
        warn: called with the one warning of a logger that failed
    """

    def __init__(
        self, names: Sequence[str], run: Run, config: Mapping[str, Any], warn: Warn
    ) -> None:
        self._warn = warn
        self._publishers = [_Publisher(name, run, config) for name in names]

    def publish(self) -> None:
        """Publish what is new in the files of the run, without waiting for it."""
        for publisher in self._publishers:
            publisher.due.put(True)
        self._drop_failed()

    def close(self) -> None:
        """Wait a while for the loggers to publish everything, and end them."""
        for publisher in self._publishers:
            publisher.due.put(False)
        for publisher in self._publishers:
            publisher.thread.join(PATIENCE)
            if publisher.thread.is_alive():
                publisher.failure = f"it did not answer for {PATIENCE:.0f} seconds"
        self._drop_failed()
        self._publishers = []

    def _drop_failed(self) -> None:
        """Give the warning of each logger that has failed, and forget the logger."""
        for publisher in self._publishers:
            if publisher.failure:
                self._warn(
                    f"logging to {publisher.name} ended: {publisher.failure}; training goes on, "
                    f"and resuming the run publishes what is missing"
                )
        self._publishers = [one for one in self._publishers if not one.failure]


class _Publisher:
    """A thread that publishes the records of a run to one logger."""

    def __init__(self, name: str, run: Run, config: Mapping[str, Any]) -> None:
        self.name, self._run, self._config = name, run, config
        self.due: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.failure = ""
        # A daemon: a logger that hangs does not keep the process from ending.
        self.thread = threading.Thread(target=self._work, name=f"logging to {name}", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        """Publish when asked to, until the run ends. Any error of a logger becomes a warning."""
        logger: Logger | None = None
        try:
            while self.due.get():
                logger = logger or self._open()
                self._publish(logger)
            if logger:
                logger.close()
        except BaseException as error:
            self.failure = " ".join(str(error).split()) or type(error).__name__

    def _open(self) -> Logger:
        """Find the run where it was logged before, or begin a new one there."""
        require_extra(self.name, self.name, f"logging to {self.name}")
        logger = KINDS[self.name](self._run, self._config, self._state().get("identity"))
        self._remember(logger, self._state().get("step", 0))
        return logger

    def _publish(self, logger: Logger) -> None:
        """Publish the records behind the last published step.

        The new step is written to `loggers.json` first, so that no step is published twice if the
        process is killed in between.
        """
        before = self._state().get("step", 0)
        lines = new_values(self._run, before)
        if not lines:
            return
        self._remember(logger, lines[-1][0])
        try:
            logger.log(lines)
        except BaseException:
            self._remember(logger, before)
            raise

    def _all_states(self) -> dict[str, Any]:
        try:
            states = json.loads((self._run.path / "loggers.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return states if isinstance(states, dict) else {}

    def _state(self) -> dict[str, Any]:
        state = self._all_states().get(self.name)
        return state if isinstance(state, dict) else {}

    def _remember(self, logger: Logger, step: int) -> None:
        with _STATES:
            state = {"identity": logger.identity, "step": step}
            states = self._all_states() | {self.name: state}
            write_atomically(self._run.path / "loggers.json", json.dumps(states).encode())


_STATES = threading.Lock()  # loggers.json is read and written by several threads


def new_values(run: Run, after: int) -> list[Line]:
    """Return the values of each recorded step after step `after`, by the names of the metrics.

    Lines of steps.jsonl give `steps/...`; lines of metrics.jsonl give the other names, such as
    `validation/nats_per_character`.
    """
    values: dict[int, dict[str, float]] = {}
    for line in run.records("steps"):
        row = line["train"] | {key: line[key] for key in ("gradient_norm", "learning_rate")}
        values.setdefault(line["step"], {}).update({f"steps/{k}": v for k, v in row.items()})
    evaluated = 0
    for line in run.metrics():
        if line["kind"] == "evaluation":
            evaluated = line["step"]
            values.setdefault(evaluated, {}).update(_evaluation(line))
    # If the run is killed, the steps after its last evaluation may be taken again.
    return [(step, values[step]) for step in sorted(values) if after < step <= evaluated]


def _evaluation(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in a line of metrics.jsonl."""
    values = {
        f"{split}/{name}": value
        for split in ("train", "validation")
        for name, value in line.get(split, {}).items()
        if isinstance(value, float)
    }
    return values | {name: line[name] for name in ("learning_rate", "characters_per_second")}
