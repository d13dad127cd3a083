"""The events of a training session, in the order in which `Session.events` yields them.

A session with a budget of steps begins with `Planned`. A session with a time budget first measures
its speed; `Replanned` follows if the speed changes. `Stepped` follows every step, `Evaluated`
every evaluation, `Saved` every other checkpoint, `Restarted` a divergence; `Finished` comes last.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charrnn.evaluation.score import Evaluation


@dataclass(frozen=True)
class Rehearsal:
    """What a run will take, measured in a few steps of which nothing was kept."""

    steps: int
    seconds: float
    """The time of all steps, evaluations left out."""
    characters_per_second: float
    peak_memory: int | None
    """The most memory that was taken so far, in bytes; None if the system does not say."""


@dataclass(frozen=True)
class Planned:
    """The number of steps is fixed, counted from the start of the run."""

    steps: int
    epochs: float
    evaluate_every: int
    characters_per_second: float | None
    """Measured during warm-up; None for a budget in steps or epochs."""
    waiting_share: float = 0.0
    """The share of the warm-up in which other programs held the cores that training wanted."""
    note: str = ""
    """Why most of the time stays unused, if it does."""


@dataclass(frozen=True)
class Replanned:
    """The number of steps was corrected, because the machine became faster or slower."""

    steps: int


@dataclass(frozen=True)
class Restarted:
    """Training diverged, and continues from the last checkpoint at half the learning rate."""

    step: int
    learning_rate: float
    reason: str


@dataclass(frozen=True)
class Stepped:
    """A training step has been taken; `characters` were predicted in it."""

    step: int
    characters: int


@dataclass(frozen=True)
class Evaluated:
    """The model has been evaluated and saved."""

    metrics: dict[str, Any]
    """The line that was written to metrics.jsonl."""
    score: Evaluation | None
    """The score of the validation split, as the line records it; None if there is no such split."""
    is_best: bool
    """Whether it is the best score of the run so far."""
    seconds_left: float | None
    """An estimate of the time until the last step, without evaluations."""
    sample: str
    """A sample from the model with its current weights."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint was saved between two evaluations."""

    step: int
    seconds_left: float


@dataclass(frozen=True)
class Finished:
    """Training ended, or was stopped and can be resumed."""

    reason: str
    """`budget`, `patience`, `interrupted`, or `unscored`: interrupted during the final score."""
    overfits: bool
    """Whether the best checkpoint is so much older than the last that more time will not help."""
    step: int
    best: dict[str, Any]
    """The step, the validation loss and the protocol of the best checkpoint."""
    score: Evaluation | None
    """The best checkpoint's score on the whole validation split; None if it was not computed."""
    checkpoint: Path
    """The checkpoint of the last step."""
    parameters: int
    """The number of trained weights."""
    unit: str
    """The unit of a loss, such as `character`."""
    seconds: float
    """Time since the command began."""
    characters_per_second: float
    """The speed since the run was started or resumed, with evaluations and saving included."""


Event = Planned | Replanned | Stepped | Evaluated | Saved | Restarted | Finished
