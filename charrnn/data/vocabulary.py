"""Text to ids and back, by character, by byte or by word; and whole tokens to ids and back.

A vocabulary has symbols with ids 0 ... size-1. `read_vocabulary` restores that of a text, and
`read_tokens` that of tokens, from the plain data that `to_data` gives, which is what a checkpoint
stores.

Special symbols stand for no text: `<unk>` for what is not in the vocabulary, `<s>` and `</s>` for
a beginning and an end. Their ids come after all others, and no text is ever taken for one of them.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from charrnn.errors import CheckpointError, DataError

Ids = NDArray[Any]
"""Ids in the smallest unsigned integer type that holds the vocabulary."""

Unknown = Literal["error", "skip"]

UNKNOWN, START, END = "<unk>", "<s>", "</s>"
SPECIALS = (UNKNOWN, START, END)
MOST_TOKENS = 1 << 16  # what a checkpoint's header has room for


def id_type(size: int) -> np.dtype[Any]:
    """The smallest unsigned integer type for ids below `size`."""
    return np.min_scalar_type(max(size - 1, 0))


def code_points(text: str) -> NDArray[np.uint32]:
    """A text's Unicode code points, lone surrogates included."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def name_characters(counts: Counter[str], limit: int = 8) -> str:
    """Characters by code point, the most frequent first: `U+00E9 'é' (3 times), ...`."""

    def show(character: str) -> str:
        shown = repr(character) if character.isprintable() else ascii(character)
        return f"U+{ord(character):04X} {shown}"

    return _listed(counts, show, limit)


def name_tokens(counts: Counter[str], limit: int = 8) -> str:
    """Tokens, the most frequent first: `'Klingon' (3 times), ...`."""
    return _listed(counts, shortened, limit)


def shortened(text: str, most: int = 40) -> str:
    """A text between quotes for a message, cut where it is long; a control character escaped."""
    cut = text if len(text) <= most else text[: most - 3] + "..."
    return ascii(cut) if any("\ud800" <= character <= "\udfff" for character in cut) else repr(cut)


def _listed(counts: Counter[str], show: Callable[[str], str], limit: int) -> str:
    parts = []
    for symbol, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit]:
        parts.append(show(symbol) + (f" ({count:,} times)" if count > 1 else ""))
    more = [f"and {len(counts) - limit:,} more"] if len(counts) > limit else []
    return ", ".join(parts + more)


def _special_ids(first: int, specials: Sequence[str]) -> list[int | None]:
    """The ids of `<unk>`, `<s>` and `</s>`, where they are among the special symbols."""
    if any(name not in SPECIALS for name in specials) or len(set(specials)) != len(specials):
        raise ValueError(f"special symbols are some of {', '.join(SPECIALS)}, each once")
    return [first + specials.index(name) if name in specials else None for name in SPECIALS]


class CharacterVocabulary:
    """One id a Unicode character, in the order of the code points.

    Characters are code points: a letter with a combining accent, or an emoji with a joiner, is
    as many characters as Unicode says; nothing is normalised. With the special symbol `<unk>` any
    text can be read. `unknown`, `start` and `end` are the ids of `<unk>`, `<s>` and `</s>`, or
    None where the vocabulary has no such symbol.
    """

    kind: Literal["character"] = "character"

    def __init__(self, symbols: Iterable[str], specials: Sequence[str] = ()) -> None:
        characters = tuple(symbols)
        self.specials = tuple(specials)
        self.symbols: tuple[str, ...] = characters + self.specials
        self.size = len(self.symbols)
        self._known = len(characters)
        self._points = code_points("".join(characters))
        if len(self._points) != self._known or len(set(characters)) != self._known:
            raise ValueError("the symbols of a character vocabulary are distinct single characters")
        self.unknown, self.start, self.end = _special_ids(self._known, self.specials)
        self._texts = characters + tuple(
            "\ufffd" if name == UNKNOWN else "" for name in self.specials
        )
        # Code point to id; the id `_known` stands for whatever is not in the vocabulary.
        self._ids = np.full(int(self._points.max(initial=0)) + 1, self._known, dtype=np.uint32)
        self._ids[self._points] = np.arange(self._known, dtype=np.uint32)

    @classmethod
    def of(
        cls, texts: Iterable[str], minimum_count: int = 1, specials: Sequence[str] = ()
    ) -> CharacterVocabulary:
        """The vocabulary of the characters that occur in `texts` at least so many times.

        Raises DataError where that leaves none.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        kept = sorted(c for c, count in counts.items() if count >= minimum_count)
        if not kept:
            raise DataError(
                f"no character occurs {minimum_count:,} times; give more text or a lower minimum "
                f"count"
            )
        return cls(kept, specials)

    def _lookup(self, text: str) -> NDArray[np.uint32]:
        points = code_points(text)
        inside = points < len(self._ids)
        ids = self._ids[np.where(inside, points, 0)]
        return np.where(inside, ids, np.uint32(self._known))

    def encode(self, text: str, unknown: Unknown = "error") -> Ids:
        """Ids of shape (characters,).

        A character that is not in the vocabulary is left out with `skip`; else it becomes `<unk>`,
        or raises DataError where there is no `<unk>`.
        """
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
                    f"leave them out with --unknown skip, or train on a text that has them"
                )
        return ids.astype(id_type(self.size))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; encode after decode is the identity.

        Of the special symbols `<unk>` becomes U+FFFD and the others nothing.
        """
        return "".join([self._texts[i] for i in ids])

    def unknown_characters(self, text: str) -> Counter[str]:
        """Characters of `text` that are not in the vocabulary, with their counts."""
        missing = code_points(text)[self._lookup(text) == self._known]
        values, counts = np.unique(missing, return_counts=True)
        return Counter({chr(v): int(c) for v, c in zip(values, counts, strict=True)})

    def stream(self) -> SymbolStream:
        """A decoder for ids that arrive one by one."""
        return SymbolStream(self._texts)

    def byte_lengths(self) -> NDArray[np.int64]:
        """For each id, how many bytes its character takes in UTF-8; 0 for a special symbol."""
        return _byte_lengths(self.symbols[: self._known], self.size)

    def to_data(self) -> dict[str, Any]:
        """Plain data for `read_vocabulary`."""
        data: dict[str, Any] = {"kind": self.kind, "symbols": "".join(self.symbols[: self._known])}
        return data | ({"specials": list(self.specials)} if self.specials else {})


