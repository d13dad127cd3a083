"""Turn a budget into steps, evaluations and learning rates, and keep a run within its time."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from charrnn.config.resolved import ResolvedConfig
from charrnn.config.schema import EvaluationConfig

EVALUATIONS = 12  # of a run with `evaluation.every: auto`, early ones not counted (a round number)
GROWTH = 4  # the distance of evaluations is the number of steps taken divided by this
FIRST_PASSES = 2  # passes over the text before the first evaluation
SHORTEST_SHARE = 64  # `evaluation.first` is at least this part of `evaluation.every`
LONGEST_SILENCE = 240.0  # seconds between checkpoints, and between evaluations as planned: five
# minutes, less the time that an evaluation may take
# Shares of a wall-clock budget:
EVALUATING = 0.1  # spent on evaluations: docs/experiments/budget-evaluations.md
AIM = 0.97  # filled by the plan: a machine slows down more often than it speeds up
LATEST = 1.03  # the end of a final score may be as late as this
LONG_SCORE = 0.15  # beyond this share the final unbroken score is left to `charrnn eval`
ENDING = 0.3  # seconds of a wall-clock budget in which the process ends: busy-machine.md
# The estimate of validation, if the text is long enough:
MOST_LANES, FEWEST_LANES = 64, 8
MOST_SCORED, FEWEST_SCORED = 262_144, 8_192  # symbols
# A plan is corrected if it misses the time by the larger of these shares:
OF_BUDGET = 0.015
OF_REST = 0.08  # of the time that is left


def steps_bound(config: ResolvedConfig, batches_per_epoch: int) -> int | None:
    """Return the most steps that `training.steps` and `training.epochs` allow, if either is set."""
    training = config.training
    bounds = [training.steps] if training.steps else []
    if training.epochs is not None:
        bounds.append(max(1, round(training.epochs * batches_per_epoch)))
    return min(bounds) if bounds else None


def learning_rate_schedule(
    config: ResolvedConfig, total_steps: int | None
) -> Callable[[int], float]:
    r"""Return the learning rate as a function of the step s, counted from 0.

    With W warm-up steps, T steps in all and the highest rate r, it is r (s + 1) / W in the warm-up
    (Goyal et al. 2017) and then, with x = min(1, (s - W + 1) / (T - W + 1))::

        linear    r (1 - x)
        cosine    r (1 + cos(pi x)) / 2          (Loshchilov and Hutter 2017)
        constant, plateau    r

    `total_steps` is None while the speed of the run is still measured: the rate then stays at r.
    """
    training = config.training
    highest, warmup = training.learning_rate, training.warmup_steps

    def rate(step: int) -> float:
        if step < warmup:
            return highest * (step + 1) / warmup
        if total_steps is None or training.schedule in ("constant", "plateau"):
            return highest
        fraction = min(1.0, (step - warmup + 1) / max(1, total_steps - warmup + 1))
        if training.schedule == "linear":
            return highest * (1 - fraction)
        return highest * 0.5 * (1 + math.cos(math.pi * fraction))

    return rate


class Intervals(NamedTuple):
    """The steps at which a run is evaluated, besides its last one.

    The distance between them begins at `first` and grows to a quarter of the steps taken, at most
    `every`: the best step of a short text comes early and must not be missed.

    >>> intervals = Intervals(first=10, every=30)
    >>> [step for step in range(200) if intervals.are_due(step)]
    [10, 20, 30, 40, 50, 62, 77, 96, 120, 150, 180]
    """

    first: int
    every: int

    def count(self, step: int) -> int:
        """Count the evaluations up to and including a step."""
        at = number = 0
        while at < step:
            distance = min(self.every, max(self.first, at // GROWTH))
            if distance == self.every:  # From here on all distances are equal.
                return number + (step - at) // self.every
            at += distance
            number += at <= step
        return number

    def are_due(self, step: int) -> bool:
        """Whether a run is evaluated after a step."""
        return self.count(step) > self.count(step - 1)


@dataclass
class Costs:
    """Seconds that the parts of a run take, as last measured."""

    step: float
    evaluation: float = 0.0  # one evaluation, with its sample and its checkpoint
    final_score: float = 0.0  # the unbroken score of the best checkpoint

    def rescale(self, step: float) -> None:
        """Set the seconds of a step; the machine does everything else as much faster or slower."""
        ratio = step / self.step
        self.step, self.evaluation = step, self.evaluation * ratio
        self.final_score *= ratio


def estimate_size(
    evaluation: EvaluationConfig, held_out: int, reading: float = math.inf
) -> dict[str, int]:
    """Choose the lanes of the estimate of validation, and how many symbols it scores.

    `held_out` is the length of the split. The estimate reads about `reading` symbols. It has
    at least 8 lanes and scores at least 8,192 symbols, if the split is long enough. Settings that
    the user chose are kept.

    >>> estimate_size(EvaluationConfig(), 50_000, reading=30_000)
    {'evaluation.lanes': 15, 'evaluation.characters': 15000}
    """
    warmup = max(1, evaluation.warmup)
    affordable = max(FEWEST_LANES, reading / (2 * warmup))
    lanes = max(1, int(min(MOST_LANES, held_out // warmup, affordable)))
    if isinstance(evaluation.lanes, int):
        lanes = evaluation.lanes
    scored = int(min(MOST_SCORED, max(FEWEST_SCORED, reading - lanes * evaluation.warmup)))
    if isinstance(evaluation.characters, int):
        scored = evaluation.characters
    return {"evaluation.lanes": lanes, "evaluation.characters": scored}


def evaluation_intervals(
    config: ResolvedConfig, total_steps: int, batches_per_epoch: int, costs: Costs | None = None
) -> Intervals:
    """Choose when to evaluate, if `evaluation.every` or `evaluation.first` is `auto`.

    With known `costs`, an interval lasts at most four minutes, and evaluations take at most a tenth
    of the time.
    """
    chosen, first = config.evaluation.every, config.evaluation.first
    if isinstance(chosen, int):
        return Intervals(min(first, chosen) if isinstance(first, int) else chosen, chosen)
    every, fewest = max(1, math.ceil(total_steps / EVALUATIONS)), 1
    if costs:
        fewest = max(1, math.ceil(costs.evaluation / (EVALUATING * costs.step)))
        every = max(fewest, min(every, int(LONGEST_SILENCE / costs.step)))
    early = max(fewest, FIRST_PASSES * batches_per_epoch, every // SHORTEST_SHARE)
    return Intervals(min(first if isinstance(first, int) else early, every), every)


@dataclass
class TimeBudget:
    """The wall-clock budget of a run, and what still fits into it.

    Args:
        seconds: the budget of the whole command; infinite if there is none
        clock: the seconds since the command began
        costs: seconds of a step, an evaluation and the final score; the session keeps them up to
            date

    The number of steps is planned after the warm-up and corrected if the machine turns out
    faster or slower than measured (`is_missed`).

    >>> budget = TimeBudget(100.0, lambda: 10.0, Costs(step=0.1, evaluation=1.0, final_score=4.0))
    >>> budget.steps_that_fit(100, Intervals(50, 50))
    (797, True)
    """

    seconds: float
    clock: Callable[[], float]
    costs: Costs

    @property
    def left(self) -> float:
        """Seconds until the planned end."""
        return self.seconds * AIM - ENDING - self.clock()

    def scores_at_end(self) -> bool:
        """Whether the final score takes a small enough share of the time that is left."""
        return self.costs.final_score <= LONG_SCORE * max(self.left, 0.0)

    def steps_that_fit(self, taken: int, intervals: Intervals) -> tuple[int, bool]:
        """Return the number of steps in all, and whether the final score fits as well."""
        scored = self.scores_at_end()
        most = taken + max(0, int(self.left / self.costs.step))

        def is_too_long(total: int) -> bool:
            return self._needed(taken, total, intervals, scored) > self.left

        fitting = bisect_left(range(taken + 1, most + 1), True, key=is_too_long)
        return taken + fitting, scored

    def is_missed(self, taken: int, total: int, intervals: Intervals, scored: bool) -> bool:
        """Whether `total` steps would end so early or so late that the plan must be corrected."""
        left = self.left
        missed = abs(self._needed(taken, total, intervals, scored) - left)
        return missed > max(OF_BUDGET * self.seconds, OF_REST * left)

    def _needed(self, taken: int, total: int, intervals: Intervals, scored: bool) -> float:
        """Return the seconds for the steps until `total`, their evaluations and the final score."""
        evaluations = max(1, intervals.count(total) - intervals.count(taken))
        seconds = (total - taken) * self.costs.step + evaluations * self.costs.evaluation
        return seconds + (self.costs.final_score if scored else 0.0)

    def is_late(self, seconds: float = 0.0) -> bool:
        """Whether a run that ends in `seconds` overruns its budget by more than LATEST allows."""
        return self.clock() + seconds > self.seconds * LATEST - ENDING
