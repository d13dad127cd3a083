"""Write text with a trained model: ids from the sampler, decoded as they come.

`Writing` does the work of `charrnn sample`: it writes one or several texts side by side, from a
prompt or a saved state, in one go or turn by turn; it searches for the likeliest text, and it lists
the likeliest next symbols. Nothing here imports torch.
"""

from __future__ import annotations

import secrets
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from charrnn.data.lookalikes import replaced
from charrnn.data.vocabulary import Unknown, Vocabulary, name_characters
from charrnn.errors import ConfigError, DataError
from charrnn.inference.beam import beam_search
from charrnn.inference.sampler import Choice, Cursor, Draws, Stepper, prime, sample
from charrnn.inference.saved_state import SavedState, save_state
from charrnn.nn.state import map_state

Write = Callable[[str], None]
"""Takes a piece of text as soon as it is decoded."""

UnknownInPrompt = Literal["error", "skip", "nearest"]
"""The treatment of characters that the vocabulary lacks: see `readable`."""


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

    @property
    def training_step(self) -> int | None:
        """The training step of its weights."""
        ...

    @property
    def has_lines(self) -> bool:
        """Whether a text may have several lines."""
        ...

    def labels(self, draws: Draws, label: str | None = None) -> list[str]:
        """Return the class of each sample; nothing if the model has no classes."""
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
    classes are drawn with their frequency in training. `unknown` is the treatment of characters of
    the prompt that the vocabulary lacks (`readable`).
    """

    prompt: str = ""
    length: int = 500
    choice: Choice = Choice()  # noqa: RUF009 -- it is frozen
    stop: str | None = None
    samples: int = 1
    seed: int | None = None
    label: str | None = None
    unknown: UnknownInPrompt = "error"
    before: str = ""


class Found(NamedTuple):
    """A text that a search has found, and its log-probability in nats."""

    text: str
    log_probability: float


class Next(NamedTuple):
    """A symbol that may come next: its id, its text for people, and its probability."""

    id: int
    symbol: str
    probability: float


class Writing:
    """Texts that a model writes side by side, one in each lane, and their positions.

    `saved` is a saved state to continue, with samples and a seed of its own. `labels` are the
    classes of the texts, empty if the model has none. `request` may be replaced between two texts.

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
        """Whether symbols or classes are drawn at random, so that the seed matters."""
        self._before: Cursor | None = None
        self.prompt = readable(request.prompt, model.vocabulary, request.unknown)
        if saved:
            self.cursor = saved.cursor
            self._read(self.prompt)
        else:
            self.cursor = model.begin(
                request.before + self.prompt, request.samples, _encoding(request), self.labels
            )

    def read(self, text: str) -> str:
        """Read a text into every lane, as if the model had written it; return it as it was read.

        Raises DataError.
        """
        text = readable(text, self.model.vocabulary, self.request.unknown)
        self._read(text)
        return text

    def _read(self, text: str) -> None:
        ids = self.model.vocabulary.encode(text, _encoding(self.request)).astype(np.int64)
        if len(ids):
            tokens = ids[None].repeat(len(self.samples), 0)
            self.cursor = prime(self.model, tokens, self.cursor)

    def write(self, write: Write | None = None) -> list[str]:
        """Continue writing, and return the new text of each lane; see `generate_texts`."""
        request = self.request
        self._before = self.cursor.copy()
        return generate_texts(
            self.model, self.model.vocabulary, self.cursor, request.choice, self.draws,
            request.length, request.stop, self.model.end, write,
        )  # fmt: skip

    def rewrite(self, write: Write | None = None) -> list[str]:
        """Write again from where the last `write` began, with other random numbers.

        Raises ConfigError if nothing has been written.
        """
        if self._before is None:
            raise ConfigError("nothing has been written yet; let the model write first")
        position = self.cursor.position
        self.cursor = self._before.copy()
        self.cursor.position = max(position, self.cursor.position + 1)
        return self.write(write)

    def search(self, width: int, count: int = 1) -> list[Found]:
        """Search for the `count` likeliest texts of the first lane; return the best one first.

        The search keeps `width` hypotheses (`beam.beam_search`) and does not move the cursor. Texts
        end as in `write`, and are ranked by log-probability for each symbol.
        """
        request, model = self.request, self.model
        if not request.length:
            return [Found("", 0.0)]
        lane = map_state(lambda leaf: leaf[:1], self.cursor.state)
        limit = request.length + (model.end is not None)  # The end is a symbol, too.
        (hypotheses,) = beam_search(
            model, lane, self.cursor.token[:1], model.end, [limit], width,
            stops=_stops(model.vocabulary, request.stop) if request.stop else None,
        )  # fmt: skip
        return [
            Found(text_of_ids(model.vocabulary, h.ids[: request.length]), h.log_probability)
            for h in hypotheses[:count]
        ]

    def next(self, count: int) -> list[Next]:
        """Return the `count` likeliest next symbols of the first lane, the likeliest first.

        The probabilities are those from which `write` would draw the next symbol; symbols of
        probability 0 are left out. The cursor does not move.
        """
        logits, _ = self.model.step(self.cursor.token, self.cursor.state)
        (probabilities,) = self.request.choice.probabilities(logits, self.cursor.recent)[:1]
        likeliest = np.argsort(-probabilities, kind="stable")[:count].tolist()
        symbols = self.model.vocabulary.symbols
        return [
            Next(i, _name(symbols[i]), float(probabilities[i]))
            for i in likeliest
            if probabilities[i] > 0
        ]

    def take(self, symbol: int) -> str:
        """Continue with a symbol, by its id, in every lane; return its text."""
        self.cursor = prime(self.model, np.full((len(self.samples), 1), symbol), self.cursor)
        return self.model.vocabulary.decode([symbol])

    def save(self, path: Path) -> None:
        """Save the positions of the texts, for a later `Writing`. Raises StorageError."""
        save_state(path, self.model, SavedState(self.cursor, self.seed, self.samples))


