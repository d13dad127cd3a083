"""Text to ids and back, by character or by byte.

A vocabulary has symbols with ids 0 ... size-1. `read_vocabulary` restores one from the plain data
that `to_data` gives, which is what a checkpoint stores.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from charrnn.errors import CheckpointError, DataError

Ids = NDArray[Any]
"""Ids in the smallest unsigned integer type that holds the vocabulary."""

Unknown = Literal["error", "skip"]


def id_type(size: int) -> np.dtype[Any]:
    """The smallest unsigned integer type for ids below `size`."""
    return np.min_scalar_type(max(size - 1, 0))


def code_points(text: str) -> NDArray[np.uint32]:
    """A text's Unicode code points, lone surrogates included."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def name_characters(counts: Counter[str], limit: int = 8) -> str:
    """Characters by code point, the most frequent first: `U+00E9 'é' (3 times), ...`."""
    parts = []
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        shown = repr(character) if character.isprintable() else ascii(character)
        times = f" ({count:,} times)" if count > 1 else ""
        parts.append(f"U+{ord(character):04X} {shown}{times}")
    more = [f"and {len(parts) - limit:,} more"] if len(parts) > limit else []
    return ", ".join(parts[:limit] + more)


class CharacterVocabulary:
    """One id a Unicode character, in the order of the code points.

    Characters are code points: a letter with a combining accent, or an emoji with a joiner, is
    as many characters as Unicode says; nothing is normalised.
    """

    kind: Literal["character"] = "character"

    def __init__(self, symbols: Iterable[str]) -> None:
        self.symbols: tuple[str, ...] = tuple(symbols)
        self.size = len(self.symbols)
        self._points = code_points("".join(self.symbols))
        if len(self._points) != self.size or len(set(self.symbols)) != self.size:
            raise ValueError("the symbols of a character vocabulary are distinct single characters")
        # Code point to id; the id `size` stands for whatever is not in the vocabulary.
        self._ids = np.full(int(self._points.max(initial=0)) + 1, self.size, dtype=np.uint32)
        self._ids[self._points] = np.arange(self.size, dtype=np.uint32)

    def _lookup(self, text: str) -> NDArray[np.uint32]:
        points = code_points(text)
        inside = points < len(self._ids)
        ids = self._ids[np.where(inside, points, 0)]
        return np.where(inside, ids, np.uint32(self.size))

    def encode(self, text: str, unknown: Unknown = "error") -> Ids:
        """Ids of shape (characters,).

        A character that is not in the vocabulary raises DataError, or is left out with `skip`.
        """
        ids = self._lookup(text)
        known = ids < self.size
        if not known.all():
            if unknown == "error":
                names = name_characters(self.unknown_characters(text))
                raise DataError(
                    f"the model's vocabulary of {self.size:,} characters lacks {names}; "
                    f"leave them out with --unknown skip, or train on a text that has them"
                )
            ids = ids[known]
        return ids.astype(id_type(self.size))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; encode after decode is the identity."""
        return "".join([self.symbols[i] for i in ids])

    def unknown_characters(self, text: str) -> Counter[str]:
        """Characters of `text` that are not in the vocabulary, with their counts."""
        missing = code_points(text)[self._lookup(text) == self.size]
        values, counts = np.unique(missing, return_counts=True)
        return Counter({chr(v): int(c) for v, c in zip(values, counts, strict=True)})

    def stream(self) -> CharacterStream:
        """A decoder for ids that arrive one by one."""
        return CharacterStream(self.symbols)

    def byte_lengths(self) -> NDArray[np.int64]:
        """For each id, how many bytes its character takes in UTF-8."""
        return np.array([len(s.encode("utf-8", "surrogatepass")) for s in self.symbols], np.int64)

    def to_data(self) -> dict[str, Any]:
        """Plain data for `read_vocabulary`."""
        return {"kind": self.kind, "symbols": "".join(self.symbols)}


class CharacterStream:
    """Text from ids that arrive one by one: each is a whole character."""

    def __init__(self, symbols: tuple[str, ...]) -> None:
        self._symbols = symbols

    def feed(self, token: int) -> str:
        """The text that `token` completes."""
        return self._symbols[token]

    def finish(self) -> str:
        """What is left over: nothing."""
        return ""


class ByteVocabulary:
    """One id for each of the 256 byte values: any text, and any file, can be read and written."""

    kind: Literal["byte"] = "byte"
    size = 256
    symbols: tuple[int, ...] = tuple(range(256))

    def encode(self, text: str, unknown: Unknown = "error") -> Ids:
        """The bytes of the text in UTF-8, shape (bytes,); nothing is ever unknown.

        Raises DataError for a lone surrogate that stands for no byte.
        """
        try:
            return np.frombuffer(text.encode("utf-8", "surrogateescape"), dtype=np.uint8)
        except UnicodeEncodeError as error:
            name = name_characters(Counter(text[error.start : error.start + 1]))
            raise DataError(
                f"the lone surrogate {name} is no text and stands for no byte"
            ) from error

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the bytes; what is not UTF-8 becomes lone surrogates, which encode back."""
        return bytes(iter(ids)).decode("utf-8", "surrogateescape")

    def unknown_characters(self, text: str) -> Counter[str]:
        """Always empty."""
        return Counter()

    def stream(self) -> ByteStream:
        """A decoder for bytes that arrive one by one."""
        return ByteStream()

    def byte_lengths(self) -> NDArray[np.int64]:
        """One byte each."""
        return np.ones(256, np.int64)

    def to_data(self) -> dict[str, Any]:
        """Plain data for `read_vocabulary`."""
        return {"kind": self.kind}


class ByteStream:
    """Holds back the bytes of a character until it is whole; bad bytes show as U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The text that `token` completes: nothing while a character is open."""
        return self._decoder.decode(bytes([token]))

    def finish(self) -> str:
        """What is left over: U+FFFD for an incomplete character."""
        return self._decoder.decode(b"", final=True)


Vocabulary: TypeAlias = CharacterVocabulary | ByteVocabulary


def read_vocabulary(data: Any) -> Vocabulary:
    """The vocabulary that `to_data` described. Raises CheckpointError for anything else."""
    match data:
        case {"kind": "character", "symbols": str(symbols)} if symbols:
            try:
                return CharacterVocabulary(symbols)
            except ValueError as error:
                raise CheckpointError(f"the stored vocabulary is not usable: {error}") from error
        case {"kind": "byte"}:
            return ByteVocabulary()
    raise CheckpointError("the stored vocabulary is neither 'character' nor 'byte'")
