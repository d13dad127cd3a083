"""How good predictions are: counted, with what was counted beside it. Knows no torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = NDArray[np.int64]


class Share(NamedTuple):
    """How many of how many."""

    right: int
    of: int

    @property
    def value(self) -> float | None:
        """The fraction, or None of nothing."""
        return self.right / self.of if self.of else None


class Bleu(NamedTuple):
    """BLEU with what it is made of; all of it between 0 and 1."""

    score: float
    precisions: tuple[float, ...]
    brevity_penalty: float
    length: int
    reference_length: int


def accuracy(predicted: ArrayLike, gold: ArrayLike, where: ArrayLike | None = None) -> Share:
    """How many predictions are right, of those where `where` is true."""
    right = _same_shape(predicted, gold)
    if where is not None:
        chosen = np.asarray(where, bool)
        if chosen.shape != right.shape:
            raise ValueError(f"a choice of shape {chosen.shape} among {right.shape}")
        right = right[chosen]
    return Share(int(right.sum()), right.size)


def exact_match(predicted: Iterable[Sequence[object]], gold: Iterable[Sequence[object]]) -> Share:
    """How many whole sequences are right."""
    right = [list(p) == list(g) for p, g in zip(predicted, gold, strict=True)]
    return Share(sum(right), len(right))


def confusion(predicted: ArrayLike, gold: ArrayLike, classes: int) -> Counts:
    """Counts (C, C): row i, column j is how often class i was taken for class j."""
    _same_shape(predicted, gold)
    rows, columns = np.asarray(gold, np.int64).ravel(), np.asarray(predicted, np.int64).ravel()
    both = np.concatenate([rows, columns])
    if len(both) and not 0 <= both.min() <= both.max() < classes:
        raise ValueError(f"classes from {both.min()} to {both.max()} are not all in {classes}")
    return np.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)


def macro_f1(counts: Counts) -> float | None:
    """The mean F1 over the classes of a confusion that are there or are predicted.

    F1 is 2 TP / (2 TP + FP + FN). A class that neither occurs nor is predicted says nothing and is
    left out; one that is predicted and does not occur counts 0. None where nothing was counted.
    """
    right, both = counts.diagonal(), counts.sum(0) + counts.sum(1)
    there = both > 0
    return float((2 * right[there] / both[there]).mean()) if there.any() else None


def bleu(
    candidates: Sequence[Sequence[Hashable]],
    references: Sequence[Sequence[Sequence[Hashable]]],
    order: int = 4,
) -> Bleu:
    """BLEU of a corpus (Papineni et al. 2002): each candidate has one or more references.

    The geometric mean of the precisions of n-grams up to `order`, times exp(1 - r/c) where the
    candidates' c tokens are fewer than r. Of an n-gram, as many count as one reference has at most;
    r sums the length of each candidate's nearest reference, the shorter of two as near. Counts are
    summed over the corpus before they are divided. Nothing is smoothed: the score is 0 where an
    order has no match.
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
            found = _ngrams(candidate, n)
            matched[n - 1] += (found & most).total()
            total[n - 1] += found.total()
    precisions = tuple(m / t if t else 0.0 for m, t in zip(matched, total, strict=True))
    if not length:
        return Bleu(0.0, precisions, 0.0, 0, reference_length)
    penalty = math.exp(min(0.0, 1 - reference_length / length))
    mean = math.exp(sum(map(math.log, precisions)) / order) if all(precisions) else 0.0
    return Bleu(penalty * mean, precisions, penalty, length, reference_length)


def _ngrams(tokens: Sequence[Hashable], n: int) -> Counter[Any]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _same_shape(predicted: ArrayLike, gold: ArrayLike) -> NDArray[np.bool_]:
    """Where two arrays are equal. Raises ValueError where they differ in shape."""
    ours, theirs = np.asarray(predicted), np.asarray(gold)
    if ours.shape != theirs.shape:
        raise ValueError(f"predictions of shape {ours.shape} for {theirs.shape}")
    return np.asarray(ours == theirs)
