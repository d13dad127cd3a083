"""Layers run cells over time: `outputs, state = layer(inputs, state)`.

Inputs are (N, T, D): batch, time, width. A **lane** is one row of the batch: one sequence. Like a
cell, a layer has `output_size` and `initial_state`. Every causal layer (all but `Bidirectional`)
also has `step`, which takes one time step: the same as running the layer over a sequence of length
one.

`lengths` (N,), on the inputs' device, says how many steps of each lane are real; the rest is
padding, with the semantics of TensorFlow's `dynamic_rnn`: outputs in the padding are zero, the
final state is that after the last real step, and a lane of length 0 keeps its state. The values in
the padding are never read. ::

    lengths  inputs          outputs         final state
       4     x1 x2 x3 x4     y1 y2 y3 y4     after x4
       2     x1 x2  .  .     y1 y2  0  0     after x2
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
from charrnn.nn.fast.fused import FUSED, run_fused
from charrnn.nn.sequences import only, real_steps, reverse
from charrnn.nn.state import State, leaves, map_state, select_lanes


class Layer(Protocol):
    """The contract of a causal layer."""

    output_size: int

    def __call__(
        self, inputs: Tensor, state: State, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Run over inputs (N, T, D); return outputs (N, T, output_size) and the final state."""
        ...

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Take one time step: inputs (N, D) give outputs (N, output_size) and the next state."""
        ...

    def initial_state(self, batch_size: int) -> State:
        """Return the zero state for `batch_size` lanes."""
        ...


def unroll(
    cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None = None
) -> tuple[Tensor, State]:
    """Run a cell over time by calling it once for each step.

    `inputs` are (N, T, D); `lengths` (N,) mark padding as this module describes. Returns outputs
    (N, T, H) and the final state. Raises ValueError if T is 0.

    >>> cell = GRUCell(input_size=3, hidden_size=5)
    >>> outputs, state = unroll(cell, torch.zeros(2, 7, 3), cell.initial_state(2))
    >>> outputs.shape, state.shape
    (torch.Size([2, 7, 5]), torch.Size([2, 5]))
    """
    if inputs.shape[1] == 0:
        raise ValueError("there are 0 time steps to unroll; give at least one")
    real = None if lengths is None else real_steps(lengths, inputs)
    inputs = inputs if real is None else only(real, inputs)
    outputs = []
    for t in range(inputs.shape[1]):
        output, next_state = cell(inputs[:, t], state)
        state = next_state if real is None else select_lanes(real[:, t], next_state, state)
        outputs.append(output)
    stacked = torch.stack(outputs, dim=1)
    return stacked if real is None else only(real, stacked), state


class Zoneout:
    r"""A cell that randomly keeps old values of its state (Krueger et al. 2017, equations 2, 3).

    Let s~_t be the state that the cell computes. In training each unit of each lane keeps its old
    value with probability z; in evaluation d_t is replaced by its expectation z:

    .. math:: s_t = d_t \odot s_{t-1} + (1 - d_t) \odot \tilde s_t, \quad d_t \sim B(z)

    `rates` has one z for each part of the state, the hidden state first, which is also the output.
    As in the paper, an LSTM computes its hidden state from the cell state before zoneout. Raises
    ValueError for a cell with an output that is not part of its state.

    >>> cell = Zoneout(GRUCell(3, 5), rates=[0.1])
    >>> cell(torch.zeros(2, 3), cell.initial_state(2))[0].shape
    torch.Size([2, 5])
    """

    def __init__(self, cell: Cell, rates: Sequence[float]) -> None:
        self.cell = cell
        self.rates = rates
        self.output_size = cell.output_size

    def __call__(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        output, after = self.cell(inputs, state)
        if output is not next(leaves(after)):
            raise ValueError(
                f"zoneout needs a cell that returns the first part of its state as its output, "
                f"and {type(self.cell).__name__} does not; set zoneout to 0, or use another cell"
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
        """Return the zero state of the cell."""
        return self.cell.initial_state(batch_size)


class Recurrent(nn.Module):
    """A layer that runs one cell over time: inputs (N, T, D) to outputs (N, T, output_size).

    A kernel or a scan of `charrnn.nn.fast` is used if there is one for the cell; it computes the
    same equations on the same parameters. `unroll` is used for other cells, with `fused=False`, and
    with `zoneout` (the rates of `Zoneout`). In training `weight_dropout` is applied to the matrix
    `weight_hh` from hidden state to hidden state, with one mask for all steps of a call
    (DropConnect: Wan et al. 2013; AWD-LSTM: Merity et al. 2018). Raises ValueError if the cell has
    no `weight_hh`.

    >>> layer = Recurrent(LSTMCell(input_size=3, hidden_size=5))
    >>> outputs, state = layer(torch.zeros(2, 7, 3), layer.initial_state(2))
    >>> outputs.shape, state.cell.shape
    (torch.Size([2, 7, 5]), torch.Size([2, 5]))
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
                f"weight dropout needs a hidden-to-hidden matrix, weight_hh, which "
                f"{type(cell).__name__} does not have; set it to 0, or use another cell"
            )
        self.weight_dropout = weight_dropout
        self.zoneout = zoneout if any(zoneout) else ()
        self.fused = fused and type(cell) in FUSED and not self.zoneout

    def forward(
        self, inputs: Tensor, state: State, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        if self.training and self.weight_dropout:
            weight: Tensor = self.cell.weight_hh  # type: ignore[attr-defined]
            if isinstance(weight, nn.Parameter):  # In the call below, it is a plain tensor.
                dropped = functional.dropout(weight, self.weight_dropout)
                return functional_call(  # type: ignore[no-any-return]
                    self, {"cell.weight_hh": dropped}, (inputs, state, lengths)
                )
        if self.fused and inputs.shape[1] > 0:
            return run_fused(self.cell, inputs, state, lengths)
        return unroll(self._advance, inputs, state, lengths)

    @property
    def _advance(self) -> Cell:
        return Zoneout(self.cell, self.zoneout) if self.zoneout else self.cell

    def compact(self) -> None:
        """Move the weights into one block of GPU memory, as cuDNN needs them.

        Otherwise cuDNN copies them into one at every call. The parameters stay the same objects and
        become views of that block. Does nothing on other devices.
        """
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
        """Call the cell once."""
        return self._advance(inputs, state)

    def initial_state(self, batch_size: int) -> State:
        """Return the cell's zero state."""
        return self.cell.initial_state(batch_size)


class Stack(nn.Module):
    """Layers on top of each other: the outputs of layer i are the inputs of layer i + 1.

    The state is a tuple with one entry for each layer, from the bottom up. `dropout` is applied to
    the outputs that pass from one layer to the next (Zaremba et al. 2014), never to the state; with
    `locked` one mask serves all steps of a call (see `charrnn.nn.dropout.drop`). With
    `skip_connections` the outputs of all layers are concatenated, which gives a head a path from
    each layer (Graves 2013), and `output_size` is the sum of the widths. Raises ValueError if
    there are no layers.

    >>> layers = [Recurrent(GRUCell(3, 5)), Recurrent(GRUCell(5, 4))]
    >>> stack = Stack(layers, skip_connections=True)
    >>> outputs, state = stack(torch.zeros(2, 7, 3), stack.initial_state(2))
    >>> outputs.shape, len(state)
    (torch.Size([2, 7, 9]), 2)
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
            raise ValueError("a stack needs at least one layer; give it one")
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
        """Take one step in every layer: inputs (N, D) give outputs (N, output_size)."""
        return self._through(lambda layer, x, s: layer.step(x, s), inputs, state)

    def initial_state(self, batch_size: int) -> State:
        """Return the zero states of the layers, from the bottom up."""
        return tuple(layer.initial_state(batch_size) for layer in self.layers)  # type: ignore[operator]

    def _through(
        self,
        advance: Callable[[Layer, Tensor, State], tuple[Tensor, State]],
        inputs: Tensor,
        state: State,
    ) -> tuple[Tensor, State]:
        """Run the layers from the bottom up; `advance` runs one of them."""
        if len(state) != len(self.layers):
            raise ValueError(
                f"a stack of {len(self.layers)} layers needs a state with one entry for each, and "
                f"this state has {len(state)}; start from stack.initial_state(batch_size)"
            )
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
    "concatenate": lambda forward, backward: torch.cat([forward, backward], dim=-1),
    "sum": torch.add,
    "mean": lambda forward, backward: (forward + backward) / 2,
    "product": torch.mul,
}


class Bidirectional(nn.Module):
    """Two layers over the same inputs, one in each direction (Schuster and Paliwal 1997).

    Output t merges the forward layer's output, which depends on the steps up to t, with the
    backward layer's, which depends on the steps from t on. `merge` is concatenate, sum, mean or
    product. With `lengths` each lane is read backwards from its own last real step. The state is a
    pair; the backward layer's final state is its state after step 0, which it reads last. `step`
    raises TypeError, since an output depends on future inputs. Raises ValueError for an unknown
    `merge`, and for layers of different widths unless their outputs are concatenated.

    >>> layer = Bidirectional(Recurrent(GRUCell(3, 5)), Recurrent(GRUCell(3, 5)))
    >>> outputs, state = layer(torch.zeros(2, 7, 3), layer.initial_state(2))
    >>> outputs.shape
    torch.Size([2, 7, 10])
    """

    def __init__(
        self, forward_layer: nn.Module, backward_layer: nn.Module, merge: Merge = "concatenate"
    ) -> None:
        super().__init__()
        if merge not in MERGES:
            raise ValueError(f"merge must be one of {', '.join(MERGES)}; received: {merge!r}")
        widths = [int(layer.output_size) for layer in (forward_layer, backward_layer)]  # type: ignore[arg-type]
        if merge != "concatenate" and widths[0] != widths[1]:
            raise ValueError(
                f"merge={merge!r} needs two layers of one width; received: {widths}; "
                f"use concatenate"
            )
        self.forward_layer = forward_layer
        self.backward_layer = backward_layer
        self.merge: Merge = merge
        self.output_size = sum(widths) if merge == "concatenate" else widths[0]

    def forward(
        self, inputs: Tensor, state: State, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        forward, last = self.forward_layer(inputs, state[0], lengths)
        backward, first = self.backward_layer(reverse(inputs, lengths), state[1], lengths)
        return MERGES[self.merge](forward, reverse(backward, lengths)), (last, first)

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Raise TypeError: the backward layer's first output needs the last input."""
        raise TypeError(
            "a bidirectional layer cannot be stepped, since it reads the whole sequence from both "
            "ends; call it, or step a layer of one direction"
        )

    def initial_state(self, batch_size: int) -> State:
        """Return the zero states of the forward and the backward layer."""
        layers = (self.forward_layer, self.backward_layer)
        return tuple(layer.initial_state(batch_size) for layer in layers)  # type: ignore[operator]
