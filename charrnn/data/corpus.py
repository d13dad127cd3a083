"""A corpus: the ids of a text (in a cache on disk), its vocabulary and its splits.

The key of a cache entry is a hash of the text's bytes, the encoding, the error handling, the rules
of reading and the vocabulary, so an edited text never gets the ids of an earlier version. The text
is read in chunks: memory does not grow with its length.
"""

from __future__ import annotations

import bisect
import codecs
import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from charrnn.data.cache import Scratch
from charrnn.data.encodings import likeliest
from charrnn.data.id_cache import (
    ABOUT_FILE,
    CACHE_FORMAT,
    IDS_FILE,
    CachedIds,
    IdFile,
    cache_path,
    read_cache,
)
from charrnn.data.kinds import looks_binary, marked_encoding, unmarked_encoding
from charrnn.data.rules import AS_BEFORE, AS_IT_IS, cut, split_text
from charrnn.data.sources import Document, Sources
from charrnn.data.splits import split_positions
from charrnn.data.vocabulary import (
    END,
    UNKNOWN,
    ByteVocabulary,
    CharacterVocabulary,
    Ids,
    Unknown,
    Vocabulary,
    WordVocabulary,
    code_points,
    frequent_characters,
    id_type,
    split_words,
    unit_of,
)
from charrnn.errors import ConfigError, DataError, StorageError

Kind = Literal["character", "byte", "word"]
Encode = Callable[[Document], Iterator[Ids]]
"""Encodes a document chunk by chunk; the end of a part is a chunk with `</s>` alone."""

REMEDY = "set data.encoding, or set data.errors to replace or data.vocabulary to byte"
CONVERT = "convert it to UTF-8"  # the remedy if no encoding can be set
LONG_WORD = 200  # characters: only a text without spaces has such words
AROUND = 8192  # bytes on each side of a bad one, from which the encoding is guessed


@dataclass(frozen=True)
class Span:
    """The ids from `start` to before `stop`."""

    start: int
    stop: int
    has_context: bool
    """Whether the id before `start` belongs to the same text and may be read."""

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Corpus:
    """The ids of a whole text, its vocabulary, its splits and the position of each document.

    `held_out` says which part of the text is the validation split, if it is no separate text.
    """

    ids: Ids | IdFile
    vocabulary: Vocabulary
    splits: dict[str, Span]
    document_starts: NDArray[np.int64]
    sha256: str
    key: str
    held_out: str = ""

    @property
    def vocabulary_data(self) -> dict[str, Any]:
        """The vocabulary as plain data, as a checkpoint stores it."""
        return self.vocabulary.to_data()

    @property
    def unit(self) -> str:
        """The name of one symbol: character, byte or word."""
        return unit_of(self.vocabulary)

    def unknown_count(self, span: Span) -> int:
        """Count the symbols of a span that are `<unk>`."""
        unknown = getattr(self.vocabulary, "unknown", None)
        if unknown is None:
            return 0
        pieces = range(span.start, span.stop, 1 << 22)
        return sum(
            int(np.count_nonzero(self.ids[i : min(i + (1 << 22), span.stop)] == unknown))
            for i in pieces
        )

    @property
    def documents(self) -> int:
        """The number of documents: files, or parts of them that a separator divides."""
        return len(self.document_starts) - (self.vocabulary.end is not None)

    def symbol_counts(self, span: Span) -> NDArray[np.int64]:
        """Count each symbol of the vocabulary (V,) in a span."""
        counts = np.zeros(self.vocabulary.size, np.int64)
        for start in range(span.start, span.stop, 1 << 22):
            piece = self.ids[start : min(start + (1 << 22), span.stop)]
            counts += np.bincount(piece, minlength=self.vocabulary.size)
        return counts

    def byte_count(self, span: Span) -> int:
        """Count the bytes (UTF-8) of the symbols of a span; a special symbol has none."""
        return int(self.symbol_counts(span) @ self.vocabulary.byte_lengths())


