"""Measure how much of a text is copied: which of its spans occur in another text.

Spans of one length are compared by 64-bit hashes. The hash of a span is built by doubling, from the
hashes of its two halves, so that all spans of length n take O(log n) passes over the text. A hash
that occurs in both texts is only a candidate; candidates are compared symbol by symbol.

Any text in the language of the training text shares spans with it. The validation split, which the
model was not trained on, shows how many spans a new text shares: a sample that shares more is
copied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charrnn.data.corpus import Corpus
from charrnn.data.vocabulary import code_points

Points = NDArray[np.uint32]
Hashes = NDArray[np.uint64]

LENGTHS = (8, 16, 32)
HELD_OUT = 1_000_000  # symbols of the validation split: at most so many are compared
FEWEST = 10  # spans of the longest length: a sample that has room for fewer is not judged
DOUBT = 3.0  # standard errors: shares may differ by so many by chance
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio (Knuth)


@dataclass(frozen=True)
class Novelty:
    """The spans that a sample copies from a training text.

    `shares[n]` is the share of the sample's spans of n symbols that also occur in the training
    text; `longest` is the length of the longest such span, `start` its place in the sample.
    """

    shares: dict[int, float]
    longest: int
    start: int


@dataclass(frozen=True)
class Copied:
    """The `Novelty` of a sample, the lengths of both texts, and the longest copied span as text.

    `held_out` are the shares of the text that the model was not trained on, empty if there is none,
    and `held_out_length` is its length.
    """

    novelty: Novelty
    span: str
    sample_length: int
    train_length: int
    held_out: dict[int, float]
    held_out_length: int

    @property
    def verdict(self) -> str:
        """Say in words whether the sample copies more than new text would."""
        return verdict(self.novelty.shares, self.held_out, self.sample_length)


def novelty_of_texts(written: Sequence[str], training: Sequence[str]) -> tuple[float, float, float]:
    """Compare short texts, such as names, with those of training.

    Returns the share that does not occur in training, the share that repeats an earlier one of
    `written`, and the mean length divided by the mean length in training.

    >>> novelty_of_texts(["Anna", "Enna", "Enna", "Ann"], ["Anna", "Otto"])
    (0.75, 0.25, 0.9375)
    """
    known, count = set(training), len(written)
    lengths = [sum(map(len, texts)) / len(texts) for texts in (written, training)]
    new = sum(text not in known for text in written) / count
    return new, 1 - len(set(written)) / count, lengths[0] / lengths[1]


def novelty_in(text: str, corpus: Corpus) -> Copied:
    """Compare a sample and the validation split of a corpus with its training split.

    The texts are compared by bytes if the vocabulary has bytes, else by code points.
    """
    vocabulary = corpus.vocabulary
    is_bytes = vocabulary.kind == "byte"

    def points(split: str, most: int | None = None) -> Points:
        span = corpus.splits.get(split)
        if span is None:
            return np.empty(0, np.uint32)
        stop = span.stop if most is None else min(span.stop, span.start + most)
        ids = corpus.ids[span.start : stop]
        return ids.astype(np.uint32) if is_bytes else code_points(vocabulary.decode(ids))

    sample = vocabulary.encode(text).astype(np.uint32) if is_bytes else code_points(text)
    train, held_out = points("train"), points("validation", HELD_OUT)
    result = novelty(sample, train)
    copied = sample[result.start : result.start + result.longest].tolist()
    span = vocabulary.decode(copied) if is_bytes else "".join(map(chr, copied))
    held_out_shares = copied_shares(held_out, train) if len(held_out) else {}
    return Copied(result, span, len(sample), len(train), held_out_shares, len(held_out))


def verdict(shares: Mapping[int, float], held_out: Mapping[int, float], length: int) -> str:
    """Say in words whether a sample of `length` symbols copies more than held-out text.

    A share counts only if it is larger by more than chance explains. Its standard error is that of
    `length` / n independent spans.

    >>> verdict({8: 0.5, 16: 0.02, 32: 0.0}, {8: 0.5, 16: 0.02, 32: 0.0}, 2000)
    'new: no more is copied than held-out text shares with the training text'
    >>> verdict({8: 1.0, 16: 1.0, 32: 0.9}, {8: 0.5, 16: 0.02, 32: 0.0}, 2000)
    'copied: most of it stands in the training text'
    """
    longest = max(shares)
    if length < FEWEST * longest:
        return f"too short to say; give a sample of at least {FEWEST * longest:,} symbols"
    if shares[longest] >= 0.5 and shares[longest] > 2 * held_out.get(longest, 0):
        return "copied: most of it stands in the training text"
    if not held_out:
        return "not clear, since the run has no held-out text to compare with"
    more = []
    for n, share in shares.items():
        spans = length / n
        expected = max(held_out[n], 1 / spans)
        error = math.sqrt(expected * (1 - min(expected, 1)) / spans)
        if share > held_out[n] + DOUBT * error:
            more.append(n)
    if not more:
        return "new: no more is copied than held-out text shares with the training text"
    return (
        f"partly copied: spans of {max(more)} symbols stand in the training text more often than "
        f"those of held-out text"
    )


def novelty(sample: Points, train: Points) -> Novelty:
    """Compare code points (or bytes). Spans longer than the sample have a share of 0.

    >>> a, b = np.array([1, 2, 3, 9], np.uint32), np.array([7, 1, 2, 3, 4], np.uint32)
    >>> result = novelty(a, b)
    >>> result.longest, result.start
    (3, 0)
    """
    longest, start = _longest(sample, train)
    return Novelty(copied_shares(sample, train), longest, start)


def copied_shares(sample: Points, train: Points) -> dict[int, float]:
    """Return the share of the sample's spans that occur in the training text, by length."""
    shares = {}
    for length in LENGTHS:
        copied = _copied(sample, train, length)
        shares[length] = float(copied.mean()) if len(copied) else 0.0
    return shares


