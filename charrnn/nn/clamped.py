"""A layer with some units held at fixed values, to see what a unit does to the text."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from charrnn.nn.layers import Layer
from charrnn.nn.state import State, map_state


class Clamped(nn.Module):
    """A layer with fixed values in some units of its output, which is also its hidden state.

    It has `step` only. The layers above, and the next step of this layer, read the fixed values;
    other parts of the state, such as an LSTM's cell state, are computed as usual.

    >>> from charrnn.nn.cells.standard import GRUCell
    >>> from charrnn.nn.layers import Recurrent
    >>> layer = Clamped(Recurrent(GRUCell(2, 3)), {1: 0.5})
    >>> output, state = layer.step(torch.zeros(1, 2), layer.initial_state(1))
    >>> output[0, 1].item(), state[0, 1].item()
    (0.5, 0.5)
    """

    units: Tensor
    values: Tensor

    def __init__(self, layer: Layer, units: Mapping[int, float]) -> None:
        super().__init__()
        self.layer = layer
        self.output_size = layer.output_size
        self.register_buffer("units", torch.tensor(list(units)))
        self.register_buffer("values", torch.tensor(list(units.values()), dtype=torch.float32))

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Take one time step of the layer, then set the units."""
        output, after = self.layer.step(inputs, state)
        values = self.values.to(output.dtype).expand(len(output), -1)
        held = output.index_copy(1, self.units, values)
        return held, map_state(lambda leaf: held if leaf is output else leaf, after)

    def initial_state(self, batch_size: int) -> State:
        """Return the zero state of the layer."""
        return self.layer.initial_state(batch_size)
