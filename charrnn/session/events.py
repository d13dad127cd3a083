"""What happens in a run, as events."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charrnn.evaluation.score import Evaluation


@dataclass(frozen=True)
class Planned:
    """The number of steps is fixed (again)."""

    steps: int
    epochs: float
    evaluate_every: int
    characters_per_second: float | None  # measured in warm-up; None for a budget in steps


@dataclass(frozen=True)
class Stepped:
    """A step was taken."""

    step: int
    characters: int


@dataclass(frozen=True)
class Evaluated:
    """A line of metrics.jsonl, the score of validation in it, whether it is the best so far, and a
    sample of what the model makes."""

    metrics: dict[str, Any]
    score: Evaluation
    is_best: bool
    seconds_left: float | None
    sample: str


@dataclass(frozen=True)
class Finished:
    """How a start ended: `reason` is budget, patience, interrupted, or unscored, which is
    interrupted when only the final score was left to do."""

    reason: str
    step: int
    best: dict[str, Any]
    score: Evaluation | None  # of the best checkpoint on validation, whole
    checkpoint: Path
    parameters: int
    unit: str
    seconds: float
    characters_per_second: float  # trained over wall time, evaluations and saves included


Event = Planned | Stepped | Evaluated | Finished
