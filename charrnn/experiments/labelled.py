"""Texts and their classes, read as ids: what `classification` and `generation` learn from."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, TypeAlias

from charrnn.config import Config
from charrnn.errors import ConfigError
from charrnn.examples import label_vocabulary, load_examples, read_labelled
from charrnn.experiments.examples import ExampleData
from charrnn.texts import Texts
from charrnn.vocabulary import (
    UNKNOWN,
    ByteVocabulary,
    CharacterVocabulary,
    Ids,
    TokenVocabulary,
    Vocabularies,
    Vocabulary,
    WordVocabulary,
    read_vocabularies,
)


class Example(NamedTuple):
    """A text and its class, as ids."""

    ids: Ids
    label: int
    text: str


LabelledTexts: TypeAlias = ExampleData[Example]


def read(config: Config, texts: Texts, vocabulary: Any = None) -> LabelledTexts:
    """The labelled texts that a configuration names, in given vocabularies or in their own, which
    are made of the training split: what it lacks is `<unk>`. Raises DataError."""
    data = config.data
    found = load_examples(
        partial(read_labelled, form=data.form, encoding=data.encoding, errors=data.errors),
        texts["sources"],
        texts.get("validation"),
        texts.get("test"),
        fractions=data.split,
        by=data.split_by,
    )
    if vocabulary is not None:
        vocabularies: Vocabularies = read_vocabularies(vocabulary)
    else:
        train = found.splits["train"]
        inputs = [example.text for example in train]
        made: Vocabulary
        if data.vocabulary == "byte":
            made = ByteVocabulary()
        elif data.vocabulary == "word":
            made = WordVocabulary.of(inputs, data.minimum_count)
        else:
            made = CharacterVocabulary.of(inputs, data.minimum_count, [UNKNOWN])
        vocabularies = {"text": made, "label": label_vocabulary(train)}
    text, label = text_and_label(vocabularies)
    splits = {
        name: [
            Example(text.encode(e.text), int(label.encode([e.label])[0]), e.text) for e in examples
        ]
        for name, examples in found.splits.items()
    }
    return ExampleData(splits, vocabularies, found.sha256)


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
