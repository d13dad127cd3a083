"""What varies between experiments: the shape of a batch, the loss, and what is carried.

The trainer knows no more of an experiment than this.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

from charrnn.nn.state import State

Batch = TypeVar("Batch", bound=tuple[Any, ...])


class Loss(NamedTuple):
    """A batch's loss: `total` nats over `scored` characters, the state to carry on, and what the
    learning rate is multiplied by."""

    total: Tensor
    scored: int
    carry: State | None
    rate: float = 1.0


class Objective(Protocol[Batch]):
    """The contract. Batches are opaque to the trainer."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The training batches of an epoch from number `start` on.

        A pure function of (epoch, start): nothing but the position needs saving.
        """
        ...

    def loss(self, model: Any, batch: Batch, carry: State | None) -> Loss:
        """The loss of one batch, going on from `carry`; None starts from the zero state."""
        ...

    def share(self, rank: int, count: int) -> Objective[Batch]:
        """The same experiment on one of `count` parts of the lanes of every batch, in order."""
        ...

    def empty_carry(self, model: Any) -> State:
        """A carry with the structure of those that `loss` returns in training."""
        ...
