"""Measure predictions: accuracy, F1, BLEU. Every share is recorded with its total.

Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = NDArray[np.int64]


class Share(NamedTuple):
    """The number of right predictions, and the number of all predictions."""

    right: int
    total: int

    @property
    def value(self) -> float | None:
        """The fraction of right predictions; None if there are no predictions."""
        return self.right / self.total if self.total else None


class Bleu(NamedTuple):
    """BLEU with its parts; score, precisions and penalty lie between 0 and 1."""

    score: float
    precisions: tuple[float, ...]
    brevity_penalty: float
    length: int
    reference_length: int


def accuracy(predicted: ArrayLike, gold: ArrayLike, where: ArrayLike | None = None) -> Share:
    """Count the predictions that are right, among those where `where` is true.

    All arrays have the same shape; raises ValueError if they differ.

    >>> accuracy([1, 2, 0, 2], [1, 2, 2, 2])
    Share(right=3, total=4)
    """
    right = _same_shape(predicted, gold)
    if where is not None:
        chosen = np.asarray(where, bool)
        if chosen.shape != right.shape:
            raise ValueError(
                f"choice and right answers differ in shape: {chosen.shape} and {right.shape}"
            )
        right = right[chosen]
    return Share(int(right.sum()), right.size)


def exact_match(predicted: Iterable[Sequence[object]], gold: Iterable[Sequence[object]]) -> Share:
    """Count the sequences that are right from the first symbol to the last.

    >>> exact_match(["abc", "ab"], ["abc", "abc"])
    Share(right=1, total=2)
    """
    right = [list(p) == list(g) for p, g in zip(predicted, gold, strict=True)]
    return Share(sum(right), len(right))


def confusion(predicted: ArrayLike, gold: ArrayLike, classes: int) -> Counts:
    """Count (C, C) how often class i (row) was taken for class j (column).

    Raises ValueError for a class outside of [0, C).

    >>> confusion([0, 1, 1], [0, 0, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    _same_shape(predicted, gold)
    rows, columns = np.asarray(gold, np.int64).ravel(), np.asarray(predicted, np.int64).ravel()
    both = np.concatenate([rows, columns])
    if len(both) and not 0 <= both.min() <= both.max() < classes:
        raise ValueError(
            f"classes from {both.min()} to {both.max()} are not all between 0 and {classes - 1}"
        )
    return np.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)


class Confusion(NamedTuple):
    """How often each class (row) was taken for each class (column).

    `counts` is (C, C) for the C `names`. Classes that the model lacks have their names at the end;
    they were never predicted.
    """

    names: tuple[str, ...]
    counts: Counts


def confused(predicted: Sequence[str], gold: Sequence[str], classes: Iterable[str]) -> Confusion:
    """Count how often each class was taken for each class, given by their names.

    Classes that the model does not have come last.

    >>> confused(["a", "a"], ["b", "z"], ["a", "b"]).names
    ('a', 'b', 'z')
    """
    known = tuple(classes)
    names = (*known, *sorted(set(gold) - set(known)))
    number = {name: i for i, name in enumerate(names)}
    counts = confusion([number[p] for p in predicted], [number[g] for g in gold], len(names))
    return Confusion(names, counts)


class ByClass(NamedTuple):
    """Precision, recall and F1 of one class, and how often it occurs."""

    precision: float
    recall: float
    f1: float
    occurrences: int

    def shares(self) -> dict[str, float]:
        """Return precision, recall and F1 by name."""
        return {"precision": self.precision, "recall": self.recall, "f1": self.f1}


def by_class(table: Confusion) -> dict[str, ByClass]:
    """Measure each class that occurs or is predicted, in the order of the names.

    A share without a total is 0: the precision of a class that is never predicted, the recall of
    one that never occurs.

    >>> by_class(Confusion(("a", "b", "c"), confusion([0, 1, 1], [0, 0, 1], 3)))["b"]
    ByClass(precision=0.5, recall=1.0, f1=0.6666666666666666, occurrences=1)
    """
    right, occurring, predicted = table.counts.diagonal(), table.counts.sum(1), table.counts.sum(0)
    return {
        name: _measured(int(right[i]), int(predicted[i]), int(occurring[i]))
        for i, name in enumerate(table.names)
        if occurring[i] or predicted[i]
    }


def _measured(right: int, predicted: int, occurring: int) -> ByClass:
    """Compute precision, recall and F1 from counts."""
    return ByClass(
        right / predicted if predicted else 0.0,
        right / occurring if occurring else 0.0,
        2 * right / (predicted + occurring) if predicted + occurring else 0.0,
        occurring,
    )


def macro_f1(counts: Counts) -> float | None:
    """Return the mean over the classes of F1 = 2 TP / (2 TP + FP + FN), from confusion counts.

    A class that neither occurs nor is predicted is left out; one that is predicted but does not
    occur counts 0. None if nothing was counted.

    >>> macro_f1(confusion([0, 1], [0, 1], classes=3))
    1.0
    """
    right, occurring = counts.diagonal(), counts.sum(0) + counts.sum(1)
    used = occurring > 0
    return float((2 * right[used] / occurring[used]).mean()) if used.any() else None


class Span(NamedTuple):
    """A span of tokens `start` to `stop` (exclusive) with its type, such as PER."""

    type: str
    start: int
    stop: int


def are_span_tags(tags: Iterable[str]) -> bool:
    """Whether tags mark spans: each is O, or B, I, E, S, L or U with a type (`B-PER`, `I-PER`).

    >>> are_span_tags(["O", "B-PER", "I-PER"]), are_span_tags(["NOUN", "O"]), are_span_tags(["O"])
    (True, False, False)
    """
    tags = set(tags)
    marks = {tag.partition("-")[0] for tag in tags - {"O"}}
    typed = all(tag.partition("-")[2] for tag in tags - {"O"})
    return typed and bool(marks & {"B", "I"}) and marks <= set("BIESLU")


def spans_of(tags: Sequence[str]) -> list[Span]:
    """Return the spans that tags mark, in order, as CoNLL-2000's evaluation reads them.

    (Tjong Kim Sang and Buchholz 2000, `conlleval`; the schemes IOB1, IOB2 and IOBES, in which L and
    U are other names of E and S.) B and S begin a span; I and E begin one after O, after the end of
    a span, and after another type. Any other tag counts as O.

    >>> [tuple(span) for span in spans_of(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"])]
    [('PER', 0, 2), ('LOC', 3, 4), ('LOC', 4, 5)]
    """
    spans: list[Span] = []
    is_open, start, before = False, 0, ""
    for place, tag in enumerate([*tags, "O"]):
        mark, _, type_ = tag.partition("-")
        mark = {"L": "E", "U": "S"}.get(mark, mark)
        if is_open and (mark not in ("I", "E") or type_ != before):
            spans.append(Span(before, start, place))
            is_open = False
        if not is_open and mark in ("B", "I", "E", "S"):
            is_open, start, before = True, place, type_
        if is_open and mark in ("E", "S"):
            spans.append(Span(before, start, place + 1))
            is_open = False
    return spans


class Spans(NamedTuple):
    """The measures of spans: of all together, and by type."""

    all: ByClass
    types: dict[str, ByClass]


def by_span(predicted: Iterable[Sequence[str]], gold: Iterable[Sequence[str]]) -> Spans:
    """Measure the spans that tags mark. A span is right if its type and both its ends are right.

    >>> by_span([["B-PER", "I-PER", "O"]], [["B-PER", "I-PER", "B-LOC"]]).all.recall
    0.5
    """
    right, guessed, wanted = Counter[str](), Counter[str](), Counter[str]()
    for ours, theirs in zip(predicted, gold, strict=True):
        guesses, answers = spans_of(ours), spans_of(theirs)
        guessed.update(span.type for span in guesses)
        wanted.update(span.type for span in answers)
        right.update(span.type for span in set(guesses) & set(answers))
    parts = {
        name: _measured(right[name], guessed[name], wanted[name])
        for name in sorted(guessed | wanted)
    }
    return Spans(_measured(right.total(), guessed.total(), wanted.total()), parts)


def bleu(
    candidates: Sequence[Sequence[Hashable]],
    references: Sequence[Sequence[Sequence[Hashable]]],
    order: int = 4,
) -> Bleu:
    r"""Compute BLEU of a corpus (Papineni et al. 2002); each candidate has one or more references.

    .. math:: \mathrm{BLEU} = \min(1, e^{1 - r/c}) \left(\prod_{n=1}^{N} p_n\right)^{1/N}

    p_n is the share of the candidates' n-grams that occur in a reference; each n-gram counts at
    most as often as it occurs in a single reference; c is the length of all candidates; r is the
    length of the references nearest in length to each candidate (of two equally near ones, the
    shorter). Counts are summed over the corpus before they are divided. Nothing is smoothed: the
    score is 0 if an order has no match.

    >>> round(bleu(["the cat is on".split()], [["the cat is on the mat".split()]]).score, 3)
    0.607
    """
    matched, total = [0] * order, [0] * order
    length = reference_length = 0
    for candidate, known in zip(candidates, references, strict=True):
        length += len(candidate)
        reference_length += min((abs(len(r) - len(candidate)), len(r)) for r in known)[1]
        for n in range(1, order + 1):
            most: Counter[Any] = Counter()
            for reference in known:
                most |= _ngrams(reference, n)
            ngrams = _ngrams(candidate, n)
            matched[n - 1] += (ngrams & most).total()
            total[n - 1] += ngrams.total()
    precisions = tuple(m / t if t else 0.0 for m, t in zip(matched, total, strict=True))
    if not length:
        return Bleu(0.0, precisions, 0.0, 0, reference_length)
    penalty = math.exp(min(0.0, 1 - reference_length / length))
    mean = math.exp(sum(map(math.log, precisions)) / order) if all(precisions) else 0.0
    return Bleu(penalty * mean, precisions, penalty, length, reference_length)


def _ngrams(tokens: Sequence[Hashable], n: int) -> Counter[Any]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _same_shape(predicted: ArrayLike, gold: ArrayLike) -> NDArray[np.bool_]:
    """Compare element by element. Raises ValueError for arrays of different shape."""
    ours, theirs = np.asarray(predicted), np.asarray(gold)
    if ours.shape != theirs.shape:
        raise ValueError(
            f"predictions and right answers differ in shape: {ours.shape} and {theirs.shape}"
        )
    return np.asarray(ours == theirs)
