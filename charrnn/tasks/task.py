"""The interface of a task: everything that a session needs from the module of a `--task`.

A task defines its data, its network, its objective, the scores of its model and the model's output.
`registry.TASKS` lists the tasks by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from charrnn.config.merge import config_from_data, with_values
from charrnn.config.resolved import ResolvedConfig
from charrnn.config.schema import Config
from charrnn.data.vocabulary import Unknown, Vocabularies
from charrnn.errors import ConfigError, DataError
from charrnn.evaluation.score import Evaluation, never
from charrnn.inference.trained_model import TrainedModel
from charrnn.registry import TASKS, resolve
from charrnn.runs.checkpoint import Arrays, Checkpoint
from charrnn.tasks.data import data_of_checkpoint, read_others


class Data(Protocol):
    """The data of a task.

    `sha256` is the hash of the bytes read; `key` names the data in the cache (64 zeros if they are
    not cached).
    """

    sha256: str
    key: str

    @property
    def splits(self) -> Mapping[str, Sized]:
        """The splits train, validation and perhaps test."""
        ...

    @property
    def vocabulary_data(self) -> Any:
        """The vocabulary or vocabularies as plain data, for a checkpoint."""
        ...


class Prediction(NamedTuple):
    """A model's prediction for a text: a line for people, and a record for JSON."""

    line: str
    record: dict[str, Any]


class Predictor(Protocol):
    """A trained model that predicts something for each text."""

    def predict(self, texts: Sequence[str]) -> Iterator[Prediction]:
        """Yield one prediction per text, in order. Raises DataError for a text it cannot read."""
        ...


@runtime_checkable
class TagsWords(Predictor, Protocol):
    """A predictor that gives each word a tag, in texts and in sentences of given words."""

    def predict_words(self, sentences: Sequence[Sequence[str]]) -> Iterator[Prediction]:
        """Yield the tags of sentences. Raises DataError for a sentence without words."""
        ...


def predict_each(predictor: Predictor, texts: Sequence[str]) -> Iterator[Prediction]:
    """Yield one prediction per text: for a blank text, an empty line and a record of the text."""
    predictions = iter(predictor.predict([text for text in texts if text.strip()]))
    for text in texts:
        yield next(predictions) if text.strip() else Prediction("", {"text": text})


class Alignment(NamedTuple):
    """The attention of a decoder: weights (T, S) on the source, a row for each output symbol."""

    weights: NDArray[np.float64]
    source: list[str]
    output: list[str]


@runtime_checkable
class Searching(Predictor, Protocol):
    """A predictor that searches for its output with `beam` hypotheses."""

    beam: int

    def align(self, text: str) -> Alignment:
        """Align a text with its best output. Raises ConfigError for a model without attention."""
        ...


