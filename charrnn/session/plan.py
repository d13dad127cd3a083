"""The plan of a run: how many steps, when to evaluate, and which settings hold at a step.

A budget in steps or epochs is planned at once. A time budget is planned after the warm-up, when the
speed is known, and corrected during the run. Every change is recorded (`charrnn.config.changes`).
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from charrnn.config.changes import config_at, record_change
from charrnn.config.merge import with_values
from charrnn.config.resolved import ResolvedConfig
from charrnn.errors import ConfigError
from charrnn.training.budget import (
    EVALUATING,
    EVALUATIONS,
    LONGEST_SILENCE,
    Costs,
    Intervals,
    TimeBudget,
    evaluation_intervals,
    learning_rate_schedule,
    steps_bound,
)

RECENT = 0.04  # share of a time budget in which the speed is measured
SHORTEST_MEASURE, LONGEST_MEASURE = 1.5, 30.0  # seconds in which the speed is measured


class Pace:
    """Measures the speed of the steps; time that the caller spends on their events is included.

    Args:
        clock: seconds since any moment
        recent: the seconds of stepping that `step_seconds` looks back on
    """

    def __init__(self, clock: Callable[[], float], recent: float) -> None:
        self._clock, self._recent = clock, recent
        self._steps: deque[float] = deque()
        self._sum = 0.0
        self._seconds, self._characters = 0.0, 0
        self.skip()

    def skip(self) -> None:
        """Do not count the time since the last step, which was spent on an evaluation."""
        self._last = self._clock()

    def count(self, characters: int) -> float:
        """Count a step that has just ended; return the seconds it took."""
        now = self._clock()
        seconds, self._last = now - self._last, now
        self._steps.append(seconds)
        self._sum += seconds
        while len(self._steps) > 1 and self._sum - self._steps[0] >= self._recent:
            self._sum -= self._steps.popleft()
        self._seconds += seconds
        self._characters += characters
        return seconds

    def since_last_asked(self) -> float:
        """Characters per second since the last call."""
        speed = self._characters / max(self._seconds, 1e-9)
        self._seconds, self._characters = 0.0, 0
        return speed

    def step_seconds(self) -> float:
        """The mean time of the most recent steps."""
        return max(self._sum / len(self._steps), 1e-9)


class Plan:
    """How many steps a run takes, when it is evaluated, and at which learning rate.

    Args:
        config: the configuration, with its `auto` values decided
        batches_per_epoch: the steps in one pass over the data
        clock: seconds since the command began

    `config` is the configuration to record, `now` the settings that hold at the current step; the
    two differ while a run with recorded changes is repeated.
    """

    def __init__(
        self, config: ResolvedConfig, batches_per_epoch: int, clock: Callable[[], float]
    ) -> None:
        self.config = self.now = config
        self.batches_per_epoch = batches_per_epoch
        self.total_steps: int | None = None
        self.intervals = Intervals(1, 1)
        self.score_at_end = True
        seconds = config.training.max_time
        self.budget = TimeBudget(math.inf if seconds is None else seconds, clock, Costs(1.0))
        recent = 0.0 if seconds is None else RECENT * seconds
        self.pace = Pace(clock, min(max(SHORTEST_MEASURE, recent), LONGEST_MEASURE))
        self._clock = clock
        self._most_steps = self.bound or sys.maxsize
        self._guess: int | None = (
            None  # the total number of steps assumed until the speed is measured
        )

    @property
    def bound(self) -> int | None:
        """The most steps that `training.steps` and `training.epochs` allow; None without either."""
        return steps_bound(self.config, self.batches_per_epoch)

    def schedule(self) -> Callable[[int], float]:
        """The learning rate of a step, by the settings that hold now."""
        return learning_rate_schedule(self.now, self.total_steps or self._guess)

    def begin(self, step: int, trained_seconds: float) -> bool:
        """Plan a run that has taken `step` steps; return False if the speed must be known first.

        Raises ConfigError if there is no budget or the run cannot be repeated.
        """
        if step == 0 and any("text" in entry for entry in self.config.training.earlier):
            raise ConfigError(
                "training.earlier: this run read another text at first, so it cannot be repeated "
                "from its config; remove training.earlier to train on this text alone"
            )
        if self.budget.seconds == math.inf:
            if self.bound is None:
                raise ConfigError(
                    "the run has no budget; set training.steps, training.epochs or "
                    "training.max_time"
                )
            self._fix(step, self.bound, None)
            return True
        if step and trained_seconds:
            # Measure with about the rate of the new schedule, not with the highest rate.
            self._guess = int(step * (1 + self.budget.seconds / trained_seconds))
        return False

    def has_measured(self, step: int, began_at: int) -> bool:
        """Whether the speed has been measured for long enough since this run started or resumed.

        That is so after `training.warmup_steps` steps, at the last step that the budget allows, and
        when half of the time is gone.
        """
        last = min(began_at + self.config.training.warmup_steps, self._most_steps)
        return step >= last or self._clock() >= self.budget.seconds / 2

    def characters_to_read(self, characters_a_step: int) -> float:
        """Return how many characters an evaluation may read in its share of the time.

        It reads them at least as fast as a step does. There is no bound without a time budget.
        """
        speed = characters_a_step / self.pace.step_seconds()
        return self.budget.seconds * EVALUATING * speed / EVALUATIONS

    def fix_by_time(self, step: int, final_seconds: float) -> str:
        """Plan the steps that fit into the time; say why, if most of the time stays unused."""
        costs = self.budget.costs
        costs.step, costs.final_score = self.pace.step_seconds(), final_seconds
        guess = step + max(0, int(self.budget.left / costs.step))
        total, self.score_at_end = self.budget.steps_that_fit(step, self._intervals(guess, costs))
        self._fix(step, min(total, self._most_steps), costs)
        if total > step or self.budget.left < self.budget.seconds / 3:
            return ""
        return (
            f"no step fits into the time that is left: a step takes {costs.step:.3g} s, an "
            f"evaluation {costs.evaluation:.3g} s; give more time, or use a smaller model"
        )

    def _intervals(self, total: int, costs: Costs | None) -> Intervals:
        return evaluation_intervals(self.now, total, self.batches_per_epoch, costs)

    def _fix(self, step: int, total: int, costs: Costs | None) -> None:
        """Plan `total` steps, and record that."""
        intervals, saves = self._intervals(total, costs), self.config.checkpoints.every
        decided = {
            "training.steps": total,
            "evaluation.first": intervals.first,
            "evaluation.every": intervals.every,
            "checkpoints.every": intervals.every if saves == "auto" else saves,
        }
        replaced: dict[str, Any] = {"training.epochs": None, "training.max_time": None}
        if self._guess is None:
            self.config = with_values(self.config, replaced | decided)
        else:  # The steps so far followed the schedule for the guessed total.
            self.config = with_values(self.config, replaced | {"training.steps": self._guess})
            self.config = record_change(self.config, step, decided)
        self.enter(step)

    def enter(self, step: int) -> None:
        """Follow the settings that hold from a step on."""
        self.now = config_at(self.config, step)
        self.total_steps = self.now.training.steps
        self.intervals = self._intervals(self.total_steps or 1, None)

    def change(self, step: int, values: Mapping[str, Any]) -> None:
        """Change settings from a step on, and record that."""
        self.config = record_change(self.config, step, values)
        self.enter(step)

    def is_due(self, step: int, began_at: int) -> bool:
        """Whether to evaluate after a step; the run started or resumed at step `began_at`."""
        if self.total_steps is None:
            return self.has_measured(step, began_at)
        return self.intervals.are_due(step) or step == self.total_steps

    def must_save(self, step: int, silent_seconds: float) -> bool:
        """Whether to save after a step, by its number or by the time since the last checkpoint.

        Saving changes nothing in training, so a run resumes exactly although the clock decides.
        """
        is_numbered = self.total_steps and step % int(self.now.checkpoints.every) == 0
        return bool(is_numbered) or silent_seconds > LONGEST_SILENCE

    def correct(self, step: int) -> bool:
        """Change the number of steps if they do not fit the time; return whether it changed."""
        total = self.total_steps
        if total is None or step >= total:
            return False
        self.budget.costs.rescale(self.pace.step_seconds())
        if not self.budget.is_missed(step, total, self.intervals, self.score_at_end):
            return False
        fitting, self.score_at_end = self.budget.steps_that_fit(step, self.intervals)
        fitting = max(step + 1, min(fitting, self._most_steps))
        self.change(step, {"training.steps": fitting})
        return fitting != total

    def seconds_left(self, step: int) -> float:
        """The seconds until the last step, without evaluations."""
        return ((self.total_steps or step) - step) * self.pace.step_seconds()
