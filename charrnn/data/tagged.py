"""Read sentences with a tag for each word, and write them with other tags.

A file has a word in each row and a blank line after each sentence: CoNLL-U (Nivre et al. 2020),
CoNLL-2003, or any two or more columns. Nothing here imports torch.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from charrnn.data.formats import USUAL, Log, Reading, Tagged, not_empty, numbered_lines, text_of
from charrnn.data.sources import Document, Sources
from charrnn.data.vocabulary import shortened
from charrnn.errors import DataError

UNTAGGED = "_"
"""The tag of words without a tag: such a word is read, but not scored."""
DOCSTART = "-DOCSTART-"
FORM = "a row is a word and its tag, in columns, and a blank line follows each sentence"
WANTED = "rows of a word and its tag, with a blank line after each sentence"
CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
CONLL_2003 = ("form", "pos", "chunk", "ner")
LONGEST = 300  # words in a sentence that stands alone in its file
SAMPLE = 200  # rows from which the form of a file is recognised
NUMBERED_FROM = 3  # columns: with fewer, the first one never numbers the words

_ID = re.compile("[0-9]+")
_SKIPPED_ID = re.compile("[0-9]+[-.][0-9]+")
_COMMENT = re.compile(r"#\s*(?:[\w.:]+\s*=|newdoc\b|newpar\b)")
_NAMES = re.compile(r"#\s*global\.columns\s*=\s*(.*)")


@dataclass(frozen=True)
class Columns:
    """The columns of a file with a word in each row.

    `names` has a name or an empty text for each column; `tabbed` columns are separated by a tab,
    others by spaces; `word` and `tag` are places from 0. In a numbered file the first column has
    the ID of the word, a row may be a multiword token (`1-2`) or an empty node (`1.1`), and `#`
    begins a comment.
    """

    names: tuple[str, ...]
    tabbed: bool
    word: int
    tag: int
    numbered: bool

    def fields(self, row: str) -> list[str]:
        """Split a row into its fields."""
        return row.split("\t") if self.tabbed else re.split("[ \t]+", row.strip(" \t"))

    def has_no_word(self, row: str) -> bool:
        """Whether a row is a comment, the start of a document, or a token that gets no tag."""
        fields = self.fields(row)
        if row.startswith("#") and (self.numbered or len(fields) != len(self.names)):
            return True
        if fields[0] == DOCSTART:
            return True
        return self.numbered and _SKIPPED_ID.fullmatch(fields[0]) is not None

    def with_tag(self, row: str, tag: str) -> str:
        """Return the row of a word with another tag; a row of one column gets a second one.

        >>> Columns(("form", ""), True, word=0, tag=1, numbered=False).with_tag("20 000\\tX", "NUM")
        '20 000\\tNUM'
        """
        pieces = re.split("(\t)" if self.tabbed else "([ \t]+)", row)
        place = 2 * self.tag  # Every second piece is a separator.
        if place >= len(pieces):
            return f"{row}\t{tag}"
        return "".join([*pieces[:place], tag, *pieces[place + 1 :]])

    @property
    def described(self) -> str:
        """The place of the tags: `column 4 (UPOS) of 10`."""
        if self.tag >= len(self.names):
            return "a column of their own"
        name = self.names[self.tag].upper()
        return f"column {self.tag + 1}{f' ({name})' if name else ''} of {len(self.names)}"


def columns_of(
    lines: Iterable[tuple[int, str]], name: str, column: str | int | None = None
) -> Columns:
    """Recognise the columns of a file by its first numbered lines.

    `column` is the name or the number (from 1) of the column of tags. If it is None, tags are in
    UPOS, or in the last column of a file that is not CoNLL-U. Raises DataError if there is no such
    column.
    """
    sample = [*itertools.islice(((n, row) for n, row in lines if row.strip()), SAMPLE)]
    declared = next((m for _, row in sample if (m := _NAMES.fullmatch(row.strip()))), None)
    rows = [(n, r) for n, r in sample if not r.startswith("#") and not r.startswith(DOCSTART)]
    if not (rows := rows or sample):
        return ONE_COLUMN
    tabbed = "\t" in rows[0][1]
    draft = Columns((), tabbed, 0, 0, False)
    fields = [draft.fields(row) for _, row in rows]
    count = len(fields[0])
    numbers = count >= NUMBERED_FROM and all(
        _ID.fullmatch(first) or _SKIPPED_ID.fullmatch(first) for first, *_ in fields
    )
    if count == 1:
        return ONE_COLUMN
    numbered = numbers or (tabbed and count == len(CONLLU))
    if declared:
        names = tuple(part.rpartition(":")[2].lower() for part in declared[1].split())
        numbered = names[:1] == ("id",)
    elif numbered:
        names = CONLLU if count == len(CONLLU) else CONLLU[:2] + ("",) * (count - 2)
    else:
        names = CONLL_2003 if count == len(CONLL_2003) else ("form",) + ("",) * (count - 1)
    word = names.index("form") if "form" in names else int(numbered)
    return Columns(names, tabbed, word, _place(names, column, name), numbered)


def _place(names: tuple[str, ...], column: str | int | None, file: str) -> int:
    """Find a column by its name or its number from 1. Raises DataError."""
    last = len(names) - 1
    if column is None:
        return names.index("upos") if "upos" in names else last
    wanted = str(column).lower()
    if wanted.isdecimal() and 1 <= int(wanted) <= len(names):
        return int(wanted) - 1
    if wanted in names:
        return names.index(wanted)
    if wanted in ("last", "ner"):
        return last
    known = ", ".join(f"{i} ({name})" if name else str(i) for i, name in enumerate(names, 1))
    raise DataError(
        f"{file} has no column {shortened(str(column))}; set data.tag_column to one of {known}"
    )


def read_tagged(sources: Sources, how: Reading = USUAL, log: Log | None = None) -> list[Tagged]:
    """Read sentences with tags, in the order of documents.

    A row is a word, in columns that are separated by tabs or spaces; a blank line or `-DOCSTART-`
    ends a sentence. `how.tag_column` is the name or the number (from 1) of the column of tags. If
    it is None, tags are in UPOS of CoNLL-U, in XPOS if UPOS is empty, or else in the last column.
    Comments, multiword tokens (`1-2`) and empty nodes (`1.1`) are skipped. A word with the tag `_`
    is not scored; sentences without any tag are left out.

    Raises DataError for a document without sentences, without tags or without that column, and for
    rows whose columns differ from the others.
    """
    log = log or Log()
    documents = [
        (document, [*numbered_lines(text_of(document, how.encoding, how.errors))])
        for document in sources.documents
    ]
    for document, lines in documents:
        _refuse_joined(document.name, lines)
    columns = [columns_of(lines, document.name, how.tag_column) for document, lines in documents]
    sentences: list[Tagged] = []
    for (document, lines), each in zip(documents, columns, strict=True):
        own = [*_sentences_in(document, lines, each, log)]
        if not own:
            log.settle(how.bad_rows, len(sentences), FORM)
        sentences += not_empty(own, document, WANTED)
    log.settle(how.bad_rows, sum(len(sentence.words) for sentence in sentences), FORM)
    if len(sentences) == 1 and len(sentences[0].words) > LONGEST:
        raise DataError(
            f"{sources.described} has no blank line among {len(sentences[0].words):,} words; {FORM}"
        )
    examples = [sentence for sentence in sentences if set(sentence.tags) != {UNTAGGED}]
    if not examples and how.tag_column is None and any("xpos" in c.names for c in columns):
        log.settings["data.tag_column"] = "xpos"
        return read_tagged(sources, replace(how, tag_column="xpos"), log)
    if not examples:
        raise DataError(
            f"{sources.described} has no tags in {columns[0].described}; set data.tag_column to "
            f"another column"
        )
    _note(examples, len(sentences) - len(examples), columns[0], log)
    return examples


def _refuse_joined(name: str, lines: Sequence[tuple[int, str]]) -> None:
    """Raise DataError for words and tags in one column, as in `Oslo|B-LOC`."""
    rows = [*itertools.islice(((n, row) for n, row in lines if row.strip()), SAMPLE)]
    if rows and all("|" in word.strip("|") for _, row in rows for word in row.split()):
        raise DataError(
            f"{name}, line {rows[0][0]:,} joins a word and its tag, "
            f"{shortened(rows[0][1].split()[0])}; write each word in a row of its own, with its "
            f"tag after a tab, and a blank line after each sentence"
        )


def _note(examples: Sequence[Tagged], left_out: int, columns: Columns, log: Log) -> None:
    """Note the columns, the words without a tag, and a column that cannot have the tags."""
    log.notes.append(f"words in column {columns.word + 1}, tags in {columns.described}")
    missing = sum(tag == UNTAGGED for example in examples for tag in example.tags)
    if missing:
        log.notes.append(f"words without a tag ({UNTAGGED}), read but not scored: {missing:,}")
    if left_out:
        log.notes.append(f"sentences without any tag, left out: {left_out:,}")
    tags = {tag for example in examples for tag in example.tags} - {UNTAGGED}
    if len(tags) == 1:
        log.notes.append(
            f"all words have the tag {shortened(tags.pop())}: choose another column with "
            f"data.tag_column"
        )


def _sentences_in(
    document: Document,
    lines: Sequence[tuple[int, str]],
    columns: Columns,
    log: Log,
) -> Iterator[Tagged]:
    """Read the sentences of one document; report a bad row, and leave out its sentence."""
    words: list[str] = []
    tags: list[str] = []
    numbers: list[int] = []
    is_bad = False
    for line, row in (*lines, (0, "")):
        if not row.strip() or row.startswith(DOCSTART):
            if words and not is_bad:
                own = tuple(numbers)
                yield Tagged(tuple(words), tuple(tags), document.name, own[0], own)
            words, tags, numbers, is_bad = [], [], [], False
        elif not columns.has_no_word(row):
            fields = columns.fields(row)
            fault = _fault(fields, columns, len(words) + 1)
            if fault and not is_bad:
                log.fault(document.name, line, fault)
            is_bad = is_bad or fault is not None
            numbers.append(line)
            words.append(fields[columns.word] if not is_bad else "")
            tags.append(fields[columns.tag] if not is_bad else "")


def _fault(fields: list[str], columns: Columns, expected: int) -> str | None:
    """Describe what is wrong with the row of a word; None if it is right."""
    count = len(columns.names)
    if len(fields) != count or columns.tag >= count:
        shown = shortened("\t".join(fields))
        between = "tabs" if columns.tabbed else "spaces"
        form = f", where the rows before it have {count}, separated by {between}"
        if columns.names == CONLLU:
            form = ", where CoNLL-U has ten, separated by tabs"
        elif columns.tag >= count:
            form = ""
        return f"has {len(fields)} column{'s' * (len(fields) != 1)}{form}: {shown}"
    word, tag = fields[columns.word], fields[columns.tag]
    if columns.numbered and fields[0] != str(expected):
        return (
            f"has the ID {shortened(fields[0])} where {expected} is next (the words of a sentence "
            f"are numbered from 1)"
        )
    if "\0" in word + tag:
        return f"has a NUL in it: {shortened(word)}"
    if not word:
        return f"has no word in column {columns.word + 1}"
    if not tag:
        return f"has no tag for {shortened(word)} (write _ for a word without one)"
    return None


# Rows of words that are to be tagged --------------------------------------------------------------


class Sheet(NamedTuple):
    """The rows of a sentence in its file, with the comments and blank lines around it."""

    rows: tuple[str, ...]
    words: tuple[str, ...]
    places: tuple[int, ...]  # of the rows of the words

    def tagged(self, tags: Sequence[str], columns: Columns) -> str:
        """Return all rows, with these tags in the rows of words."""
        rows = [*self.rows]
        for place, tag in zip(self.places, tags, strict=True):
            rows[place] = columns.with_tag(rows[place], tag)
        return "\n".join(rows)


def may_be_comment(row: str) -> bool:
    """Whether a row looks like a comment of CoNLL-U, which does not show the form of the file."""
    return _COMMENT.match(row) is not None


def recognise_rows(lines: Sequence[str], column: str | int | None = None) -> Columns | None:
    """Return the columns of rows of words; None if texts are a sentence on each line.

    Rows are those of CoNLL-U, a file with `-DOCSTART-`, two or more rows in equally many columns
    with tabs, or one word a line with a blank line after each sentence.
    """
    rows = [row for row in lines if row.strip() and not may_be_comment(row)]
    if not rows:
        return None
    fields = [row.split("\t") for row in rows]
    counts = {len(each) for each in fields}
    conllu = len(fields[0]) == len(CONLLU) and (
        _ID.fullmatch(fields[0][0]) or _SKIPPED_ID.fullmatch(fields[0][0])
    )
    table = len(rows) > 1 and len(counts) == 1 and min(counts) > 1
    if conllu or table or rows[0].startswith(DOCSTART):
        return columns_of(enumerate(lines, 1), "the input", column)
    return ONE_COLUMN if _are_words(lines) else None


ONE_COLUMN = Columns(("form",), True, 0, 1, False)
"""One word a line; its tag becomes a second column."""


def _are_words(lines: Sequence[str]) -> bool:
    """Whether each line is one word, with a blank line after a sentence of two or more."""
    if any(len(line.split()) > 1 for line in lines):
        return False
    blocks = [
        (is_word, len([*group]))
        for is_word, group in itertools.groupby(lines, lambda line: bool(line.strip()))
    ]
    has_blank_line = any(not is_word for is_word, _ in blocks)
    return has_blank_line and any(is_word and size > 1 for is_word, size in blocks)


def sheets(lines: Iterable[str], columns: Columns, name: str) -> Iterator[Sheet]:
    """Yield the sentences of rows of words, each as soon as the blank line after it is read.

    Raises DataError if the row of a word has other columns.
    """
    rows: list[str] = []
    words: list[str] = []
    places: list[int] = []
    for number, row in enumerate(lines, 1):
        if row.strip() and not columns.has_no_word(row):
            fields = columns.fields(row)
            if len(fields) != len(columns.names):
                raise DataError(
                    f"line {number:,} of {name} has {len(fields)} columns, {shortened(row)}, where "
                    f"the rows before it have {len(columns.names)}; mend the row"
                )
            words.append(fields[columns.word])
            places.append(len(rows))
        rows.append(row)
        if not row.strip():
            yield Sheet(tuple(rows), tuple(words), tuple(places))
            rows, words, places = [], [], []
    if rows:
        yield Sheet(tuple(rows), tuple(words), tuple(places))