class Task(Protocol):
    """A task with its data: the interface that a session relies on.

    - `unit`: one label of the loss, such as "character"; losses are in nats per unit;
    - `noun`: what the length of a split counts, such as "texts";
    - `per_step`: the size of a training step in words;
    - `use`: the command that the trained model is for;
    - `guess`: the loss of a uniform guess in nats;
    - `model`: the network; `objective`: its batches and its loss (`training.objective`).
    """

    config: ResolvedConfig
    unit: str
    noun: str
    per_step: str
    use: str
    guess: float
    model: Any
    objective: Any

    def __init__(self, config: ResolvedConfig, data: Any, about: dict[str, Any]) -> None: ...

    @staticmethod
    def build(config: ResolvedConfig, vocabularies: Vocabularies) -> nn.Module:
        """Make the network that a resolved configuration describes. Raises ConfigError."""
        ...

    @staticmethod
    def predictor(checkpoint: Checkpoint, device: str) -> Predictor:
        """Make the predictor of a checkpoint. Raises ConfigError for a task without one."""
        ...

    @classmethod
    def score(cls, checkpoint: Checkpoint, config: Config, data: Any, split: str) -> Evaluation:
        """Score a split with a checkpoint's weights, on the configuration's device."""
        ...

    @staticmethod
    def plan(config: Config, data: Any, device: torch.device) -> ResolvedConfig:
        """Fill in `auto` settings from the data and the machine."""
        ...

    @staticmethod
    def facts(data: Any) -> dict[str, Any]:
        """Return the facts about the data that a checkpoint needs besides hash and splits."""
        ...

    @staticmethod
    def describe(data: Any) -> str:
        """Say how much was read, for the first line of the banner."""
        ...

    def adopt_weights(self, source: TrainedModel) -> tuple[list[str], list[str]]:
        """Start from the weights of another model; return the symbols added and dropped.

        Raises ConfigError if the task or the model does not allow that.
        """
        ...

    def estimate(self, step: int) -> Evaluation:
        """Score validation quickly, with the model's current weights."""
        ...

    def final_seconds(self) -> float:
        """Estimate the seconds that `final` will take."""
        ...

    def final(
        self,
        weights: Arrays,
        stop: Callable[[], bool] = never,
        split: str = "validation",
        **about: Any,
    ) -> Evaluation:
        """Score a split with these weights. Raises KeyboardInterrupt once `stop()` is true."""
        ...

    def sample(self, length: int) -> str:
        """Return a sample output of the current model; the random draws are the same every time."""
        ...


def task_of(task: str) -> type[Task]:
    """Return the class of a task by its name."""
    kind: type[Task] = resolve(TASKS[task].task)
    return kind


class ToScore(NamedTuple):
    """A split of data, as a checkpoint's task reads it, and the name of its text."""

    config: Config
    data: Any
    split: str
    text: str

    def score(self, checkpoint: Checkpoint) -> Evaluation:
        """Score the split by the protocol of the task."""
        result = task_of(self.config.task).score(checkpoint, self.config, self.data, self.split)
        return replace(result, text=self.text)

    def score_each(self, checkpoint: Checkpoint) -> Iterator[dict[str, Any]]:
        """Score each example. Raises ConfigError for a task that cannot."""
        score = getattr(task_of(self.config.task), "score_each", None)
        if score is None:
            raise ConfigError(f"the task {self.config.task} has no score for each example")
        each: Iterator[dict[str, Any]] = score(checkpoint, self.config, self.data, self.split)
        return each


def split_to_score(
    checkpoint: Checkpoint,
    split: str,
    moved: Mapping[str, Sequence[str]],
    warn: Callable[[str], None],
    device: str = "cpu",
    unknown: Unknown = "error",
) -> ToScore:
    """Read a split of a checkpoint's own text.

    `moved` names texts that have moved (`data_of_checkpoint`); `unknown` says what to do with their
    characters that the vocabulary lacks. Raises DataError for a text or a split that is missing.
    """
    config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
    if unknown == "skip":
        config = with_values(config, {"data.unknown": unknown})
    config, data = data_of_checkpoint(config, checkpoint, moved, warn)
    if split not in data.splits:
        raise DataError(f"the run has no {split!r} split; it has {', '.join(data.splits)}")
    names = (moved.get("test") or config.data.test) if split == "test" else ()
    text = ", ".join(names) or str(checkpoint.metadata["corpus"]["described"])
    return ToScore(with_values(config, {"device": device}), data, split, text)


def texts_to_score(
    checkpoint: Checkpoint,
    arguments: Sequence[str],
    warn: Callable[[str], None],
    device: str = "cpu",
    **reading: Any,
) -> ToScore:
    """Read other labelled texts as the examples of a checkpoint's task.

    `reading` are other values of the settings `data.encoding` and `data.errors`. Raises DataError.
    """
    config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
    values = {f"data.{name}": value for name, value in reading.items() if value is not None}
    config = with_values(config, {**values, "device": device})
    data, described = read_others(config, arguments, checkpoint.metadata["vocabulary"], warn)
    return ToScore(config, data, "test", described)
