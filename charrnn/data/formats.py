"""Read examples from files: texts with a class, sentences with tags, and pairs of texts.

A reader turns documents into a list of examples, each with its file and line. A row that is not an
example raises a DataError that names both. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePath, PurePosixPath
from typing import Generic, Literal, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from charrnn.data.corpus import decoded, fingerprint
from charrnn.data.sources import Document, Sources
from charrnn.data.splits import NAMES, boundaries, split_of, split_positions
from charrnn.data.vocabulary import TokenVocabulary, shortened
from charrnn.errors import DataError

Form = Literal["detect", "files", "folders", "rows"]
"""The layout of texts with a class: a file for each class, a folder for each class, or rows of text
and class."""
By = Literal["hash", "position"]
"""How examples are assigned to splits."""

ROWS = (".tsv", ".tab")
WANTED = {
    "files": "texts of one class, one on each line",
    "folders": "text",
    "rows": "rows of text, tab and class",
}
REMEDY = "save it as UTF-8, or set data.encoding"


class Labelled(NamedTuple):
    """A text and its class, with the file and line they come from."""

    text: str
    label: str
    file: str
    line: int

    @property
    def input(self) -> str:
        """The text to classify."""
        return self.text


class Tagged(NamedTuple):
    """The words of a sentence and a tag for each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    file: str
    line: int

    @property
    def input(self) -> str:
        """The words to tag as one text."""
        return " ".join(self.words)


class Pair(NamedTuple):
    """A source text and its translation."""

    source: str
    target: str
    file: str
    line: int

    @property
    def input(self) -> str:
        """The text to translate."""
        return self.source


Example = TypeVar("Example", Labelled, Tagged, Pair)


@dataclass(frozen=True)
class Examples(Generic[Example]):
    """Examples by split (train, validation and possibly test), and the SHA-256 of the files."""

    splits: dict[str, list[Example]]
    sha256: str


def load_examples(
    read: Callable[[Sources], list[Example]],
    main: Sources,
    validation: Sources | None = None,
    test: Sources | None = None,
    *,
    fractions: Sequence[float] = (0.8, 0.2),
    by: By = "hash",
) -> Examples[Example]:
    """Read examples and split them; `fractions` does not apply if validation files are separate.

    Raises the errors of `read`, and DataError if a split would be empty.
    """
    splits = {"train": read(main)}
    if validation is None:
        splits = split_examples(splits["train"], fractions, by)
    for name, sources in (("validation", validation), ("test", test)):
        if sources is not None:
            splits[name] = read(sources)
    parts = [sources for sources in (main, validation, test) if sources is not None]
    sha256, _ = fingerprint([document for part in parts for document in part.documents])
    return Examples(splits, sha256)


def split_examples(
    examples: Sequence[Example], fractions: Sequence[float] = (0.8, 0.2), by: By = "hash"
) -> dict[str, list[Example]]:
    """Split examples into training, validation and, with three fractions, testing, in order.

    By `position`, the first examples are for training, with their number rounded down. By `hash`,
    the SHA-256 of the input text, as a number in [0, 1), decides: a text is always in the same
    split, whatever other examples there are, and the sizes are close to the fractions.

    Raises DataError if a split would be empty.
    """
    if by == "hash":
        splits: dict[str, list[Example]] = {name: [] for name in NAMES[: len(fractions)]}
        ends = boundaries(fractions)
        for example in examples:
            splits[split_of(_place(example.input), ends)].append(example)
    else:
        parts = split_positions(fractions, len(examples))
        splits = {name: [examples[i] for i in part] for name, part in parts.items()}
    for name, part in splits.items():
        if not part:
            raise DataError(
                f"the {len(examples):,} examples leave none for the {name} split; give more, or "
                f"name separate files in data.validation"
            )
    return splits


def label_vocabulary(examples: Sequence[Labelled]) -> TokenVocabulary:
    """Collect the classes, the most frequent first. Raises DataError if there is only one."""
    first = examples[0]
    if all(example.label == first.label for example in examples):
        raise DataError(
            f"all {len(examples):,} examples are of one class, {shortened(first.label)} (the first "
            f"is {first.file}, line {first.line:,}); give a file or a folder for each class, or "
            f"rows of text, tab and class"
        )
    return TokenVocabulary.of(example.label for example in examples)


