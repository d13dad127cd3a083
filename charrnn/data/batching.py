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

    Raises ValueError if there are no examples or `batch_size` is not positive.

    >>> batches = Batches([3, 1, 2, 1], batch_size=2)
    >>> sorted(int(row) for rows in batches.rows(epoch=0) for row in rows)
    [0, 1, 2, 3]
    """

    def __init__(
        self, lengths: Sequence[int] | NDArray[np.integer[Any]], batch_size: int, seed: int = 0
    ) -> None:
        self.lengths = np.asarray(lengths, np.int64)
        if min(len(self.lengths), batch_size) < 1:
            raise ValueError(
                f"cannot make batches of {batch_size} from {len(self.lengths)} examples"
            )
        self.seed = seed
        self.batches_per_epoch = -(-len(self.lengths) // batch_size)
        self._rank, self._count = 0, 1

    def share(self, rank: int, count: int) -> Batches:
        """Return these batches with only the rows from rank/count to (rank + 1)/count of each.

        Raises ConfigError if the smallest batch has fewer than `count` rows.
        """
        fewest = len(self.lengths) // self.batches_per_epoch
        if count > fewest:
            raise ConfigError(
                f"batches of {fewest:,} examples cannot be shared among {count:,} processes; raise "
                f"training.batch_size, or set processes to 1"
            )
        part = copy.copy(self)
        part._rank, part._count = rank, count
        return part

    def rows(self, epoch: int, start: int = 0) -> Iterator[Rows]:
        """Yield the indices of each batch of an epoch, from batch number `start` on."""
        count, batches = len(self.lengths), self.batches_per_epoch
        draw = np.random.default_rng([self.seed, epoch])
        order = draw.permutation(count)
        edges = count * np.arange(batches + 1) // batches
        for first in range(0, batches, POOL):
            pool = slice(edges[first], edges[min(first + POOL, batches)])
            order[pool] = order[pool][np.argsort(self.lengths[order[pool]], kind="stable")]
        for i in draw.permutation(batches)[start:]:
            rows = order[edges[i] : edges[i + 1]]
            ends = (len(rows) * rank // self._count for rank in (self._rank, self._rank + 1))
            yield rows[slice(*ends)]


def by_length(lengths: Sequence[int] | NDArray[np.integer[Any]], batch_size: int) -> Iterator[Rows]:
    """Yield batches of indices that contain every example once, the shortest first, for scoring."""
    order = np.argsort(np.asarray(lengths), kind="stable")
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]


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
