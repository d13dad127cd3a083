"""Vocabularies: convert text to ids and back, by character, byte or word, or whole tokens to ids.

The symbols of a vocabulary have the ids 0 ... size-1. `to_data` returns plain data for a
checkpoint; from that, `read_vocabulary` restores a vocabulary of a text, and `read_tokens` one of
tokens.

Special symbols are not text: `<unk>` stands for a symbol that is not in the vocabulary, `<s>` and
`</s>` for the beginning and the end of a text. Their ids come after all others, and no part of a
text is ever encoded as one.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from charrnn.data.rules import AS_IT_IS, Cleaning
from charrnn.errors import CheckpointError, DataError

Ids = NDArray[Any]
"""Ids in the smallest unsigned integer type that holds the vocabulary."""

Unknown = Literal["error", "skip"]

UNKNOWN, START, END = "<unk>", "<s>", "</s>"
SPECIALS = (UNKNOWN, START, END)
MOSTTOKENS = 1 << 16  # tokens: the header of a checkpoint has room for this many


def id_type(size: int) -> np.dtype[Any]:
    """Return the smallest unsigned integer type for ids below `size`."""
    return np.min_scalar_type(max(size - 1, 0))


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the Unicode code points of a text, including lone surrogates."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def name_characters(counts: Counter[str], limit: int = 8) -> str:
    """List characters with code points, the most frequent first: `U+00E9 'é' (3 times), ...`."""

    def show(character: str) -> str:
        shown = repr(character) if character.isprintable() else ascii(character)
        return f"U+{ord(character):04X} {shown}"

    return _listed(counts, show, limit)


def name_tokens(counts: Counter[str], limit: int = 8) -> str:
    """List tokens, the most frequent first: `'Klingon' (3 times), ...`."""
    return _listed(counts, shortened, limit)


def shortened(text: str, most: int = 40) -> str:
    """Quote a text for a message, cut to `most` characters, with control characters escaped."""
    cut = text if len(text) <= most else text[: most - 3] + "..."
    return ascii(cut) if any("\ud800" <= character <= "\udfff" for character in cut) else repr(cut)


def _listed(counts: Counter[str], show: Callable[[str], str], limit: int) -> str:
    parts = []
    for symbol, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit]:
        parts.append(show(symbol) + (f" ({count:,} times)" if count > 1 else ""))
    more = [f"and {len(counts) - limit:,} more"] if len(counts) > limit else []
    return ", ".join(parts + more)


def _special_ids(first: int, specials: Sequence[str]) -> list[int | None]:
    """Return the ids of `<unk>`, `<s>` and `</s>`; None for one that is not in `specials`."""
    if any(name not in SPECIALS for name in specials) or len(set(specials)) != len(specials):
        raise ValueError(f"special symbols must be some of {', '.join(SPECIALS)}, each once")
    return [first + specials.index(name) if name in specials else None for name in SPECIALS]


class CharacterVocabulary:
    """One id for each Unicode character, in the order of the code points.

    A character is a code point, so a letter with a combining accent, or an emoji with a joiner, is
    several characters. `cleaning` is applied to every text. With the special symbol `<unk>`, any
    text can be read. `unknown`, `start` and `end` are the ids of `<unk>`, `<s>` and `</s>`, or None
    for a symbol that the vocabulary does not have.

    >>> vocabulary = CharacterVocabulary.of(["banana"])
    >>> vocabulary.encode("nab").tolist(), vocabulary.decode([1, 0])
    ([2, 0, 1], 'ba')
    """

    kind: Literal["character"] = "character"

    def __init__(
        self,
        symbols: Iterable[str],
        specials: Sequence[str] = (),
        cleaning: Cleaning = AS_IT_IS,
    ) -> None:
        characters = tuple(symbols)
        self.cleaning = cleaning
        self.specials = tuple(specials)
        self.symbols: tuple[str, ...] = characters + self.specials
        self.size = len(self.symbols)
        self._known = len(characters)
        self._points = code_points("".join(characters))
        if len(self._points) != self._known or len(set(characters)) != self._known:
            raise ValueError(
                "the symbols of a character vocabulary are not distinct single characters"
            )
        self.unknown, self.start, self.end = _special_ids(self._known, self.specials)
        self._texts = characters + tuple(
            "\ufffd" if name == UNKNOWN else "" for name in self.specials
        )
        # Maps a code point to its id, or to `_known` if it is not in the vocabulary.
        self._ids = np.full(int(self._points.max(initial=0)) + 1, self._known, dtype=np.uint32)
        self._ids[self._points] = np.arange(self._known, dtype=np.uint32)

    @classmethod
    def of(
        cls,
        texts: Iterable[str],
        minimum_count: int = 1,
        specials: Sequence[str] = (),
        cleaning: Cleaning = AS_IT_IS,
    ) -> CharacterVocabulary:
        """Collect the characters that occur in `texts` at least `minimum_count` times.

        Raises DataError if there are none.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        return cls(frequent_characters(counts, minimum_count), specials, cleaning)

    def _lookup(self, text: str) -> NDArray[np.uint32]:
        """Look up the id of each character; `_known` if it is not in the vocabulary."""
        points = code_points(text)
        inside = points < len(self._ids)
        ids = self._ids[np.where(inside, points, 0)]
        return np.where(inside, ids, np.uint32(self._known))

    def encode(self, text: str, unknown: Unknown = "error") -> Ids:
        """Convert a text to ids of shape (characters,).

        A character that is not in the vocabulary is left out if `unknown` is `skip`; otherwise it
        becomes `<unk>`. Raises DataError if there is no `<unk>`.
        """
        text = self.cleaning(text)
        ids = self._lookup(text)
        known = ids < self._known
        if not known.all():
            if unknown == "skip":
                ids = ids[known]
            elif self.unknown is not None:
                ids[~known] = self.unknown
            else:
                names = name_characters(self.unknown_characters(text))
                raise DataError(
                    f"the model's vocabulary of {self.size:,} characters lacks {names}; "
                    f"set data.unknown to skip to leave them out, or train on a text that has them"
                )
        return ids.astype(id_type(self.size))

    def decode(self, ids: Iterable[int]) -> str:
        """Convert ids to text; encoding it gives the same ids.

        The special symbol `<unk>` becomes U+FFFD; the others become nothing.
        """
        return "".join([self._texts[i] for i in ids])

    def unknown_characters(self, text: str) -> Counter[str]:
        """Count the characters of a text that are not in the vocabulary."""
        text = self.cleaning(text)
        missing = code_points(text)[self._lookup(text) == self._known]
        values, counts = np.unique(missing, return_counts=True)
        return Counter({chr(v): int(c) for v, c in zip(values, counts, strict=True)})

    def stream(self) -> SymbolStream:
        """Return a decoder for ids that arrive one by one."""
        return SymbolStream(self._texts)

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return the number of bytes in UTF-8 of each id; 0 for a special symbol."""
        return _byte_lengths(self.symbols[: self._known], self.size)

    def to_data(self) -> dict[str, Any]:
        """Return plain data for `read_vocabulary`."""
        data: dict[str, Any] = {"kind": self.kind, "symbols": "".join(self.symbols[: self._known])}
        data |= {"specials": list(self.specials)} if self.specials else {}
        return data | _cleaning_data(self.cleaning)


def frequent_characters(counts: Mapping[str, int], minimum_count: int = 1) -> list[str]:
    """List the characters that occur at least `minimum_count` times, in their order.

    Raises DataError if there are none.
    """
    kept = sorted(c for c, count in counts.items() if count >= minimum_count)
    if not kept:
        raise DataError(
            f"no character occurs {minimum_count:,} times; give more text, or lower "
            f"data.minimum_count"
        )
    return kept


def _cleaning_data(cleaning: Cleaning) -> dict[str, Any]:
    """Return a cleaning as plain data: nothing if it leaves texts as they are."""
    return {"cleaning": cleaning._asdict()} if cleaning != AS_IT_IS else {}


def _cleaning_of(data: Mapping[str, Any]) -> Cleaning:
    """Read the cleaning of a vocabulary. Raises ValueError for other data."""
    match data.get("cleaning", AS_IT_IS._asdict()):
        case {"newlines": "join" | "keep" as newlines, "normalize": "nfc" | "none" as form}:
            return Cleaning(newlines, form)
    raise ValueError("its cleaning is unknown to this version")


class SymbolStream:
    """Decodes ids one by one; each of them is a complete piece of text."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._texts = texts

    def feed(self, token: int) -> str:
        """Return the text of an id."""
        return self._texts[token]

    def finish(self) -> str:
        """Return the text that is left over, which is empty."""
        return ""


