"""Generate text: ids from the sampler, decoded as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from charrnn.data.vocabulary import Vocabulary
from charrnn.inference.sampler import Choice, Cursor, Draws, Stepper, sample

if TYPE_CHECKING:
    pass


def starting_id(vocabulary: Vocabulary, most_frequent: int) -> int:
    """What sampling starts after where there is no prompt: a newline, if there is one."""
    if not vocabulary.unknown_characters("\n"):
        return int(vocabulary.encode("\n")[0])
    return most_frequent


def generate_text(
    stepper: Stepper,
    vocabulary: Vocabulary,
    cursor: Cursor,
    choice: Choice,
    draws: Draws,
    length: int,
) -> Iterator[str]:
    """`length` symbols of one lane as text, piece by piece as it is made."""
    stream = vocabulary.stream()
    for _, ids in zip(range(length), sample(stepper, cursor, choice, draws), strict=False):
        if text := stream.feed(int(ids[0])):
            yield text
    if rest := stream.finish():
        yield rest


def generate_texts(
    stepper: Stepper,
    vocabulary: Vocabulary,
    cursor: Cursor,
    choice: Choice,
    draws: Draws,
    length: int,
    stop: str | None = None,
    end: int | None = None,
    write: Callable[[str], None] | None = None,
) -> list[str]:
    """At most `length` symbols of each lane as texts; with `write`, the only one is passed on as it
    is made and only its last piece kept.

    A text ends with `stop`, which is part of it, or at the id `end`, whose text is
    nothing; its lane is stepped on unheard.
    """
    lanes = len(cursor.token)
    streams = [vocabulary.stream() for _ in range(lanes)]
    texts: list[list[str]] = [[] for _ in range(lanes)]
    tails = [""] * lanes  # Enough of the end to see `stop` across pieces.
    running = [True] * lanes
    keep = len(stop) - 1 if stop else 0

    def add(i: int, piece: str) -> None:
        if not piece:
            return
        if write:
            write(piece)
            texts[i].clear()
        texts[i].append(piece)
        if stop:
            tails[i] += piece
            running[i] = stop not in tails[i]
            tails[i] = tails[i][-keep:] if keep else ""

    # Written text is cut off at `stop` only when it is complete, so pieces go out as they come.
    for _, ids in zip(range(length), sample(stepper, cursor, choice, draws), strict=False):
        for i in range(lanes):
            if running[i] and ids[i] == end:
                add(i, streams[i].finish())
                running[i] = False
            elif running[i]:
                add(i, streams[i].feed(int(ids[i])))
        if not any(running):
            break
    for i in range(lanes):
        if running[i]:
            add(i, streams[i].finish())
    return ["".join(text) for text in texts]
