"""Layers run cells over time: `outputs, state = layer(inputs, state)`.

Inputs are (N, T, D): batch, time, width. A layer has the cell's own members (`output_size`,
`initial_state`) and, where it is causal (all are but `Bidirectional`), `step`, which advances it by
one time step and equals the layer run over a sequence of length one.

With `lengths` (N,), on the inputs' device, each lane is a sequence of so many steps and the rest is
padding, with the semantics of TensorFlow's `dynamic_rnn`: outputs past the end are zero, the final
state is the one at the last real step, a lane of length 0 keeps its state. What stands in the
padding is never read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.backends.cudnn.rnn import get_cudnn_mode
from torch.func import functional_call
from torch.nn import functional

from charrnn.nn.cells.base import Cell, TorchLayoutCell
from charrnn.nn.cells.standard import GRUCell, LSTMCell, VanillaCell
from charrnn.nn.dropout import drop
from charrnn.nn.fast.fused import FUSED, _fused
from charrnn.nn.sequences import only, real_steps, reverse
from charrnn.nn.state import State, leaves, map_state, select_lanes


class Layer(Protocol):
    """The contract of a causal layer."""

    output_size: int

    def __call__(
        self, inputs: Tensor, state: State, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Run over (N, T, D); outputs are (N, T, output_size), the state is the last one."""
        ...

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Run over one time step, (N, D) to (N, output_size)."""
        ...

    def initial_state(self, batch_size: int) -> State:
        """The zero state for `batch_size` lanes."""
        ...


def unroll(
    cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None = None
) -> tuple[Tensor, State]:
    """Run a cell over time: the plain path, one call of the cell a step.

    `inputs` is (N, T, D), `lengths` as above. Returns outputs (N, T, H) and the final state. Raises
    ValueError where T is 0.
    """
    if inputs.shape[1] == 0:
        raise ValueError("cannot unroll over 0 time steps")
    real = None if lengths is None else real_steps(lengths, inputs)
    inputs = inputs if real is None else only(real, inputs)
    outputs = []
    for t in range(inputs.shape[1]):
        output, next_state = cell(inputs[:, t], state)
        state = next_state if real is None else select_lanes(real[:, t], next_state, state)
        outputs.append(output)
    stacked = torch.stack(outputs, dim=1)
    return stacked if real is None else only(real, stacked), state


# Each takes inputs, a state and, where there is padding, which steps are real. The first leaf of
# the state that it returns need not be the one at a lane's last real step (it is among the
# outputs); every other leaf must be.


class Zoneout:
    r"""A cell whose state keeps some of its old values (Krueger et al. 2017, equations 2 and 3).

    In training each unit of each lane keeps its old value with probability z, else it takes the
    new one; afterwards it takes the mean of both:

    .. math:: s_t = d_t \odot s_{t-1} + (1 - d_t) \odot \tilde s_t, \quad d_t \sim B(z)

    `rates` has one z for each leaf of the state, the hidden state first, which is also the output.
    An LSTM's hidden state is made of the new cell state before zoneout, as in the paper. Raises
    ValueError for a cell whose output is no part of its state.
    """

    def __init__(self, cell: Cell, rates: Sequence[float]) -> None:
        self.cell = cell
        self.rates = rates
        self.output_size = cell.output_size

    def __call__(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        output, after = self.cell(inputs, state)
        if output is not next(leaves(after)):
            raise ValueError(
                f"zoneout needs a cell whose output is the first part of its state, "
                f"which that of {type(self.cell).__name__} is not"
            )
        rates, training = iter(self.rates), bool(getattr(self.cell, "training", False))

        def keep(old: Tensor, new: Tensor) -> Tensor:
            rate = next(rates)
            if not training:
                return torch.lerp(new, old, rate)
            return torch.where(torch.rand_like(new) < rate, old, new)

        after = map_state(keep, state, after)
        return next(leaves(after)), after

    def initial_state(self, batch_size: int) -> State:
        """The cell's own."""
        return self.cell.initial_state(batch_size)


