"""Cells that are linear in their state: minGRU and minLSTM (Feng et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.nn.cells.base import HiddenCell


class LinearCell(HiddenCell):
    r"""A cell that is linear in its state, since its gates read the input alone.

    .. math:: h_t = a_t \odot h_{t-1} + b_t

    All steps can therefore be computed at once (`charrnn.nn.fast.scan`). A subclass defines
    `coefficients`, which gives a and b. The input is (N, D); the output (N, H) is the new hidden
    state, which is the whole state. `weight_ih` is (gates x H, D) and starts Glorot-uniform gate
    by gate; `bias_ih` is (gates x H) and starts at zero.
    """

    gates: int

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ih = nn.Parameter(torch.empty(self.gates * hidden_size, input_size))
        self.bias_ih = nn.Parameter(torch.zeros(self.gates * hidden_size))
        for block in self.weight_ih.chunk(self.gates):
            nn.init.xavier_uniform_(block)

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute a and b, each (..., H), from inputs (..., D)."""
        raise NotImplementedError

    def from_input(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute each gate's total (..., H) before its nonlinearity, in the state's precision."""
        totals = functional.linear(inputs, self.weight_ih, self.bias_ih)
        return totals.to(self.bias_ih.dtype).chunk(self.gates, dim=-1)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        kept, added = self.coefficients(inputs)
        hidden = kept * state + added
        return hidden, hidden


def positive(x: Tensor) -> Tensor:
    """Compute g of Feng et al. (2024), appendix B: x + 1/2 where x >= 0, else sigmoid(x).

    >>> positive(torch.tensor([-100.0, 0.0, 2.0]))
    tensor([0.0000, 0.5000, 2.5000])
    """
    return torch.where(x >= 0, x + 0.5, torch.sigmoid(x))


class MinGRUCell(LinearCell):
    r"""minGRU (Feng et al. 2024, "Were RNNs All We Needed?", appendix B).

    .. math::
        z &= \sigma(W_z x_t + b_z) \\
        h_t &= (1 - z) \odot h_{t-1} + z \odot g(W_n x_t + b_n)

    g is `positive`, so that h stays positive. Gate order in the rows: update, candidate.

    >>> cell = MinGRUCell(3, 5)
    >>> cell(torch.zeros(2, 3), cell.initial_state(2))[0].shape
    torch.Size([2, 5])
    """

    gates = 2

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        update, candidate = self.from_input(inputs)
        return torch.sigmoid(-update), torch.sigmoid(update) * positive(candidate)


class MinLSTMCell(LinearCell):
    r"""minLSTM (Feng et al. 2024, "Were RNNs All We Needed?", appendix B) with gates that sum to 1.

    .. math::
        f &= \sigma(W_f x_t + b_f), \quad i = \sigma(W_i x_t + b_i) \\
        h_t &= \frac{f}{f + i} \odot h_{t-1} + \frac{i}{f + i} \odot g(W_n x_t + b_n)

    g is `positive`. Gate order in the rows: forget, input, candidate. The forget gate's bias
    starts at `forget_bias`, which the paper finds to help. f / (f + i) is computed as
    sigmoid(ln f - ln i), which cannot divide by zero where both gates are tiny.

    >>> cell = MinLSTMCell(3, 5)
    >>> cell(torch.zeros(2, 3), cell.initial_state(2))[0].shape
    torch.Size([2, 5])
    """

    gates = 3

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        with torch.no_grad():
            self.bias_ih[:hidden_size] = forget_bias

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        forget, input_gate, candidate = self.from_input(inputs)
        log_odds = functional.logsigmoid(forget) - functional.logsigmoid(input_gate)
        return torch.sigmoid(log_odds), torch.sigmoid(-log_odds) * positive(candidate)
