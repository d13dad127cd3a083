"""A corpus: the ids of a text (in a cache on disk), its vocabulary and its splits.

The key of a cache entry is a hash of the text's bytes, the encoding, the error handling and the
vocabulary, so an edited text never gets the ids of an earlier version. The text is read in chunks:
memory does not grow with its length.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from charrnn.data.id_cache import (
    ABOUT_FILE,
    CACHE_FORMAT,
    IDS_FILE,
    CachedIds,
    IdFile,
    cache_path,
    read_cache,
)
from charrnn.data.sources import Document, Scratch, Sources
from charrnn.data.splits import split_positions
from charrnn.data.vocabulary import (
    ByteVocabulary,
    CharacterVocabulary,
    Ids,
    Unknown,
    Vocabulary,
    WordVocabulary,
    code_points,
    id_type,
    split_words,
    unit_of,
)
from charrnn.errors import ConfigError, DataError, StorageError

Kind = Literal["character", "byte", "word"]
Encode = Callable[[Document], Iterator[Ids]]
"""Encodes a document chunk by chunk."""


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
    """The ids of a whole text, its vocabulary, its splits and the position of each document."""

    ids: Ids | IdFile
    vocabulary: Vocabulary
    splits: dict[str, Span]
    document_starts: NDArray[np.int64]
    sha256: str
    key: str

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
        if self.vocabulary.kind != "word":
            return 0
        pieces = range(span.start, span.stop, 1 << 22)
        unknown = self.vocabulary.unknown
        return sum(
            int(np.count_nonzero(self.ids[i : min(i + (1 << 22), span.stop)] == unknown))
            for i in pieces
        )

    def byte_count(self, span: Span) -> int:
        """Count the bytes (UTF-8) of the symbols of a span; a special symbol has none."""
        counts = np.zeros(self.vocabulary.size, np.int64)
        for start in range(span.start, span.stop, 1 << 22):
            piece = self.ids[start : min(start + (1 << 22), span.stop)]
            counts += np.bincount(piece, minlength=self.vocabulary.size)
        return int(counts @ self.vocabulary.byte_lengths())


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
    collected from all the texts (for words, from the words that occur at least `minimum_count`
    times). Otherwise it is the vocabulary to use, and `unknown` says how to treat characters that
    it lacks.

    Raises DataError for a text that cannot be decoded, is empty or is too short to split, and
    StorageError if the cache cannot be written.
    """
    parts = [sources for sources in (main, validation, test) if sources]
    documents = [document for sources in parts for document in sources.documents]
    sha256, sizes = fingerprint(documents)
    wanted: Any
    if isinstance(vocabulary, str):
        wanted = [vocabulary, minimum_count] if vocabulary == "word" else vocabulary
    else:
        wanted = [vocabulary.to_data(), unknown]
    recipe = [CACHE_FORMAT, sha256, sizes, [len(part.documents) for part in parts]]
    recipe += [encoding, errors, wanted]
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
    return split_corpus(cached, fractions, validation is not None, test is not None)


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
            raise DataError(
                f"the text of {ends[-1]:,} {unit_of(cached.vocabulary)}s leaves "
                f"{len(splits[name])} for the {name} split; give a longer text, or name a "
                f"separate one in data.validation"
            )
    return Corpus(
        cached.ids, cached.vocabulary, splits, cached.document_starts, cached.sha256, cached.key
    )


def corpus_of_text(text: str, vocabulary: Vocabulary, unknown: Unknown = "error") -> Corpus:
    """Make a corpus of a text in memory, with the single split `text`, for scoring."""
    ids = vocabulary.encode(text, unknown)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    splits = {"text": Span(0, len(ids), False)}
    return Corpus(ids, vocabulary, splits, np.zeros(1, np.int64), digest, "")


def read_text(sources: Sources, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Read all documents as one string. Raises DataError if they cannot be decoded."""
    return "".join(
        chunk for document in sources.documents for chunk in decoded(document, encoding, errors)
    )


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
    remedy: str = "set data.encoding, or set data.errors to replace or data.vocabulary to byte",
) -> Iterator[str]:
    """Decode a document in chunks, without a byte order mark at its start.

    Raises DataError, which ends with `remedy`, for bytes that are not in that encoding, and
    ConfigError for an encoding or error handling that does not exist.
    """
    _check_encoding(encoding, errors)
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    fed, first = 0, True
    for chunk in itertools.chain(document.chunks(), [b""]):
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeError as error:
            offset = fed - pending + getattr(error, "start", 0)
            culprit = getattr(error, "object", b"")[getattr(error, "start", 0) :][:1]
            shown = f"byte 0x{culprit.hex()} " if culprit else ""
            raise DataError(
                f"{document.name} is not {encoding}: {shown}at offset {offset:,}; {remedy}"
            ) from error
        fed += len(chunk)
        if first and text:
            first = False
            text = text.removeprefix("\ufeff")
        if text:
            yield text


def _vocabulary_of(
    parts: Sequence[Sources], kind: Kind, minimum_count: int, encoding: str, errors: str
) -> Vocabulary:
    """Collect the vocabulary of all texts, in one pass over them; bytes need none."""
    if kind == "byte":
        return ByteVocabulary()
    documents = [document for sources in parts for document in sources.documents]
    texts = (decoded(document, encoding, errors) for document in documents)
    seen = np.zeros(0x110000, bool)
    counts: Counter[str] = Counter()
    for text in texts:
        if kind == "word":
            for piece in _between_words(text):
                counts.update(split_words(piece))
        else:
            for piece in text:
                seen[code_points(piece)] = True
    if not counts and not seen.any():
        raise DataError(f"{parts[0].described} is empty; give a text with characters in it")
    if kind == "word":
        return WordVocabulary.of_counts(counts, minimum_count)
    return CharacterVocabulary([chr(point) for point in np.flatnonzero(seen)])


def _between_words(chunks: Iterator[str]) -> Iterator[str]:
    """Cut a text into new chunks, after a line or before a space, so that no word is cut."""
    left: list[str] = []
    for chunk in chunks:
        cut = max(chunk.rfind("\n") + 1, chunk.rfind(" "))
        if cut > 0:
            yield "".join([*left, chunk[:cut]])
            left = []
        left.append(chunk[max(cut, 0) :])
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
        about = _write_ids(temporary / IDS_FILE, parts, encode)
        documents = [document for sources in parts for document in sources.documents]
        if fingerprint(documents)[0] != sha256:
            raise DataError(f"{parts[0].described} changed while it was being read; start again")
        about |= {
            "dtype": id_type(vocabulary.size).name,
            "sha256": sha256,
            "vocabulary": vocabulary.to_data(),
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


def _write_ids(path: Path, parts: Sequence[Sources], encode: Encode) -> dict[str, Any]:
    """Write the ids of all documents to a file and return their positions and their SHA-256.

    Raises DataError if there are none.
    """
    count = 0
    starts: list[int] = []
    part_ends: list[int] = []
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for sources in parts:
            for document in sources.documents:
                starts.append(count)
                for ids in encode(document):
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
    """Encode a document chunk by chunk."""
    if vocabulary.kind == "byte":
        for chunk in document.chunks():
            yield np.frombuffer(chunk, np.uint8)
    else:
        chunks = decoded(document, encoding, errors)
        for text in _between_words(chunks) if vocabulary.kind == "word" else chunks:
            yield vocabulary.encode(text, unknown)
