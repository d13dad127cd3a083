"""Recurrent highway networks (Zilly et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.nn.cells.base import HiddenCell


class RHNCell(HiddenCell):
    r"""Recurrent highway network (Zilly et al. 2017): L highway layers in each time step.

    With s_0 = h_{t-1}, l from 1 to L, and h_t = s_L:

    .. math::
        c_l &= \tanh([l = 1] W_{ic} x_t + W_{hc,l} s_{l-1} + b_{c,l}) \\
        g_l &= \sigma([l = 1] W_{ig} x_t + W_{hg,l} s_{l-1} + b_{g,l}) \\
        s_l &= c_l \odot g_l + s_{l-1} \odot (1 - g_l)

    The gates are coupled: the carry gate is 1 - g. The input is (N, D); the output (N, H) is the
    new hidden state, which is the whole state. `weight_ih` is (2H, D), candidate then transform
    gate; `weight_hh` (2LH, H) and `bias_hh` (2LH) hold these two for each layer in turn. Each block
    starts as in the standard cells. The transform gates' biases start at `transform_bias`: the
    authors' -2 for words carries most of the state through; for characters they used -4, with 10
    layers and days of training.

    >>> cell = RHNCell(3, 5, recurrence_depth=2)
    >>> cell(torch.zeros(2, 3), cell.initial_state(2))[0].shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        recurrence_depth: int = 5,
        transform_bias: float = -2.0,
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.recurrence_depth = recurrence_depth
        self.weight_ih = nn.Parameter(torch.empty(2 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(2 * recurrence_depth * hidden_size, hidden_size))
        self.bias_hh = nn.Parameter(torch.zeros(2 * recurrence_depth * hidden_size))
        for block in self.weight_ih.chunk(2):
            nn.init.xavier_uniform_(block)
        for block in self.weight_hh.chunk(2 * recurrence_depth):
            nn.init.orthogonal_(block)
        with torch.no_grad():
            self.bias_hh.view(recurrence_depth, 2, hidden_size)[:, 1] = transform_bias

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        total = functional.linear(inputs, self.weight_ih)
        depth = self.recurrence_depth
        for layer, (weight, bias) in enumerate(
            zip(self.weight_hh.chunk(depth), self.bias_hh.chunk(depth), strict=True)
        ):
            from_state = functional.linear(state, weight, bias)
            total = total + from_state if layer == 0 else from_state
            candidate, gate = total.chunk(2, dim=1)
            gate = torch.sigmoid(gate)
            state = torch.tanh(candidate) * gate + state * (1 - gate)
        return state, state

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, recurrence_depth={self.recurrence_depth}"
