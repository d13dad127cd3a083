"""The experiments that a session can run: one module a task, and its line in `config.TASKS`.

An experiment knows what a session does not: what is read, what is built and trained, how it is
judged, what it makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from charrnn.config.resolved import ResolvedConfig
from charrnn.config.schema import Config
from charrnn.data.vocabulary import Vocabularies
from charrnn.evaluation.score import Evaluation
from charrnn.inference.trained_model import TrainedModel
from charrnn.registry import TASKS, resolve
from charrnn.runs.checkpoint import Arrays, Checkpoint


class Data(Protocol):
    """What is learned from: its splits, the SHA-256 of what was read, and the key under which the
    cache has it, 64 zeros for what is not there."""

    sha256: str
    key: str

    @property
    def splits(self) -> Mapping[str, Sized]:
        """Train, validation and perhaps test."""
        ...

    @property
    def vocabulary_data(self) -> Any:
        """What its symbols are, as plain data, for a checkpoint."""
        ...


class Prediction(NamedTuple):
    """What a model says of a text: a line to read, and plain data."""

    line: str
    record: dict[str, Any]


class Predictor(Protocol):
    """A trained model that says something of each text."""

    def predict(self, texts: Sequence[str]) -> Iterator[Prediction]:
        """One prediction a text, in order. Raises DataError for a text that cannot be read."""
        ...


class Alignment(NamedTuple):
    """Where a decoder looked: weights (T, S), a row for each symbol of its output."""

    weights: NDArray[np.float64]
    source: list[str]
    output: list[str]


@runtime_checkable
class Searching(Predictor, Protocol):
    """A predictor that searches for its output, `beam` hypotheses at a time."""

    beam: int

    def align(self, text: str) -> Alignment:
        """Of the best output for a text. Raises ConfigError for a model without attention."""
        ...


class Task(Protocol):
    """What a session needs of an experiment beside its training.

    A loss is nats per `unit`; `guess` is what guessing costs. `model` is trained on `objective`, on
    so much `per_step`; `use` is the command that the trained model is for. What writes for `sample`
    is named in the registry, so that a language model does without torch.
    """

    unit: str
    per_step: str
    use: str
    guess: float
    model: Any
    objective: Any

    def __init__(self, config: ResolvedConfig, data: Any, about: dict[str, Any]) -> None: ...

    @staticmethod
    def build(config: ResolvedConfig, vocabularies: Vocabularies) -> nn.Module:
        """The network that a resolved configuration describes. Raises ConfigError."""
        ...

    @staticmethod
    def predictor(checkpoint: Checkpoint, device: str) -> Predictor:
        """A trained model for `predict`. Raises ConfigError where there is no such thing."""
        ...

    @classmethod
    def score(cls, checkpoint: Checkpoint, config: Config, data: Any, split: str) -> Evaluation:
        """A split, scored whole by a checkpoint's model on the configuration's device."""
        ...

    @staticmethod
    def plan(config: Config, data: Any, device: torch.device) -> ResolvedConfig:
        """The configuration with its `auto` values decided, as `planning.plan` does."""
        ...

    @staticmethod
    def facts(data: Any) -> dict[str, Any]:
        """What else a checkpoint is to say of what was read (`layout._Corpus`)."""
        ...

    @staticmethod
    def describe(data: Any) -> str:
        """How much was read, for the first line that a user sees."""
        ...

    def adopt_weights(self, source: TrainedModel) -> tuple[list[str], list[str]]:
        """Start from the weights of another model, where that can be; the symbols that were added
        and those that were dropped. Raises ConfigError."""
        ...

    def estimate(self, step: int) -> Evaluation:
        """Validation, scored quickly with the model as it is."""
        ...

    def final_seconds(self) -> float:
        """How long `final` will take."""
        ...

    def final(
        self,
        weights: Arrays,
        stop: Callable[[], bool] = lambda: False,
        split: str = "validation",
        **about: Any,
    ) -> Evaluation:
        """A split, scored whole by these weights. Raises KeyboardInterrupt once `stop` says so."""
        ...

    def sample(self, length: int) -> str:
        """What the model as it is makes of it, to be looked at; the same draws every time."""
        ...


def task_of(task: str) -> type[Task]:
    """The kind of experiment that a task's name stands for."""
    kind: type[Task] = resolve(TASKS[task].task)
    return kind
