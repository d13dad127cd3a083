"""A corpus: ids in a memory-mapped cache, its vocabulary, and how it is split.

The cache is keyed by the content's hash, the encoding, the error handling and the vocabulary, so
an edited text can never meet stale ids. Building it reads the text in chunks: memory does not
grow with the text.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from charrnn.data.id_cache import CACHE_FORMAT, CachedIds, IdFile, _cache_path, read_cache
from charrnn.data.sources import Document, Scratch, Sources
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


@dataclass(frozen=True)
class Span:
    """A stretch of the ids. `has_context`: the character before it exists and may be read."""

    start: int
    stop: int
    has_context: bool

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Corpus:
    """Ids of the whole text, its vocabulary, its splits and where its documents begin."""

    ids: Ids | IdFile
    vocabulary: Vocabulary
    splits: dict[str, Span]
    document_starts: NDArray[np.int64]
    sha256: str
    key: str

    @property
    def vocabulary_data(self) -> dict[str, Any]:
        """The vocabulary as plain data, for a checkpoint."""
        return self.vocabulary.to_data()

    @property
    def unit(self) -> str:
        """What one symbol is called: a character, a byte or a word."""
        return unit_of(self.vocabulary)

    def unknown_count(self, span: Span) -> int:
        """How many symbols of `span` are `<unk>`."""
        if self.vocabulary.kind != "word":
            return 0
        pieces = range(span.start, span.stop, 1 << 22)
        unknown = self.vocabulary.unknown
        return sum(
            int(np.count_nonzero(self.ids[i : min(i + (1 << 22), span.stop)] == unknown))
            for i in pieces
        )

    def byte_count(self, span: Span) -> int:
        """How many bytes (UTF-8) the symbols of `span` take; a special symbol takes none."""
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
    """Read the texts into ids (or find them in the cache) and split them.

    Without validation files, `fractions` splits the main text by position into train,
    validation and, with three of them, test. A given vocabulary is kept as it is, and `unknown`
    says what becomes of characters it lacks; else the vocabulary is made from all the texts, of
    words from those that occur at least `minimum_count` times.

    Raises DataError for a text that cannot be decoded, is empty or too short; StorageError where
    the cache cannot be written.
    """
    parts = [sources for sources in (main, validation, test) if sources]
    documents = [document for sources in parts for document in sources.documents]
    sha256, sizes = fingerprint(documents)
    wanted: Any
    if isinstance(vocabulary, str):
        wanted = [vocabulary, minimum_count] if vocabulary == "word" else vocabulary
    else:
        wanted = [vocabulary.to_data(), unknown]
    recipe = [CACHE_FORMAT, sha256, sizes, [len(p.documents) for p in parts]]
    recipe += [encoding, errors, wanted]
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
    cached = read_cache(key)
    if cached is None:
        made = vocabulary
        if isinstance(made, str):
            made = _vocabulary_of(parts, made, minimum_count, encoding, errors)
        _build(key, parts, sha256, sum(sizes), made, encoding, errors, unknown)
        cached = read_cache(key)
        if cached is None:
            raise StorageError(f"the id cache {_cache_path(key)} vanished while it was built")
    return split_corpus(cached, fractions, validation is not None, test is not None)


def split_corpus(
    cached: CachedIds, fractions: Sequence[float], has_validation: bool, has_test: bool
) -> Corpus:
    """Name the spans of the ids. Raises DataError where a split would be too short to use."""
    ends = cached.part_ends
    spans = [Span(a, b, False) for a, b in zip([0, *ends], ends, strict=False)]
    splits: dict[str, Span] = {}
    if has_validation:
        splits["train"], splits["validation"] = spans[0], spans[1]
    else:
        exact = [Fraction(str(fraction)) for fraction in fractions]
        names = ["train", "validation", "test"][: len(exact)]
        end = ends[0]
        cuts = [int(end * sum(exact[: i + 1])) for i in range(len(exact) - 1)]
        for name, start, stop in zip(names, [0, *cuts], [*cuts, end], strict=True):
            splits[name] = Span(start, stop, start > 0)
    if has_test:
        splits["test"] = spans[-1]
    for name, needed in (("train", 2), ("validation", 1), ("test", 1)):
        if name in splits and len(splits[name]) < needed:
            raise DataError(
                f"the text of {ends[-1]:,} characters leaves {len(splits[name])} for the {name} "
                f"split; give a longer text, or separate files with --validation"
            )
    return Corpus(
        cached.ids, cached.vocabulary, splits, cached.document_starts, cached.sha256, cached.key
    )


def corpus_of_text(text: str, vocabulary: Vocabulary, unknown: Unknown = "error") -> Corpus:
    """A text in memory as a corpus with the one split `text`, for scoring."""
    ids = vocabulary.encode(text, unknown)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    whole = Span(0, len(ids), False)
    return Corpus(ids, vocabulary, {"text": whole}, np.zeros(1, np.int64), digest, "")


def read_text(sources: Sources, encoding: str = "utf-8", errors: str = "strict") -> str:
    """All the documents as one string. Raises DataError where they cannot be decoded."""
    return "".join(
        chunk for document in sources.documents for chunk in decoded(document, encoding, errors)
    )


def _check_encoding(encoding: str, errors: str) -> None:
    try:
        b"a".decode(encoding, "ignore")
    except (LookupError, ValueError) as error:
        raise ConfigError(
            f"unknown text encoding {encoding!r}; utf-8 and latin-1 are two"
        ) from error
    try:
        codecs.lookup_error(errors)(UnicodeDecodeError("utf-8", b"\xff", 0, 1, ""))
    except UnicodeDecodeError:
        pass
    except (LookupError, TypeError, ValueError) as error:
        known = "strict, ignore, replace, backslashreplace, surrogateescape"
        raise ConfigError(f"unknown error handling {errors!r}; known: {known}") from error


def fingerprint(documents: Sequence[Document]) -> tuple[str, list[int]]:
    """The SHA-256 of all bytes in order, and each document's size in bytes."""
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
    remedy: str = "give its --encoding, or --errors replace, or --vocabulary byte",
) -> Iterator[str]:
    """The text in chunks, without a byte order mark at its start.

    Raises DataError for what is not in that encoding, ConfigError where there is no such encoding
    or error handling.
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
    """The vocabulary of all the texts: a pass over them, or none for bytes."""
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
    """A text's chunks cut anew, where no word is cut: after a line's end or before a space."""
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
    encoding: str,
    errors: str,
    unknown: Unknown,
) -> None:
    """Write one entry of the cache: one pass over the text, then one rename."""
    documents = [document for sources in parts for document in sources.documents]
    target = _cache_path(key)
    count = 0
    starts: list[int] = []
    part_ends: list[int] = []
    scratch: Scratch | None = None
    digest = hashlib.sha256()
    try:
        scratch = Scratch(target.parent)
        temporary = scratch.path / "entry"
        temporary.mkdir()
        with (temporary / "ids.bin").open("wb") as file:
            for sources in parts:
                for document in sources.documents:
                    starts.append(count)
                    for ids in _encoded(document, vocabulary, encoding, errors, unknown):
                        content = ids.tobytes()
                        digest.update(content)
                        file.write(content)
                        count += len(ids)
                part_ends.append(count)
            file.flush()
            os.fsync(file.fileno())
        if count == 0:
            raise DataError(f"{parts[0].described} is empty; give a text with characters in it")
        again, _ = fingerprint(documents)
        if again != sha256:
            raise DataError(f"{parts[0].described} changed while it was being read; start again")
        about = {
            "count": count,
            "dtype": id_type(vocabulary.size).name,
            "document_starts": starts,
            "part_ends": part_ends,
            "sha256": sha256,
            "ids_sha256": digest.hexdigest(),
            "vocabulary": vocabulary.to_data(),
        }
        (temporary / "about.json").write_text(json.dumps(about), "utf-8")
        if read_cache(key) is None:
            shutil.rmtree(target, ignore_errors=True)  # A damaged entry, or nothing.
            if target.is_file():
                target.unlink()
        with contextlib.suppress(FileExistsError):  # Another process was faster: same content.
            _rename_folder(temporary, target)
    except OSError as error:
        raise StorageError(
            f"cannot write the id cache {target}: {error.strerror}; it needs up to "
            f"{byte_count * id_type(vocabulary.size).itemsize:,} bytes; "
            f"set CHARRNN_CACHE_DIR to a folder with room"
        ) from error
    finally:
        if scratch is not None:
            scratch.discard()


def _rename_folder(source: Path, target: Path) -> None:
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
    if vocabulary.kind == "byte":
        for chunk in document.chunks():
            yield np.frombuffer(chunk, np.uint8)
    else:
        chunks = decoded(document, encoding, errors)
        for text in _between_words(chunks) if vocabulary.kind == "word" else chunks:
            yield vocabulary.encode(text, unknown)
