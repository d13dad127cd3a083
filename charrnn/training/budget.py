"""Turn a budget into steps, evaluations and learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from charrnn.config.resolved import ResolvedConfig

EVALUATIONS = 12  # in a run whose `evaluation.every` is auto, if they fit
EVALUATING = 0.2  # of a wall-clock budget: how much of it they may take
AIM = 0.97  # of a wall-clock budget: machines slow down more often than they speed up
LONG_SCORE = 0.15  # of a wall-clock budget: an unbroken score that takes longer is left to `eval`


def steps_bound(config: ResolvedConfig, batches_per_epoch: int) -> int | None:
    """The step count that `steps` and `epochs` allow, None where neither is set."""
    training = config.training
    bounds = [training.steps] if training.steps else []
    if training.epochs is not None:
        bounds.append(max(1, round(training.epochs * batches_per_epoch)))
    return min(bounds) if bounds else None


def learning_rate_schedule(
    config: ResolvedConfig, total_steps: int | None
) -> Callable[[int], float]:
    """The learning rate of step s (from 0): a linear warm-up, then the chosen fall to zero.

    `total_steps` None, while a wall-clock budget is still being measured, gives the warm-up and
    then a constant rate.
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
    """Seconds that parts of a run take, measured while it warms up."""

    step: float
    evaluation: float  # with its sample and its checkpoint
    final_score: float


def steps_in_time(
    taken: int, seconds_left: float, costs: Costs, every: int | None
) -> tuple[int, bool, int]:
    """How many steps in all fit, whether the final unbroken score fits too, and how many
    evaluations there are then.

    `taken` steps are done, `seconds_left` of the budget remain, `every` is a chosen evaluation
    interval.
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
    """Steps between so many evaluations, unless a number of steps was chosen."""
    every = config.evaluation.every
    return every if every != "auto" else max(1, math.ceil(total_steps / evaluations))