class ByteVocabulary:
    """One id for each of the 256 byte values, so that any text and any file can be read.

    `start` and `end` are the ids of `<s>` and `</s>`, or None for a symbol that the vocabulary does
    not have.
    """

    kind: Literal["byte"] = "byte"
    cleaning = AS_IT_IS

    def __init__(self, specials: Sequence[str] = ()) -> None:
        self.specials = tuple(specials)
        self.symbols: tuple[int | str, ...] = (*range(256), *self.specials)
        self.size = len(self.symbols)
        unknown, self.start, self.end = _special_ids(256, self.specials)
        if unknown is not None:
            raise ValueError(f"a byte vocabulary has no {UNKNOWN}, because it has every byte")

    def encode(self, text: str, unknown: Unknown = "error") -> Ids:
        """Return the bytes of a text in UTF-8, shape (bytes,); none of them is unknown.

        Raises DataError for a lone surrogate that does not stand for a byte.
        """
        try:
            return np.frombuffer(text.encode("utf-8", "surrogateescape"), dtype=np.uint8)
        except UnicodeEncodeError as error:
            name = name_characters(Counter(text[error.start : error.start + 1]))
            raise DataError(
                f"the text holds the lone surrogate {name}, which is not a character; remove it"
            ) from error

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the bytes without special symbols.

        Bytes that are not UTF-8 become lone surrogates, which `encode` turns back into them.
        """
        return bytes(i for i in ids if i < 256).decode("utf-8", "surrogateescape")

    def unknown_characters(self, text: str) -> Counter[str]:
        """Return an empty count: a byte vocabulary reads any text."""
        return Counter()

    def stream(self) -> ByteStream:
        """Return a decoder for bytes that arrive one by one."""
        return ByteStream()

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return 1 for each byte and 0 for a special symbol."""
        return np.repeat(np.array([1, 0], np.int64), [256, len(self.specials)])

    def to_data(self) -> dict[str, Any]:
        """Return plain data for `read_vocabulary`."""
        return {"kind": self.kind} | ({"specials": [*self.specials]} if self.specials else {})


