"""Texts and their classes as ids: the data of the tasks classification and generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from charrnn.config.schema import Config
from charrnn.data.formats import (
    Examples,
    Labelled,
    label_vocabulary,
    read_labelled,
)
from charrnn.data.vocabulary import (
    Ids,
    TokenVocabulary,
    Vocabularies,
    Vocabulary,
    read_vocabularies,
    vocabulary_of,
)
from charrnn.errors import ConfigError
from charrnn.tasks.data import Texts, cleaning_of
from charrnn.tasks.examples import ExampleData, load


class LabelledExample(NamedTuple):
    """A text and its class, as ids."""

    ids: Ids
    label: int
    text: str


LabelledTexts: TypeAlias = ExampleData[LabelledExample]


def read(
    config: Config, texts: Texts, vocabulary: Any = None, ends: Sequence[str] = ()
) -> LabelledTexts:
    """Read the labelled texts that a configuration names, as ids.

    Without a `vocabulary` (plain data), one is made from the training split; other symbols become
    `<unk>`. `ends` are the symbols `<s>` and `</s>`, for tasks that write texts. Raises DataError.
    """
    loaded = load_labelled(config, texts)
    vocabularies: Vocabularies = (
        read_vocabularies(vocabulary)
        if vocabulary is not None
        else {
            "text": text_vocabulary(config, loaded, ends),
            "label": label_vocabulary(loaded.splits["train"]),
        }
    )
    text, label = text_and_label(vocabularies)
    splits = {
        name: [
            LabelledExample(text.encode(e.text), int(label.encode([e.label])[0]), e.text)
            for e in examples
        ]
        for name, examples in loaded.splits.items()
    }
    return ExampleData(splits, vocabularies, loaded.sha256)


def load_labelled(config: Config, texts: Texts) -> Examples[Labelled]:
    """Read the labelled texts that a configuration names, by split. Raises DataError."""
    return load(config, texts, read_labelled, form=config.data.form)


def text_vocabulary(
    config: Config, examples: Examples[Labelled], ends: Sequence[str] = ()
) -> Vocabulary:
    """Make the vocabulary of the training texts, of the configured kind, with `<unk>`."""
    inputs = (example.text for example in examples.splits["train"])
    data = config.data
    return vocabulary_of(data.vocabulary, inputs, data.minimum_count, ends, cleaning_of(config))


def text_and_label(vocabularies: Vocabularies) -> tuple[Vocabulary, TokenVocabulary]:
    """Return the vocabularies of texts and of classes. Raises ConfigError for any others."""
    text, label = (vocabularies.get(name) for name in ("text", "label"))
    if (
        len(vocabularies) != 2
        or text is None
        or isinstance(text, TokenVocabulary)
        or not isinstance(label, TokenVocabulary)
    ):
        raise ConfigError(
            "labelled texts have vocabularies of texts and of classes; use one of their checkpoints"
        )
    return text, label


def describe(data: ExampleData[Any]) -> str:
    """Say how many texts, symbols and classes there are."""
    text, label = text_and_label(data.vocabularies)
    count = sum(len(part) for part in data.splits.values())
    return f"{count:,} texts of {text.size:,} symbols, {label.size:,} classes"