def load_corpus(
    main: Sources,
    validation: Sources | None = None,
    test: Sources | None = None,
    *,
    vocabulary: Kind | Vocabulary = "character",
    fractions: Sequence[float] = (0.9, 0.1),
    encoding: str = "utf-8",
    errors: str = "strict",
    unknown: Unknown = "error",
    minimum_count: int = 1,
) -> Corpus:
    """Read texts into ids, or take the ids from the cache, and split them.

    Without separate validation texts, `fractions` splits the main text by position into train,
    validation and, if there are three fractions, test. If `vocabulary` is a kind, a vocabulary is
    collected from all the texts: symbols that occur fewer than `minimum_count` times become
    `<unk>`. Otherwise it is the vocabulary to use, and `unknown` says how to treat characters that
    it lacks.

    Raises DataError for a text that cannot be decoded, is empty or is too short to split, and
    StorageError if the cache cannot be written.
    """
    parts = [sources for sources in (main, validation, test) if sources]
    documents = [document for sources in parts for document in sources.documents]
    rules = documents[0].rules if documents else AS_BEFORE
    sha256, sizes = fingerprint(documents)
    wanted: Any
    if isinstance(vocabulary, str):
        counted = vocabulary == "word" or (vocabulary == "character" and minimum_count > 1)
        wanted = [vocabulary, minimum_count] if counted else vocabulary
    else:
        wanted = [vocabulary.to_data(), unknown]
    recipe = [CACHE_FORMAT, sha256, sizes, [len(part.documents) for part in parts]]
    recipe += [encoding, errors, wanted]
    if rules != AS_BEFORE:
        recipe.append([*rules.cleaning, rules.kinds, rules.separator])
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
    cached = read_cache(key)
    if cached is None:
        if isinstance(vocabulary, str):
            vocabulary = _vocabulary_of(parts, vocabulary, minimum_count, encoding, errors)
        encode = partial(
            _encoded, vocabulary=vocabulary, encoding=encoding, errors=errors, unknown=unknown
        )
        _build(key, parts, sha256, sum(sizes), vocabulary, encode)
        cached = read_cache(key)
        if cached is None:
            raise StorageError(
                f"the id cache {cache_path(key)} vanished while it was built; start again"
            )
    main.changes.joined, main.changes.composed = {"": cached.joined}, {"": cached.composed}
    corpus = split_corpus(cached, fractions, validation is not None, test is not None)
    if validation is not None or "validation" not in corpus.splits:
        return corpus
    held_out = _held_out(corpus.splits["validation"], fractions, main, cached.file_starts)
    return replace(corpus, held_out=held_out)


def _held_out(
    span: Span, fractions: Sequence[float], main: Sources, file_starts: Sequence[int]
) -> str:
    """Say which part of a text is the validation split."""
    part = f"the last {fractions[-1]:.0%}"
    if len(fractions) > 2:
        part = f"{fractions[1]:.0%} before the test split"
    at = bisect.bisect_right(file_starts, span.start) - 1
    if len(main.documents) == 1:
        return part
    middle = "" if file_starts[at] == span.start else "the middle of "
    return f"{part}, from {middle}{Path(main.documents[at].name).name} on"


def split_corpus(
    cached: CachedIds, fractions: Sequence[float], has_validation: bool, has_test: bool
) -> Corpus:
    """Split cached ids by `fractions` and parts. Raises DataError if a split is too short."""
    ends = cached.part_ends
    spans = [Span(start, stop, False) for start, stop in pairwise([0, *ends])]
    if has_validation:
        splits = {"train": spans[0], "validation": spans[1]}
    else:
        splits = {
            name: Span(part.start, part.stop, part.start > 0)
            for name, part in split_positions(fractions, ends[0]).items()
        }
    if has_test:
        splits["test"] = spans[-1]
    for name, needed in (("train", 2), ("validation", 1), ("test", 1)):
        if name in splits and len(splits[name]) < needed:
            raise DataError(_too_short(cached, name, len(splits[name])))
    return Corpus(
        cached.ids, cached.vocabulary, splits, cached.document_starts, cached.sha256, cached.key
    )


def _too_short(cached: CachedIds, split: str, size: int) -> str:
    """Return the message that a text is too short to be split."""
    unit, count = unit_of(cached.vocabulary), len(cached.ids)
    longest = max((len(str(symbol)) for symbol in cached.vocabulary.symbols), default=0)
    remedy = "give a longer text, or name a separate one in data.validation"
    if unit == "word" and longest > LONG_WORD:
        remedy = "it has no spaces between words, so set data.vocabulary to character"
    return (
        f"the text of {count:,} {unit}{'s' * (count != 1)} leaves {size} for the {split} split; "
        f"{remedy}"
    )


