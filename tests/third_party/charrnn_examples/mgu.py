"""The minimal gated unit (Zhou et al. 2016)."""

import torch
from torch import Tensor
from torch.nn import functional

from charrnn.nn.cells.base import TorchLayoutCell


class MGUCell(TorchLayoutCell):
    r"""Minimal gated unit (Zhou et al. 2016): a GRU whose one gate both forgets and updates.

    .. math::
        f &= \sigma(W_{if} x_t + b_{if} + W_{hf} h_{t-1} + b_{hf}) \\
        n &= \tanh(W_{in} x_t + b_{in} + W_{hn} (f \odot h_{t-1}) + b_{hn}) \\
        h_t &= (1 - f) \odot h_{t-1} + f \odot n

    Gate order in the rows of the weights: forget, candidate.
    """

    gates = 2

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        from_input = functional.linear(inputs, self.weight_ih, self.bias_ih).chunk(2, dim=1)
        weights, biases = self.weight_hh.chunk(2), self.bias_hh.chunk(2)
        forget = torch.sigmoid(from_input[0] + functional.linear(state, weights[0], biases[0]))
        candidate = torch.tanh(
            from_input[1] + functional.linear(forget * state, weights[1], biases[1])
        )
        hidden = (1 - forget) * state + forget * candidate
        return hidden, hidden

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros of shape (N, H)."""
        return self.zeros(batch_size)
