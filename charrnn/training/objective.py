"""The contract between the trainer and whatever it trains on: batches, a loss, a carried state.

A user chooses a task with `--task`; an objective is the part of the task that the trainer sees.
`charrnn.training.text_windows` and `charrnn.training.example_batches` define the two objectives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

from charrnn.nn.state import State

Batch = TypeVar("Batch", bound=tuple[Any, ...])
"""A batch, as a named tuple of tensors and plain values; the trainer does not look inside."""


class Loss(NamedTuple):
    """The loss of a batch."""

    total: Tensor
    """The sum over all scored characters or labels, in nats."""
    scored: int
    """How many characters (or labels) are scored."""
    carry: State | None
    """The state at the start of the next batch, detached."""
    rate: float = 1.0
    """A factor for the learning rate of this step."""
    gradient_norm: Tensor | None = None
    """The norm of the gradient before it was clipped, once the step has been taken."""


class Objective(Protocol[Batch]):
    """Batches and their loss."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the training batches of an epoch, from batch number `start` on.

        They are a pure function of (epoch, start), so a resumed run needs no more than those two.
        """
        ...

    def loss(self, model: Any, batch: Batch, carry: State | None) -> Loss:
        """Compute the loss of a batch, starting from the state `carry`; None is the zero state."""
        ...

    def share(self, rank: int, count: int) -> Objective[Batch]:
        """Return the objective on share number `rank` of `count` equal shares of each batch."""
        ...

    def empty_carry(self, model: Any) -> State:
        """Return a zero state with the structure of the one that `loss` returns in training."""
        ...