class ByteStream:
    """Decodes bytes one by one, each character once it is complete; bad bytes become U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """Return the text that a byte completes; empty while a character is incomplete."""
        return self._decoder.decode(bytes([token] if token < 256 else []))

    def finish(self) -> str:
        """Return the text that is left over: U+FFFD for an incomplete character."""
        return self._decoder.decode(b"", final=True)


class TokenVocabulary:
    """One id for each token: a word, a tag or a label.

    `of` orders the ids by frequency, the most frequent token first; equally frequent ones are in
    the order of their code points. `unknown`, `start` and `end` are the ids of `<unk>`, `<s>` and
    `</s>`, or None for a symbol that the vocabulary does not have. A token that is spelled like
    one of its special symbols is not in the vocabulary.
    """

    kind: Literal["token"] = "token"

    def __init__(self, tokens: Iterable[str], specials: Sequence[str] = ()) -> None:
        kept = tuple(tokens)
        self.specials = tuple(specials)
        self.symbols: tuple[str, ...] = kept + self.specials
        self.size = len(self.symbols)
        self.unknown, self.start, self.end = _special_ids(len(kept), self.specials)
        if not kept or "" in kept or len(set(self.symbols)) != self.size:
            raise ValueError(
                "the symbols of a token vocabulary must be distinct texts that are not empty"
            )
        if len(kept) > MOSTTOKENS:
            raise ValueError(f"it has {len(kept):,} tokens, but at most {MOSTTOKENS:,} fit")
        self._ids = {token: i for i, token in enumerate(kept)}

    @classmethod
    def of(
        cls, tokens: Iterable[str], minimum_count: int = 1, specials: Sequence[str] = ()
    ) -> TokenVocabulary:
        """Collect the tokens that occur at least `minimum_count` times.

        Raises DataError if there are none, or more than a checkpoint has room for.
        """
        return cls(_frequent(Counter(tokens), minimum_count, specials), specials)

    def encode(self, tokens: Iterable[str]) -> Ids:
        """Convert tokens to ids of shape (tokens,).

        A token that is not in the vocabulary becomes `<unk>`. Raises DataError if there is no
        `<unk>`.
        """
        listed = list(tokens)
        if self.unknown is not None:
            ids = [self._ids.get(token, self.unknown) for token in listed]
        elif missing := self.unknown_tokens(listed):
            raise DataError(
                f"the model's vocabulary of {self.size:,} tokens lacks {name_tokens(missing)}; "
                f"leave out the examples with them, or train on such examples"
            )
        else:
            ids = [self._ids[token] for token in listed]
        return np.array(ids, id_type(self.size))

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the tokens of ids, and special symbols by their names."""
        return [self.symbols[i] for i in ids]

    def unknown_tokens(self, tokens: Iterable[str]) -> Counter[str]:
        """Count the tokens that are not in the vocabulary."""
        return Counter(token for token in tokens if token not in self._ids)

    def to_data(self) -> dict[str, Any]:
        """Return plain data for `read_tokens`."""
        kept = list(self.symbols[: self.size - len(self.specials)])
        return {"kind": self.kind, "symbols": kept, "specials": list(self.specials)}


