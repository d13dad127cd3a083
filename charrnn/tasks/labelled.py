"""Texts and their classes as ids: the data of the tasks classification and generation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from charrnn.config.schema import Config
from charrnn.data.example_splits import Examples
from charrnn.data.formats import NO_CLASS, Labelled
from charrnn.data.labelled_texts import label_vocabulary, look_alikes, read_labelled
from charrnn.data.layout import listed
from charrnn.data.vocabulary import (
    END,
    START,
    Ids,
    TokenVocabulary,
    Vocabularies,
    Vocabulary,
    read_vocabularies,
    shortened,
    vocabulary_of,
)
from charrnn.errors import ConfigError, DataError
from charrnn.tasks.data import Texts, cleaning_of
from charrnn.tasks.examples import ExampleData, load, not_too_long

UNKNOWN_CLASS = (1 << 31) - 1
"""The label of a text whose class the model does not have; it is no index of a class."""
SHOWN_CLASSES = 12
FEWEST_SINGLE = 20  # classes of a single text: so many are worth a hint


class LabelledExample(NamedTuple):
    """A text and its class, as ids; its class by name, and the file and line they come from."""

    ids: Ids
    label: int
    text: str
    gold: str = ""
    file: str = ""
    line: int = 0


LabelledTexts: TypeAlias = ExampleData[LabelledExample]


def length_of(example: LabelledExample) -> int:
    """Return the number of symbols of a text."""
    return len(example.ids)


def cut_to(example: LabelledExample, most: int) -> LabelledExample:
    """Return an example with only the first `most` symbols of its text."""
    return example._replace(ids=example.ids[:most])


def read(
    config: Config, texts: Texts, vocabulary: Any = None, writes: bool = False
) -> LabelledTexts:
    """Read the labelled texts that a configuration names, as ids.

    If `vocabulary` (plain data) is None, one is made from the training split; symbols that it lacks
    become `<unk>`. A class that does not occur in training becomes `UNKNOWN_CLASS`.

    For a task that writes texts (`writes`), the vocabulary has `<s>` and `</s>`, classes may be
    missing, and texts that are too long or of an unknown class are left out. Raises DataError.
    """
    loaded = load_labelled(config, texts, needs_class=not writes)
    if vocabulary is not None:
        vocabularies: Vocabularies = read_vocabularies(vocabulary)
    else:
        vocabularies = {
            "text": text_vocabulary(config, loaded, [START, END] if writes else []),
            "label": label_vocabulary(loaded.splits["train"], fewest=1 if writes else 2),
        }
    text, label = text_and_label(vocabularies)
    _check_classes(loaded, label, leave_out=writes)
    numbers = {name: i for i, name in enumerate(label.symbols)}
    splits = {
        name: [
            LabelledExample(text.encode(e.text), numbers.get(e.label, UNKNOWN_CLASS), *e)
            for e in examples
        ]
        for name, examples in loaded.splits.items()
    }
    splits = not_too_long(config, loaded, splits, length_of, None if writes else cut_to)
    return ExampleData(
        splits,
        vocabularies,
        loaded.sha256,
        notes=tuple(loaded.log.notes),
        settings=loaded.log.settings,
    )


def _check_classes(loaded: Examples[Labelled], label: TokenVocabulary, leave_out: bool) -> None:
    """Note the classes that the model does not have, and classes that look like another one.

    With `leave_out`, the examples of classes that the model lacks are removed. Raises DataError if
    the training split has such a class, or if all examples of a split have one.
    """
    for name, examples in loaded.splits.items():
        missing = [e for e in examples if e.label not in label.symbols]
        if not missing:
            continue
        first = missing[0]
        where = f"{shortened(first.label)} ({first.file}, line {first.line:,})"
        if name == "train":
            raise DataError(
                f"the model has no class {where}; leave out its examples, or train a new model"
            )
        if len(missing) == len(examples):
            raise DataError(
                f"no example of {name} has a class of training; the first has {where}; give a file "
                f"or a folder for each class, with several texts in it"
            )
        counts = Counter(e.label for e in missing)
        classes = f"{len(counts):,} class{'es' if len(counts) > 1 else ''}"
        more = f" and {len(counts) - 1:,} more" if len(counts) > 1 else ""
        what = "left out" if leave_out else "counted as wrong"
        loaded.log.notes.append(
            f"{classes} in {name} only, {len(missing):,} of its examples, {what}: {where}{more}"
        )
        if leave_out:
            loaded.splits[name] = [e for e in examples if e.label in label.symbols]
    counts = Counter(e.label for examples in loaded.splits.values() for e in examples)
    single = sum(count == 1 for count in counts.values())
    if single > max(FEWEST_SINGLE, len(counts) / 2):
        loaded.log.notes.append(
            f"{single:,} of {len(counts):,} classes have a single text; if they are not the "
            f"classes, name their column in data.label_column (__label__x ends at a space)"
        )
    for rare, usual in look_alikes(counts)[:SHOWN_CLASSES]:
        loaded.log.notes.append(
            f"the class {shortened(rare)} ({counts[rare]:,}) looks like {shortened(usual)} "
            f"({counts[usual]:,}): the same one, misspelled?"
        )


def load_labelled(config: Config, texts: Texts, needs_class: bool = True) -> Examples[Labelled]:
    """Read the labelled texts that a configuration names, by split. Raises DataError."""
    return load(config, texts, read_labelled, needs_class=needs_class)


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
    """Say how many texts, symbols and classes there are; then name the classes, with their counts.

    Further lines are the notes on how the files were read.
    """
    text, label = text_and_label(data.vocabularies)
    count = sum(len(part) for part in data.splits.values())
    first = f"{count:,} texts of {text.size:,} symbols"
    if label.symbols == (NO_CLASS,):
        return "\n".join([first, *data.notes])
    labels = Counter(example.label for part in data.splits.values() for example in part)
    del labels[UNKNOWN_CLASS]
    shown = [f"{label.symbols[i]} {n:,}" for i, n in labels.most_common()]
    classes = f"classes: {listed(shown, SHOWN_CLASSES)}"
    return "\n".join([f"{first}, {label.size:,} classes", classes, *data.notes])
