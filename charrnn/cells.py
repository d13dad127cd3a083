r"""Recurrent cells: one time step each, `output, next_state = cell(input, state)`.

A cell stores nothing between calls. Shapes use N for the batch, D for the input width, H for the
hidden width. Parameters have the names, shapes and gate order of `torch.nn.RNN/LSTM/GRU`
(`weight_ih` (gates x H, D), `weight_hh` (gates x H, H), `bias_ih` and `bias_hh` (gates x H)), so
weights move between the two unchanged and torch's fused kernels run on the very same tensors.

The equations below are the truth; the fast paths in `layers` are held to them by tests.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.state import State

Activation = Literal["tanh", "relu"]


class Cell(Protocol):
    """The contract: whatever has these members can be unrolled, stacked, trained and sampled."""

    output_size: int

    def __call__(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: `inputs` (N, D) and a state give an output (N, output_size) and a state."""
        ...

    def initial_state(self, batch_size: int) -> State:
        """The zero state for `batch_size` lanes, on the cell's device and in its dtype."""
        ...


class TorchLayoutCell(nn.Module):
    """The parameters the three standard cells share, in torch's layout.

    Input weights start Glorot-uniform (Glorot and Bengio 2010), each gate's recurrent weights
    orthogonal (Saxe et al. 2014), biases zero.
    """

    gates: int

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = hidden_size
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
        """The four parameters in the order torch's fused kernels take them."""
        return [self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh]

    def zeros(self, batch_size: int) -> Tensor:
        """A zero tensor (N, H) on the parameters' device and in their dtype."""
        return self.weight_hh.new_zeros(batch_size, self.hidden_size)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


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
    and torch; the paper multiplies the reset gate into the state before the product.
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


class LayerNormVanillaCell(VanillaCell):
    r"""The simple recurrent network with layer normalisation (Ba et al. 2016, equation 4).

    .. math:: h_t = \tanh(LN(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}))

    LN takes the mean from a vector, divides by its standard deviation, and has a gain and a bias
    for each unit.
    """

    def __init__(self, input_size: int, hidden_size: int, activation: Activation = "tanh") -> None:
        super().__init__(input_size, hidden_size, activation)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        total = self.norm(
            functional.linear(inputs, self.weight_ih, self.bias_ih)
            + functional.linear(state, self.weight_hh, self.bias_hh)
        )
        hidden = torch.tanh(total) if self.activation == "tanh" else torch.relu(total)
        return hidden, hidden


class LayerNormLSTMCell(LSTMCell):
    r"""Long short-term memory with layer normalisation (Ba et al. 2016, appendix).

    .. math::
        (i, f, g, o) &= LN(W_{hh} h_{t-1}) + LN(W_{ih} x_t) + b_{ih} + b_{hh} \\
        c_t &= \sigma(f) \odot c_{t-1} + \sigma(i) \odot \tanh(g) \\
        h_t &= \sigma(o) \odot \tanh(LN(c_t))
    """

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, hidden_size, forget_bias)
        # The equation has one bias, which is ours: these two norms have none.
        self.norm_ih = nn.LayerNorm(4 * hidden_size, bias=False)
        self.norm_hh = nn.LayerNorm(4 * hidden_size, bias=False)
        self.norm_cell = nn.LayerNorm(hidden_size)

    def forward(self, inputs: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        gates = (
            self.norm_hh(functional.linear(state.hidden, self.weight_hh))
            + self.norm_ih(functional.linear(inputs, self.weight_ih))
            + self.bias_ih
            + self.bias_hh
        )
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=1)
        cell = torch.sigmoid(forget_gate) * state.cell + torch.sigmoid(input_gate) * torch.tanh(
            candidate
        )
        hidden = torch.sigmoid(output_gate) * torch.tanh(self.norm_cell(cell))
        return hidden, LSTMState(hidden, cell)


class LayerNormGRUCell(GRUCell):
    r"""Gated recurrent unit with layer normalisation (Ba et al. 2016, appendix).

    As `GRUCell`, with LN over the products of the two gates together and of the candidate alone:

    .. math::
        (r, z) &= \sigma(LN(W_{h,rz} h_{t-1}) + LN(W_{i,rz} x_t) + b_{i,rz} + b_{h,rz}) \\
        n &= \tanh(LN(W_{in} x_t) + b_{in} + r \odot (LN(W_{hn} h_{t-1}) + b_{hn}))
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.norm_ih = nn.LayerNorm(2 * hidden_size, bias=False)
        self.norm_hh = nn.LayerNorm(2 * hidden_size, bias=False)
        self.norm_in = nn.LayerNorm(hidden_size, bias=False)
        self.norm_hn = nn.LayerNorm(hidden_size, bias=False)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        width = 2 * self.hidden_size
        from_input = functional.linear(inputs, self.weight_ih)
        from_state = functional.linear(state, self.weight_hh)
        gates = torch.sigmoid(
            self.norm_ih(from_input[:, :width])
            + self.bias_ih[:width]
            + self.norm_hh(from_state[:, :width])
            + self.bias_hh[:width]
        )
        reset, update = gates.chunk(2, dim=1)
        candidate = torch.tanh(
            self.norm_in(from_input[:, width:])
            + self.bias_ih[width:]
            + reset * (self.norm_hn(from_state[:, width:]) + self.bias_hh[width:])
        )
        hidden = (1 - update) * candidate + update * state
        return hidden, hidden