class Recurrent(nn.Module):
    """A layer that runs one cell over time, by a fused kernel or a scan where one computes it.

    These compute the cell's own equations on the cell's own parameters; `fused=False`, an unknown
    cell or `zoneout` (its rates, one a leaf of the state) take the plain path, `unroll`.
    `weight_dropout` falls on `weight_hh`, the matrix from hidden to hidden state, one draw for all
    steps of a call (DropConnect: Wan et al. 2013; AWD-LSTM: Merity et al. 2018), in training.
    Raises ValueError where there is no such matrix.
    """

    def __init__(
        self,
        cell: Cell,
        fused: bool = True,
        weight_dropout: float = 0.0,
        zoneout: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.cell = cell
        self.output_size = cell.output_size
        if weight_dropout and not isinstance(getattr(cell, "weight_hh", None), nn.Parameter):
            raise ValueError(
                f"weight dropout falls on the matrix from hidden to hidden state, weight_hh, "
                f"which {type(cell).__name__} does not have; set it to 0, or use another cell"
            )
        self.weight_dropout = weight_dropout
        self.zoneout = zoneout if any(zoneout) else ()
        self.fused = fused and type(cell) in FUSED and not self.zoneout

    def forward(
        self, inputs: Tensor, state: State, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        if self.training and self.weight_dropout:
            weight: Tensor = self.cell.weight_hh  # type: ignore[attr-defined]
            if isinstance(weight, nn.Parameter):  # It is dropped already inside of the call below.
                dropped = functional.dropout(weight, self.weight_dropout)
                return functional_call(  # type: ignore[no-any-return]
                    self, {"cell.weight_hh": dropped}, (inputs, state, lengths)
                )
        if self.fused and inputs.shape[1] > 0:
            return _fused(self.cell, inputs, state, lengths)
        return unroll(self._advance, inputs, state, lengths)

    @property
    def _advance(self) -> Cell:
        return Zoneout(self.cell, self.zoneout) if self.zoneout else self.cell

    def compact(self) -> None:
        """On a GPU, lay the weights out in one piece, as cuDNN wants them: it would copy them into
        one at every call. The parameters stay the same objects, as views of it."""
        cell = self.cell
        if self.fused and isinstance(cell, TorchLayoutCell) and cell.weight_hh.is_cuda:
            kinds = {VanillaCell: "RNN_", LSTMCell: "LSTM", GRUCell: "GRU"}
            name = kinds[type(cell)] + getattr(cell, "activation", "").upper()
            mode = get_cudnn_mode(name)  # type: ignore[no-untyped-call]
            with torch.no_grad():
                torch._cudnn_rnn_flatten_weight(
                    cell.weights, 4, cell.input_size, mode, cell.hidden_size,
                    0, 1, True, False,
                )  # fmt: skip

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """One call of the cell."""
        return self._advance(inputs, state)

    def initial_state(self, batch_size: int) -> State:
        """The cell's zero state."""
        return self.cell.initial_state(batch_size)


class Stack(nn.Module):
    """Layers on top of each other: layer i's outputs are layer i+1's inputs.

    The state is a tuple with one entry a layer, from the bottom up. `dropout` falls on what
    passes from one layer to the next (Zaremba et al. 2014), never on the state; `locked` draws it
    once for all steps of a call (`drop`). With `skip_connections` the output is every layer's
    outputs side by side, so that what reads it has a path from each layer (Graves 2013), and
    `output_size` is the sum of the widths.
    """

    def __init__(
        self,
        layers: Iterable[nn.Module],
        dropout: float = 0.0,
        skip_connections: bool = False,
        locked: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        if len(self.layers) == 0:
            raise ValueError("a stack needs at least one layer")
        self.dropout = dropout
        self.locked = locked
        self.skip_connections = skip_connections
        widths = [int(layer.output_size) for layer in self.layers]  # type: ignore[arg-type]
        self.output_size = sum(widths) if skip_connections else widths[-1]

    def forward(
        self, inputs: Tensor, state: State, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        return self._through(lambda layer, x, s: layer(x, s, lengths), inputs, state)

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of every layer, (N, D) to (N, output_size)."""
        return self._through(lambda layer, x, s: layer.step(x, s), inputs, state)

    def initial_state(self, batch_size: int) -> State:
        """The zero states of the layers, from the bottom up."""
        return tuple(layer.initial_state(batch_size) for layer in self.layers)  # type: ignore[operator]

    def _through(
        self,
        advance: Callable[[Layer, Tensor, State], tuple[Tensor, State]],
        inputs: Tensor,
        state: State,
    ) -> tuple[Tensor, State]:
        outputs, states = [], []
        for i, (layer, before) in enumerate(zip(self.layers, state, strict=True)):
            if i > 0:
                inputs = drop(inputs, self.dropout, self.training, self.locked)
            inputs, after = advance(layer, inputs, before)  # type: ignore[arg-type]
            outputs.append(inputs)
            states.append(after)
        return torch.cat(outputs, dim=-1) if self.skip_connections else inputs, tuple(states)


Merge = Literal["concatenate", "sum", "mean", "product"]
MERGES: dict[Merge, Callable[[Tensor, Tensor], Tensor]] = {
    "concatenate": lambda ahead, back: torch.cat([ahead, back], dim=-1),
    "sum": torch.add,
    "mean": lambda ahead, back: (ahead + back) / 2,
    "product": torch.mul,
}


class Bidirectional(nn.Module):
    """Two layers over the same inputs, of which one reads them backwards (Schuster and Paliwal
    1997): output t is what the first says of the steps up to t merged with what the second says of
    those from t on.

    With `lengths` each lane is read backwards from its own last real step. The state is the pair of
    both; the final state of the backward layer is the one after the first step, which it reads
    last. What the future decides cannot be stepped, so `step` raises TypeError. Raises ValueError
    for an unknown `merge`, and for widths that differ where it does not concatenate.
    """

    def __init__(
        self, forward_layer: nn.Module, backward_layer: nn.Module, merge: Merge = "concatenate"
    ) -> None:
        super().__init__()
        if merge not in MERGES:
            raise ValueError(f"merge must be one of {', '.join(MERGES)}; received: {merge!r}")
        widths = [int(layer.output_size) for layer in (forward_layer, backward_layer)]  # type: ignore[arg-type]
        if merge != "concatenate" and widths[0] != widths[1]:
            raise ValueError(f"a {merge} needs two layers of one width; received: {widths}")
        self.forward_layer = forward_layer
        self.backward_layer = backward_layer
        self.merge: Merge = merge
        self.output_size = sum(widths) if merge == "concatenate" else widths[0]

    def forward(
        self, inputs: Tensor, state: State, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        ahead, after = self.forward_layer(inputs, state[0], lengths)
        back, before = self.backward_layer(reverse(inputs, lengths), state[1], lengths)
        return MERGES[self.merge](ahead, reverse(back, lengths)), (after, before)

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Raises TypeError: the backward layer's first output needs the last input."""
        raise TypeError(
            "a bidirectional layer cannot be stepped: it reads the whole sequence at once, "
            "from both ends; call it, or step a layer of one direction"
        )

    def initial_state(self, batch_size: int) -> State:
        """The zero states of the two layers, the forward one's first."""
        layers = (self.forward_layer, self.backward_layer)
        return tuple(layer.initial_state(batch_size) for layer in layers)  # type: ignore[operator]