class SymbolStream:
    """Text from ids that arrive one by one: each is a whole symbol with a text of its own."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._texts = texts

    def feed(self, token: int) -> str:
        """The text that `token` completes."""
        return self._texts[token]

    def finish(self) -> str:
        """What is left over: nothing."""
        return ""


class ByteVocabulary:
    """One id for each of the 256 byte values: any text, and any file, can be read and written.

    `start` and `end` are the ids of `<s>` and `</s>`, or None where there is no such symbol.
    """

    kind: Literal["byte"] = "byte"

    def __init__(self, specials: Sequence[str] = ()) -> None:
        self.specials = tuple(specials)
        self.symbols: tuple[int | str, ...] = (*range(256), *self.specials)
        self.size = len(self.symbols)
        unknown, self.start, self.end = _special_ids(256, self.specials)
        if unknown is not None:
            raise ValueError("no byte is unknown")

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
        """The text of the bytes, special symbols left out; what is not UTF-8 becomes lone
        surrogates, which encode back."""
        return bytes(i for i in ids if i < 256).decode("utf-8", "surrogateescape")

    def unknown_characters(self, text: str) -> Counter[str]:
        """Always empty."""
        return Counter()

    def stream(self) -> ByteStream:
        """A decoder for bytes that arrive one by one."""
        return ByteStream()

    def byte_lengths(self) -> NDArray[np.int64]:
        """One byte each; 0 for a special symbol."""
        return np.repeat(np.array([1, 0], np.int64), [256, len(self.specials)])

    def to_data(self) -> dict[str, Any]:
        """Plain data for `read_vocabulary`."""
        return {"kind": self.kind} | ({"specials": [*self.specials]} if self.specials else {})


class ByteStream:
    """Holds back the bytes of a character until it is whole; bad bytes show as U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The text that `token` completes: nothing while a character is open."""
        return self._decoder.decode(bytes([token] if token < 256 else []))

    def finish(self) -> str:
        """What is left over: U+FFFD for an incomplete character."""
        return self._decoder.decode(b"", final=True)


class TokenVocabulary:
    """One id a whole token: a word, a tag, a label.

    `of` gives the ids by frequency, the most frequent token first and equally frequent ones in
    the order of their code points. `unknown`, `start` and `end` are the ids of the special symbols
    `<unk>`, `<s>` and `</s>`, or None where the vocabulary has no such symbol; a token that looks
    like one of those it has is none of its tokens.
    """

    kind: Literal["token"] = "token"

    def __init__(self, tokens: Iterable[str], specials: Sequence[str] = ()) -> None:
        kept = tuple(tokens)
        self.specials = tuple(specials)
        self.symbols: tuple[str, ...] = kept + self.specials
        self.size = len(self.symbols)
        self.unknown, self.start, self.end = _special_ids(len(kept), self.specials)
        if not kept or "" in kept or len(set(self.symbols)) != self.size:
            raise ValueError("the symbols of a token vocabulary are distinct texts, none empty")
        if len(kept) > MOST_TOKENS:
            raise ValueError(f"its {len(kept):,} tokens are more than {MOST_TOKENS:,}")
        self._ids = {token: i for i, token in enumerate(kept)}

    @classmethod
    def of(
        cls, tokens: Iterable[str], minimum_count: int = 1, specials: Sequence[str] = ()
    ) -> TokenVocabulary:
        """The vocabulary of the tokens that occur at least so many times.

        Raises DataError where that leaves none, or more than a checkpoint has room for.
        """
        return cls(_frequent(Counter(tokens), minimum_count, specials), specials)

    def encode(self, tokens: Iterable[str]) -> Ids:
        """Ids of shape (tokens,).

        A token that is not in the vocabulary becomes `<unk>`, or raises DataError where there is
        no `<unk>`.
        """
        read = list(tokens)
        if self.unknown is not None:
            ids = [self._ids.get(token, self.unknown) for token in read]
        elif missing := self.unknown_tokens(read):
            raise DataError(
                f"the model's vocabulary of {self.size:,} tokens lacks {name_tokens(missing)}; "
                f"leave out the examples that have them, or train on examples that do"
            )
        else:
            ids = [self._ids[token] for token in read]
        return np.array(ids, id_type(self.size))

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The tokens of `ids`, special symbols by their names."""
        return [self.symbols[i] for i in ids]

    def unknown_tokens(self, tokens: Iterable[str]) -> Counter[str]:
        """Tokens that are not in the vocabulary, with their counts."""
        return Counter(token for token in tokens if token not in self._ids)

    def to_data(self) -> dict[str, Any]:
        """Plain data for `read_tokens`."""
        kept = list(self.symbols[: self.size - len(self.specials)])
        return {"kind": self.kind, "symbols": kept, "specials": list(self.specials)}


