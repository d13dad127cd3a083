"""Drive a training run from its first step to its last checkpoint, as a stream of events.

`Session.events` plans the number of steps, trains, evaluates, records, saves, prunes and stops. It
prints nothing: the command line, a notebook or a test iterates over the events and shows them.
`charrnn.session.opening` makes sessions.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import torch

from charrnn.config.changes import record_resume
from charrnn.config.merge import config_from_data, dump_yaml, flatten, with_values
from charrnn.config.resolved import ResolvedConfig
from charrnn.errors import CheckpointError, DivergedError
from charrnn.evaluation.score import Evaluation, key_unit
from charrnn.inference.trained_model import TrainedModel, model_weights
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.directory import Run
from charrnn.session.events import (
    Evaluated,
    Event,
    Finished,
    Planned,
    Rehearsal,
    Replanned,
    Restarted,
    Saved,
    Stepped,
)
from charrnn.session.history import History
from charrnn.session.loggers import Loggers
from charrnn.session.plan import Plan
from charrnn.tasks.task import Data, Task, task_of
from charrnn.training.budget import LONG_SCORE, estimate_size
from charrnn.training.build import build_optimizer
from charrnn.training.hardware import CoreTime, core_time
from charrnn.training.memory import peak_memory
from charrnn.training.trainer import Report, Score, Trainer

HOPELESS = 10.0  # times the loss of a uniform guess: a run with more does not recover
FEWEST_TO_CHOOSE_BY = 30  # examples: with fewer in validation, no checkpoint is chosen by its score
LIVE = 2.0  # seconds between two additions to steps.jsonl
REHEARSAL = 2.0  # seconds of training without a run, to measure its speed
UNREAD = 1_000  # steps on a GPU, between evaluations, after which losses are read
OVERFITTED = 0.6  # share of the steps: a best step before it means that more time will not help


def never() -> bool:
    """Return False: nobody asked for a stop."""
    return False


def _choose_evaluation(config: ResolvedConfig, held_out: int, kind: type[Task]) -> ResolvedConfig:
    """Decide how to evaluate, on a validation split of a length, if that is `auto`.

    With a time budget, the size of the estimate is decided once the speed is known.
    """
    chosen: dict[str, Any] = {}
    if config.evaluation.best == "auto":
        fewest = getattr(kind, "fewest_to_choose_by", FEWEST_TO_CHOOSE_BY)
        chosen["evaluation.best"] = "validation" if held_out >= fewest else "last"
    if config.training.max_time is None:
        chosen |= estimate_size(config.evaluation, held_out)
    return with_values(config, chosen)


class Session:
    """One start of a run: its model, its data, its directory and its progress.

    Args:
        config: the configuration, with its `auto` values decided (`tasks.task.Task.plan`)
        data: the text or the examples to learn from
        about: facts about the text and the machine, saved in every checkpoint
        clock: seconds since the command began, imports included; a wall-clock budget covers them

    `run` is set before `events` is called. A time budget becomes a number of steps: the speed is
    measured during the warm-up of the learning rate, then the number replaces the time in the
    configuration. During the run, the number is corrected if the machine turns out faster or
    slower; `config.changes` records that, so that the run can be repeated.
    """

    run: Run
    warn: Callable[[str], None]

    def __init__(
        self,
        config: ResolvedConfig,
        data: Data,
        about: dict[str, Any],
        clock: Callable[[], float],
    ) -> None:
        self.data = data
        self.about = about
        self.clock = clock
        self.warn = lambda _: None  # Set by `session.opening`.
        torch.manual_seed(config.training.seed)
        kind, held_out = task_of(config.task), len(data.splits.get("validation", ()))
        config = _choose_evaluation(config, held_out, kind)
        self.experiment = kind(config, data, about)
        self.model, self.objective = self.experiment.model, self.experiment.objective
        self.validates = held_out > 0
        self.chooses = self.validates and config.evaluation.best == "validation"
        self.plan = Plan(config, self.objective.batches_per_epoch, clock)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.trainer: Trainer[Any] = Trainer(
            self.model,
            self.objective,
            build_optimizer(config, self.model),
            self.plan.schedule(),
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
        self.history = History(key_unit(self.experiment.unit))
        self._written_at = 0.0
        self._has_restarted = False
        self._core_time: CoreTime | None = None
        self._saved_step = -1
        self._saved_at = 0.0

    @property
    def config(self) -> ResolvedConfig:
        """The configuration as it is recorded."""
        return self.plan.config

    def adopt_weights(self, source: TrainedModel) -> tuple[list[str], list[str]]:
        """Start from the weights of another model; weights of a symbol go to the same symbol.

        Returns the symbols that were added and those that were dropped. Raises ConfigError if the
        models differ in anything but their vocabularies.
        """
        self.adopted = self.experiment.adopt_weights(source)
        self.trainer.begin_averages()
        return self.adopted

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint. Raises CheckpointError if it does not fit the model.

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
            self.plan.score_at_end = session["score_at_end"]
            self.trained_seconds = session["trained_seconds"]
            self.trained_characters = session["trained_characters"]
            self.history.load(session.get("rows", []))  # Older checkpoints have none.
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"the tensors of {checkpoint.path} do not fit its config: {error}"
            ) from error
        self.resumed_from = checkpoint.path
        before = config_from_data(metadata["config"], str(checkpoint.path))
        was, now = before.training, self.config.training
        if any(getattr(was, k) != getattr(now, k) for k in ("steps", "epochs", "max_time")):
            self.without_improvement = self.since_drop = 0
        sha256 = metadata.get("corpus", {}).get("sha256")
        if sha256 not in (None, self.data.sha256):
            self.trainer.progress.batch = 0
            self.trainer.carry = self.best = None
            self.without_improvement = self.since_drop = 0
        old_text = None if sha256 in (None, self.data.sha256) else str(sha256)
        step = self.trainer.progress.step
        self.plan.config = record_resume(self.config, before, step, old_text)

    def events(self, stop: Callable[[], bool] = never) -> Iterator[Event]:
        """Train in `run` until the budget, patience or `stop()` ends it.

        `stop` is called before every step. A run that diverges goes back to its last checkpoint at
        half the learning rate, once. Raises DivergedError before anything bad is saved,
        StorageError if a file cannot be written, ConfigError if there is no budget.
        """
        settings = flatten(self.config.model_dump())
        self.loggers = Loggers(self.config.logging, self.run, settings, self.warn)
        try:
            if self.plan.begin(self.trainer.progress.step, self.trained_seconds):
                yield self._planned(None)
            self.trainer.schedule = self.plan.schedule()
            self._save_first()
            began, before = self.clock(), self.trained_characters
            reason = yield from self._train_through_divergence(stop)
            if self._saved_step != self.trainer.progress.step:
                self._save()
            self._write_steps(at_end=True)
            characters = self.trained_characters - before
            speed = characters / max(self.clock() - began, 1e-9)
            yield self._finish(reason, speed, stop)
        finally:
            self.trainer.close()
            self.loggers.close()

    def rehearse(self) -> Rehearsal:
        """Take steps for a moment to measure the speed; nothing is written.

        The session cannot train afterwards. Raises ConfigError if there is no budget.
        """
        plan = self.plan
        is_planned = plan.begin(0, 0.0)
        self.trainer.schedule = plan.schedule()
        try:
            steps = self.trainer.run(sys.maxsize)
            report = next(steps)  # The first step takes longer.
            plan.pace.skip()
            began = self.clock()
            while report.step == 1 or self.clock() - began < REHEARSAL:
                report = next(steps)
                plan.pace.count(report.scored)
            self.trainer.check()
        finally:
            self.trainer.close()
        step_seconds, limit = plan.pace.step_seconds(), plan.budget.seconds
        total = plan.total_steps
        if not is_planned or total is None:
            total = min(plan.bound or sys.maxsize, max(1, int(limit / step_seconds)))
        return Rehearsal(
            total, total * step_seconds, plan.pace.since_last_asked(),
            peak_memory(torch.device(self.config.device), self.config.processes),
        )  # fmt: skip

    # Planning ----------------------------------------------------------------------------------

    def _planned(self, characters_per_second: float | None, note: str = "") -> Planned:
        """Follow a new plan, and return its event."""
        self._follow_plan()
        total = self.plan.total_steps or 0
        return Planned(
            total,
            total / self.objective.batches_per_epoch,
            self.plan.intervals.every,
            characters_per_second,
            self._waiting_share() if characters_per_second else 0.0,
            note,
        )

    def _follow_plan(self) -> None:
        """Set the trainer to the current plan, and write the configuration."""
        self.trainer.schedule = self.plan.schedule()
        self.trainer.clip = self.plan.now.training.clip
        self.run.write_config(dump_yaml(self.config))

    def _waiting_share(self) -> float:
        """The share of the time since training began in which other programs held the cores."""
        now = core_time(self.trainer.process_ids()) if self._core_time else None
        return now.waiting_share(self._core_time) if now and self._core_time else 0.0

    def _revise_plan(self) -> Iterator[Replanned]:
        """Follow a change that was recorded for this step, or correct the number of steps."""
        step = self.trainer.progress.step
        for entry in self.config.training.earlier:
            if entry["until"] == step:  # A run is repeated from its config.yaml.
                self.plan.enter(step)
                self._follow_plan()
                if entry.get("resumed"):
                    self.without_improvement = self.since_drop = 0
        if self.plan.correct(step):
            self._follow_plan()
            yield Replanned(self.plan.total_steps or step)

    # Training ----------------------------------------------------------------------------------

    def _train_through_divergence(self, stop: Callable[[], bool]) -> Generator[Event, None, str]:
        """Train; after a divergence, go back to the last checkpoint at half the rate, once."""
        while True:
            try:
                return (yield from self._train(stop))
            except DivergedError as error:
                if self._has_restarted:
                    raise
                yield self._restart(error)

    def _restart(self, error: DivergedError) -> Restarted:
        """Go back to the last checkpoint, and halve the learning rate from there on."""
        self._has_restarted = True
        self.trainer.close()
        checkpoint = self.run.latest(lambda _: None)
        self.restore(checkpoint)
        step = self.trainer.progress.step
        self.run.cut_metrics(step)
        self.plan.enter(step)
        rate = self.plan.now.training.learning_rate / 2
        self.plan.change(step, {"training.learning_rate": rate})
        self._follow_plan()
        return Restarted(step, rate, str(error))

    def _train(self, stop: Callable[[], bool]) -> Generator[Event, None, str]:
        """Take steps until training ends; return the reason, as in `Finished`."""
        progress, plan = self.trainer.progress, self.plan
        began_at = progress.step
        self._core_time = core_time(self.trainer.process_ids())
        plan.pace.skip()
        steps = self.trainer.run(sys.maxsize)
        while plan.total_steps is None or progress.step < plan.total_steps:
            if stop():
                return "interrupted"
            report = next(steps)
            seconds = plan.pace.count(report.scored)
            self.trained_seconds += seconds
            self.trained_characters += report.scored
            self._record_step(report)
            yield Stepped(report.step, report.scored)
            if plan.is_due(report.step, began_at):
                yield from self._evaluate_and_save(report)
                if self.without_improvement >= (plan.now.training.patience or math.inf):
                    return "patience"
            elif plan.must_save(report.step, self.clock() - self._saved_at + seconds):
                self._save()
                yield Saved(report.step, plan.seconds_left(report.step))
                plan.pace.skip()
            yield from self._revise_plan()
        return "budget"

    def _evaluate_and_save(self, report: Report) -> Iterator[Event]:
        """Evaluate and save; at the end of the warm-up, plan the other steps before saving."""
        began, plan = self.clock(), self.plan
        if plan.total_steps is None:
            self._size_estimate(report.scored)
        speed = plan.pace.since_last_asked()
        line, score, is_best = self._evaluate(speed, report.learning_rate)
        text = self.sample_text(self.config.evaluation.sample_length)
        plan.budget.costs.evaluation = self.clock() - began
        if plan.total_steps is None:
            final_seconds = self.experiment.final_seconds() if self.validates else 0.0
            note = plan.fix_by_time(report.step, final_seconds)
            yield self._planned(report.scored / plan.budget.costs.step, note)
        self.run.append_records("samples", [{"step": report.step, "sample": text}])
        self._save()
        self.loggers.publish()
        yield Evaluated(line, score, is_best, plan.seconds_left(report.step), text)
        plan.pace.skip()

    def _size_estimate(self, characters_a_step: int) -> None:
        """Decide how much of validation an estimate reads, now that the speed is known."""
        held_out = len(self.data.splits.get("validation", ()))
        reading = self.plan.characters_to_read(characters_a_step)
        size = estimate_size(self.config.evaluation, held_out, reading)
        self.plan.config = self.experiment.config = with_values(self.config, size)

    def sample_text(self, length: int) -> str:
        """Sample from the model as it is now, with the same random draws every time."""
        with self.trainer.averaged():
            return self.experiment.sample(length)

    def estimate(self) -> Evaluation:
        """Score the validation split by the quick protocol that is used during training."""
        with self.trainer.averaged():
            return self.experiment.estimate(self.trainer.progress.step)

    def _evaluate(
        self, speed: float, learning_rate: float
    ) -> tuple[dict[str, Any], Evaluation | None, bool]:
        """Score, compare with the best, and record a line of metrics.jsonl.

        Returns the line, the score (None without a validation split) and whether it is the best so
        far. Raises DivergedError for a loss far above the loss of a uniform guess.
        """
        progress = self.trainer.progress
        self._write_steps()
        train = self.trainer.interval_score()
        validation = self.estimate() if self.validates else None
        unit, guess = self.experiment.unit, self.experiment.guess
        loss = train.mean if validation is None else validation.nats
        if not loss < HOPELESS * max(1.0, guess):
            raise DivergedError(
                f"the {'training' if validation is None else 'validation'} loss is {loss:.4g} nats "
                f"per {unit} at step {progress.step:,}, although guessing costs only {guess:.4g}; "
                f"try a lower training.learning_rate"
            )
        is_best = self._compare_with_best(validation, train)
        key = key_unit(unit)
        nats = f"nats_per_{key}"
        line = {
            "step": progress.step,
            "epoch": progress.epoch + progress.batch / self.objective.batches_per_epoch,
            "learning_rate": learning_rate,
            "train": {nats: train.mean, f"bits_per_{key}": train.mean / math.log(2)},
            "characters_per_second": speed,
            "seconds": self.trained_seconds,
        }
        if validation is not None:
            line["validation"] = {
                nats: validation.nats,
                f"bits_per_{key}": validation.bits,
                f"{key}s": validation.count,
                **validation.metrics,
                "protocol": validation.protocol,
            }
        self.run.append_metrics(line)
        return line, validation, is_best

    def _compare_with_best(self, validation: Evaluation | None, train: Score) -> bool:
        """Keep a score that is the best so far; any other counts for patience and plateau.

        If validation is missing or too short to choose by, the last step counts as the best.
        """
        progress, training = self.trainer.progress, self.config.training
        nats = f"nats_per_{key_unit(self.experiment.unit)}"
        if validation is None:
            protocol = "training text, while it was learned; there is no validation split"
            self.best = {"step": progress.step, nats: train.mean, "protocol": protocol}
            return False
        is_better = self.best is None or validation.nats < self.best.get(nats, math.inf)
        if is_better or not self.chooses:
            self.best = {
                "step": progress.step,
                nats: validation.nats,
                "protocol": validation.protocol,
            }
            self.without_improvement = self.since_drop = 0
            return self.chooses
        self.without_improvement += 1
        self.since_drop += 1
        if training.schedule == "plateau" and self.since_drop >= training.plateau_patience:
            progress.learning_rate_factor *= training.plateau_factor
            self.since_drop = 0
        return False

    # Recording steps ---------------------------------------------------------------------------

    def _record_step(self, report: Report) -> None:
        """Remember a step, and write the steps every now and then.

        On a GPU the losses are read less often, because reading them waits for the GPU.
        """
        self.history.take(report, self.trained_seconds)
        if self.config.device == "cpu":
            is_due = self.clock() - self._written_at >= LIVE
        else:
            is_due = len(self.history.unmeasured) >= UNREAD
        if is_due:
            self._write_steps()

    def _write_steps(self, at_end: bool = False) -> None:
        """Bring the history and steps.jsonl up to date. Raises DivergedError and StorageError."""
        self.trainer.check()
        self.history.measure(self.trainer.losses_and_norms())
        self.history.write(self.run, at_end)
        self._written_at = self.clock()

    # Saving ------------------------------------------------------------------------------------

    def _save_first(self) -> None:
        """Save before the first step, so that there is always a checkpoint to resume from."""
        saved, step = self.run.steps(), self.trainer.progress.step
        # A run resumed from a single checkpoint file may lack the file of its best checkpoint.
        if self.best and self.best["step"] not in [*saved, step]:
            self.best = None
        if step not in saved:
            self._save()

    def _save(self) -> None:
        """Save a checkpoint. Raises DivergedError if a tensor is not finite."""
        step = self.trainer.progress.step
        self._write_steps()
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
        self._saved_step, self._saved_at = step, self.clock()

    def _metadata(self) -> dict[str, Any]:
        return {
            "config": json.loads(self.config.model_dump_json()),
            "vocabulary": self.data.vocabulary_data,
            "progress": self.trainer.progress_data(),
            "session": {
                "best": self.best,
                "without_improvement": self.without_improvement,
                "since_drop": self.since_drop,
                "score_at_end": self.plan.score_at_end,
                "trained_seconds": self.trained_seconds,
                "trained_characters": self.trained_characters,
                "rows": self.history.rows,
            },
            **self.about,
        }

    def _finish(self, reason: str, speed: float, stop: Callable[[], bool]) -> Finished:
        """Score the best checkpoint on the whole split, and sum up the run since its last start."""
        step = self.trainer.progress.step
        score = None
        if reason != "interrupted":
            try:
                score = self._score_best(stop)
            except KeyboardInterrupt:
                reason = "unscored" if stop() else reason
        best = self.best or {"step": step}
        return Finished(
            reason,
            best["step"] < OVERFITTED * step and reason in {"budget", "patience"},
            step,
            best,
            score,
            self.run.checkpoint_path(step),
            self.parameters,
            self.experiment.unit,
            self.clock(),
            speed,
        )

    def _score_best(self, stop: Callable[[], bool]) -> Evaluation | None:
        """Score the best checkpoint on all of validation; return None if that takes too long.

        Raises KeyboardInterrupt once `stop()` is true or the time is over.
        """
        if not self.best or not self.validates or not self.plan.score_at_end:
            return None
        budget = self.plan.budget
        if budget.is_late(budget.costs.final_score):
            return None
        seconds = self.experiment.final_seconds()
        if seconds > max(60.0, LONG_SCORE * self.trained_seconds) or budget.is_late(seconds):
            return None
        weights = model_weights(self.run.load(self.best["step"]).tensors)
        described = self.about["corpus"]["described"]
        score = self.experiment.final(
            weights,
            lambda: stop() or budget.is_late(),
            step=self.best["step"],
            text=described,
        )
        # best.json comes last: a resumed run that finds no score in it scores again.
        self.run.append_metrics({"step": self.trainer.progress.step, "final": score.record()})
        self.run.write_best(self.best | {"score": score.record()})
        return score
