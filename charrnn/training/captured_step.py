"""A training step captured once as a CUDA graph and replayed.

A recurrent step is many small kernels, and launching each of them takes longer than its work. A
graph launches all of them at once (`charrnn.nn.fast.cuda_graphs`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, cast

import torch
from torch import Tensor

from charrnn.nn.fast.cuda_graphs import Captured, on_side_stream
from charrnn.nn.state import State
from charrnn.training.objective import Batch, Loss

PLAIN_STEPS = 4  # consecutive steps on batches of one form before a step is captured


class CapturedStep(Generic[Batch]):
    """Takes training steps by replaying a graph if the batch allows it, and without one if not::

        step    1 to 4   5          6        7        8 (shorter)   9
        taken   plain    captured   replay   replay   plain         replay
                         + replay

    A graph fixes the shapes of its tensors and every value that is not a tensor. So a graph
    serves batches of one form (shapes and other values); a batch of another form runs without it.
    Two things differ from step to step and are done before each replay: torch's generator is
    seeded, and the learning rate is written into its tensor on the GPU.

    Args:
        plain_step: takes a batch and a seed, updates the weights, and returns the loss
        step: takes a batch and the carried state and does the same, but sets neither the seed nor
            the rate; this is captured
        set_rate: sets the optimizer's learning rate from the factor in `Loss.rate`
    """

    def __init__(
        self,
        plain_step: Callable[[Batch, int], Loss],
        step: Callable[[Batch, State | None], Loss],
        set_rate: Callable[[float], None],
    ) -> None:
        self._plain_step = plain_step
        self._step = step
        self._set_rate = set_rate
        self._graph: Captured | None = None
        self._form: list[Any] = []  # the form of the batches that the graph is for
        self._plain_in_a_row = 0
        self._scored, self._rate = 0, 1.0  # the values when the step was captured

    def __call__(self, batch: Batch, carry: State | None, seed: int) -> Loss:
        """Take one step from the carried state, and return its loss."""
        form = [part.shape if isinstance(part, Tensor) else part for part in batch]
        is_ready = self._graph is not None or self._plain_in_a_row >= PLAIN_STEPS
        if form != self._form or not is_ready or carry is None:
            return self._take_plainly(batch, form, seed)
        if self._graph is None:
            self._graph = self._capture(batch, carry)
        torch.manual_seed(seed)
        self._set_rate(self._rate)
        outputs = self._graph((_tensors(batch), carry))
        total, norm, carry = cast(tuple[Tensor, Tensor, State], outputs)
        return Loss(total, self._scored, carry, self._rate, norm)

    def _take_plainly(self, batch: Batch, form: list[Any], seed: int) -> Loss:
        """Take a step without the graph, on a side stream, as is needed before capturing."""
        self._plain_in_a_row = self._plain_in_a_row + 1 if form == self._form else 1
        if self._graph is None:
            self._form = form
        losses: list[Loss] = []
        on_side_stream(lambda: losses.append(self._plain_step(batch, seed)))
        return losses[0]

    def _capture(self, batch: Batch, carry: State) -> Captured:
        """Record the kernels of a step on batches of this form, without running them."""

        def step(inputs: State) -> State:
            tensors, before = iter(inputs[0]), inputs[1]
            parts = (next(tensors) if isinstance(part, Tensor) else part for part in batch)
            loss = self._step(type(batch)(*parts), before)
            self._scored, self._rate = loss.scored, loss.rate
            assert loss.gradient_norm is not None
            return loss.total.detach(), loss.gradient_norm, loss.carry or ()

        return Captured(step, (_tensors(batch), carry), warmups=0)


def _tensors(batch: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return tuple(part for part in batch if isinstance(part, Tensor))
