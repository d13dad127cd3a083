"""Training on examples that are each read whole: batches of them, and nothing to carry on."""

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
    """The batches of a list of examples, and what a batch costs.

    `collate` makes a batch of examples, `cost` gives a model's summed loss of a batch, in nats, and
    over how many labels it is summed. Batches hold examples of similar `length`; which, is a pure
    function of (seed, epoch, batch number).
    """

    def __init__(
        self,
        examples: Sequence[Example],
        collate: Callable[[Sequence[Example]], Batch],
        cost: Callable[[Any, Batch], tuple[Tensor, int]],
        length: Callable[[Example], int],
        *,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self._collate, self._cost = collate, cost
        self._batches = Batches([length(example) for example in examples], batch_size, seed)
        self.batches_per_epoch = self._batches.batches_per_epoch

    def share(self, rank: int, count: int) -> ExampleBatches[Example, Batch]:
        """The same on one of `count` parts of the examples of each batch."""
        part = copy.copy(self)
        part._batches = self._batches.share(rank, count)
        return part

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """An epoch reads every example once."""
        for rows in self._batches.rows(epoch, start):
            yield self._collate([self.examples[i] for i in rows])

    def loss(self, model: Any, batch: Batch, carry: State | None) -> Loss:
        """The summed cost of a batch."""
        total, scored = self._cost(model, batch)
        return Loss(total, scored, ())

    def empty_carry(self, model: Any) -> State:
        """Nothing."""
        return ()
