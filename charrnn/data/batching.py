"""Batches of examples that differ in length: their order, and their padding. Knows no torch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.errors import ConfigError

Rows = NDArray[np.int64]
"""Numbers of examples."""

POOL = 50  # batches: on real text padding then adds 2 to 9%; one pool an epoch would be less random


class Batches:
    """Which examples are in which batch of which epoch.

    An epoch shuffles the examples, cuts them into pools of 50 batches, sorts each pool by
    `lengths`, cuts it into batches and shuffles the batches: every example is in one batch, and
    those of a batch are of similar length. Where all lengths are equal it is a plain shuffle.
    Batches differ in size by at most one, and none is larger than `batch_size`. All of it is a pure
    function of (seed, epoch, batch number).

    Raises ValueError where there are no examples or a batch has no room for one.
    """

    def __init__(
        self, lengths: Sequence[int] | NDArray[np.integer[Any]], batch_size: int, seed: int = 0
    ) -> None:
        self.lengths = np.asarray(lengths, np.int64)
        if min(len(self.lengths), batch_size) < 1:
            raise ValueError(f"no batches of {batch_size} from {len(self.lengths)} examples")
        self.seed = seed
        self.batches_per_epoch = -(-len(self.lengths) // batch_size)
        self._rank, self._count = 0, 1

    def share(self, rank: int, count: int) -> Batches:
        """The same batches, of each the rows from rank/count to (rank + 1)/count.

        Raises ConfigError where a batch has too few rows for each share to have one.
        """
        fewest = len(self.lengths) // self.batches_per_epoch
        if count > fewest:
            raise ConfigError(
                f"batches of {fewest:,} examples cannot be shared among {count:,} processes; use a "
                f"larger --batch-size or --set processes=1"
            )
        part = copy.copy(self)
        part._rank, part._count = rank, count
        return part

    def rows(self, epoch: int, start: int = 0) -> Iterator[Rows]:
        """The examples of each batch of an epoch, from batch number `start` on."""
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
    """Every example once, the shortest first, for scoring: little padding, and no order to keep
    but that of the rows that are given."""
    order = np.argsort(np.asarray(lengths), kind="stable")
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]


def pad(
    sequences: Sequence[NDArray[Any]], fill: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids (N, T) of sequences, with `fill` after the end of those shorter than T, and the lengths
    (N,)."""
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    ids = np.full((len(sequences), int(lengths.max(initial=0))), fill, np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return ids, lengths