def _frequent(
    counts: Counter[str], minimum_count: int = 1, specials: Sequence[str] = ()
) -> list[str]:
    """List the tokens that occur at least `minimum_count` times, the most frequent first.

    A token that is spelled like one of `specials` is left out. Raises DataError if there are none,
    or more than a checkpoint has room for.
    """
    kept = [token for token, n in counts.items() if n >= minimum_count and token not in specials]
    if not kept:
        raise DataError(
            f"no token occurs {minimum_count:,} times; give more text, or lower data.minimum_count"
        )
    if len(kept) > MOSTTOKENS:
        raise DataError(
            f"{len(kept):,} different tokens occur at least {minimum_count:,} times, more than the "
            f"{MOSTTOKENS:,} that fit in a vocabulary; raise data.minimum_count"
        )
    return sorted(kept, key=lambda token: (-counts[token], token))


# A space belongs to the token after it. A word is a run of letters, digits, underscores and
# combining accents, with apostrophes inside; every other character, such as a line end, is a token.
# The <unk> of texts that were prepared for word models is one token.
TOKEN = re.compile(r" ?(?:<unk>|\w[\w\u0300-\u036f]*(?:['\u2019]\w[\w\u0300-\u036f]*)*|[^\w\s])|\s")


def split_words(text: str) -> list[str]:
    r"""Split a text into words, punctuation marks and white space; joined, they are the text.

    A word or mark includes the space before it. Each other white space character, such as a line
    end, is a token. A run of letters is a word, so a script without spaces gives long words.

    >>> split_words("To be,\n")
    ['To', ' be', ',', '\n']
    """
    return TOKEN.findall(text)


class WordVocabulary:
    """One id for each word, punctuation mark or white space of `split_words`, and `<unk>`.

    Any text can be read. Decoding the ids gives the text again, with ` <unk>` for each token that
    is not in the vocabulary. A word with a space before it and the same word without one, as at the
    start of a line, have different ids. `start` and `end` are the ids of `<s>` and `</s>`, or None
    for a symbol that the vocabulary does not have; they decode to nothing.
    """

    kind: Literal["word"] = "word"

    def __init__(
        self,
        words: Iterable[str],
        specials: Sequence[str] = (UNKNOWN,),
        cleaning: Cleaning = AS_IT_IS,
    ) -> None:
        self.cleaning = cleaning
        self._tokens = TokenVocabulary(words, specials)
        self.specials = self._tokens.specials
        self.symbols, self.size = self._tokens.symbols, self._tokens.size
        self.unknown: int = len(self.symbols) - len(self.specials)
        self.start, self.end = self._tokens.start, self._tokens.end
        self._words = self.symbols[: self.unknown]
        if self.specials[:1] != (UNKNOWN,):
            raise ValueError(f"the first special symbol of a word vocabulary must be {UNKNOWN}")
        if any(split_words(word) != [word] for word in self._words):
            raise ValueError("the symbols of a word vocabulary must be words or single characters")
        self._texts = (*self._words, f" {UNKNOWN}", *[""] * (len(self.specials) - 1))

    @classmethod
    def of(
        cls,
        texts: Iterable[str],
        minimum_count: int = 1,
        specials: Sequence[str] = (UNKNOWN,),
        cleaning: Cleaning = AS_IT_IS,
    ) -> WordVocabulary:
        """Collect the words that occur in `texts` at least `minimum_count` times.

        The most frequent word comes first. Raises DataError if there are none, or more than a
        checkpoint has room for.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(split_words(text))
        return cls.of_counts(counts, minimum_count, specials, cleaning)

    @classmethod
    def of_counts(
        cls,
        counts: Counter[str],
        minimum_count: int = 1,
        specials: Sequence[str] = (UNKNOWN,),
        cleaning: Cleaning = AS_IT_IS,
    ) -> WordVocabulary:
        """Make a vocabulary as `of` does, from counts instead of texts."""
        return cls(_frequent(counts, minimum_count, (UNKNOWN, f" {UNKNOWN}")), specials, cleaning)

    def encode(self, text: str, unknown: Unknown = "error") -> Ids:
        """Convert a text to ids of shape (tokens,).

        A token that is not in the vocabulary becomes `<unk>`, or is left out if `unknown` is
        `skip`.
        """
        ids = self._tokens.encode(split_words(self.cleaning(text)))
        return ids[ids != self.unknown] if unknown == "skip" else ids

    def decode(self, ids: Iterable[int]) -> str:
        """Convert ids to text."""
        return "".join([self._texts[i] for i in ids])

    def unknown_characters(self, text: str) -> Counter[str]:
        """Return an empty count: a word vocabulary reads any text."""
        return Counter()

    def stream(self) -> SymbolStream:
        """Return a decoder for ids that arrive one by one."""
        return SymbolStream(self._texts)

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return the number of bytes in UTF-8 of each id; 0 for a special symbol."""
        return _byte_lengths(self._words, self.size)

    def to_data(self) -> dict[str, Any]:
        """Return plain data for `read_vocabulary`."""
        data: dict[str, Any] = {"kind": self.kind, "symbols": list(self._words)}
        data |= {"specials": [*self.specials]} if len(self.specials) > 1 else {}
        return data | _cleaning_data(self.cleaning)


