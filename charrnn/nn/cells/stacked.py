"""Several cells in one time step."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from charrnn.nn.state import State


class StackedCell(nn.Module):
    """Several cells as one cell: the output of each is the input of the next.

    Known as MultiRNNCell in TensorFlow and StackedRNNCells in Keras. All cells take a step before
    any takes the next one. A `charrnn.Stack` of layers computes the same, one layer at a time and
    with fused kernels. The output is the last cell's; the state has one entry for each cell, from
    the bottom up. Raises ValueError if there are no cells.

    >>> import torch
    >>> from charrnn import GRUCell, LSTMCell
    >>> cell = StackedCell([LSTMCell(3, 5), GRUCell(5, 4)])
    >>> output, state = cell(torch.zeros(2, 3), cell.initial_state(2))
    >>> output.shape, len(state)
    (torch.Size([2, 4]), 2)
    """

    def __init__(self, cells: Iterable[nn.Module]) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cells)
        if len(self.cells) == 0:
            raise ValueError("a stacked cell needs at least one cell; give it one")
        self.output_size = int(self.cells[-1].output_size)  # type: ignore[arg-type]

    def forward(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        states = []
        for cell, before in zip(self.cells, state, strict=True):
            inputs, after = cell(inputs, before)
            states.append(after)
        return inputs, tuple(states)

    def initial_state(self, batch_size: int) -> State:
        """Return the zero states of the cells, from the bottom up."""
        return tuple(cell.initial_state(batch_size) for cell in self.cells)  # type: ignore[operator]