def readable(text: str, vocabulary: Vocabulary, unknown: UnknownInPrompt) -> str:
    r"""Return a text as a model with this vocabulary can read it.

    It is cleaned as every text is. If `unknown` is `nearest`, characters that the vocabulary lacks
    become the nearest ones that it has; if it is `skip`, they stay, and the vocabulary leaves them
    out. Raises DataError for a character without a near one and, if `unknown` is `error`, for any
    that the vocabulary lacks.

    >>> from charrnn.data.vocabulary import CharacterVocabulary
    >>> readable("Caf\u00e9\u2019s", CharacterVocabulary("'Cafes"), "nearest")
    "Cafe's"
    """
    text = vocabulary.cleaning(text)
    missing = vocabulary.unknown_characters(text)
    if unknown == "skip" or not missing:
        return text
    nearer, near = replaced(text, missing, map(str, vocabulary.symbols))
    far = Counter({c: n for c, n in missing.items() if c not in near or unknown == "error"})
    if not far:
        return nearer
    remedy = "set data.unknown to skip to leave them out"
    if near and unknown == "error":
        offered = ", ".join(f"{form!r} for {c!r}" for c, form in [*near.items()][:8])
        remedy = f"write {offered} (or set data.unknown to nearest), or {remedy}"
    raise DataError(f"the model's vocabulary lacks {name_characters(far)}; {remedy}")


def _encoding(request: Request) -> Unknown:
    """Return how the vocabulary treats unknown characters that `readable` has left."""
    return "skip" if request.unknown == "skip" else "error"


def inside_words(vocabulary: Vocabulary) -> NDArray[np.bool_]:
    """Mark the ids, (V,), after which a word may continue: letters, digits, accents, apostrophes.

    A byte of a character outside of ASCII counts as a letter. Raises ConfigError for a vocabulary
    of words.
    """
    if vocabulary.kind == "word":
        raise ConfigError("a model of words draws whole words; leave out the choice inside words")
    if vocabulary.kind == "byte":
        marks = [isinstance(b, int) and (b >= 128 or _in_word(chr(b))) for b in vocabulary.symbols]
    else:
        marks = [len(str(symbol)) == 1 and _in_word(str(symbol)) for symbol in vocabulary.symbols]
    return np.array(marks)


def _in_word(character: str) -> bool:
    is_accent = unicodedata.category(character).startswith("M")
    return character.isalnum() or is_accent or character in "'\u2019"


def _name(symbol: str | int) -> str:
    r"""Return a symbol as text: the escape of a byte that is no ASCII character.

    >>> _name("e"), _name(101), len(_name(200))
    ('e', 'e', 4)
    """
    if isinstance(symbol, str):
        return symbol
    return chr(symbol) if symbol < 128 else f"\\x{symbol:02x}"


def _stops(vocabulary: Vocabulary, stop: str) -> Callable[[NDArray[np.int64]], bool]:
    """Return a function that says whether a text of these ids, (T,), ends with `stop` in it."""
    most = len(stop.encode("utf-8", "surrogateescape"))
    return lambda ids: stop in vocabulary.decode(ids[-most:].tolist())


def text_of_ids(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    """Return the text of ids; bytes that are not a character become U+FFFD."""
    stream = vocabulary.stream()
    return "".join(map(stream.feed, ids)) + stream.finish()


def has_line_ends(vocabulary: Vocabulary) -> bool:
    """Whether a line end can be written with a vocabulary."""
    return vocabulary.kind == "byte" or "\n" in vocabulary.symbols


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
        """Add a symbol; finish if it is the end."""
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
