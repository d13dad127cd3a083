"""Examples from the field's own formats: texts with a class, sentences with tags, pairs of texts.

A reader takes the documents that `sources.find_sources` found and gives a list of examples, each
with the file and line it came from. Whatever cannot be an example is a DataError that names both.
Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import PurePath, PurePosixPath
from typing import Generic, Literal, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from charrnn.data.corpus import decoded, fingerprint
from charrnn.data.sources import Document, Sources
from charrnn.data.vocabulary import TokenVocabulary, shortened
from charrnn.errors import DataError

Form = Literal["detect", "files", "folders", "rows"]
"""How texts with a class are laid out: a file a class, a folder a class, or rows of text and
class."""
By = Literal["hash", "position"]
"""What decides on which side of a split an example is."""

ROWS = (".tsv", ".tab")
WANTED = {
    "files": "texts of one class, one a line",
    "folders": "text",
    "rows": "rows of text, tab and class",
}
REMEDY = "save it as UTF-8, or give its --encoding"


class Labelled(NamedTuple):
    """A text and its class."""

    text: str
    label: str
    file: str
    line: int

    @property
    def input(self) -> str:
        """What is given."""
        return self.text


class Tagged(NamedTuple):
    """The words of a sentence and a tag for each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    file: str
    line: int

    @property
    def input(self) -> str:
        """What is given, as one text."""
        return " ".join(self.words)


class Pair(NamedTuple):
    """A text and another that it is to be turned into."""

    source: str
    target: str
    file: str
    line: int

    @property
    def input(self) -> str:
        """What is given."""
        return self.source


Example = TypeVar("Example", Labelled, Tagged, Pair)