def _frequent(
    counts: Counter[str], minimum_count: int = 1, specials: Sequence[str] = ()
) -> list[str]:
    """Tokens that occur at least so many times and look like no special symbol, the most frequent
    first.

    Raises DataError where that leaves none, or more than a checkpoint has room for.
    """
    kept = [token for token, n in counts.items() if n >= minimum_count and token not in specials]
    if not kept:
        raise DataError(
            f"no token occurs {minimum_count:,} times; give more text or a lower minimum count"
        )
    if len(kept) > MOST_TOKENS:
        raise DataError(
            f"{len(kept):,} different tokens occur at least {minimum_count:,} times, more than the "
            f"{MOST_TOKENS:,} that a vocabulary holds; give a higher minimum count"
        )
    return sorted(kept, key=lambda token: (-counts[token], token))


# A space belongs to what follows it. A word is a run of letters, digits, underscores and combining
# accents, with apostrophes inside; anything else is a token by itself, white space included. The
# <unk> of texts that were prepared for word models is one token.
_TOKEN = re.compile(
    r" ?(?:<unk>|\w[\w\u0300-\u036f]*(?:['\u2019]\w[\w\u0300-\u036f]*)*|[^\w\s])|\s"
)


def split_words(text: str) -> list[str]:
    """A text as words, punctuation marks and white space, which joined are the text again.

    A word or mark carries the space before it: `"To be,\\n"` is `["To", " be", ",", "\\n"]`. White
    space that is left over, as line ends are, is a token a character. A run of letters is a word:
    a script that puts no space between words gives long ones.
    """
    return _TOKEN.findall(text)


class WordVocabulary:
    """One id a word, punctuation mark or white space, as `split_words` has them, and `<unk>`.

    Decode after encode is the identity but for the tokens that the vocabulary lacks: any text can
    be read, and each of them is shown as ` <unk>`. A word has one id with the space before it
    and another without, as at the start of a line. `start` and `end` are the ids of `<s>` and
    `</s>`, or None where there is no such symbol; decoded, they are nothing.
    """

    kind: Literal["word"] = "word"

    def __init__(self, words: Iterable[str], specials: Sequence[str] = (UNKNOWN,)) -> None:
        self._tokens = TokenVocabulary(words, specials)
        self.specials = self._tokens.specials
        self.symbols, self.size = self._tokens.symbols, self._tokens.size
        self.unknown: int = len(self.symbols) - len(self.specials)
        self.start, self.end = self._tokens.start, self._tokens.end
        self._words = self.symbols[: self.unknown]
        if self.specials[:1] != (UNKNOWN,):
            raise ValueError(f"the first special symbol of a word vocabulary is {UNKNOWN}")
        if any(split_words(word) != [word] for word in self._words):
            raise ValueError("the symbols of a word vocabulary are words or single characters")
        self._texts = (*self._words, f" {UNKNOWN}", *[""] * (len(self.specials) - 1))

    @classmethod
    def of(
        cls,
        texts: Iterable[str],
        minimum_count: int = 1,
        specials: Sequence[str] = (UNKNOWN,),
    ) -> WordVocabulary:
        """The vocabulary of the words that occur in `texts` at least so many times, the most
        frequent first.

        Raises DataError where that leaves none, or more than a checkpoint has room for.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(split_words(text))
        return cls.of_counts(counts, minimum_count, specials)

    @classmethod
    def of_counts(
        cls, counts: Counter[str], minimum_count: int = 1, specials: Sequence[str] = (UNKNOWN,)
    ) -> WordVocabulary:
        """Likewise, of words that were counted."""
        return cls(_frequent(counts, minimum_count, (UNKNOWN, f" {UNKNOWN}")), specials)

    def encode(self, text: str, unknown: Unknown = "error") -> Ids:
        """Ids of shape (tokens,); a token that is not in the vocabulary becomes `<unk>`, or is
        left out with `skip`."""
        ids = self._tokens.encode(split_words(text))
        return ids[ids != self.unknown] if unknown == "skip" else ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`."""
        return "".join([self._texts[i] for i in ids])

    def unknown_characters(self, text: str) -> Counter[str]:
        """Always empty: any text can be read."""
        return Counter()

    def stream(self) -> SymbolStream:
        """A decoder for ids that arrive one by one."""
        return SymbolStream(self._texts)

    def byte_lengths(self) -> NDArray[np.int64]:
        """For each id, how many bytes its text takes in UTF-8; 0 for a special symbol."""
        return _byte_lengths(self._words, self.size)

    def to_data(self) -> dict[str, Any]:
        """Plain data for `read_vocabulary`."""
        data: dict[str, Any] = {"kind": self.kind, "symbols": list(self._words)}
        return data | ({"specials": [*self.specials]} if len(self.specials) > 1 else {})