def _hashes(points: Points, length: int) -> Hashes:
    """Hash every span of `length`.

    The length is a sum of powers of two; the hash of a span combines the hashes of consecutive
    spans of these lengths.
    """
    count = len(points) - length + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    power = _mix(points.astype(np.uint64) + np.uint64(1))  # the factor for spans of `size` symbols
    result: Hashes | None = None
    offset, size = 0, 1
    while True:
        if length & size:
            piece = power[offset : offset + count]
            result = piece if result is None else _mix(result * _ODD + piece)
            offset += size
        if 2 * size > length:
            break
        power = _mix(power[: len(power) - size] * _ODD + power[size:])
        size *= 2
    assert result is not None
    return result


def _mix(values: Hashes) -> Hashes:
    """Spread every bit over all bits (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _candidates(sample: Points, train: Points, length: int) -> NDArray[np.int64]:
    """Find a place in the training text with the hash of each sample span; -1 for none."""
    ours, theirs = _hashes(sample, length), _hashes(train, length)
    if not len(ours) or not len(theirs):
        return np.full(len(ours), -1)
    distinct, inverse = np.unique(ours, return_inverse=True)
    rank = np.searchsorted(distinct, theirs)
    rank[rank == len(distinct)] = 0
    hits = np.flatnonzero(distinct[rank] == theirs)
    begins = np.full(len(distinct), -1)
    begins[rank[hits]] = hits
    return begins[inverse]


def _copied(sample: Points, train: Points, length: int) -> NDArray[np.bool_]:
    """Decide for every span of the sample whether it occurs in the training text."""
    begins = _candidates(sample, train, length)
    copied = begins >= 0
    spans = np.flatnonzero(copied)
    for offset in range(length):  # Spans with equal hashes may differ.
        copied[spans] &= sample[spans + offset] == train[begins[spans] + offset]
    return copied


def _longest(sample: Points, train: Points) -> tuple[int, int]:
    """Find the length of the longest span in both texts, and where it begins in the sample.

    By bisection: if a span occurs in both texts, so do all shorter spans inside it.
    """
    low, high, start = 0, min(len(sample), len(train)), 0
    while low < high:
        middle = (low + high + 1) // 2
        first = _first(sample, train, middle)
        if first is None:
            high = middle - 1
        else:
            low, start = middle, first
    return low, start


def _first(sample: Points, train: Points, length: int) -> int | None:
    """Find the first span of the sample that occurs in the training text; compare few spans."""
    begins = _candidates(sample, train, length)
    for span in np.flatnonzero(begins >= 0).tolist():
        begin = int(begins[span])
        if np.array_equal(sample[span : span + length], train[begin : begin + length]):
            return int(span)
    return None
