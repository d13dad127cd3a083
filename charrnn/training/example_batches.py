"""Batches of examples that are each read whole, so that no state is carried between batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor

from charrnn.data.batching import Batches
from charrnn.nn.state import State
from charrnn.training.objective import Batch, Loss

Example = TypeVar("Example")


class ExampleBatches(Generic[Example, Batch]):
    """The objective of a task on separate examples.

    Each epoch reads every example once, in batches of examples of similar length. The choice of
    examples is a pure function of (seed, epoch, batch number).

    Args:
        examples: the training examples
        collate: puts examples side by side into a batch
        cost: computes the summed loss (nats) of a model on a batch, and its number of labels
        length: the length of an example
        batch_size: examples in a batch
        most_symbols: the most symbols in a batch, padding included; None for any number
        seed: decides the order, together with the epoch

    >>> objective = ExampleBatches(
    ...     ["a", "bbbb", "cc", "dddd"], tuple, cost=None, length=len, batch_size=2
    ... )
    >>> sorted(sorted(batch) for batch in objective.batches(epoch=0))
    [['a', 'cc'], ['bbbb', 'dddd']]
    """

    def __init__(
        self,
        examples: Sequence[Example],
        collate: Callable[[Sequence[Example]], Batch],
        cost: Callable[[Any, Batch], tuple[Tensor, int]],
        length: Callable[[Example], int],
        *,
        batch_size: int,
        most_symbols: int | None = None,
        seed: int = 0,
    ) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self._collate, self._cost = collate, cost
        lengths = [length(example) for example in examples]
        self._batches = Batches(lengths, batch_size, seed, most_symbols)
        self.longest = max(lengths, default=0)
        self.batches_per_epoch = self._batches.batches_per_epoch

    def share(self, rank: int, count: int) -> ExampleBatches[Example, Batch]:
        """Return the objective on share number `rank` of `count` equal shares of each batch."""
        part = copy.copy(self)
        part._batches = self._batches.share(rank, count)
        return part

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch | None]:
        """Yield the batches of an epoch from number `start` on; None for an empty share."""
        for rows in self._batches.rows(epoch, start):
            yield self._collate([self.examples[i] for i in rows]) if len(rows) else None

    def loss(self, model: Any, batch: Batch | None, carry: State | None) -> Loss:
        """Sum the cost of a batch; nothing is carried. Without a batch, cost and gradient are 0."""
        if batch is None:
            return Loss(sum(0.0 * weights.sum() for weights in model.parameters()), 0, ())
        total, scored = self._cost(model, batch)
        return Loss(total, scored, ())

    def empty_carry(self, model: Any) -> State:
        """Return an empty state."""
        return ()
