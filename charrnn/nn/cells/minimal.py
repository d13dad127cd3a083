"""Cells that are linear in their state: minGRU and minLSTM (Feng et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class LinearCell(nn.Module):
    r"""A cell that is linear in its state, with gates of the input alone:

    .. math:: h_t = a_t \odot h_{t-1} + b_t

    so that all steps can be computed at once (`scan`). A kind of cell is its `coefficients`. The
    output is the new hidden state, (N, H), which is also the whole state. `weight_ih` is
    (gates x H, D), each gate Glorot-uniform at first, `bias_ih` (gates x H).
    """

    gates: int

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(self.gates * hidden_size, input_size))
        self.bias_ih = nn.Parameter(torch.zeros(self.gates * hidden_size))
        for block in self.weight_ih.chunk(self.gates):
            nn.init.xavier_uniform_(block)

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """a and b, each (..., H), of inputs (..., D)."""
        raise NotImplementedError

    def from_input(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The totals of the gates, each (..., H), in the precision of the state."""
        totals = functional.linear(inputs, self.weight_ih, self.bias_ih)
        return totals.to(self.bias_ih.dtype).chunk(self.gates, dim=-1)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        kept, added = self.coefficients(inputs)
        hidden = kept * state + added
        return hidden, hidden

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros of shape (N, H)."""
        return self.weight_ih.new_zeros(batch_size, self.hidden_size)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


def positive(x: Tensor) -> Tensor:
    """g of Feng et al. (2024), appendix B: x + 1/2 from 0 on, below it the logistic function."""
    return torch.where(x >= 0, x + 0.5, torch.sigmoid(x))


class MinGRUCell(LinearCell):
    r"""minGRU (Feng et al. 2024, "Were RNNs All We Needed?", appendix B).

    .. math::
        z &= \sigma(W_z x_t + b_z) \\
        h_t &= (1 - z) \odot h_{t-1} + z \odot g(W_n x_t + b_n)

    g is `positive`, so that h stays so. Gate order in the rows: update, candidate.
    """

    gates = 2

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        update, candidate = self.from_input(inputs)
        return torch.sigmoid(-update), torch.sigmoid(update) * positive(candidate)


class MinLSTMCell(LinearCell):
    r"""minLSTM (Feng et al. 2024, "Were RNNs All We Needed?", appendix B), its gates scaled to one.

    .. math::
        f &= \sigma(W_f x_t + b_f), \quad i = \sigma(W_i x_t + b_i) \\
        h_t &= \frac{f}{f + i} \odot h_{t-1} + \frac{i}{f + i} \odot g(W_n x_t + b_n)

    g is `positive`. Gate order in the rows: forget, input, candidate. `forget_bias` is the
    starting value of the forget gate's bias, which the paper finds to help. f / (f + i) is
    computed as the logistic function of ln f - ln i, which no two small gates can divide by zero.
    """

    gates = 3

    def __init__(self, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        with torch.no_grad():
            self.bias_ih[:hidden_size] = forget_bias

    def coefficients(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        forget, enter, candidate = self.from_input(inputs)
        odds = functional.logsigmoid(forget) - functional.logsigmoid(enter)
        return torch.sigmoid(odds), torch.sigmoid(-odds) * positive(candidate)
