"""Find and read the texts that a configuration or a checkpoint names.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from charrnn.config.merge import with_values
from charrnn.config.schema import Config
from charrnn.data.corpus import Corpus, load_corpus, read_text, split_corpus
from charrnn.data.id_cache import read_cache
from charrnn.data.sources import Sources, find_sources
from charrnn.data.vocabulary import Vocabulary, read_vocabulary
from charrnn.errors import DataError
from charrnn.registry import reader_of
from charrnn.runs.checkpoint import Checkpoint

Warn = Callable[[str], None]
Texts = dict[str, Sources]
"""The main text under "sources", separate ones under "validation" and "test"."""


@contextmanager
def find_texts(config: Config, warn: Warn) -> Iterator[Texts]:
    """Find the texts that a configuration names. Raises DataError.

    Standard input and URLs are copied, since they can be read only once; the copies are deleted
    at the end of the context.
    """
    texts: Texts = {}
    try:
        for name in ("sources", "validation", "test"):
            arguments = getattr(config.data, name)
            if arguments or name == "sources":
                texts[name] = find_sources(arguments)
                if skipped := texts[name].skipped:
                    warn(f"{texts[name].described}: {skipped:,} binary files were left out")
        yield texts
    finally:
        for part in texts.values():
            part.discard()


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
    """Read other texts than those of a run as its task does; return the data and its name.

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
    comes from the cache. Raises DataError for a text that is no longer there, and for characters
    that the vocabulary lacks.
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
        data = read_data(config, texts)  # As the run read it, so the cache usually has it.
        if data.vocabulary_data != vocabulary:
            data = read_data(config, texts, vocabulary)
    if data.sha256 != sha256:
        warn(
            f"the text is not the one the run began with (SHA-256 {data.sha256[:12]}, was "
            f"{sha256[:12]}): going on with this one"
        )
    return with_absolute_paths(config, texts), data


def read_for(
    vocabulary: Vocabulary,
    arguments: Sequence[str],
    encoding: str = "utf-8",
    errors: str = "strict",
) -> str:
    """Read texts as a model with this vocabulary reads them: one over bytes takes any bytes.

    Raises DataError for texts that cannot be found or decoded.
    """
    if vocabulary.kind == "byte":
        encoding, errors = "utf-8", "surrogateescape"
    sources = find_sources(arguments)
    try:
        return read_text(sources, encoding, errors)
    finally:
        sources.discard()