def _byte_lengths(texts: Sequence[str], size: int) -> NDArray[np.int64]:
    lengths = np.zeros(size, np.int64)
    lengths[: len(texts)] = [len(text.encode("utf-8", "surrogatepass")) for text in texts]
    return lengths


Vocabulary: TypeAlias = CharacterVocabulary | ByteVocabulary | WordVocabulary
"""The vocabulary of a text."""


def unit_of(vocabulary: Vocabulary) -> str:
    """What one of its symbols is called: a character, a byte or a word."""
    return vocabulary.kind if vocabulary.kind in ("byte", "word") else "character"


def vocabulary_of(
    kind: Literal["character", "byte", "word"],
    texts: Iterable[str],
    minimum_count: int = 1,
    ends: Sequence[str] = (),
) -> Vocabulary:
    """The vocabulary of a kind for texts that others will follow: what these lack is `<unk>`.

    `ends` are `<s>`, `</s>` or both, where it is to have them. Raises DataError where it is empty.
    """
    if kind == "byte":
        return ByteVocabulary(ends)
    of = WordVocabulary.of if kind == "word" else CharacterVocabulary.of
    return of(texts, minimum_count, [UNKNOWN, *ends])


def read_vocabulary(data: Any) -> Vocabulary:
    """The vocabulary that `to_data` described. Raises CheckpointError for anything else."""
    try:
        match data:
            case {"kind": "character", "symbols": str(symbols)} if symbols:
                return CharacterVocabulary(symbols, _texts(data.get("specials", [])))
            case {"kind": "byte"}:
                return ByteVocabulary(_texts(data.get("specials", [])))
            case {"kind": "word", "symbols": symbols}:
                return WordVocabulary(_texts(symbols), _texts(data.get("specials", [UNKNOWN])))
    except ValueError as error:
        raise CheckpointError(f"the stored vocabulary is not usable: {error}") from error
    raise CheckpointError("the stored vocabulary is neither 'character' nor 'byte' nor 'word'")


Vocabularies: TypeAlias = Mapping[str, Vocabulary | TokenVocabulary]
"""The vocabularies of a model by what they are of; that of a language model is of `text`."""


def read_vocabularies(data: Any) -> dict[str, Vocabulary | TokenVocabulary]:
    """The vocabularies of a checkpoint: one, or several by name. Raises CheckpointError."""
    if not isinstance(data, dict) or "kind" in data:
        return {"text": read_vocabulary(data)}
    return {
        str(name): read_tokens(part)
        if isinstance(part, dict) and part.get("kind") == "token"
        else read_vocabulary(part)
        for name, part in data.items()
    }


def read_tokens(data: Any) -> TokenVocabulary:
    """The vocabulary of tokens that `to_data` described. Raises CheckpointError for anything
    else."""
    try:
        match data:
            case {"kind": "token", "symbols": symbols, "specials": specials}:
                return TokenVocabulary(_texts(symbols), _texts(specials))
    except ValueError as error:
        raise CheckpointError(f"the stored vocabulary of tokens is not usable: {error}") from error
    raise CheckpointError("the stored vocabulary is not one of tokens")


def _texts(data: Any) -> list[str]:
    if not isinstance(data, list) or not all(isinstance(text, str) for text in data):
        raise ValueError("its symbols are not texts")
    return data
