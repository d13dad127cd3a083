"""Cells with layer normalisation inside (Ba et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.nn.cells.base import Activation
from charrnn.nn.cells.standard import GRUCell, LSTMCell, LSTMState, VanillaCell


class LayerNormVanillaCell(VanillaCell):
    r"""The simple recurrent network with layer normalisation (Ba et al. 2016, equation 4).

    .. math:: h_t = \tanh(LN(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}))

    LN subtracts the mean of a vector, divides by its standard deviation, and applies a learned
    gain and bias to each unit. Shapes as in `VanillaCell`.

    >>> cell = LayerNormVanillaCell(3, 5)
    >>> cell(torch.zeros(2, 3), cell.initial_state(2))[0].shape
    torch.Size([2, 5])
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

    LN is that of `LayerNormVanillaCell`; the first two LNs have no bias of their own. Shapes as in
    `LSTMCell`.

    >>> cell = LayerNormLSTMCell(3, 5)
    >>> cell(torch.zeros(2, 3), cell.initial_state(2))[0].shape
    torch.Size([2, 5])
    """

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, hidden_size, forget_bias)
        # bias_ih and bias_hh are the bias of the equation: these two norms need none.
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

    The equations of `GRUCell` with four LNs. The products with the input have one LN over both
    gates together and one over the candidate; so do the products with the state:

    .. math::
        (r, z) &= \sigma(LN(W_{h,rz} h_{t-1}) + LN(W_{i,rz} x_t) + b_{i,rz} + b_{h,rz}) \\
        n &= \tanh(LN(W_{in} x_t) + b_{in} + r \odot (LN(W_{hn} h_{t-1}) + b_{hn}))

    The LNs have a gain and no bias of their own. Shapes as in `GRUCell`.

    >>> cell = LayerNormGRUCell(3, 5)
    >>> cell(torch.zeros(2, 3), cell.initial_state(2))[0].shape
    torch.Size([2, 5])
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
