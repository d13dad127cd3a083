"""Texts and their classes, read as ids: what `classification` and `generation` learn from."""

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
from charrnn.tasks.data import Texts
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
    """The labelled texts that a configuration names, in given vocabularies or in their own, which
    are made of the training split: what it lacks is `<unk>`; `ends` as in `vocabulary_of`. Raises
    DataError."""
    found = load_labelled(config, texts)
    vocabularies: Vocabularies = (
        read_vocabularies(vocabulary)
        if vocabulary is not None
        else {
            "text": text_vocabulary(config, found, ends),
            "label": label_vocabulary(found.splits["train"]),
        }
    )
    text, label = text_and_label(vocabularies)
    splits = {
        name: [
            LabelledExample(text.encode(e.text), int(label.encode([e.label])[0]), e.text)
            for e in examples
        ]
        for name, examples in found.splits.items()
    }
    return ExampleData(splits, vocabularies, found.sha256)


def load_labelled(config: Config, texts: Texts) -> Examples[Labelled]:
    """The labelled texts that a configuration names, by split. Raises DataError."""
    return load(config, texts, read_labelled, form=config.data.form)


def text_vocabulary(
    config: Config, examples: Examples[Labelled], ends: Sequence[str] = ()
) -> Vocabulary:
    """The vocabulary of the training texts, of the kind configured; what it lacks is `<unk>`."""
    inputs = (example.text for example in examples.splits["train"])
    return vocabulary_of(config.data.vocabulary, inputs, config.data.minimum_count, ends)


def text_and_label(vocabularies: Vocabularies) -> tuple[Vocabulary, TokenVocabulary]:
    """The two vocabularies of labelled texts. Raises ConfigError for others."""
    text, label = (vocabularies.get(name) for name in ("text", "label"))
    if (
        len(vocabularies) != 2
        or text is None
        or isinstance(text, TokenVocabulary)
        or not isinstance(label, TokenVocabulary)
    ):
        raise ConfigError("labelled texts have a vocabulary of the texts and one of the classes")
    return text, label


def describe(data: ExampleData[Any]) -> str:
    """How many texts, symbols and classes."""
    text, label = text_and_label(data.vocabularies)
    count = sum(len(part) for part in data.splits.values())
    return f"{count:,} texts of {text.size:,} symbols, {label.size:,} classes"
