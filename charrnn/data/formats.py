"""Examples (texts with a class, sentences with tags, pairs of texts), and how they are read.

A reader turns documents into a list of examples, each with its file and line. It tells a `Log`
which rows are not examples and what else a user should know. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath, PurePosixPath
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from charrnn.data.corpus import decoded
from charrnn.data.sources import Document
from charrnn.errors import DataError

Form = Literal["detect", "files", "folders", "rows", "lines"]
"""The layout of texts with a class: a file for each class, a folder for each class, or rows of a
table; or lines, which are texts without a class."""
Column = str | int
"""A column of a table: its name in the header, or its number from 1."""

NO_CLASS = "<no class>"
"""The label of texts that have no class."""
REMEDY = "save it as UTF-8, or set data.encoding"
SHOWN_FAULTS = 10


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
    """The words of a sentence and a tag for each; `lines` are the lines of the words."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    file: str
    line: int
    lines: tuple[int, ...] = ()

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


class Fault(NamedTuple):
    """A row that is not an example: its file, its line, and what is wrong with it."""

    file: str
    line: int
    what: str


@dataclass
class Log:
    """The faults, notes and settings that readers report besides the examples.

    `faults` are rows that are not examples, `notes` are sentences for the user, and `settings` are
    values of the configuration that were recognised from the files.
    """

    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def fault(self, file: str, line: int, what: str) -> None:
        """Report a row that is not an example."""
        self.faults.append(Fault(file, line, what))

    def settle(self, bad_rows: Literal["error", "skip"], rows: int, form: str) -> None:
        """Refuse the faults, or turn them into a note if they are to be skipped.

        `rows` is the number of good rows, `form` says what a row should be. Raises DataError that
        lists the first ten faults.
        """
        if not self.faults:
            return
        faults, self.faults = self.faults, []
        if bad_rows == "error":
            raise DataError(_refusal(faults, form))
        total = rows + len(faults)
        self.notes.append(f"{len(faults):,} of {total:,} rows left out: {_places(faults)}")


def _refusal(faults: Sequence[Fault], form: str) -> str:
    """List the first faults in one sentence, and say what to do."""
    shown, last = [], ""
    for fault in faults[:SHOWN_FAULTS]:
        where = "" if fault.file == last else f"{fault.file}, "
        shown.append(f"{where}line {fault.line:,} {fault.what}")
        last = fault.file
    if len(faults) == 1:
        return f"{shown[0]}; {form}: mend it, or set data.bad_rows to skip"
    if len(faults) > SHOWN_FAULTS:
        shown.append(f"and {len(faults) - SHOWN_FAULTS:,} more")
    return (
        f"{len(faults):,} rows are not examples: {'; '.join(shown)}; {form}: mend them, or set "
        f"data.bad_rows to skip"
    )


def _places(faults: Sequence[Fault]) -> str:
    """Write the lines of faults, by file, as `a.tsv, lines 3, 51-54`."""
    by_file: dict[str, list[int]] = {}
    for fault in faults:
        by_file.setdefault(fault.file, []).append(fault.line)
    parts = []
    for file, lines in by_file.items():
        ranges: list[list[int]] = []
        for line in sorted(lines):
            if ranges and line == ranges[-1][1] + 1:
                ranges[-1][1] = line
            else:
                ranges.append([line, line])
        shown = [f"{a:,}" if a == b else f"{a:,}-{b:,}" for a, b in ranges]
        more = ["..."] if len(shown) > SHOWN_FAULTS else []
        word = "line" if len(lines) == 1 else "lines"
        parts.append(f"{file}, {word} {', '.join(shown[:SHOWN_FAULTS] + more)}")
    return "; ".join(parts[:SHOWN_FAULTS])


@dataclass(frozen=True)
class Reading:
    """How files of examples are read: the settings of these names in the section `data`."""

    encoding: str = "utf-8"
    errors: str = "strict"
    form: Form = "detect"
    reading: Literal["recognise", "plain"] = "recognise"
    bad_rows: Literal["error", "skip"] = "error"
    text_column: Column | list[Column] | None = None
    label_column: Column | None = None
    source_column: Column | None = None
    target_column: Column | None = None
    tag_column: Column | None = None


USUAL = Reading()


def text_of(document: Document, encoding: str, errors: str) -> str:
    """Decode a whole document. Raises DataError."""
    return "".join(decoded(document, encoding, errors, REMEDY))


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield numbered lines. They end in LF or CR LF; other separators are part of a text."""
    for number, line in enumerate(text.split("\n"), 1):
        yield number, line.removesuffix("\r")


def not_empty(examples: list[Example], document: Document, wanted: str) -> list[Example]:
    """Return the examples of a document. Raises DataError if there are none."""
    if not examples:
        raise DataError(f"{document.name} has no examples; give a file of {wanted}")
    return examples


def file_name(document: Document) -> str:
    """Return the file name of a document, without the suffix of its compression."""
    path = path_of(document)
    return path.stem if document.compression else path.name


def path_of(document: Document) -> PurePath:
    """Return the path of a document, or the path in its URL."""
    if "://" in document.name:
        return PurePosixPath(unquote(urlsplit(document.name).path))
    return document.path.absolute()
