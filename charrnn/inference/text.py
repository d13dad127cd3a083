"""Write text with a trained model: ids from the sampler, decoded as they come.

`Writing` does the work of `charrnn sample`: it writes one or several texts side by side, from a
prompt or a saved state, in one go or turn by turn. Nothing here imports torch.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from charrnn.data.vocabulary import Unknown, Vocabulary
from charrnn.inference.sampler import Choice, Cursor, Draws, Stepper, prime, sample
from charrnn.inference.saved_state import SavedState, save_state

Write = Callable[[str], None]
"""Takes a piece of text as soon as it is decoded."""


class Writer(Stepper, Protocol):
    """A stepper that writes text: a language model, or a model that writes texts of a class."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols that it writes."""
        ...

    @property
    def end(self) -> int | None:
        """The id at which a text ends by itself, if there is one."""
        ...

    def labels(self, draws: Draws, label: str | None = None) -> list[str]:
        """Return the class of each sample; nothing where the model has no classes."""
        ...

    def begin(
        self,
        prompt: str = "",
        samples: int = 1,
        unknown: Unknown = "error",
        labels: Sequence[str] = (),
    ) -> Cursor:
        """Read a prompt into `samples` lanes. Raises DataError for unknown characters."""
        ...


@dataclass(frozen=True)
class Request:
    """The options of writing: the text before, the choice of each symbol, and where a text ends.

    `length` is the largest number of symbols; `stop` ends a text that contains it; `before` is read
    before the prompt and belongs to no text. Without a `seed`, one is drawn. Without a `label`, the
    classes are drawn with their frequency in training.
    """

    prompt: str = ""
    length: int = 500
    choice: Choice = Choice()  # noqa: RUF009 -- it is frozen
    stop: str | None = None
    samples: int = 1
    seed: int | None = None
    label: str | None = None
    unknown: Unknown = "error"
    before: str = ""


class Writing:
    """Texts that a model writes side by side, one in each lane, and their positions.

    `saved` is a state to go on from, with samples and a seed of its own. `labels` are the classes
    of the texts, empty where the model has none.

    Raises DataError for a prompt with unknown characters and for an unknown label.
    """

    def __init__(self, model: Writer, request: Request, saved: SavedState | None = None) -> None:
        self.model, self.request = model, request
        seed = request.seed
        if seed is None:
            seed = saved.seed if saved else secrets.randbits(32)
        self.seed: int = seed
        self.samples = saved.samples if saved else list(range(request.samples))
        self.draws = Draws(seed, self.samples)
        self.labels = model.labels(self.draws, request.label)
        self.is_drawn = request.choice.temperature > 0 or (
            bool(self.labels) and request.label is None
        )
        """Whether chance plays a part, so that the seed matters."""
        if saved:
            self.cursor = saved.cursor
            self.read(request.prompt)
        else:
            prompt = request.before + request.prompt
            self.cursor = model.begin(prompt, request.samples, request.unknown, self.labels)

    def read(self, text: str) -> None:
        """Read a text into every lane, as if the model had written it. Raises DataError."""
        ids = self.model.vocabulary.encode(text, self.request.unknown).astype(np.int64)
        if len(ids):
            tokens = ids[None].repeat(len(self.samples), 0)
            self.cursor = prime(self.model, tokens, self.cursor)

    def write(self, write: Write | None = None) -> list[str]:
        """Continue writing, and return the new text of each lane; see `generate_texts`."""
        request = self.request
        return generate_texts(
            self.model, self.model.vocabulary, self.cursor, request.choice, self.draws,
            request.length, request.stop, self.model.end, write,
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Save the positions of the texts, for a later `Writing`. Raises StorageError."""
        save_state(path, self.model, SavedState(self.cursor, self.seed, self.samples))


def starting_id(vocabulary: Vocabulary, most_frequent: int) -> int:
    """Return the id after which a text without a prompt starts.

    It is the id of a newline, or `most_frequent` if the vocabulary has no newline.
    """
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
    end: int | None = None,
) -> Iterator[str]:
    """Yield at most `length` symbols of one lane as text, piece by piece as they are chosen.

    The text ends before the id `end`.
    """
    stream = vocabulary.stream()
    for _, ids in zip(range(length), sample(stepper, cursor, choice, draws), strict=False):
        if ids[0] == end:
            break
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
    write: Write | None = None,
) -> list[str]:
    """Return the texts of all lanes, of at most `length` symbols each.

    A text ends with `stop`, which is part of it, or before the id `end`. Finished lanes keep
    stepping with the others; their output is dropped. With `write`, which takes a single lane, each
    piece is passed on at once, and only the last piece is returned.
    """
    texts = [_Text(vocabulary, stop, write) for _ in cursor.token]
    for _, ids in zip(range(length), sample(stepper, cursor, choice, draws), strict=False):
        for text, symbol in zip(texts, ids.tolist(), strict=True):
            if text.running:
                text.add(symbol, end)
        if not any(text.running for text in texts):
            break
    for text in texts:
        if text.running:
            text.finish()
    return ["".join(text.pieces) for text in texts]


class _Text:
    """The text of one lane as it is decoded; `running` until it ends."""

    def __init__(self, vocabulary: Vocabulary, stop: str | None, write: Write | None) -> None:
        self.pieces: list[str] = []
        self.running = True
        self._stream = vocabulary.stream()
        self._stop, self._write = stop, write
        self._tail = ""  # the last characters, as many as a part of `stop` can have

    def add(self, symbol: int, end: int | None) -> None:
        """Add a symbol, or finish where it is the end."""
        if symbol == end:
            self.finish()
        elif piece := self._stream.feed(symbol):
            self._add(piece)

    def finish(self) -> None:
        """End the text: add the characters that the stream still holds back."""
        if piece := self._stream.finish():
            self._add(piece)
        self.running = False

    def _add(self, piece: str) -> None:
        if self._write:
            self._write(piece)
            self.pieces.clear()
        self.pieces.append(piece)
        if self._stop:
            self._tail += piece
            self.running = self._stop not in self._tail
            keep = len(self._stop) - 1
            self._tail = self._tail[-keep:] if keep else ""
