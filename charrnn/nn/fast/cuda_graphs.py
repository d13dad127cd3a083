"""CUDA graphs: capture a function of tensors once, and replay it with a single launch.

A recurrent step is many small kernels, and launching each takes longer than its work. A graph
launches them all together::

    capture:   inputs (fixed memory) --> kernel --> kernel --> ... --> outputs (fixed memory)
    each call: copy the arguments into inputs, replay, read outputs

Captured code must not read values back from the GPU, and its shapes are fixed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from charrnn.nn.state import State, map_state

Function = Callable[[State], State]


class Captured:
    """A function of nested tensors on a GPU that is replayed from a CUDA graph.

    Every call takes inputs of the shapes of `example` and returns the graph's own memory, which the
    next call overwrites. Warming up runs the function `warmups` times; capturing does not run it.
    So a function with side effects, such as an optimizer's step, is captured with `warmups=0`,
    after the caller has run it a few times within `on_side_stream`.
    """

    def __init__(self, function: Function, example: State, warmups: int = 3) -> None:
        self._inputs = map_state(torch.clone, example)
        if warmups:
            on_side_stream(lambda: [function(self._inputs) for _ in range(warmups)])
        self._replay, self._outputs = capture(function, self._inputs)

    def __call__(self, inputs: State) -> State:
        """Compute the function; the result lies in the graph's memory."""
        map_state(lambda place, value: place.copy_(value), self._inputs, inputs)
        self._replay()
        return self._outputs


def on_side_stream(action: Callable[[], object]) -> None:
    """Run `action` on a side stream, as CUDA requires for the warm-up before a capture."""
    side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    current = torch.cuda.current_stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        action()
    current.wait_stream(side)


def capture(function: Function, inputs: State) -> tuple[Callable[[], None], State]:
    """Capture `function(inputs)`; return the graph, and the tensors that hold its result."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function(inputs)
    return graph.replay, outputs
