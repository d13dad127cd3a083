"""Several cells in one time step."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from charrnn.nn.state import State


class StackedCell(nn.Module):
    """Cells on top of each other as one cell: the output of each is the input of the next.

    TensorFlow's MultiRNNCell, Keras' StackedRNNCells. All cells take a step before any takes the
    next one; a `layers.Stack` of layers computes the same a layer at a time, by the fused kernels.
    The output is the last cell's, the state has one entry a cell, from the bottom up. Raises
    ValueError where there are no cells.
    """

    def __init__(self, cells: Iterable[nn.Module]) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cells)
        if len(self.cells) == 0:
            raise ValueError("a stacked cell needs at least one cell")
        self.output_size = int(self.cells[-1].output_size)  # type: ignore[arg-type]

    def forward(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        states = []
        for cell, before in zip(self.cells, state, strict=True):
            inputs, after = cell(inputs, before)
            states.append(after)
        return inputs, tuple(states)

    def initial_state(self, batch_size: int) -> State:
        """The zero states of the cells, from the bottom up."""
        return tuple(cell.initial_state(batch_size) for cell in self.cells)  # type: ignore[operator]