def corpus_of_text(
    text: str,
    vocabulary: Vocabulary,
    unknown: Unknown = "error",
    separator: str | None = None,
) -> Corpus:
    """Make a corpus of a text in memory, with the single split `text`, for scoring.

    If the vocabulary has `</s>`, it follows each part of the text that a `separator` ends.
    """
    if separator is None or vocabulary.end is None:
        ids = vocabulary.encode(text, unknown)
    else:
        end = np.array([vocabulary.end], id_type(vocabulary.size))
        parts = split_text(vocabulary.cleaning(text), separator)
        pieces = [x for _, part in parts for x in (vocabulary.encode(part, unknown), end)]
        ids = np.concatenate([end[:0], *pieces])
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    splits = {"text": Span(0, len(ids), False)}
    return Corpus(ids, vocabulary, splits, np.zeros(1, np.int64), digest, "")


def read_text(
    sources: Sources, encoding: str = "utf-8", errors: str = "strict", remedy: str = REMEDY
) -> str:
    """Read all documents as one string. Raises DataError if they cannot be decoded."""
    texts = (decoded(document, encoding, errors, remedy) for document in sources.documents)
    return "".join(itertools.chain.from_iterable(texts))


def _check_encoding(encoding: str, errors: str) -> None:
    """Raise ConfigError if Python has no such encoding or error handling."""
    try:
        b"a".decode(encoding, "ignore")
    except (LookupError, ValueError) as error:
        raise ConfigError(
            f"unknown text encoding {encoding!r}; set data.encoding to one such as utf-8 or latin-1"
        ) from error
    try:
        codecs.lookup_error(errors)(UnicodeDecodeError("utf-8", b"\xff", 0, 1, ""))
    except UnicodeDecodeError:
        pass
    except (LookupError, TypeError, ValueError) as error:
        known = "strict, ignore, replace, backslashreplace or surrogateescape"
        raise ConfigError(
            f"unknown error handling {errors!r}; set data.errors to {known}"
        ) from error


def fingerprint(documents: Sequence[Document]) -> tuple[str, list[int]]:
    """Return the SHA-256 of the bytes of all documents in order, and the size of each document."""
    digest, sizes = hashlib.sha256(), []
    for document in documents:
        size = 0
        for chunk in document.chunks():
            digest.update(chunk)
            size += len(chunk)
        sizes.append(size)
    return digest.hexdigest(), sizes


def decoded(
    document: Document,
    encoding: str,
    errors: str,
    remedy: str = REMEDY,
) -> Iterator[str]:
    """Decode a document in chunks by its rules, without a byte order mark at its start.

    Every command that reads a text reads it through this function. Raises DataError, which ends
    with `remedy`, for bytes that are not in that encoding, and ConfigError for an encoding or error
    handling that does not exist.
    """
    _check_encoding(encoding, errors)
    by_content = document.rules.kinds == "content"
    if by_content and codecs.lookup(encoding).name == "utf-8":
        head = document.head()
        marked, unmarked = marked_encoding(head), unmarked_encoding(head)
        encoding = marked or encoding
        if errors == "strict" and unmarked and not marked:
            raise DataError(
                f"{document.name} is {unmarked} without a byte order mark; "
                f"{in_encoding(unmarked, remedy)}"
            )
    guess = by_content and errors == "strict"
    chunks = _decode(document, encoding, errors, remedy, guess)
    yield from document.rules.cleaning.stream(chunks, document.name, document.changes)


