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
    score is 0 where an order has no match.

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
