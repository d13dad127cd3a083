"""Read rows of fields from CSV, TSV, JSON lines, Parquet, and lines that begin with a class.

A row that cannot be read goes to the log, with its line. Nothing here imports torch.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, NamedTuple

from charrnn.data.formats import Fault, Log, Reading, file_name, numbered_lines, text_of
from charrnn.data.records import flat, is_json, is_parquet, json_records, parquet_records
from charrnn.data.sources import Document
from charrnn.data.vocabulary import shortened
from charrnn.errors import DataError

SUFFIXES = {
    ".csv": "CSV",
    ".tsv": "TSV",
    ".tab": "TSV",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".json": "JSON lines",
    ".parquet": "Parquet",
    ".pq": "Parquet",
}
"""The suffixes of tables, with their formats."""
DELIMITERS = ",;\t|"
LOOKED_AT = 200  # rows from which the delimiter is recognised
MOST_LOOKED_AT = 1 << 20  # characters
MOST_COLUMNS = 1000
MOST_OPEN_QUOTES = 20  # quotes that are never closed, after which a file is not CSV
FASTTEXT = "__label__"
_LABEL = re.compile(rf"(?<!\S){FASTTEXT}\S+")
_CLASS_AND_TEXT = re.compile(r"([A-Za-z]+:[A-Za-z]+|[+-]?[0-9]{1,2}) (.+)", re.DOTALL)


class Row(NamedTuple):
    """The fields of a row, and its line in the file (in Parquet and JSON arrays, its number)."""

    line: int
    fields: list[str]


@dataclass(frozen=True)
class Table:
    """Rows of fields, without the header.

    `form` names the format. `header` has the names of the columns, or is empty. If `class_first`,
    the format itself says that the first column is the class and the second the text.
    """

    form: str
    rows: list[Row]
    header: Sequence[str] = ()
    class_first: bool = False

    @property
    def width(self) -> int:
        """The number of columns of most rows."""
        if self.header:
            return len(self.header)
        return Counter(len(row.fields) for row in self.rows).most_common(1)[0][0]


def is_named_as_table(document: Document) -> bool:
    """Whether the name of a file says that it is a table."""
    return suffix_of(document) in SUFFIXES


def suffix_of(document: Document) -> str:
    """Return the suffix of a file's name in lower case, without that of its compression."""
    return PurePath(file_name(document)).suffix.lower()


def plain_table(document: Document, encoding: str, errors: str) -> Table:
    """Read lines whose fields are separated by tabs, without quotes and without a header."""
    return Table("TSV", _plain_rows(text_of(document, encoding, errors)))


def read_table(
    document: Document, how: Reading, names: Iterable[str], log: Log, fewest: int = 1
) -> Table | None:
    """Read a table; return None for a text that is not one.

    The format is recognised by the file's name, else by its content: objects of JSON, `__label__`,
    lines such as `DESC:manner How ...` or `1 How ...`, tabs, or a header. The first row is a header
    if at least `fewest` of its cells are in `names` (in lower case), or if it differs in kind from
    those below it.

    Raises DataError for a file that cannot be read in the format of its name.
    """
    form = SUFFIXES.get(suffix_of(document), "")
    if form == "Parquet" or (not form and is_parquet(document)):
        return _of_records("Parquet", enumerate(parquet_records(document), 1), document, log)
    text = text_of(document, how.encoding, how.errors)
    if form == "JSON lines" or (not form and is_json(text)):
        return _of_records("JSON lines", json_records(text, document, log), document, log)
    if not form and (table := _beginning_with_a_class(document, text, log)):
        return table
    delimiter = _delimiter(text, form, names)
    if delimiter is None:
        return None
    rows, is_quoted = _separated(text, delimiter, document, log)
    if not rows:
        return Table(form or "TSV", [])
    if (widest := max(len(row.fields) for row in rows)) > MOST_COLUMNS:
        raise DataError(
            f"{document.name} has a row of {widest:,} columns; give a table of at most "
            f"{MOST_COLUMNS:,}"
        )
    kind = "CSV" if delimiter != "\t" else "TSV"
    if kind == "TSV" and is_quoted:
        kind = "TSV with quotes"
    if is_header(rows, names, fewest):
        return Table(kind, rows[1:], rows[0].fields)
    return Table(kind, rows)