def _decode(
    document: Document, encoding: str, errors: str, remedy: str, guess: bool
) -> Iterator[str]:
    """Decode a document as it is. Raises DataError; with `guess`, it names likely encodings."""
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    fed, first, is_ascii = 0, True, True
    for chunk in itertools.chain(document.chunks(), [b""]):
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeError as error:
            begin = getattr(error, "start", 0)
            offset = fed - pending + begin
            content = getattr(error, "object", b"")
            shown = f"byte 0x{content[begin : begin + 1].hex()} " if content[begin:] else ""
            if guess and is_ascii and content[:begin].isascii():
                remedy = _likely_remedy(document, offset, remedy)
            raise DataError(
                f"{document.name} is not {encoding}: {shown}at offset {offset:,}; {remedy}"
            ) from error
        fed += len(chunk)
        is_ascii = is_ascii and text.isascii()
        if first and text:
            first = False
            text = text.removeprefix("\ufeff")
        if text:
            yield text


def _likely_remedy(document: Document, offset: int, remedy: str) -> str:
    """Name the likeliest encodings of a document that is ASCII up to the bad byte at `offset`."""
    start = max(0, offset - AROUND)
    position, around = 0, b""
    for chunk in document.chunks():
        around += chunk[max(0, start - position) : max(0, offset + AROUND - position)]
        position += len(chunk)
        if position > offset + AROUND:
            break
    if looks_binary(around) and not unmarked_encoding(around):
        bytes_too = "" if remedy == CONVERT else ", or set data.vocabulary to byte"
        return f"it is a binary file; name a text{bytes_too}"
    bad = offset - start
    ways = [
        f"if {line} is right, {in_encoding(name, remedy)}" for name, line in likeliest(around, bad)
    ]
    return "; ".join(ways) or remedy


def in_encoding(encoding: str, remedy: str) -> str:
    """Say how to set the encoding of a text."""
    if remedy == CONVERT:
        return f"{CONVERT}, for instance with iconv -f {encoding} -t utf-8"
    return f"use data.encoding {encoding}"


def _vocabulary_of(
    parts: Sequence[Sources], kind: Kind, minimum_count: int, encoding: str, errors: str
) -> Vocabulary:
    """Collect the vocabulary of all texts, in one pass over them; bytes need none."""
    documents = [document for sources in parts for document in sources.documents]
    rules = documents[0].rules if documents else AS_BEFORE
    ends = [END] if rules.separator else []
    if kind == "byte":
        return ByteVocabulary(ends)
    texts = (_in_parts(document, encoding, errors) for document in documents)
    seen = np.zeros(0x110000, bool)
    characters = np.zeros(0x110000 if minimum_count > 1 else 0, np.int64)
    counts: Counter[str] = Counter()
    for text in texts:
        if kind == "word":
            for piece in text if rules.separator else _between_words(text):
                counts.update(split_words(piece or ""))
        else:
            for piece in filter(None, text):
                points = code_points(piece)
                seen[points] = True
                if minimum_count > 1:
                    characters += np.bincount(points, minlength=len(characters))
    if not counts and not seen.any():
        raise DataError(f"{parts[0].described} is empty; give a text with characters in it")
    if kind == "word":
        return WordVocabulary.of_counts(counts, minimum_count, [UNKNOWN, *ends], rules.cleaning)
    if minimum_count > 1:
        kept = frequent_characters(
            {chr(point): int(characters[point]) for point in np.flatnonzero(seen)}, minimum_count
        )
        return CharacterVocabulary(kept, [UNKNOWN, *ends], rules.cleaning)
    return CharacterVocabulary([chr(point) for point in np.flatnonzero(seen)], ends, rules.cleaning)


def _in_parts(document: Document, encoding: str, errors: str) -> Iterator[str | None]:
    """Decode a document; yield None at the end of each part, if its rules have a separator."""
    chunks = decoded(document, encoding, errors)
    separator = document.rules.separator
    return cut(chunks, separator) if separator else chunks


def _between_words(chunks: Iterable[str | None]) -> Iterator[str]:
    """Cut a text into new chunks, after a line or before a space, so that no word is cut."""
    left: list[str] = []
    for chunk in filter(None, chunks):
        stop = max(chunk.rfind("\n") + 1, chunk.rfind(" "))
        if stop > 0:
            yield "".join([*left, chunk[:stop]])
            left = []
        left.append(chunk[max(stop, 0) :])
    yield "".join(left)


