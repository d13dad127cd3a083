"""Turn a budget into steps, evaluations and learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from charrnn.config.resolved import ResolvedConfig

EVALUATIONS = (
    12  # evaluations of a run with `evaluation.every: auto`, if time allows (a round number)
)
# Shares of a wall-clock budget:
EVALUATING = 0.2  # spent on evaluations: docs/experiments/budget-evaluations.md
AIM = 0.97  # filled by the plan: a machine slows down more often than it speeds up
LONG_SCORE = 0.15  # beyond this share the final unbroken score is left to `charrnn eval`


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


@dataclass
class Costs:
    """Seconds that the parts of a run take, measured during the warm-up."""

    step: float
    evaluation: float  # one evaluation, with its sample and its checkpoint
    final_score: float  # the unbroken score of the best checkpoint


def steps_in_time(
    taken: int, seconds_left: float, costs: Costs, every: int | None
) -> tuple[int, bool, int]:
    """Plan the rest of a wall-clock budget.

    Args:
        taken: steps that were taken already
        seconds_left: the rest of the budget
        costs: measured so far
        every: steps between evaluations, if the user chose it

    Returns the number of steps in all, whether the final unbroken score fits, and the number of
    evaluations.

    >>> steps_in_time(100, 100.0, Costs(step=0.1, evaluation=1.0, final_score=4.0), None)
    (940, True, 12)
    """
    scored = costs.final_score <= LONG_SCORE * seconds_left
    available = seconds_left - (costs.final_score if scored else 0)
    if every is None:
        fitting = EVALUATING * available / max(costs.evaluation, 1e-9)
        evaluations = max(1, min(EVALUATIONS, int(fitting)))
        more = int((available - evaluations * costs.evaluation) / costs.step)
    else:
        more = int(available / (costs.step + costs.evaluation / every))
        evaluations = max(1, more // every)
    return taken + max(0, more), scored, evaluations


def evaluation_interval(
    config: ResolvedConfig, total_steps: int, evaluations: int = EVALUATIONS
) -> int:
    """Return the steps between evaluations: `evaluation.every`, or total / evaluations."""
    every = config.evaluation.every
    return every if every != "auto" else max(1, math.ceil(total_steps / evaluations))
