"""Drive a training run from its first step to its last checkpoint, as a stream of events.

`Session.events` plans the number of steps, trains, evaluates, records, saves, prunes and stops. It
prints nothing: the command line, a notebook or a test iterates over the events and shows them.
`charrnn.session.opening` makes sessions.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import torch

from charrnn.config.merge import dump_yaml, with_values
from charrnn.config.resolved import ResolvedConfig
from charrnn.errors import CheckpointError, ConfigError, DivergedError
from charrnn.evaluation.score import Evaluation, key_unit
from charrnn.inference.trained_model import TrainedModel, model_weights
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.directory import Run
from charrnn.session.events import Evaluated, Event, Finished, Planned, Stepped
from charrnn.session.tensorboard import event_writer
from charrnn.tasks.task import Data, task_of
from charrnn.training.budget import (
    AIM,
    EVALUATIONS,
    LONG_SCORE,
    Costs,
    evaluation_interval,
    learning_rate_schedule,
    steps_bound,
    steps_in_time,
)
from charrnn.training.build import build_optimizer
from charrnn.training.trainer import Report, Trainer

HOPELESS = 10.0  # times the loss of a uniform guess: a run does not recover from such a loss


def never() -> bool:
    """Do not ask for a stop."""
    return False


class Pace:
    """Measures the speed of the steps; time that the caller spends on their events is included."""

    def __init__(self) -> None:
        self._step_seconds: deque[float] = deque(maxlen=1000)
        self._seconds, self._characters = 0.0, 0
        self.skip()

    def skip(self) -> None:
        """Do not count the time since the last step, which was spent on an evaluation."""
        self._last = time.perf_counter()

    def count(self, characters: int) -> float:
        """Count a step that has just ended; return the seconds it took."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._step_seconds.append(seconds)
        self._seconds += seconds
        self._characters += characters
        return seconds

    def since_last_asked(self) -> float:
        """Characters per second since the last call."""
        speed = self._characters / max(self._seconds, 1e-9)
        self._seconds, self._characters = 0.0, 0
        return speed

    def step_seconds(self, settled: bool = False) -> float:
        """The median time of a step; `settled` leaves out the first third, while caches fill."""
        times = list(self._step_seconds)
        return statistics.median(times[len(times) // 3 :] if settled else times)


class Session:
    """One start of a run: its model, its data, its directory and its progress.

    Args:
        config: the configuration, with its `auto` values decided (`tasks.task.Task.plan`)
        data: the text or the examples to learn from
        about: facts about the text and the machine, saved in every checkpoint
        clock: seconds since the command began, imports included; a wall-clock budget covers them

    `run` is set before `events` is called. A wall-clock budget becomes a number of steps: the speed
    is measured during the warm-up of the learning rate, then the number is written into the
    configuration in place of the time.
    """

    run: Run

    def __init__(
        self,
        config: ResolvedConfig,
        data: Data,
        about: dict[str, Any],
        clock: Callable[[], float],
    ) -> None:
        self.config = config
        self.data = data
        self.about = about
        self.clock = clock
        torch.manual_seed(config.training.seed)
        self.experiment = task_of(config.task)(config, data, about)
        self.model, self.objective = self.experiment.model, self.experiment.objective
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.trainer: Trainer[Any] = Trainer(
            self.model,
            self.objective,
            build_optimizer(config, self.model),
            learning_rate_schedule(config, None),
            clip=config.training.clip,
            seed=config.training.seed,
            precision=torch.bfloat16 if config.precision == "bfloat16" else torch.float32,
            processes=config.processes,
            graph=config.graph,
            average=config.training.average,
        )
        self.adopted: tuple[list[str], list[str]] | None = None
        self.chosen: dict[str, Any] = {}  # the settings that were `auto`, and their values now
        self.resumed_from: Path | None = None
        self.best: dict[str, Any] | None = None
        self.without_improvement = 0
        self.since_drop = 0
        self.trained_seconds = 0.0
        self.trained_characters = 0
        self.score_at_end = True
        self.total_steps: int | None = None
        self._saved_step = -1
        budget = config.training.max_time
        self._max_time = math.inf if budget is None else budget

    def adopt_weights(self, source: TrainedModel) -> tuple[list[str], list[str]]:
        """Start from the weights of another model; symbols are matched by what they stand for.

        Returns the symbols that were added and those that were dropped. Raises ConfigError where
        the models differ in shape beyond the vocabulary.
        """
        self.adopted = self.experiment.adopt_weights(source)
        self.trainer.begin_averages()
        return self.adopted

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint. Raises CheckpointError where it does not fit.

        A new budget resets patience. Another text also resets the epoch, the carried state and the
        best score, because losses on two texts cannot be compared.
        """
        tensors = {name: torch.from_numpy(value) for name, value in checkpoint.tensors.items()}
        metadata = checkpoint.metadata
        try:
            self.trainer.load(tensors, metadata["progress"])
            session = metadata["session"]
            self.best = session["best"]
            self.without_improvement = session["without_improvement"]
            self.since_drop = session["since_drop"]
            self.score_at_end = session["score_at_end"]
            self.trained_seconds = session["trained_seconds"]
            self.trained_characters = session["trained_characters"]
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"the tensors of {checkpoint.path} do not fit its config: {error}"
            ) from error
        self.resumed_from = checkpoint.path
        before = metadata["config"].get("training", {})
        now = self.config.training
        if any(before.get(k) != getattr(now, k) for k in ("steps", "epochs", "max_time")):
            self.without_improvement = self.since_drop = 0
        if metadata.get("corpus", {}).get("sha256") not in (None, self.data.sha256):
            self.trainer.progress.batch = 0
            self.trainer.carry = self.best = None
            self.without_improvement = self.since_drop = 0

    @property
    def bound(self) -> int | None:
        """The most steps that `training.steps` and `training.epochs` allow; None without either."""
        return steps_bound(self.config, self.objective.batches_per_epoch)

    def events(self, stop: Callable[[], bool] = never) -> Iterator[Event]:
        """Train in `run` until the budget, patience or `stop()` ends it.

        `stop` is asked before every step. Raises DivergedError before anything bad is saved,
        StorageError if a file cannot be written, ConfigError where there is no budget.
        """
        writes_events = self.config.tensorboard
        self._write_event = event_writer(self.run.path) if writes_events else lambda _: None
        try:
            yield from self._plan_by_steps()
            self._save_first()
            began, before = time.perf_counter(), self.trained_characters
            self.pace = Pace()
            reason = yield from self._train(stop)
            if self._saved_step != self.trainer.progress.step:
                self._save()
            speed = (self.trained_characters - before) / (time.perf_counter() - began)
            yield self._finish(reason, speed, stop)
        finally:
            self.trainer.close()

    # Planning ----------------------------------------------------------------------------------

    def _plan_by_steps(self) -> Iterator[Planned]:
        """Fix the number of steps, unless it depends on a speed that is still to be measured."""
        if self._max_time == math.inf:
            if self.bound is None:
                raise ConfigError(
                    "the run has no budget; set training.steps, training.epochs or "
                    "training.max_time"
                )
            yield self._fix_steps(self.bound, None)
        elif (step := self.trainer.progress.step) and self.trained_seconds:
            # Measure at about the rate that the new schedule will have, not at the highest.
            guess = int(step * (1 + self._max_time / self.trained_seconds))
            self.trainer.schedule = learning_rate_schedule(self.config, guess)

    def _plan_by_time(self, characters: int) -> Planned:
        """Fix the number of steps that fit into the time that is left.

        The first evaluation of a run is slower than the others, so a second one is timed here,
        with its sample and its checkpoint. `characters` are the characters in a step.
        """
        step, step_seconds = self.trainer.progress.step, self.pace.step_seconds(settled=True)
        start = self.clock()
        self.estimate()
        self.sample_text(self.config.evaluation.sample_length)
        self._save()
        costs = Costs(step_seconds, self.clock() - start, self.experiment.final_seconds())
        left = self._max_time * AIM - self.clock()
        chosen = self.config.evaluation.every
        total, self.score_at_end, evaluations = steps_in_time(
            step, left, costs, None if chosen == "auto" else chosen
        )
        total = min(total, self.bound) if self.bound else total
        return self._fix_steps(total, characters / step_seconds, evaluations)

    def _fix_steps(
        self, total: int, speed: float | None, evaluations: int = EVALUATIONS
    ) -> Planned:
        """Plan `total` steps: set the schedule, record the plan, and return the event."""
        every = evaluation_interval(self.config, total, evaluations)
        saves = self.config.checkpoints.every
        self.config = with_values(
            self.config,
            {
                "training.steps": total,
                "training.epochs": None,
                "training.max_time": None,
                "evaluation.every": every,
                "checkpoints.every": every if saves == "auto" else saves,
            },
        )
        self.total_steps = total
        self.trainer.schedule = learning_rate_schedule(self.config, total)
        self.run.write_config(dump_yaml(self.config))
        return Planned(total, total / self.objective.batches_per_epoch, every, speed)

    # Training ----------------------------------------------------------------------------------

    def _train(self, stop: Callable[[], bool]) -> Generator[Event, None, str]:
        """Take steps until something ends them; return the reason, as in `Finished`."""
        progress, patience = self.trainer.progress, self.config.training.patience
        has_measured = self._end_of_measurement()
        steps = self.trainer.run(sys.maxsize)
        while self.total_steps is None or progress.step < self.total_steps:
            if stop():
                return "interrupted"
            report = next(steps)
            seconds = self.pace.count(report.scored)
            self.trained_seconds += seconds
            self.trained_characters += report.scored
            yield Stepped(report.step, report.scored)
            if self.total_steps is None:
                due = has_measured(report.step)
            else:
                every = int(self.config.evaluation.every)
                due = report.step % every == 0 or report.step == self.total_steps
            if due:
                yield from self._evaluate_and_save(report)
                if patience is not None and self.without_improvement >= patience:
                    return "patience"
            elif self.total_steps and report.step % int(self.config.checkpoints.every) == 0:
                self._save()
        return "budget"

    def _end_of_measurement(self) -> Callable[[int], bool]:
        """Return a test of the last step: whether the speed has been measured for long enough.

        It has after `training.warmup_steps` more steps, at the last step that the budget allows, or
        when half of the time is gone.
        """
        last = self.trainer.progress.step + self.config.training.warmup_steps
        last = min(last, self.bound or sys.maxsize)
        return lambda step: step >= last or self.clock() >= self._max_time / 2

    def _evaluate_and_save(self, report: Report) -> Iterator[Event]:
        """Evaluate and save; after a warm-up, plan the other steps in between."""
        speed = self.pace.since_last_asked()
        line, score, is_best = self._evaluate(speed, report.learning_rate)
        text = self.sample_text(self.config.evaluation.sample_length)
        if self.total_steps is None:
            yield self._plan_by_time(report.scored)
        self._save()
        assert self.total_steps is not None
        seconds_left = (self.total_steps - report.step) * self.pace.step_seconds()
        self._write_event(line)
        yield Evaluated(line, score, is_best, seconds_left, text)
        self.pace.skip()

    def sample_text(self, length: int) -> str:
        """Sample from the model in its present state, with the same random draws every time."""
        with self.trainer.averaged():
            return self.experiment.sample(length)

    def estimate(self) -> Evaluation:
        """Score the validation split by the quick protocol that is used during training."""
        with self.trainer.averaged():
            return self.experiment.estimate(self.trainer.progress.step)

    def _evaluate(
        self, speed: float, learning_rate: float
    ) -> tuple[dict[str, Any], Evaluation, bool]:
        """Score, compare with the best, and record a line of metrics.jsonl.

        Returns the line, the score and whether it is the best so far. Raises DivergedError for a
        loss far above the loss of a uniform guess.
        """
        progress = self.trainer.progress
        train = self.trainer.interval_score()
        validation = self.estimate()
        unit, guess = self.experiment.unit, self.experiment.guess
        if not validation.nats < HOPELESS * max(1.0, guess):
            raise DivergedError(
                f"the validation loss is {validation.nats:.4g} nats per {unit} at "
                f"step {progress.step:,}, although guessing costs only {guess:.4g}; "
                f"try a lower training.learning_rate"
            )
        is_best = self._compare_with_best(validation)
        key = key_unit(unit)
        nats = f"nats_per_{key}"
        line = {
            "step": progress.step,
            "epoch": progress.epoch + progress.batch / self.objective.batches_per_epoch,
            "learning_rate": learning_rate,
            "train": {nats: train.mean, f"bits_per_{key}": train.mean / math.log(2)},
            "validation": {
                nats: validation.nats,
                f"bits_per_{key}": validation.bits,
                f"{key}s": validation.count,
                **validation.metrics,
                "protocol": validation.protocol,
            },
            "characters_per_second": speed,
            "seconds": self.trained_seconds,
        }
        self.run.append_metrics(line)
        return line, validation, is_best

    def _compare_with_best(self, validation: Evaluation) -> bool:
        """Keep a score that is the best so far; count any other for patience and plateau."""
        progress, training = self.trainer.progress, self.config.training
        nats = f"nats_per_{key_unit(self.experiment.unit)}"
        if self.best is None or validation.nats < self.best[nats]:
            self.best = {
                "step": progress.step,
                nats: validation.nats,
                "protocol": validation.protocol,
            }
            self.without_improvement = self.since_drop = 0
            return True
        self.without_improvement += 1
        self.since_drop += 1
        if training.schedule == "plateau" and self.since_drop >= training.plateau_patience:
            progress.learning_rate_factor *= training.plateau_factor
            self.since_drop = 0
        return False

    # Saving ------------------------------------------------------------------------------------

    def _save_first(self) -> None:
        """Save before the first step, so that there is always a checkpoint to resume from."""
        saved, step = self.run.steps(), self.trainer.progress.step
        # A run that goes on from a lone checkpoint may not have the file of the best one.
        if self.best and self.best["step"] not in [*saved, step]:
            self.best = None
        if step not in saved:
            self._save()

    def _save(self) -> None:
        """Save a checkpoint. Raises DivergedError where a tensor is not finite."""
        step = self.trainer.progress.step
        tensors = self.trainer.tensors()
        for name, value in tensors.items():
            if not torch.isfinite(value).all():
                raise DivergedError(
                    f"{name} is not finite after step {step:,}, so nothing was saved; "
                    f"try a lower training.learning_rate"
                )
        arrays = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
        self.run.save(step, arrays, self._metadata())
        if self.best:
            self.run.write_best(self.best | {"score": None})
        best_step = self.best["step"] if self.best else None
        self.run.prune(step, self.config.checkpoints.keep_last, best_step)
        self._saved_step = step

    def _metadata(self) -> dict[str, Any]:
        return {
            "config": json.loads(self.config.model_dump_json()),
            "vocabulary": self.data.vocabulary_data,
            "progress": self.trainer.progress_data(),
            "session": {
                "best": self.best,
                "without_improvement": self.without_improvement,
                "since_drop": self.since_drop,
                "score_at_end": self.score_at_end,
                "trained_seconds": self.trained_seconds,
                "trained_characters": self.trained_characters,
            },
            **self.about,
        }

    def _finish(self, reason: str, speed: float, stop: Callable[[], bool]) -> Finished:
        """Score the best checkpoint on the whole split, and sum up this start of the run."""
        step = self.trainer.progress.step
        score = None
        if reason != "interrupted":
            try:
                score = self._score_best(stop)
            except KeyboardInterrupt:
                reason = "unscored"
        return Finished(
            reason,
            step,
            self.best or {"step": step},
            score,
            self.run.checkpoint_path(step),
            self.parameters,
            self.experiment.unit,
            self.clock(),
            speed,
        )

    def _score_best(self, stop: Callable[[], bool]) -> Evaluation | None:
        """The score of the best checkpoint on all of validation; None where it takes too long.

        Raises KeyboardInterrupt once `stop` says so.
        """
        longest = max(60.0, LONG_SCORE * self.trained_seconds)
        if not self.best or not self.score_at_end or self.experiment.final_seconds() > longest:
            return None
        weights = model_weights(self.run.load(self.best["step"]).tensors)
        described = self.about["corpus"]["described"]
        score = self.experiment.final(weights, stop, step=self.best["step"], text=described)
        # best.json comes last: a start that finds no score in it scores again.
        self.run.append_metrics({"step": self.trainer.progress.step, "final": score.record()})
        self.run.write_best(self.best | {"score": score.record()})
        return score