def _build(
    key: str,
    parts: Sequence[Sources],
    sha256: str,
    byte_count: int,
    vocabulary: Vocabulary,
    encode: Encode,
) -> None:
    """Write one entry of the cache: encode the texts in one pass, then rename the folder."""
    target = cache_path(key)
    scratch: Scratch | None = None
    try:
        scratch = Scratch(target.parent)
        temporary = scratch.path / "entry"
        temporary.mkdir()
        about = _write_ids(temporary / IDS_FILE, parts, encode, vocabulary.end)
        documents = [document for sources in parts for document in sources.documents]
        if fingerprint(documents)[0] != sha256:
            raise DataError(f"{parts[0].described} changed while it was being read; start again")
        about |= {
            "dtype": id_type(vocabulary.size).name,
            "sha256": sha256,
            "vocabulary": vocabulary.to_data(),
            "joined": sum(sum(part.changes.joined.values()) for part in parts),
            "composed": any(any(part.changes.composed.values()) for part in parts),
        }
        (temporary / ABOUT_FILE).write_text(json.dumps(about), "utf-8")
        _move_entry(key, temporary)
    except OSError as error:
        raise StorageError(
            f"cannot write the id cache {target}: {error.strerror}; it needs up to "
            f"{byte_count * id_type(vocabulary.size).itemsize:,} bytes; "
            f"set CHARRNN_CACHE_DIR to a folder with room"
        ) from error
    finally:
        if scratch is not None:
            scratch.discard()


def _write_ids(
    path: Path, parts: Sequence[Sources], encode: Encode, end: int | None
) -> dict[str, Any]:
    """Write the ids of all documents to a file and return their positions and their SHA-256.

    If there is an `end` (the id of `</s>`), a document starts with the `</s>` before it, because
    sampling starts with `</s>`. Raises DataError if there are no ids.
    """
    count = 0
    file_starts: list[int] = []
    starts: list[int] = [] if end is None else [0]
    part_ends: list[int] = []
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for sources in parts:
            for document in sources.documents:
                file_starts.append(count)
                if end is None:
                    starts.append(count)
                for ids in encode(document):
                    if end is not None and len(ids) == 1 and ids[0] == end:
                        starts.append(count)
                    content = ids.tobytes()
                    digest.update(content)
                    file.write(content)
                    count += len(ids)
            part_ends.append(count)
        file.flush()
        os.fsync(file.fileno())
    if count == 0:
        raise DataError(f"{parts[0].described} is empty; give a text with characters in it")
    return {
        "count": count,
        "document_starts": starts,
        "file_starts": file_starts,
        "part_ends": part_ends,
        "ids_sha256": digest.hexdigest(),
    }


def _move_entry(key: str, folder: Path) -> None:
    """Rename a finished folder to its place in the cache, in place of a damaged entry.

    If another process was faster, its entry has the same content and stays.
    """
    target = cache_path(key)
    if read_cache(key) is None:
        shutil.rmtree(target, ignore_errors=True)
        if target.is_file():
            target.unlink()
    with contextlib.suppress(FileExistsError):
        _rename_folder(folder, target)


def _rename_folder(source: Path, target: Path) -> None:
    """Rename a folder. Raises FileExistsError, on every system, if the target exists."""
    try:
        os.rename(source, target)
    except OSError as error:
        if target.exists():
            raise FileExistsError(target) from error
        raise


def _encoded(
    document: Document,
    vocabulary: Vocabulary,
    encoding: str,
    errors: str,
    unknown: Unknown,
) -> Iterator[Ids]:
    """Encode a document chunk by chunk; yield `</s>` alone at the end of each part."""
    is_bytes, separator = vocabulary.kind == "byte", document.rules.separator
    if is_bytes and separator is None:
        for chunk in document.chunks():
            yield np.frombuffer(chunk, np.uint8)
        return
    if is_bytes:
        raw = replace(document, rules=replace(document.rules, cleaning=AS_IT_IS, kinds="name"))
        parts = _in_parts(raw, "utf-8", "surrogateescape")
    else:
        parts = _in_parts(document, encoding, errors)
    if vocabulary.kind == "word" and separator is None:
        parts = _between_words(parts)
    end = np.array([vocabulary.end or 0], id_type(vocabulary.size))
    for part in parts:
        if part is None:
            yield end
        else:
            yield vocabulary.encode(part, unknown).astype(end.dtype, copy=False)
