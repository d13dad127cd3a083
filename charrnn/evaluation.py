"""A score with what makes it comparable. Nothing here imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from charrnn.corpus import Corpus, Span
from charrnn.errors import DataError
from charrnn.runs import SCHEMA

UNBROKEN = "unbroken"


@dataclass(frozen=True)
class Evaluation:
    """A score with all that is needed to compare it: on what, and by which protocol."""

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
    )


def span_of(corpus: Corpus, split: str) -> Span:
    """The stretch of a split. Raises DataError where the corpus has no such split."""
    if split not in corpus.splits:
        have = ", ".join(corpus.splits)
        raise DataError(f"the corpus has no {split!r} split; it has {have}")
    return corpus.splits[split]