def is_header(rows: Sequence[Row], names: Iterable[str], fewest: int = 1) -> bool:
    """Whether the first row has the names of the columns.

    A row with a long cell, or with a cell that occurs again in its column, is no header. Any other
    row is a header if at least `fewest` cells are in `names`, or if its cells are short although
    one column has texts of several words, and another has few different values.
    """
    first, others = rows[0].fields, rows[1:5001]
    if not others or max(map(len, first)) > 60 or not any(first):
        return False
    columns = list(itertools.zip_longest(*(row.fields for row in others), fillvalue=""))
    columns = columns[: len(first)]
    if any(cell and cell in column for cell, column in zip(first, columns, strict=False)):
        return False
    if len({cell.casefold() for cell in first} & set(names)) >= fewest:
        return True
    if len(others) < 20 or any(len(cell.split()) > 3 for cell in first):
        return False
    few = [1 < len(set(column)) <= len(column) / 5 for column in columns]
    wordy = [sum(value.count(" ") for value in column) >= 3 * len(column) for column in columns]
    short = [cell.count(" ") < 2 for cell in first]
    return any(few) and any(w and s for w, s in zip(wordy, short, strict=False))


# Separated by a character ------------------------------------------------------------------------


def _plain_rows(text: str, delimiter: str = "\t") -> list[Row]:
    rows = (
        Row(line, [field.strip() for field in row.split(delimiter)])
        for line, row in numbered_lines(text)
    )
    return [row for row in rows if row.fields != [""]]


def _separated(text: str, delimiter: str, document: Document, log: Log) -> tuple[list[Row], bool]:
    """Read rows with quoted fields; return whether quotes were read as such.

    A CSV has quoted fields. In a TSV, quotes are ordinary characters if reading them as quotes
    makes a row faulty, or joins lines that have the right number of fields by themselves (such as
    messages that begin with a quote).
    """
    if '"' not in text:
        return _plain_rows(text, delimiter), False
    quoted, faults = _quoted_rows(text, delimiter, document)
    if delimiter == "\t":
        plain = _plain_rows(text)
        is_even = len({len(row.fields) for row in plain}) == 1
        if faults or (is_even and len(quoted) < len(plain)):
            return plain, False
    log.faults += faults
    return quoted, True


def _quoted_rows(text: str, delimiter: str, document: Document) -> tuple[list[Row], list[Fault]]:
    """Read rows by the csv module's strict rules; a row with a fault is left out.

    After a quote that is never closed, reading continues at the next line.
    """
    rows: list[Row] = []
    faults: list[Fault] = []
    lines = text.split("\n")
    skipped = 0
    with _fields_of_any_length():
        for _ in range(MOST_OPEN_QUOTES):
            reader = csv.reader(_ended(lines, skipped), delimiter=delimiter, strict=True)
            line = skipped + 1
            while True:
                line = skipped + reader.line_num + 1
                try:
                    fields = [field.strip().replace("\r\n", "\n") for field in next(reader)]
                    if any(fields):
                        rows.append(Row(line, fields))
                except StopIteration:
                    return rows, faults
                except csv.Error as error:
                    if "end of data" in str(error):
                        faults.append(Fault(document.name, line, "opens a quote and never ends it"))
                        break
                    what = f"has a quote in the wrong place: {shortened(lines[line - 1])}"
                    faults.append(Fault(document.name, line, what))
            skipped = line
    return rows, faults


