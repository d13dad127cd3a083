"""A score with what makes it comparable. Nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from charrnn.data.corpus import Corpus, Span
from charrnn.errors import DataError
from charrnn.runs.checkpoint import SCHEMA

UNBROKEN = "unbroken"


@dataclass(frozen=True)
class Evaluation:
    """A score with all that is needed to compare it: on what, and by which protocol.

    `nats` is the mean loss of one `unit` (a character, a word, a label), `count` how many of them
    were scored, `halves` the nats of the first half of them and of the second. `metrics` are
    what else is natural to a task, as accuracy.
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

    @property
    def nats_per_character(self) -> float:
        """The mean loss, for who knows that the unit is a character."""
        return self.nats

    @property
    def bits(self) -> float:
        """The mean loss in bits."""
        return self.nats / math.log(2)

    @property
    def bits_per_byte(self) -> float | None:
        """The loss over the bytes of the text in UTF-8, which compares across vocabularies."""
        return self.bits * self.count / self.byte_count if self.byte_count else None

    def record(self) -> dict[str, Any]:
        """Plain data, for JSON; the names of the keys say what the unit is."""
        unit = self.unit
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


def evaluation_of_surprisals(
    nats: NDArray[np.float64], split: str, protocol: str, **about: Any
) -> Evaluation:
    """Name the surprisals of each character, in nats and in reading order."""
    middle = len(nats) // 2
    halves = (float(nats[:middle].mean()), float(nats[middle:].mean())) if middle else None
    return Evaluation(split, float(nats.mean()), len(nats), protocol, halves=halves, **about)


class Scorer(Protocol):
    """A model that scores ids without being stepped: an n-gram or a hidden Markov model."""

    def surprisals(
        self, ids: NDArray[Any], start: int = 0, stop: int | None = None
    ) -> NDArray[np.float64]:
        """-ln P in nats of each id in [start, stop) after the ids before it."""
        ...


def score_unbroken(
    model: Scorer, corpus: Corpus, split: str, text: str | None = None
) -> Evaluation:
    """The unbroken score of a split by a model that needs no carried state.

    Every character is scored once after the text before it, as far as the model reaches, that
    before the split included; where there is none, the first character costs ln V. Raises
    DataError where there is no such split.
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
    """The stretch of a split. Raises DataError where the corpus has no such split."""
    if split not in corpus.splits:
        have = ", ".join(corpus.splits)
        raise DataError(f"the corpus has no {split!r} split; it has {have}")
    return corpus.splits[split]
