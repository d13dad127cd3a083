"""The multiplicative LSTM (Krause et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.nn.cells.standard import LSTMCell, LSTMState


class MultiplicativeLSTMCell(LSTMCell):
    r"""Multiplicative LSTM (Krause et al. 2016): every input symbol has a transition of its own.

    The equations of `LSTMCell` with m in place of the previous hidden state:

    .. math:: m_t = (W_{mx} x_t) \odot (W_{mh} h_{t-1})

    `weight_hh` and `bias_hh` act on m. `weight_mx` is (H, D) and starts Glorot-uniform,
    `weight_mh` is (H, H) and starts orthogonal. As in most later work (Radford et al. 2017) the
    output is o * tanh(c); the original paper has the output gate inside the tanh.

    >>> cell = MultiplicativeLSTMCell(3, 5)
    >>> cell(torch.zeros(2, 3), cell.initial_state(2))[0].shape
    torch.Size([2, 5])
    """

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, hidden_size, forget_bias)
        self.weight_mx = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_mh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        nn.init.xavier_uniform_(self.weight_mx)
        nn.init.orthogonal_(self.weight_mh)

    def forward(self, inputs: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        product = functional.linear(inputs, self.weight_mx) * functional.linear(
            state.hidden, self.weight_mh
        )
        return super().forward(inputs, LSTMState(product, state.cell))
