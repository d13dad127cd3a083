"""Is it copying? How much of a text stands verbatim in another one.

Spans are compared by 64-bit hashes of all spans of a length, made by doubling from those of half
the length, and what a hash finds is compared symbol by symbol.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.uint32]
Hashes = NDArray[np.uint64]

LENGTHS = (8, 16, 32)
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio (Knuth)


@dataclass(frozen=True)
class Novelty:
    """`shares` says for some lengths which part of the sample's spans stand in the training text;
    `longest` is the longest span that does, `start` where it begins in the sample."""

    shares: dict[int, float]
    longest: int
    start: int


def novelty(sample: Points, train: Points) -> Novelty:
    """Compare code points (or bytes). Spans longer than the sample have a share of 0."""
    shares = {}
    for length in LENGTHS:
        found = _found(sample, train, length)
        shares[length] = float(found.mean()) if len(found) else 0.0
    longest, start = _longest(sample, train)
    return Novelty(shares, longest, start)


def _hashes(points: Points, length: int) -> Hashes:
    """Of every span of `length`, by doubling: a span is one of a power of two and what is left."""
    count = len(points) - length + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    power = _mix(points.astype(np.uint64) + np.uint64(1))
    result: Hashes | None = None
    at, size = 0, 1
    while True:
        if length & size:
            piece = power[at : at + count]
            result = piece if result is None else _mix(result * _ODD + piece)
            at += size
        if 2 * size > length:
            break
        power = _mix(power[: len(power) - size] * _ODD + power[size:])
        size *= 2
    assert result is not None
    return result


def _mix(values: Hashes) -> Hashes:
    """Spread every bit over all (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _places(sample: Points, train: Points, length: int) -> NDArray[np.int64]:
    """For every span of the sample, where in the training text one with its hash begins, or -1."""
    ours, theirs = _hashes(sample, length), _hashes(train, length)
    if not len(ours) or not len(theirs):
        return np.full(len(ours), -1)
    distinct, inverse = np.unique(ours, return_inverse=True)
    place = np.searchsorted(distinct, theirs)
    place[place == len(distinct)] = 0
    hits = np.flatnonzero(distinct[place] == theirs)
    where = np.full(len(distinct), -1)
    where[place[hits]] = hits  # One place in the training text is enough.
    return where[inverse]


def _found(sample: Points, train: Points, length: int) -> NDArray[np.bool_]:
    """For every span of the sample, whether it stands in the training text."""
    at = _places(sample, train, length)
    found = at >= 0
    spans = np.flatnonzero(found)
    for offset in range(length):  # Equal hashes are not yet equal spans.
        found[spans] &= sample[spans + offset] == train[at[spans] + offset]
    return found


def _longest(sample: Points, train: Points) -> tuple[int, int]:
    """The longest span in both, and where it begins in the sample, by bisection: whatever stands
    in both, its parts do as well."""
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
    """Where the first span of the sample that stands in the training text begins.

    Spans may be as long as the texts, so no more of them are compared than it takes.
    """
    at = _places(sample, train, length)
    for span in np.flatnonzero(at >= 0).tolist():
        there = int(at[span])
        if np.array_equal(sample[span : span + length], train[there : there + length]):
            return int(span)
    return None