def read_labelled(
    sources: Sources,
    form: Form = "detect",
    *,
    encoding: str = "utf-8",
    errors: str = "strict",
) -> list[Labelled]:
    r"""Read texts with a class, in the order of the documents.

    - `files`: a file for each class, with its name; each line that is not blank is an example.
    - `folders`: a folder for each class, with its name; each file is an example.
    - `rows`: `text<TAB>class` on each line that is not blank.

    `detect` chooses `rows` for a single document, or if all documents are named .tsv or .tab, or if
    the first line of each has a tab; `folders` for several folders, if one of them has several
    documents; and `files` otherwise. White space at the ends of a text or class is removed.
    Examples that are equal in text and class are kept once.

    Raises DataError for a document without examples and for a row that is not text and class.
    """
    texts = [text_of(document, encoding, errors) for document in sources.documents]
    if form == "detect":
        form = _form(sources.documents, texts)
    examples: list[Labelled] = []
    for document, text in zip(sources.documents, texts, strict=True):
        examples += not_empty(_labelled_in(document, text, form), document, WANTED[form])
    firsts: dict[tuple[str, str], Labelled] = {}
    for example in examples:
        firsts.setdefault((example.text, example.label), example)
    return list(firsts.values())


def _labelled_in(document: Document, text: str, form: Form) -> list[Labelled]:
    """Read the texts with a class of one document. Raises DataError."""
    folder, stem = _names(document)
    name = document.name
    if form == "folders":
        content = text.strip()
        return [Labelled(content, folder, name, 1)] if content else []
    if form == "files":
        lines = ((line, content.strip()) for line, content in numbered_lines(text))
        return [Labelled(content, stem, name, line) for line, content in lines if content]
    examples = []
    for line, (content, label, *more) in _rows(document, text, "class"):
        if more:
            raise DataError(
                f"{name}, line {line:,} has {len(more) + 2} columns, and {shortened(more[0])} is "
                f"the third; a row is text, tab and class"
            )
        examples.append(Labelled(content, label, name, line))
    return examples


def read_pairs(sources: Sources, *, encoding: str = "utf-8", errors: str = "strict") -> list[Pair]:
    """Read pairs of texts from `source<TAB>target` on each line that is not blank, in order.

    Further columns, such as Tatoeba's attribution, are ignored. White space at the ends of a text
    is removed.

    Raises DataError for a document without pairs, and for a row without a tab or with an empty
    text.
    """
    examples: list[Pair] = []
    for document in sources.documents:
        text = text_of(document, encoding, errors)
        pairs = [
            Pair(fields[0], fields[1], document.name, line)
            for line, fields in _rows(document, text, "target")
        ]
        examples += not_empty(pairs, document, "rows of source, tab and target")
    return examples


def text_of(document: Document, encoding: str, errors: str) -> str:
    """Decode a whole document. Raises DataError."""
    return "".join(decoded(document, encoding, errors, REMEDY))


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield numbered lines. They end in LF or CR LF; other separators are part of a text."""
    for number, line in enumerate(text.split("\n"), 1):
        yield number, line.removesuffix("\r")


def _rows(document: Document, text: str, second: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the columns of each line that is not blank. Raises DataError unless it has two."""
    first = "text" if second == "class" else "source"
    for line, row in numbered_lines(text):
        fields = [field.strip() for field in row.split("\t")]
        if fields == [""]:
            continue
        where = f"{document.name}, line {line:,}"
        form = f"a row is {first}, tab and {second}"
        if len(fields) == 1:
            more = ", or give a file or a folder for each class" if second == "class" else ""
            raise DataError(f"{where} has no tab: {shortened(row)}; {form}{more}")
        if not fields[0] or not fields[1]:
            empty = second if fields[0] else first
            raise DataError(f"{where} has an empty {empty}: {shortened(row)}; {form}")
        yield line, fields


def not_empty(examples: list[Example], document: Document, wanted: str) -> list[Example]:
    """Return the examples of a document. Raises DataError if there are none."""
    if not examples:
        raise DataError(f"{document.name} has no examples; give a file of {wanted}")
    return examples


def _form(documents: Sequence[Document], texts: Sequence[str]) -> Form:
    """Detect the layout of documents from their names, folders and first lines."""
    if len(documents) == 1 or all(
        PurePath(_file_name(document)).suffix.lower() in ROWS for document in documents
    ):
        return "rows"
    firsts = (next((row for _, row in numbered_lines(text) if row.strip()), "") for text in texts)
    if all("\t" in row for row in firsts):
        return "rows"
    folders = {_path(document).parent for document in documents}
    return "folders" if 1 < len(folders) < len(documents) else "files"


def _names(document: Document) -> tuple[str, str]:
    """Return the name of a document's folder, and its own name without the suffix."""
    return _path(document).parent.name, PurePath(_file_name(document)).stem


def _file_name(document: Document) -> str:
    """Return the file name of a document, without the suffix of its compression."""
    path = _path(document)
    return path.stem if document.compression else path.name


def _path(document: Document) -> PurePath:
    """Return the path of a document, or the path in its URL."""
    if "://" in document.name:
        return PurePosixPath(unquote(urlsplit(document.name).path))
    return document.path.absolute()


def _place(text: str) -> Fraction:
    """Return the first 64 bits of the SHA-256 of a text in UTF-8 as a number in [0, 1)."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return Fraction(int.from_bytes(digest[:8], "big"), 1 << 64)
