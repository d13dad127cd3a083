r"""Recurrent cells: one time step each, `output, next_state = cell(input, state)`.

A cell stores nothing between calls. Shapes use N for the batch, D for the input width, H for the
hidden width. Parameters of the standard cells have the names, shapes and gate order of
`torch.nn.RNN/LSTM/GRU` (`weight_ih` (gates x H, D), `weight_hh` (gates x H, H), `bias_ih` and
`bias_hh` (gates x H)), so weights move between the two unchanged and torch's fused kernels run on
the very same tensors. Other cells take those of these names that they have a use for.

The equations below are the truth; the fast paths in `layers` are held to them by tests.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.nn.cells.base import Activation, TorchLayoutCell


class VanillaCell(TorchLayoutCell):
    r"""The simple recurrent network (Elman 1990), with tanh or relu.

    .. math:: h_t = \tanh(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh})

    The output is the new hidden state, (N, H), which is also the whole state. With relu the
    recurrent weights start as the identity (Le, Jaitly and Hinton 2015).
    """

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, activation: Activation = "tanh") -> None:
        super().__init__(input_size, hidden_size)
        self.activation: Activation = activation
        if activation == "relu":
            nn.init.eye_(self.weight_hh)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        total = functional.linear(inputs, self.weight_ih, self.bias_ih) + functional.linear(
            state, self.weight_hh, self.bias_hh
        )
        hidden = torch.tanh(total) if self.activation == "tanh" else torch.relu(total)
        return hidden, hidden

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros of shape (N, H)."""
        return self.zeros(batch_size)


class LSTMState(NamedTuple):
    """What an LSTM carries: its hidden state and its cell state, each (N, H)."""

    hidden: Tensor
    cell: Tensor


class LSTMCell(TorchLayoutCell):
    r"""Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000).

    .. math::
        i &= \sigma(W_{ii} x_t + b_{ii} + W_{hi} h_{t-1} + b_{hi}) \\
        f &= \sigma(W_{if} x_t + b_{if} + W_{hf} h_{t-1} + b_{hf}) \\
        g &= \tanh(W_{ig} x_t + b_{ig} + W_{hg} h_{t-1} + b_{hg}) \\
        o &= \sigma(W_{io} x_t + b_{io} + W_{ho} h_{t-1} + b_{ho}) \\
        c_t &= f \odot c_{t-1} + i \odot g \\
        h_t &= o \odot \tanh(c_t)

    Gate order in the rows of the weights: input, forget, cell, output. `forget_bias` is the
    starting value of the forget gate's bias (1 after Jozefowicz, Zaremba and Sutskever 2015).
    """

    gates = 4

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        with torch.no_grad():
            self.bias_ih[hidden_size : 2 * hidden_size] = forget_bias

    def forward(self, inputs: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        gates = functional.linear(inputs, self.weight_ih, self.bias_ih) + functional.linear(
            state.hidden, self.weight_hh, self.bias_hh
        )
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=1)
        cell = torch.sigmoid(forget_gate) * state.cell + torch.sigmoid(input_gate) * torch.tanh(
            candidate
        )
        hidden = torch.sigmoid(output_gate) * torch.tanh(cell)
        return hidden, LSTMState(hidden, cell)

    def initial_state(self, batch_size: int) -> LSTMState:
        """Zeros of shape (N, H) for both the hidden state and the cell state."""
        return LSTMState(self.zeros(batch_size), self.zeros(batch_size))


class GRUCell(TorchLayoutCell):
    r"""Gated recurrent unit (Cho et al. 2014), the reset gate applied after the product.

    .. math::
        r &= \sigma(W_{ir} x_t + b_{ir} + W_{hr} h_{t-1} + b_{hr}) \\
        z &= \sigma(W_{iz} x_t + b_{iz} + W_{hz} h_{t-1} + b_{hz}) \\
        n &= \tanh(W_{in} x_t + b_{in} + r \odot (W_{hn} h_{t-1} + b_{hn})) \\
        h_t &= (1 - z) \odot n + z \odot h_{t-1}

    Gate order in the rows of the weights: reset, update, candidate. This is the variant of cuDNN
    and torch; the paper's is `ResetFirstGRUCell`.
    """

    gates = 3

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        from_input = functional.linear(inputs, self.weight_ih, self.bias_ih).chunk(3, dim=1)
        from_state = functional.linear(state, self.weight_hh, self.bias_hh).chunk(3, dim=1)
        reset = torch.sigmoid(from_input[0] + from_state[0])
        update = torch.sigmoid(from_input[1] + from_state[1])
        candidate = torch.tanh(from_input[2] + reset * from_state[2])
        hidden = (1 - update) * candidate + update * state
        return hidden, hidden

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros of shape (N, H)."""
        return self.zeros(batch_size)


class ResetFirstGRUCell(GRUCell):
    r"""Gated recurrent unit as its paper has it (Cho et al. 2014), which is Keras' with
    `reset_after=False`: the reset gate falls on the state before the product.

    As `GRUCell`, with

    .. math:: n = \tanh(W_{in} x_t + b_{in} + W_{hn} (r \odot h_{t-1}) + b_{hn})

    The product has to wait for the gate, so there is no fused kernel for it.
    """

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        width = 2 * self.hidden_size
        from_input = functional.linear(inputs, self.weight_ih, self.bias_ih)
        gates = torch.sigmoid(
            from_input[:, :width]
            + functional.linear(state, self.weight_hh[:width], self.bias_hh[:width])
        )
        reset, update = gates.chunk(2, dim=1)
        candidate = torch.tanh(
            from_input[:, width:]
            + functional.linear(reset * state, self.weight_hh[width:], self.bias_hh[width:])
        )
        hidden = (1 - update) * candidate + update * state
        return hidden, hidden
