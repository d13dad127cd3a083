"""A score and everything that makes it comparable: unit, split, protocol, text.

Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from charrnn.config.merge import config_from_data
from charrnn.data.corpus import Corpus, Span
from charrnn.errors import DataError
from charrnn.evaluation.metrics import Confusion, Spans
from charrnn.runs.checkpoint import SCHEMA, Checkpoint

Item = TypeVar("Item")

UNBROKEN = "unbroken"
"""The protocol of a score: one pass over the split from the zero state, every symbol once."""


@dataclass(frozen=True)
class Evaluation:
    """A mean loss with its unit, the number of units, the split and the protocol.

    `nats` is the mean loss of one `unit` (character, byte, word, label, token) and `count` the
    number of units scored. `halves` are the mean losses of the first and the second half of these
    units. `metrics` are further numbers of the task, such as accuracy; `confusion` and `spans` are
    the measures by class, which `record` leaves out.

    >>> score = Evaluation("validation", 1.5, 1000, UNBROKEN, byte_count=1100)
    >>> round(score.bits, 3), round(score.bits_per_byte, 3)
    (2.164, 1.967)
    """

    split: str
    nats: float
    count: int
    protocol: str
    unit: str = "character"
    byte_count: int | None = None
    unknown: int = 0
    step: int | None = None
    text: str | None = None
    text_sha256: str | None = None
    halves: tuple[float, float] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    confusion: Confusion | None = field(default=None, compare=False, repr=False)
    spans: Spans | None = field(default=None, compare=False, repr=False)

    @property
    def nats_per_character(self) -> float:
        """The mean loss: another name of `nats`, for models of characters."""
        return self.nats

    @property
    def bits(self) -> float:
        """The mean loss in bits: nats / ln 2."""
        return self.nats / math.log(2)

    @property
    def bits_per_byte(self) -> float | None:
        """The total loss in bits per byte (UTF-8) of the text; comparable across vocabularies."""
        return self.bits * self.count / self.byte_count if self.byte_count else None

    def record(self) -> dict[str, Any]:
        """Return plain data for JSON and for the files of a run.

        Keys are named by the unit (`nats_per_word`, `words`); see `key_unit` for bytes.
        """
        unit = key_unit(self.unit)
        return {
            "split": self.split,
            f"nats_per_{unit}": self.nats,
            f"bits_per_{unit}": self.bits,
            "bits_per_byte": self.bits_per_byte,
            f"{unit}s": self.count,
            f"unknown_{unit}s": self.unknown,
            **self.metrics,
            "step": self.step,
            "protocol": self.protocol,
            "text": self.text,
            "text_sha256": self.text_sha256,
            "halves": self.halves,
            "schema": SCHEMA,
        }


def key_unit(unit: str) -> str:
    """Return the unit's name in keys of JSON and of files: "character" for a byte.

    Runs over bytes have always been recorded as `nats_per_character`. The key stays, so that old
    runs can be read and resumed; text for people says "byte".

    >>> key_unit("byte"), key_unit("word")
    ('character', 'word')
    """
    return "character" if unit == "byte" else unit


def evaluation_of_surprisals(
    nats: NDArray[np.float64], split: str, protocol: str, **about: Any
) -> Evaluation:
    """Make an Evaluation of the surprisals of all symbols, in nats and in reading order.

    `about` are further fields of `Evaluation`.
    """
    middle = len(nats) // 2
    halves = (float(nats[:middle].mean()), float(nats[middle:].mean())) if middle else None
    return Evaluation(split, float(nats.mean()), len(nats), protocol, halves=halves, **about)


class Scorer(Protocol):
    """A model that scores many ids at once: an n-gram or a hidden Markov model."""

    def surprisals(
        self, ids: NDArray[Any], start: int = 0, stop: int | None = None
    ) -> NDArray[np.float64]:
        """Return -ln P in nats of each id in [start, stop), given the ids before it."""
        ...


def score_unbroken(
    model: Scorer, corpus: Corpus, split: str, text: str | None = None
) -> Evaluation:
    """Score a split with a model that needs no carried state, such as n-grams.

    Every symbol is scored once, given the symbols before it, also those before the split. With
    nothing before the split, the first symbol costs ln V. Raises DataError for a split that the
    corpus does not have.
    """
    span = span_of(corpus, split)
    first = 0 if span.has_context else span.start
    nats = model.surprisals(corpus.ids[first : span.stop], span.start - first)
    if not span.has_context:
        nats[:1] = math.log(corpus.vocabulary.size)
    return evaluation_of_surprisals(
        nats, split, UNBROKEN,
        unit=corpus.unit, byte_count=corpus.byte_count(span),
        unknown=corpus.unknown_count(span), text=text,
        text_sha256=corpus.sha256,
    )  # fmt: skip


def span_of(corpus: Corpus, split: str) -> Span:
    """Return where a split begins and ends. Raises DataError naming the splits that exist."""
    if split not in corpus.splits:
        have = ", ".join(corpus.splits)
        raise DataError(f"the corpus has no {split!r} split; it has {have}")
    return corpus.splits[split]


def until(stop: Callable[[], bool], items: Iterable[Item]) -> Iterator[Item]:
    """Yield `items`; raise KeyboardInterrupt as soon as `stop()` is true after one of them.

    Scoring cannot be resumed in the middle, so `stop` ends it like Ctrl-C.

    >>> list(until(lambda: False, "ab"))
    ['a', 'b']
    """
    for item in items:
        yield item
        if stop():
            raise KeyboardInterrupt


def never() -> bool:
    """Return False: a `stop` that never asks to stop."""
    return False


def describe_scored(checkpoint: Checkpoint) -> dict[str, Any]:
    """Describe the model that was scored: run, task, cell, seed and number of parameters.

    `run` is the run directory of the checkpoint, or the file if it is not in one.
    """
    path = checkpoint.path
    config = config_from_data(checkpoint.metadata["config"], str(path))
    weights = {n: v for n, v in checkpoint.tensors.items() if n.startswith("model/")}
    if config.model.tie_embeddings:
        weights.pop("model/head.weight")  # The embedding has the same matrix.
    return {
        "run": str(path.parent.parent if path.parent.name == "checkpoints" else path),
        "task": config.task,
        "cell": config.model.cell,
        "seed": config.training.seed,
        "parameters": sum(value.size for value in weights.values()),
    }
