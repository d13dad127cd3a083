r"""Recurrent cells: one time step each, `output, next_state = cell(input, state)`.

A cell stores nothing between calls. Shapes use N for the batch, D for the input width, H for the
hidden width. The parameters of the standard cells have the names, shapes and gate order of
`torch.nn.RNN/LSTM/GRU`: `weight_ih` (gates x H, D), `weight_hh` (gates x H, H), `bias_ih` and
`bias_hh` (gates x H). So weights move between the two unchanged, and torch's fused kernels run on
the same tensors. The other cells use these names for the parameters that they share.

The equations below define the cells; tests hold the faster paths in `charrnn.nn.fast` to them.
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

    The input is (N, D); the output (N, H) is the new hidden state, which is the whole state. With
    relu in place of tanh, the recurrent weights start as the identity (Le, Jaitly and Hinton 2015).

    >>> cell = VanillaCell(input_size=3, hidden_size=5)
    >>> output, state = cell(torch.zeros(2, 3), cell.initial_state(2))
    >>> output.shape, torch.equal(output, state)
    (torch.Size([2, 5]), True)
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


class LSTMState(NamedTuple):
    """The state of an LSTM: its hidden state and its cell state, each (N, H).

    >>> LSTMState(hidden=torch.zeros(1, 2), cell=torch.ones(1, 2)).cell
    tensor([[1., 1.]])
    """

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

    The input is (N, D), the output h (N, H), the state (h, c). Gate order in the rows of the
    weights: input, forget, cell, output. The forget gate's bias starts at `forget_bias` (1 after
    Jozefowicz, Zaremba and Sutskever 2015).

    >>> cell = LSTMCell(input_size=3, hidden_size=5)
    >>> output, state = cell(torch.zeros(2, 3), cell.initial_state(2))
    >>> output.shape, state.cell.shape
    (torch.Size([2, 5]), torch.Size([2, 5]))
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
        """Return zeros (N, H) for both the hidden state and the cell state."""
        return LSTMState(self.zeros(batch_size), self.zeros(batch_size))


class GRUCell(TorchLayoutCell):
    r"""Gated recurrent unit (Cho et al. 2014), with the reset gate after the matrix product.

    .. math::
        r &= \sigma(W_{ir} x_t + b_{ir} + W_{hr} h_{t-1} + b_{hr}) \\
        z &= \sigma(W_{iz} x_t + b_{iz} + W_{hz} h_{t-1} + b_{hz}) \\
        n &= \tanh(W_{in} x_t + b_{in} + r \odot (W_{hn} h_{t-1} + b_{hn})) \\
        h_t &= (1 - z) \odot n + z \odot h_{t-1}

    The input is (N, D); the output (N, H) is the new hidden state, which is the whole state. Gate
    order in the rows of the weights: reset, update, candidate. This is the variant of cuDNN and
    torch; the paper's own is `ResetFirstGRUCell`.

    >>> cell = GRUCell(input_size=3, hidden_size=5)
    >>> output, state = cell(torch.zeros(2, 3), cell.initial_state(2))
    >>> output.shape
    torch.Size([2, 5])
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


class ResetFirstGRUCell(GRUCell):
    r"""Gated recurrent unit of the original paper (Cho et al. 2014): the reset gate multiplies the
    state before the matrix product. In Keras: `GRU(reset_after=False)`.

    The equations are those of `GRUCell`, except for

    .. math:: n = \tanh(W_{in} x_t + b_{in} + W_{hn} (r \odot h_{t-1}) + b_{hn})

    The product has to wait for the gate, so no fused kernel computes it.

    >>> cell = ResetFirstGRUCell(input_size=3, hidden_size=5)
    >>> cell(torch.zeros(2, 3), cell.initial_state(2))[0].shape
    torch.Size([2, 5])
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
