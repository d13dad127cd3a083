"""Give hints about files with more than their text, and about unfit vocabularies.

A hint changes nothing: it says in one line what else a model would learn, and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from charrnn.data.corpus import Corpus, Span, decoded
from charrnn.data.rules import not_divided
from charrnn.data.sources import Document
from charrnn.data.vocabulary import (
    ByteVocabulary,
    CharacterVocabulary,
    Vocabulary,
    WordVocabulary,
)

LOOKED_AT = 10  # documents at the start of a corpus
CHARACTERS = 1 << 15  # at the start of each document
MOST_IDS = 1 << 24  # at most this many ids of a corpus are counted
LONG = 15  # letters in an average word: in languages with spaces it has fewer
ONCE = 0.7  # share of the words of a text that occur only once
FEWEST = 200  # words from which this is judged
RARE = 2  # occurrences: too few to learn a character from
MANY = 200  # rare characters: so many are worth a hint
MUCH = 0.2  # ... if they are this share of the vocabulary

_PATTERNS: list[tuple[str, str]] = [
    (
        r"(?i)\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG|The Project Gutenberg E-?Book",
        "holds Project Gutenberg's licence, which the model learns as well; cut what stands "
        "outside of the START and END lines",
    ),
    (
        r"\A(?:.*\n){0,3}?\d+\n\d\d:\d\d:\d\d[,.]\d{3} --> |\AWEBVTT\b",
        "is a file of subtitles, and the model learns its numbers and times as well; leave only "
        "the lines of text",
    ),
    (
        r"(?i)\A\s*(?:<\?xml[^>]*>\s*)?(?:<!doctype html|<html)\b",
        "is HTML, and the model learns the tags as well; save the page as text",
    ),
    (
        r"(?m)(?:^\u200e?\[?\d{1,4}[./-]\d{1,2}[./-]\d{1,4},? \d{1,2}:\d\d(?::\d\d)?"
        r"(?:\s?[APap][Mm])?\]?(?: -)? [^\n:]{1,40}: [^\n]*\n(?:[^\[\d\n][^\n]*\n)*){3}",
        "looks like an export of a chat, and the model learns its times and names as well; leave "
        "only the messages",
    ),
]
_HINTS = [(re.compile(pattern), hint) for pattern, hint in _PATTERNS]


def hint_of_text(documents: Iterable[Document], encoding: str) -> str | None:
    """Return a hint about the first document with more than its text, such as a licence."""
    for _, document in zip(range(LOOKED_AT), documents, strict=False):
        head = next(decoded(document, encoding, "replace"), "")[:CHARACTERS]
        for pattern, hint in _HINTS:
            if pattern.search(head):
                return f"{document.name} {hint}"
    return None


def hints_of_corpus(corpus: Corpus, documents: Sequence[Document]) -> Iterator[str]:
    """Yield hints about the symbols of a corpus and about a separator that divides nothing."""
    separator = documents[0].rules.separator if documents else None
    if separator and corpus.documents <= len(documents):
        yield not_divided(separator)
    counts = corpus.symbol_counts(Span(0, min(len(corpus.ids), MOST_IDS), False))
    if hint := _hint_of_words(corpus.vocabulary, counts):
        yield hint
    if isinstance(corpus.vocabulary, ByteVocabulary):
        return
    nul = sum(
        int(counts[i]) for i, symbol in enumerate(corpus.vocabulary.symbols) if "\0" in symbol
    )
    if nul:
        yield (
            f"the text has {nul:,} NUL character{'s' * (nul > 1)}, which a model learns like any "
            f"other; if they are damage, remove them, for instance with tr -d '\\000'"
        )
    rare = int(((counts > 0) & (counts <= RARE)).sum())
    vocabulary = corpus.vocabulary
    if not isinstance(vocabulary, CharacterVocabulary) or vocabulary.unknown is not None:
        return
    if rare >= max(MANY, MUCH * len(counts)):
        yield (
            f"{rare:,} of the {len(counts):,} characters occur once or twice, too rarely to be "
            f"learned; data.minimum_count={RARE + 1} reads them as one symbol, <unk>"
        )


def _hint_of_words(vocabulary: Vocabulary, counts: NDArray[np.int64]) -> str | None:
    """Say that a text has no spaces between its words, although the vocabulary is one of words."""
    if not isinstance(vocabulary, WordVocabulary):
        return None
    words = [symbol.strip() for symbol in vocabulary.symbols]
    is_word = np.array([word[:1].isalnum() for word in words])
    lengths = np.array([len(word) for word in words])
    total = int(counts[is_word].sum())
    if not total:
        return None
    mean = float((counts * lengths)[is_word].sum()) / total
    once = int((counts[is_word] == 1).sum()) / total
    if mean <= LONG and (once <= ONCE or total < FEWEST):
        return None
    return (
        f"the words of this text have {mean:.0f} letters on average, and {once:.0%} of them occur "
        f"once, as in a text without spaces between words; set data.vocabulary to character, or "
        f"put spaces between words first"
    )
