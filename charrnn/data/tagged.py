"""Read sentences with a tag for each word. Nothing here imports torch."""

from __future__ import annotations

import re

from charrnn.data.formats import USUAL, Log, Reading, Tagged, not_empty, numbered_lines, text_of
from charrnn.data.sources import Document, Sources
from charrnn.data.vocabulary import shortened
from charrnn.errors import DataError


def read_tagged(sources: Sources, how: Reading = USUAL, log: Log | None = None) -> list[Tagged]:
    """Read sentences with UPOS tags from CoNLL-U (Nivre et al. 2020), in the order of documents.

    Each row of ten columns, separated by tabs, is a word; a blank line ends a sentence. Comments,
    the ranges of multiword tokens (`1-2`) and empty nodes (`1.1`) are skipped.

    Raises DataError for a document without sentences, and for a row that does not have ten columns,
    the next ID, a word and a tag.
    """
    examples: list[Tagged] = []
    for document in sources.documents:
        sentences = _sentences_in(document, text_of(document, how.encoding, how.errors))
        examples += not_empty(sentences, document, "sentences in CoNLL-U")
    return examples


def _sentences_in(document: Document, text: str) -> list[Tagged]:
    """Read the sentences of one document. Raises DataError."""
    sentences: list[Tagged] = []
    words: list[str] = []
    tags: list[str] = []
    first = 0
    for line, row in (*numbered_lines(text), (0, "")):
        if not row.strip():
            if words:
                sentences.append(Tagged(tuple(words), tuple(tags), document.name, first))
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
    return sentences


def _row_fault(fields: list[str], expected: int) -> str | None:
    """Describe what is wrong with a row of CoNLL-U; None if it is right."""
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
