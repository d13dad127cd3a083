"""CUDA graphs: a function of tensors captured once and replayed, without launching its kernels
one by one. A recurrent step is many small kernels, whose launches take longer than their work."""

from __future__ import annotations

from collections.abc import Callable

import torch

from charrnn.nn.state import State, map_state

Function = Callable[[State], State]


class Captured:
    """`function` of nested tensors on a GPU, replayed from a CUDA graph.

    Every call must have the shapes of `example`. What is returned is the graph's own memory, which
    the next call overwrites. A function that changes something (an optimizer's step) is captured
    with `warmups=0`, after the caller has called it a few times inside `on_side_stream`: capturing
    does not run it, warming up does.
    """

    def __init__(self, function: Function, example: State, warmups: int = 3) -> None:
        self._inputs = map_state(torch.clone, example)
        if warmups:
            on_side_stream(lambda: [function(self._inputs) for _ in range(warmups)])
        self._replay, self._outputs = capture(function, self._inputs)

    def __call__(self, inputs: State) -> State:
        """The function's value, in the graph's memory."""
        map_state(lambda place, value: place.copy_(value), self._inputs, inputs)
        self._replay()
        return self._outputs


def on_side_stream(action: Callable[[], object]) -> None:
    """Run `action` on a stream of its own, as what is to be captured has to be warmed up."""
    side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    current = torch.cuda.current_stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        action()
    current.wait_stream(side)


def capture(function: Function, inputs: State) -> tuple[Callable[[], None], State]:
    """A replay of `function(inputs)`, and where it leaves its value."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function(inputs)
    return graph.replay, outputs