def _ended(lines: list[str], start: int) -> Iterator[str]:
    """Yield lines from number `start` on with their ends, for the csv module."""
    last = len(lines) - 1
    for i in range(start, len(lines)):
        yield lines[i] + ("\n" if i < last else "")


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Lift the csv module's limit of 131,072 characters in a field."""
    before = csv.field_size_limit((1 << 31) - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _delimiter(text: str, form: str, names: Iterable[str]) -> str | None:
    """Return the character between fields; None if the text is not a table.

    In a TSV it is a tab. In a CSV it is the delimiter that gives most rows the same number of
    fields. Any other text is a table if at least half of its lines have a tab, or if its first line
    is a header of `names`.
    """
    if form == "TSV":
        return "\t"
    sample = [line for _, line in itertools.islice(numbered_lines(text), LOOKED_AT) if line.strip()]
    while len(sample) > 1 and sum(map(len, sample)) > MOST_LOOKED_AT:
        sample = sample[: len(sample) // 2]
    if not form:
        if sample and sum("\t" in line for line in sample) * 2 >= len(sample):
            return "\t"
        if not sample or not _is_separated_header(sample[0], set(names)):
            return None
    if not sample:
        return DELIMITERS[0]
    evenness = {}
    for delimiter in DELIMITERS:
        with _fields_of_any_length():
            try:
                records = [r for r in csv.reader(_ended(sample, 0), delimiter=delimiter) if r]
            except csv.Error:
                records = [line.split(delimiter) for line in sample]
        width, count = Counter(map(len, records)).most_common(1)[0]
        evenness[delimiter] = count / len(records) if width > 1 else 0.0
    return max(DELIMITERS, key=lambda delimiter: evenness[delimiter])


def _is_separated_header(line: str, names: set[str]) -> bool:
    """Whether a line is a header: short names, at least one of them in `names`."""
    for delimiter in DELIMITERS:
        cells = [cell.strip().strip('"').casefold() for cell in line.split(delimiter)]
        if len(cells) > 1 and all(0 < len(cell) < 30 for cell in cells) and names & set(cells):
            return True
    return False


# Lines that begin with a class -------------------------------------------------------------------


def _beginning_with_a_class(document: Document, text: str, log: Log) -> Table | None:
    """Read fastText's `__label__x text`, TREC's `DESC:manner text`, or `1 text`; else None.

    As in fastText, `__label__x` may also stand after the text.
    """
    lines = [(line, row.strip()) for line, row in numbered_lines(text) if row.strip()]
    sample = lines[:LOOKED_AT]
    if sum(_LABEL.search(row) is not None for _, row in sample) * 2 > len(sample):
        return Table("fastText", _fasttext_rows(document, lines, log), class_first=True)
    matches = [_CLASS_AND_TEXT.fullmatch(row) for _, row in lines]
    rows = [
        Row(line, [match[1], match[2].strip()])
        for (line, _), match in zip(lines, matches, strict=True)
        if match
    ]
    if not rows or len(rows) < len(lines):
        return None
    if len({row.fields[0] for row in rows}) > max(2, len(rows) / 5):
        return None
    return Table("lines of class and text", rows, class_first=True)


def _fasttext_rows(document: Document, lines: list[tuple[int, str]], log: Log) -> list[Row]:
    rows = []
    for line, row in lines:
        labels, text = _LABEL.findall(row), _LABEL.sub("", row).strip()
        if len(labels) > 1:
            log.fault(document.name, line, f"has {len(labels)} labels; give it one")
        elif not labels:
            log.fault(document.name, line, f"has no {FASTTEXT}: {shortened(row)}")
        elif not text:
            log.fault(document.name, line, f"has an empty text: {shortened(row)}")
        else:
            rows.append(Row(line, [labels[0].removeprefix(FASTTEXT), text]))
    return rows


# Records with names ------------------------------------------------------------------------------


def _of_records(
    form: str, records: Iterable[tuple[int, dict[str, Any]]], document: Document, log: Log
) -> Table:
    """Make a table of records; the names in a nested record are joined with dots."""
    columns: dict[str, int] = {}
    listed = []
    for line, record in records:
        try:
            fields = flat(record)
        except RecursionError:
            log.fault(document.name, line, "has a value that is too deeply nested")
            continue
        for name in fields:
            columns.setdefault(name, len(columns))
        if len(columns) > MOST_COLUMNS:
            raise DataError(
                f"{document.name}, line {line:,}: the records have more than {MOST_COLUMNS:,} "
                f"names; give a table of fewer columns"
            )
        listed.append((line, fields))
    rows = [Row(line, [fields.get(name, "") for name in columns]) for line, fields in listed]
    return Table(form, rows, list(columns))
