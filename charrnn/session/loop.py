"""One start of a training run, from its pieces to its last checkpoint, as a stream of events.

`Session.events` drives the trainer: it turns a wall-clock budget into steps, evaluates, records,
saves, prunes and stops. It prints nothing: whoever iterates over the events shows them.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch

from charrnn.config.merge import dump_yaml, with_values
from charrnn.config.schema import Config
from charrnn.errors import CheckpointError, ConfigError, DivergedError
from charrnn.evaluation.score import Evaluation, key_unit
from charrnn.inference.trained_model import TrainedModel, model_weights
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.directory import Run
from charrnn.session.events import Evaluated, Event, Finished, Planned, Stepped
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
from charrnn.training.trainer import Trainer

HOPELESS = 10.0  # times the loss of a uniform guess: no run comes back from there


class Session:
    """A run, its pieces, and where it stands.

    `clock` gives seconds since the command began, imports included: a wall-clock budget covers
    all of them. Warm-up is a fixed number of steps in which the speed is measured; then the step
    count is fixed and written into the configuration, which has no wall-clock budget any more.
    """

    def __init__(
        self,
        config: Config,
        data: Data,
        about: dict[str, Any],
        clock: Callable[[], float],
    ) -> None:
        self.config = config
        self.data = data
        self.about = about  # of the text and the machine: goes into each checkpoint
        self.clock = clock
        torch.manual_seed(config.training.seed)
        self.experiment = task_of(config.task)(config, data, about)
        self.model, self.task = self.experiment.model, self.experiment.objective
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.trainer: Trainer[Any] = Trainer(
            self.model,
            self.task,
            build_optimizer(config, self.model),
            learning_rate_schedule(config, None),
            clip=config.training.clip,
            seed=config.training.seed,
            precision=torch.bfloat16 if config.precision == "bfloat16" else torch.float32,
            processes=int(config.processes),
            graph=config.graph,
            average=config.training.average,
        )
        self.run: Run
        self.best: dict[str, Any] | None = None
        self.without_improvement = 0
        self.since_drop = 0
        self.trained_seconds = 0.0
        self.trained_characters = 0
        self.score_at_end = True

    def adopt_weights(self, source: TrainedModel) -> tuple[list[str], list[str]]:
        """Start from another model: symbols are matched by identity, the rest as it is.

        Returns the symbols that were added and those that were dropped. Raises ConfigError where
        the models differ in shape beyond the vocabulary.
        """
        changes = self.experiment.adopt_weights(source)
        self.trainer.begin_averages()
        return changes

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint. Raises CheckpointError where it does not fit.

        Patience starts anew with a new budget. With another text, so do the epoch, the carried
        state and the search for the best: losses on two texts do not compare.
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
                f"{checkpoint.path} does not fit its own config: {error}"
            ) from error
        before = metadata["config"].get("training", {})
        now = self.config.training
        if any(before.get(k) != getattr(now, k) for k in ("steps", "epochs", "max_time")):
            self.without_improvement = self.since_drop = 0
        if metadata.get("corpus", {}).get("sha256") not in (None, self.data.sha256):
            self.trainer.progress.batch = 0
            self.trainer.carry = self.best = None
            self.without_improvement = self.since_drop = 0

    def events(self, run: Run, stop: Callable[[], bool]) -> Iterator[Event]:
        """Train in `run` until the budget, patience or `stop()` ends it.

        Raises DivergedError with nothing bad saved, StorageError when the disk does not take it,
        ConfigError where there is no budget.
        """
        try:
            yield from self._events(run, stop)
        finally:
            self.trainer.close()

    def _events(self, run: Run, stop: Callable[[], bool]) -> Iterator[Event]:
        self.run = run
        progress = self.trainer.progress
        budget = self.config.training.max_time
        max_time = budget if isinstance(budget, float) else math.inf
        bound = steps_bound(self.config, self.task.batches_per_epoch)
        total: int | None = None
        every = 0
        if max_time == math.inf:
            if bound is None:
                raise ConfigError("the run has no budget; give --steps, --epochs or --max-time")
            total, every = bound, self._fix(bound)
            yield self._planned(total, None)
        elif progress.step and self.trained_seconds:
            # Measure at about the rate that the new schedule will have, not at the highest.
            guess = int(progress.step * (1 + max_time / self.trained_seconds))
            self.trainer.schedule = learning_rate_schedule(self.config, guess)
        self._find_best()
        if progress.step not in run.steps():
            self._save()  # So that from here on there is always something to resume from.
        measure_until = min(progress.step + self.config.training.warmup_steps, bound or sys.maxsize)
        measured: deque[float] = deque(maxlen=1000)
        seconds, characters = 0.0, 0
        saved_step, reason = -1, "budget"
        steps = self.trainer.run(sys.maxsize)
        begun = self.trained_characters
        began = last = time.perf_counter()
        while total is None or progress.step < total:
            if stop():
                reason = "interrupted"
                break
            report = next(steps)
            # From step to step: what whoever iterates does with an event counts as well.
            last, before = time.perf_counter(), last
            measured.append(last - before)
            seconds += measured[-1]
            characters += report.scored
            self.trained_seconds += measured[-1]
            self.trained_characters += report.scored
            yield Stepped(report.step, report.scored)
            if total is None and report.step < measure_until and self.clock() < max_time / 2:
                continue
            if total is not None and report.step % every and report.step != total:
                if report.step % int(self.config.checkpoints.every) == 0:
                    self._save()
                    saved_step = report.step
                continue

            line, score, is_best = self._evaluate(
                characters / max(seconds, 1e-9), report.learning_rate
            )
            text = self.sample_text(self.config.evaluation.sample_length)
            seconds, characters = 0.0, 0
            if total is None:
                # The first steps are slower: caches are cold and buffers are being found.
                step_seconds = statistics.median(list(measured)[len(measured) // 3 :])
                # So is a first evaluation: a second one is timed, with its sample and checkpoint.
                start = self.clock()
                self.estimate()
                self.sample_text(self.config.evaluation.sample_length)
                self._save()
                costs = Costs(step_seconds, self.clock() - start, self.experiment.final_seconds())
                left = max_time * AIM - self.clock()
                chosen = self.config.evaluation.every
                total, self.score_at_end, evaluations = steps_in_time(
                    report.step, left, costs, None if chosen == "auto" else chosen
                )
                total = min(total, bound) if bound else total
                every = self._fix(total, evaluations)
                yield self._planned(total, report.scored / step_seconds)
            self._save()
            saved_step = report.step
            seconds_left = (total - report.step) * statistics.median(measured)
            yield Evaluated(line, score, is_best, seconds_left, text)
            last = time.perf_counter()
            patience = self.config.training.patience
            if patience is not None and self.without_improvement >= patience:
                reason = "patience"
                break
        if saved_step != progress.step:
            self._save()
        speed = (self.trained_characters - begun) / (time.perf_counter() - began)
        yield self._finish(reason, speed, stop)

    def _find_best(self) -> None:
        """A run that goes on from a lone checkpoint may not have the file of the best one."""
        if self.best and self.best["step"] not in [*self.run.steps(), self.trainer.progress.step]:
            self.best = None

    def sample_text(self, length: int) -> str:
        """What the model as it is now makes; the same draws at every step."""
        with self.trainer.averaged():
            return self.experiment.sample(length)

    def _planned(self, total: int, speed: float | None) -> Planned:
        epochs = total / self.task.batches_per_epoch
        return Planned(total, epochs, evaluation_interval(self.config, total), speed)

    def _fix(self, total: int, evaluations: int = EVALUATIONS) -> int:
        """Make the schedule a function of the step, write the plan down, return the interval."""
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
        self.trainer.schedule = learning_rate_schedule(self.config, total)
        self.run.write_config(dump_yaml(self.config))
        return every

    def _evaluate(
        self, speed: float, learning_rate: float
    ) -> tuple[dict[str, Any], Evaluation, bool]:
        """Score, compare with the best, let plateau and patience count, and record a line."""
        progress, training = self.trainer.progress, self.config.training
        train = self.trainer.interval_score()
        validation = self.estimate()
        unit, guess = self.experiment.unit, self.experiment.guess
        if not validation.nats < HOPELESS * max(1.0, guess):
            raise DivergedError(
                f"the validation loss is {validation.nats:.4g} nats per {unit} at "
                f"step {progress.step:,}, where guessing costs {guess:.4g}; "
                f"try a lower --learning-rate"
            )
        key = key_unit(unit)
        nats = f"nats_per_{key}"
        is_best = self.best is None or validation.nats < self.best[nats]
        if is_best:
            self.best = {
                "step": progress.step,
                nats: validation.nats,
                "protocol": validation.protocol,
            }
            self.without_improvement = self.since_drop = 0
        else:
            self.without_improvement += 1
            self.since_drop += 1
            if training.schedule == "plateau" and self.since_drop >= training.plateau_patience:
                progress.learning_rate_factor *= training.plateau_factor
                self.since_drop = 0
        line = {
            "step": progress.step,
            "epoch": progress.epoch + progress.batch / self.task.batches_per_epoch,
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

    def estimate(self) -> Evaluation:
        """Validation, by the cheap protocol used during training."""
        with self.trainer.averaged():
            return self.experiment.estimate(self.trainer.progress.step)

    def _save(self) -> None:
        step = self.trainer.progress.step
        tensors = self.trainer.tensors()
        for name, value in tensors.items():
            if not torch.isfinite(value).all():
                raise DivergedError(
                    f"{name} is not finite after step {step:,}; try a lower --learning-rate; "
                    f"nothing of it was saved"
                )
        arrays = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
        self.run.save(step, arrays, self._metadata())
        if self.best:
            self.run.write_best(self.best | {"score": None})
        best_step = self.best["step"] if self.best else None
        self.run.prune(step, self.config.checkpoints.keep_last, best_step)

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
        step = self.trainer.progress.step
        best = self.best or {"step": step}
        score = None
        wanted = reason != "interrupted" and self.best is not None and self.score_at_end
        longest = max(60.0, LONG_SCORE * self.trained_seconds)
        if wanted and self.experiment.final_seconds() <= longest:
            weights = model_weights(self.run.load(best["step"]).tensors)
            described = self.about["corpus"]["described"]
            try:
                score = self.experiment.final(weights, stop, step=best["step"], text=described)
                # In this order: a start that finds no score here takes it again.
                self.run.append_metrics({"step": step, "final": score.record()})
                self.run.write_best(best | {"score": score.record()})
            except KeyboardInterrupt:
                reason = "unscored"
        return Finished(
            reason,
            step,
            best,
            score,
            self.run.checkpoint_path(step),
            self.parameters,
            self.experiment.unit,
            self.clock(),
            speed,
        )
