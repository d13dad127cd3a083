"""Batches of examples of different lengths: their order and their padding, without torch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.errors import ConfigError

Rows = NDArray[np.int64]
"""Indices of examples."""

POOL = 50  # batches: padding then adds 2 to 9% on real text; a single pool would be less random


class Batches:
    """The batches of each epoch, with examples of similar length in a batch.

    An epoch shuffles the examples, cuts them into pools of 50 batches, sorts each pool by
    `lengths`, cuts it into batches and shuffles the batches. So every example is in one batch of
    an epoch. If all lengths are equal, this is a plain shuffle. Batches differ in size by at most
    one, and none is larger than `batch_size`. The result is a pure function of (seed, epoch, batch
    number).

    If `batch_size` examples of a length have more than `most_symbols` together, examples of that
    length get smaller batches: sorted by length, they are cut into batches of at most
    `most_symbols`, padding included (a single example may have more). These batches are the same
    in each epoch, in another order.

    Raises ValueError if there are no examples or `batch_size` is not positive.

    >>> batches = Batches([3, 1, 2, 1], batch_size=2)
    >>> sorted(int(row) for rows in batches.rows(epoch=0) for row in rows)
    [0, 1, 2, 3]
    >>> sorted(len(rows) for rows in Batches([3, 1, 9, 1], 2, most_symbols=6).rows(epoch=0))
    [1, 1, 2]
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.integer[Any]],
        batch_size: int,
        seed: int = 0,
        most_symbols: int | None = None,
    ) -> None:
        self.lengths = np.asarray(lengths, np.int64)
        if min(len(self.lengths), batch_size) < 1:
            raise ValueError(
                f"cannot make batches of {batch_size} from {len(self.lengths)} examples"
            )
        self.seed = seed
        is_long = np.zeros(len(self.lengths), bool)
        if most_symbols is not None:
            is_long = self.lengths * batch_size > most_symbols
        self._short = np.flatnonzero(~is_long)
        long = np.flatnonzero(is_long)
        self._long = [long[i] for i in by_length(self.lengths[long], batch_size, most_symbols)]
        self._short_batches = -(-len(self._short) // batch_size)
        self.batches_per_epoch = self._short_batches + len(self._long)
        self._rank, self._count = 0, 1

    def share(self, rank: int, count: int) -> Batches:
        """Return these batches, each with only the rows that process number `rank` works on.

        The rows are shared equally among `count` processes. A batch of long examples may have fewer
        rows than processes; some shares are then empty. Raises ConfigError if any other batch has
        fewer than `count` rows.
        """
        fewest = len(self._short) // max(self._short_batches, 1)
        if self._short_batches and count > fewest:
            raise ConfigError(
                f"batches of {fewest:,} examples cannot be shared among {count:,} processes; raise "
                f"training.batch_size, or set processes to 1"
            )
        part = copy.copy(self)
        part._rank, part._count = rank, count
        return part

    def rows(self, epoch: int, start: int = 0) -> Iterator[Rows]:
        """Yield the indices of each batch of an epoch, from batch number `start` on."""
        count, batches = len(self._short), self._short_batches
        draw = np.random.default_rng([self.seed, epoch])
        order = self._short[draw.permutation(count)]
        edges = count * np.arange(batches + 1) // max(batches, 1)
        for first in range(0, batches, POOL):
            pool = slice(edges[first], edges[min(first + POOL, batches)])
            order[pool] = order[pool][np.argsort(self.lengths[order[pool]], kind="stable")]
        for i in draw.permutation(self.batches_per_epoch)[start:]:
            rows = order[edges[i] : edges[i + 1]] if i < batches else self._long[i - batches]
            ends = (len(rows) * rank // self._count for rank in (self._rank, self._rank + 1))
            yield rows[slice(*ends)]


def by_length(
    lengths: Sequence[int] | NDArray[np.integer[Any]],
    batch_size: int,
    most_symbols: int | None = None,
) -> Iterator[Rows]:
    """Yield batches of indices that contain every example once, the shortest first, for scoring.

    A batch has at most `most_symbols`, padding included, unless it is a single example.
    """
    lengths = np.asarray(lengths, np.int64)
    order = np.argsort(lengths, kind="stable")
    first = 0
    while first < len(order):
        rows = order[first : first + batch_size]
        if most_symbols is not None:
            held = lengths[rows] * np.arange(1, len(rows) + 1)
            rows = rows[: max(1, int(np.searchsorted(held, most_symbols, "right")))]
        yield rows
        first += len(rows)


def pad(
    sequences: Sequence[NDArray[Any]], fill: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pad sequences with `fill` to the longest one: ids (N, T) and lengths (N,).

    >>> ids, lengths = pad([np.array([5, 6]), np.array([7])])
    >>> ids.tolist(), lengths.tolist()
    ([[5, 6], [7, 0]], [2, 1])
    """
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    ids = np.full((len(sequences), int(lengths.max(initial=0))), fill, np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return ids, lengths