def _byte_lengths(texts: Sequence[str], size: int) -> NDArray[np.int64]:
    lengths = np.zeros(size, np.int64)
    lengths[: len(texts)] = [len(text.encode("utf-8", "surrogatepass")) for text in texts]
    return lengths


Vocabulary: TypeAlias = CharacterVocabulary | ByteVocabulary | WordVocabulary
"""A vocabulary of a text."""


def unit_of(vocabulary: Vocabulary) -> str:
    """The name of one of its symbols: character, byte or word."""
    return vocabulary.kind if vocabulary.kind in ("byte", "word") else "character"


def vocabulary_of(
    kind: Literal["character", "byte", "word"],
    texts: Iterable[str],
    minimum_count: int = 1,
    ends: Sequence[str] = (),
    cleaning: Cleaning = AS_IT_IS,
) -> Vocabulary:
    """Collect a vocabulary with `<unk>` from texts, for use on other texts as well.

    `ends` are the special symbols `<s>`, `</s>` or both; `cleaning` is applied to every text that
    is encoded later. Raises DataError if the vocabulary would be empty.
    """
    if kind == "byte":
        return ByteVocabulary(ends)
    of = WordVocabulary.of if kind == "word" else CharacterVocabulary.of
    return of(texts, minimum_count, [UNKNOWN, *ends], cleaning)


def read_vocabulary(data: Any) -> Vocabulary:
    """Read a vocabulary from the result of `to_data`. Raises CheckpointError for other data."""
    try:
        match data:
            case {"kind": "character", "symbols": str(symbols)} if symbols:
                specials = _texts(data.get("specials", []))
                return CharacterVocabulary(symbols, specials, _cleaning_of(data))
            case {"kind": "byte"}:
                return ByteVocabulary(_texts(data.get("specials", [])))
            case {"kind": "word", "symbols": symbols}:
                specials = _texts(data.get("specials", [UNKNOWN]))
                return WordVocabulary(_texts(symbols), specials, _cleaning_of(data))
    except ValueError as error:
        raise CheckpointError(f"the stored vocabulary is not usable: {error}") from error
    raise CheckpointError("the stored vocabulary is not of the kind character, byte or word")


Vocabularies: TypeAlias = Mapping[str, Vocabulary | TokenVocabulary]
"""The vocabularies of a model by name; a language model has one, named `text`."""


def read_vocabularies(data: Any) -> dict[str, Vocabulary | TokenVocabulary]:
    """Read the vocabularies of a checkpoint: one, or several by name. Raises CheckpointError."""
    if not isinstance(data, dict) or "kind" in data:
        return {"text": read_vocabulary(data)}
    return {
        str(name): read_tokens(part)
        if isinstance(part, dict) and part.get("kind") == "token"
        else read_vocabulary(part)
        for name, part in data.items()
    }


def read_tokens(data: Any) -> TokenVocabulary:
    """Read a vocabulary of tokens from the result of `to_data`.

    Raises CheckpointError for other data.
    """
    try:
        match data:
            case {"kind": "token", "symbols": symbols, "specials": specials}:
                return TokenVocabulary(_texts(symbols), _texts(specials))
    except ValueError as error:
        raise CheckpointError(f"the stored vocabulary of tokens is not usable: {error}") from error
    raise CheckpointError("the stored vocabulary is not one of tokens")


def _texts(data: Any) -> list[str]:
    if not isinstance(data, list) or not all(isinstance(text, str) for text in data):
        raise ValueError("its symbols are not strings")
    return data
