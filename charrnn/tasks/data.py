"""Find and read the texts that a configuration or a checkpoint names.

Nothing here imports torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO, cast

from charrnn.config.merge import Layer, with_values
from charrnn.config.schema import Config, unused_keys
from charrnn.data.corpora import corpus_settings
from charrnn.data.corpus import (
    CONVERT,
    REMEDY,
    Corpus,
    fingerprint,
    in_encoding,
    load_corpus,
    read_text,
    split_corpus,
)
from charrnn.data.encodings import likeliest
from charrnn.data.hints import hint_of_text, hints_of_corpus
from charrnn.data.id_cache import read_cache
from charrnn.data.kinds import compression_of, kind_of, marked_encoding, unmarked_encoding
from charrnn.data.rules import Cleaning, Kinds, Rules
from charrnn.data.sources import (
    Sources,
    find_sources,
    say_left_out,
    shared_documents,
    spooled,
)
from charrnn.data.vocabulary import Vocabulary, read_vocabulary
from charrnn.errors import DataError
from charrnn.registry import TASKS, reader_of
from charrnn.runs.checkpoint import Checkpoint

Warn = Callable[[str], None]
Texts = dict[str, Sources]
"""The main text under "sources", separate ones under "validation" and "test"."""


@contextmanager
def find_texts(config: Config, warn: Warn) -> Iterator[Texts]:
    """Find the texts that a configuration names. Raises DataError.

    Standard input and URLs are copied, since they can be read only once, and archives are unpacked;
    the copies are deleted at the end of the context. Files that were left out are reported at once,
    and changes made while reading are reported at the end.
    """
    texts: Texts = {}
    rules = rules_of(config)
    try:
        for name in ("sources", "validation", "test"):
            arguments = getattr(config.data, name)
            if arguments or name == "sources":
                texts[name] = find_sources(arguments, rules=rules)
                if note := say_left_out(texts[name]):
                    warn(note)
        for name in [*texts][1:]:
            if shared := shared_documents(texts["sources"], texts[name]):
                warn(
                    f"{shared[0].name} is given for training and for {name}, so that the score "
                    f"says nothing about new texts"
                )
        yield texts
        for part in texts.values():
            for note in part.changes.notes(part.described):
                warn(note)
    finally:
        for part in texts.values():
            part.discard()


def with_corpus_settings(layers: Sequence[Layer]) -> list[Layer]:
    """Put the usual settings of a named corpus below all layers, if it is their only text."""
    merged = {key: value for _, layer in layers for key, value in layer.items()}
    name, usual = corpus_settings(merged)
    task = str(merged.get("task"))
    idle = unused_keys(task) if task in TASKS else frozenset()
    layer = {key: value for key, value in usual.items() if key not in idle}
    return [(f"the corpus {name}", layer), *layers] if layer else list(layers)


def rules_of(config: Config) -> Rules:
    """Return the rules by which a configuration reads files."""
    data = config.data
    return Rules(cleaning_of(config), data.order, data.kinds, data.separator)


def cleaning_of(config: Config) -> Cleaning:
    """Return the changes to the characters of a text before they are looked up."""
    return Cleaning(config.data.newlines, config.data.normalize)


def read_corpus(config: Config, texts: Texts, vocabulary: Any = None) -> Corpus:
    """Read texts as ids, in a `vocabulary` (plain data) or a new one of the kind configured.

    Raises DataError.
    """
    return load_corpus(
        texts["sources"],
        texts.get("validation"),
        texts.get("test"),
        vocabulary=read_vocabulary(vocabulary) if vocabulary else config.data.vocabulary,
        fractions=config.data.split,
        encoding=config.data.encoding,
        errors=config.data.errors,
        unknown=config.data.unknown,
        minimum_count=config.data.minimum_count,
    )


def hints(config: Config, texts: Texts, data: Any) -> Iterator[str]:
    """Yield hints about a language model's text: a licence, an unfit vocabulary or separator."""
    if isinstance(data, Corpus):
        if hint := hint_of_text(texts["sources"].documents, config.data.encoding):
            yield hint
        documents = [document for part in texts.values() for document in part.documents]
        yield from hints_of_corpus(data, documents)


def with_absolute_paths(config: Config, texts: Mapping[str, Sources]) -> Config:
    """Make the paths of a configuration's texts absolute, so that it repeats the run anywhere."""
    return with_values(config, {f"data.{name}": part.arguments for name, part in texts.items()})


def read_data(config: Config, texts: Texts, vocabulary: Any = None) -> Any:
    """Read texts as the task of the configuration does: as a corpus or as examples.

    Raises DataError.
    """
    return reader_of(config.task)(config, texts, vocabulary)


def read_others(
    config: Config, arguments: Sequence[str], vocabulary: Any, warn: Warn
) -> tuple[Any, str]:
    """Read other texts than the run's own, in the way of its task; return the data and its name.

    All examples are in the split `test`. Raises DataError.
    """
    others = {"data.sources": list(arguments), "data.validation": [], "data.test": []}
    config = with_values(config, others)
    with find_texts(config, warn) as texts:
        data = read_data(config, {"test": texts["sources"]}, vocabulary)
        return data, texts["sources"].described


