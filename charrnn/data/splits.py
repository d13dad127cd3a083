"""Split a text or a list of examples into training, validation and test."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise

NAMES = ("train", "validation", "test")
"""The names of the splits in their order."""


def boundaries(fractions: Sequence[float]) -> list[Fraction]:
    """Return the ends of all splits but the last, in (0, 1), computed exactly from the decimals.

    >>> boundaries([0.7, 0.2, 0.1])
    [Fraction(7, 10), Fraction(9, 10)]
    """
    return list(accumulate(Fraction(str(fraction)) for fraction in fractions))[:-1]


def split_positions(fractions: Sequence[float], count: int) -> dict[str, range]:
    """Cut `count` positions into consecutive splits; ends are rounded down.

    >>> split_positions([0.75, 0.25], 10)
    {'train': range(0, 7), 'validation': range(7, 10)}
    """
    ends = [0, *(int(end * count) for end in boundaries(fractions)), count]
    return {name: range(*part) for name, part in zip(NAMES, pairwise(ends), strict=False)}


def split_of(place: Fraction, ends: Sequence[Fraction]) -> str:
    """Return the name of the split that contains `place`, in [0, 1), from the `boundaries`.

    >>> split_of(Fraction(3, 4), boundaries([0.75, 0.25]))
    'validation'
    """
    return NAMES[bisect_right(ends, place)]
