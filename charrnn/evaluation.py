"""A score with what makes it comparable. Nothing here imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from charrnn.corpus import Corpus, Span
from charrnn.errors import DataError
from charrnn.runs import SCHEMA

UNBROKEN = "unbroken"


@dataclass(frozen=True)
class Evaluation:
    """A score with all that is needed to compare it: on what, and by which protocol.

    `halves` are the nats per character of the first half of what was scored and of the second.
    """

    split: str
    nats_per_character: float
    bits_per_character: float
    bits_per_byte: float | None
    characters: int
    unknown_characters: int
    step: int | None
    protocol: str
    text: str | None
    text_sha256: str | None
    halves: tuple[float, float] | None = None
    schema: int = SCHEMA


def evaluation_of(
    nats: float,
    characters: int,
    split: str,
    protocol: str,
    step: int | None,
    byte_count: int | None = None,
    unknown_characters: int = 0,
    text: str | None = None,
    text_sha256: str | None = None,
    halves: tuple[float, float] | None = None,
) -> Evaluation:
    """Name a summed loss: `nats` over `characters`."""
    bits = nats / math.log(2)
    return Evaluation(
        split=split,
        nats_per_character=nats / characters,
        bits_per_character=bits / characters,
        bits_per_byte=bits / byte_count if byte_count else None,
        characters=characters,
        unknown_characters=unknown_characters,
        step=step,
        protocol=protocol,
        text=text,
        text_sha256=text_sha256,
        halves=halves,
    )


def evaluation_of_surprisals(
    nats: NDArray[np.float64], split: str, protocol: str, step: int | None, **about: Any
) -> Evaluation:
    """Name the surprisals of each character, in nats and in reading order."""
    middle = len(nats) // 2
    halves = (float(nats[:middle].mean()), float(nats[middle:].mean())) if middle else None
    return evaluation_of(
        float(nats.sum()), len(nats), split, protocol, step, halves=halves, **about
    )


class Scorer(Protocol):
    """A model that needs no carried state to score: an n-gram model."""

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
        nats, split, UNBROKEN, None,
        byte_count=corpus.byte_count(span), text=text, text_sha256=corpus.sha256,
    )  # fmt: skip


def span_of(corpus: Corpus, split: str) -> Span:
    """The stretch of a split. Raises DataError where the corpus has no such split."""
    if split not in corpus.splits:
        have = ", ".join(corpus.splits)
        raise DataError(f"the corpus has no {split!r} split; it has {have}")
    return corpus.splits[split]