def data_of_checkpoint(
    config: Config, checkpoint: Checkpoint, moved: Mapping[str, Sequence[str]], warn: Warn
) -> tuple[Config, Any]:
    """Read the data that a checkpoint was trained on, in the model's vocabulary.

    Returns the configuration, with absolute paths, and the data. `moved` names texts to use in
    place of the recorded "sources", "validation" or "test". A text that could be read only once
    comes from the cache. Raises DataError for a text that is missing, and for characters that the
    vocabulary lacks.
    """
    try:
        recorded = checkpoint.metadata["corpus"]
        key, sha256 = recorded["key"], recorded["sha256"]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{checkpoint.path} does not record its text; use another checkpoint"
        ) from error
    vocabulary = checkpoint.metadata.get("vocabulary")
    moved = {f"data.{name}": list(texts) for name, texts in moved.items() if texts}
    has_new_test = "data.test" in moved and not config.data.test
    config = with_values(config, moved)
    everything = [*config.data.sources, *config.data.validation, *config.data.test]
    once = [argument for argument in everything if argument == "-" or "://" in argument]
    if once and not moved:
        cached = read_cache(str(key))
        if cached is None:
            raise DataError(
                f"the text came from {once[0]} and is no longer in the cache; "
                f"name it again with data.sources"
            )
        separate = bool(config.data.validation), bool(config.data.test)
        return config, split_corpus(cached, config.data.split, *separate)
    with ExitStack() as stack:
        try:
            texts = stack.enter_context(find_texts(config, warn))
        except DataError as error:
            if moved:
                raise
            raise DataError(
                f"{error}; if the run's text has moved, name it with data.sources"
            ) from error
        data = read_data(config, texts)  # The run read it so, and usually cached it.
        if data.vocabulary_data != vocabulary:
            data = read_data(config, texts, vocabulary)
        text_sha256 = data.sha256
        if has_new_test:  # Compare the run's own texts only.
            own = [part for name, part in texts.items() if name != "test"]
            text_sha256, _ = fingerprint([document for part in own for document in part.documents])
    if text_sha256 != sha256:
        warn(
            f"the text is not the one the run began with (SHA-256 {text_sha256[:12]}, was "
            f"{sha256[:12]}): continuing with this one"
        )
    return with_absolute_paths(config, texts), data


def lines_of(stream: BinaryIO, name: str, cleaning: Cleaning) -> Iterator[str]:
    """Yield the lines of a stream without their ends, each as soon as it is there.

    They are cleaned and decoded as files are; a stream whose first bytes show that it is not UTF-8
    (UTF-16 with a mark, compressed, an archive) is first read to its end. Raises DataError for
    bytes that are not UTF-8, and for a stream that is no text.
    """
    first = stream.readline()
    if marked_encoding(first) or compression_of(first) or kind_of(first):
        whole = cast(BinaryIO, Chained(first, stream))
        sources = spooled(whole, name, Rules(cleaning, "natural", "content"))
        try:
            text = read_text(sources, remedy=CONVERT)
        finally:
            sources.discard()
        yield from text.removesuffix("\n").split("\n")
        return
    if unmarked := unmarked_encoding(first):
        raise DataError(
            f"{name} is {unmarked} without a byte order mark; {in_encoding(unmarked, CONVERT)}"
        )
    for number, line in enumerate(itertools.chain([first] if first else [], stream), 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            guesses = [] if b"\0" in line else likeliest(line, error.start)
            ways = [f"if {shown} is right, {in_encoding(as_, CONVERT)}" for as_, shown in guesses]
            raise DataError(
                f"line {number:,} of {name} is not UTF-8 ({error.reason}); "
                f"{'; '.join(ways) or CONVERT}"
            ) from error
        text = text.removeprefix("\ufeff") if number == 1 else text
        yield from cleaning(text.rstrip("\r\n")).split("\n")


class Chained:
    """A stream that gives the bytes of `head` first, then those of `stream`."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head, self._stream = head, stream

    def read(self, size: int = -1) -> bytes:
        """Read like a file; a read may give fewer bytes than asked for."""
        head, self._head = self._head, b""
        return head or self._stream.read(size)


def read_for(
    vocabulary: Vocabulary,
    arguments: Sequence[str],
    encoding: str | None = None,
    errors: str = "strict",
    warn: Warn = lambda _: None,
    kinds: Kinds = "content",
) -> str:
    """Read texts as a model with this vocabulary reads them; a byte vocabulary accepts any bytes.

    Files are recognised by their content, as in training; for a model over bytes that was trained
    with another `data.kinds`, give it as `kinds`. `encoding` is None if the user cannot set it.
    Raises DataError for texts that cannot be found or decoded.
    """
    is_bytes = vocabulary.kind == "byte"
    rules = Rules(vocabulary.cleaning, "natural", kinds if is_bytes else "content")
    sources = find_sources(arguments, rules=rules)
    try:
        if is_bytes:
            chunks = (chunk for document in sources.documents for chunk in document.chunks())
            return b"".join(chunks).decode("utf-8", "surrogateescape")
        remedy = CONVERT if encoding is None else REMEDY
        text = read_text(sources, encoding or "utf-8", errors, remedy)
        for note in [say_left_out(sources), *sources.changes.notes(sources.described)]:
            if note:
                warn(note)
        return text
    finally:
        sources.discard()