@dataclass(frozen=True)
class Examples(Generic[Example]):
    """Examples by split (train, validation and perhaps test), and the SHA-256 of the files."""

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
    """Read examples and split them; with separate validation files `fractions` does not apply.

    Raises what `read` raises, and DataError where a split would be empty.
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
    """Examples for training, validation and, with three fractions, testing; in their order.

    By `position` the first are for training, rounded down. By `hash` the side is that of the
    SHA-256 of the input text, read as a number in [0, 1): the same text is always on the same
    side, whatever stands beside it, and the sizes are near the fractions.

    Raises DataError where a split would be empty.
    """
    exact = [Fraction(str(fraction)) for fraction in fractions]
    ends = list(accumulate(exact))[:-1]
    if by == "hash":
        places = [_place(example.input) for example in examples]
        cuts = [end * 2**64 for end in ends]
    else:
        places = list(range(len(examples)))
        cuts = [Fraction(int(end * len(examples))) for end in ends]
    names = ["train", "validation", "test"][: len(exact)]
    splits: dict[str, list[Example]] = {name: [] for name in names}
    for example, place in zip(examples, places, strict=True):
        splits[names[sum(place >= cut for cut in cuts)]].append(example)
    for name, part in splits.items():
        if not part:
            raise DataError(
                f"the {len(examples):,} examples leave none for the {name} split; give more, or "
                f"separate files with --validation"
            )
    return splits


def label_vocabulary(examples: Sequence[Labelled]) -> TokenVocabulary:
    """The classes, the most frequent first. Raises DataError where there is only one."""
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
    r"""Texts with a class, in the order of the documents.

    - `files`: a file a class, named after it; each line that is not blank is an example.
    - `folders`: a folder a class, named after it; each file is an example.
    - `rows`: `text<TAB>class` in each line that is not blank.

    `detect` takes a single document, documents that are all named .tsv or .tab, and documents whose
    first lines all hold a tab for rows; several folders of which one has several documents for
    folders; and anything else for files. White space at the ends of a text or class is dropped.
    Of examples equal in text and class the first is kept.

    Raises DataError for a document without examples, and for a row that is not text and class.
    """
    texts = [_text(document, encoding, errors) for document in sources.documents]
    if form == "detect":
        form = _form(sources.documents, texts)
    examples: list[Labelled] = []
    for document, text in zip(sources.documents, texts, strict=True):
        folder, stem = _names(document)
        found: list[Labelled] = []
        if form == "rows":
            for line, (content, label, *more) in _rows(document, text, "class"):
                if more:
                    raise DataError(
                        f"{document.name}, line {line:,} has {len(more) + 2} columns, "
                        f"{shortened(more[0])} the third; a row is text, tab and class"
                    )
                found.append(Labelled(content, label, document.name, line))
        elif form == "folders":
            if content := text.strip():
                found.append(Labelled(content, folder, document.name, 1))
        else:
            for line, content in _lines(text):
                if content := content.strip():
                    found.append(Labelled(content, stem, document.name, line))
        examples += _some(found, document, WANTED[form])
    firsts: dict[tuple[str, str], Labelled] = {}
    for example in examples:
        firsts.setdefault((example.text, example.label), example)
    return list(firsts.values())


def read_tagged(
    sources: Sources, *, encoding: str = "utf-8", errors: str = "strict"
) -> list[Tagged]:
    """Sentences with UPOS tags from CoNLL-U (Nivre et al. 2020), in the order of the documents.

    Each row of ten columns, separated by tabs, is a word; a blank line ends a sentence. Comments,
    the ranges of multiword tokens (`1-2`) and empty nodes (`1.1`) are skipped.

    Raises DataError for a document without sentences and for a row that has not ten columns, whose
    ID is not the next one, or which lacks the word or the tag.
    """
    examples: list[Tagged] = []
    for document in sources.documents:
        found: list[Tagged] = []
        words: list[str] = []
        tags: list[str] = []
        first = 0
        text = _text(document, encoding, errors)
        for line, row in (*_lines(text), (0, "")):
            if not row.strip():
                if words:
                    found.append(Tagged(tuple(words), tuple(tags), document.name, first))
                words, tags = [], []
            elif not row.startswith("#"):
                fields = row.split("\t")
                fault = _row_fault(fields, len(words) + 1)
                if fault:
                    raise DataError(f"{document.name}, line {line:,} {fault}")
                if fields[0].isdecimal():
                    first = first if words else line
                    words.append(fields[1])
                    tags.append(fields[3])
        examples += _some(found, document, "sentences in CoNLL-U")
    return examples


def _row_fault(fields: list[str], expected: int) -> str | None:
    """What is wrong with a row of CoNLL-U, if anything."""
    if len(fields) != 10:
        shown = shortened("\t".join(fields))
        return (
            f"has {len(fields)} columns, {shown}; a row of CoNLL-U has ten, separated by tabs, "
            f"and a blank line follows each sentence"
        )
    number, word, _, tag = fields[:4]
    if re.fullmatch(r"[0-9]+[-.][0-9]+", number):
        return None
    if number != str(expected):
        return (
            f"has the ID {shortened(number)} where {expected} is next; number the words of a "
            f"sentence from 1, with a blank line after each sentence"
        )
    if not word:
        return "has no word in its second column; write _ for an underscore"
    if tag in ("", "_"):
        return f"has no UPOS tag for {shortened(word)}; tag it, or leave the sentence out"
    return None


def read_pairs(sources: Sources, *, encoding: str = "utf-8", errors: str = "strict") -> list[Pair]:
    """Pairs of texts from `source<TAB>target` in each line that is not blank, in order.

    Further columns, such as Tatoeba's attribution, are not read. White space at the ends of a text
    is dropped.

    Raises DataError for a document without pairs, and for a row without a tab or with an empty
    text.
    """
    examples: list[Pair] = []
    for document in sources.documents:
        text = _text(document, encoding, errors)
        found = [
            Pair(fields[0], fields[1], document.name, line)
            for line, fields in _rows(document, text, "target")
        ]
        examples += _some(found, document, "rows of source, tab and target")
    return examples


def _text(document: Document, encoding: str, errors: str) -> str:
    return "".join(decoded(document, encoding, errors, REMEDY))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers. They end in LF or CR LF: other separators are part of a text."""
    for number, line in enumerate(text.split("\n"), 1):
        yield number, line.removesuffix("\r")


def _rows(document: Document, text: str, second: str) -> Iterator[tuple[int, list[str]]]:
    """The columns of each line that is not blank, at least two, the first two not empty."""
    first = "text" if second == "class" else "source"
    for line, row in _lines(text):
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


def _some(found: list[Example], document: Document, wanted: str) -> list[Example]:
    if not found:
        raise DataError(f"{document.name} holds no examples; give a file of {wanted}")
    return found


def _form(documents: Sequence[Document], texts: Sequence[str]) -> Form:
    """How documents are laid out that nobody said it of."""
    if len(documents) == 1 or all(
        PurePath(_file_name(document)).suffix.lower() in ROWS for document in documents
    ):
        return "rows"
    firsts = (next((row for _, row in _lines(text) if row.strip()), "") for text in texts)
    if all("\t" in row for row in firsts):
        return "rows"
    folders = {_path(document).parent for document in documents}
    return "folders" if 1 < len(folders) < len(documents) else "files"


def _names(document: Document) -> tuple[str, str]:
    """What a document's folder is called, and the document itself without its suffix."""
    return _path(document).parent.name, PurePath(_file_name(document)).stem


def _file_name(document: Document) -> str:
    """What a document is called, without the suffix of its compression."""
    path = _path(document)
    return path.stem if document.compression else path.name


def _path(document: Document) -> PurePath:
    if "://" in document.name:
        return PurePosixPath(unquote(urlsplit(document.name).path))
    return document.path.absolute()


def _place(text: str) -> int:
    """A text's SHA-256 in UTF-8: its first 64 bits as a number."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")
