"""The contract of a cell, and the parameter layout that torch uses."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from charrnn.nn.state import State

Activation = Literal["tanh", "relu"]


class Cell(Protocol):
    """The contract of a cell: one time step as a function of input and state.

    Anything with these members can be unrolled, stacked, trained and sampled. A cell stores
    nothing between calls.
    """

    output_size: int

    def __call__(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Take one step: inputs (N, D) and a state give an output (N, output_size) and the next
        state."""
        ...

    def initial_state(self, batch_size: int) -> State:
        """Return the zero state for `batch_size` lanes, on the cell's device and in its dtype."""
        ...


class HiddenCell(nn.Module):
    """A cell with a hidden state (N, H), which starts at zero and is its output."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = self.output_size = hidden_size

    def zeros(self, batch_size: int) -> Tensor:
        """Return zeros (N, H) on the parameters' device and in their dtype."""
        return next(self.parameters()).new_zeros(batch_size, self.hidden_size)

    def initial_state(self, batch_size: int) -> State:
        """Return zeros (N, H)."""
        return self.zeros(batch_size)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


class TorchLayoutCell(HiddenCell):
    """The parameters that the three standard cells share, in torch's layout.

    `weight_ih` is (gates x H, D), `weight_hh` (gates x H, H), `bias_ih` and `bias_hh` are
    (gates x H). Each gate's input weights start Glorot-uniform (Glorot and Bengio 2010), its
    recurrent weights orthogonal (Saxe et al. 2014), its biases at zero.
    """

    gates: int

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        rows = self.gates * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias_ih = nn.Parameter(torch.zeros(rows))
        self.bias_hh = nn.Parameter(torch.zeros(rows))
        for weight_ih, weight_hh in zip(
            self.weight_ih.chunk(self.gates), self.weight_hh.chunk(self.gates), strict=True
        ):
            nn.init.xavier_uniform_(weight_ih)
            nn.init.orthogonal_(weight_hh)

    @property
    def weights(self) -> list[Tensor]:
        """The four parameters in the order that torch's fused kernels take."""
        return [self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh]
