"""Layers run cells over time: `outputs, state = layer(inputs, state)`.

Inputs are (N, T, D): batch, time, width. A layer has the cell's own members (`output_size`,
`initial_state`) and, because everything here is causal, `step`, which advances it by one time
step and equals the layer run over a sequence of length one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.backends.cudnn.rnn import get_cudnn_mode
from torch.func import functional_call
from torch.nn import functional

from charrnn.cells import (
    Activation,
    Cell,
    GRUCell,
    LinearCell,
    LSTMCell,
    LSTMState,
    MinGRUCell,
    MinLSTMCell,
    TorchLayoutCell,
    VanillaCell,
)
from charrnn.kernels import GRUKernel, VanillaKernel
from charrnn.scan import scan
from charrnn.state import State, leaves, map_state, select_lanes


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

    `inputs` is (N, T, D). With `lengths` (N,), outputs past a sequence's end are zero and its
    final state is the one at its last real step, as TensorFlow's `dynamic_rnn` has it. Returns
    outputs (N, T, H) and the final state. Raises ValueError where T is 0.
    """
    if inputs.shape[1] == 0:
        raise ValueError("cannot unroll over 0 time steps")
    outputs = []
    for t in range(inputs.shape[1]):
        output, next_state = cell(inputs[:, t], state)
        if lengths is None:
            state = next_state
        else:
            active = t < lengths
            output = output.where(active[:, None], output.new_zeros(()))
            state = select_lanes(active, next_state, state)
        outputs.append(output)
    return torch.stack(outputs, dim=1), state


def drop(inputs: Tensor, rate: float, training: bool, locked: bool) -> Tensor:
    """Dropout on (N, T, D), or (N, D) in a step: in training each number is 0 with probability
    `rate`, else divided by 1 - rate, so that its expectation is itself.

    `locked` draws once for all T of a lane (variational dropout: Gal and Ghahramani 2016).
    """
    if not training or not rate:
        return inputs
    if not locked:
        return functional.dropout(inputs, rate)
    mask = torch.ones_like(inputs[:, :1]) if inputs.dim() == 3 else torch.ones_like(inputs)
    return inputs * functional.dropout(mask, rate)


def _low() -> bool:
    """Whether products are to be in bfloat16."""
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def _fused_vanilla(cell: VanillaCell, inputs: Tensor, state: Tensor) -> tuple[Tensor, State]:
    if inputs.device.type == "cpu":
        relu = cell.activation == "relu"
        outputs = VanillaKernel.apply(inputs, state, *cell.weights, relu, _low())  # type: ignore[no-untyped-call]
        return outputs, outputs[:, -1].clone()
    kernel = torch.rnn_tanh if cell.activation == "tanh" else torch.rnn_relu
    outputs, hidden = kernel(
        inputs, state[None], cell.weights, True, 1, 0.0, torch.is_grad_enabled(), False, True
    )
    return outputs, hidden[0]


def _fused_lstm(cell: LSTMCell, inputs: Tensor, state: LSTMState) -> tuple[Tensor, State]:
    initial = (state.hidden[None], state.cell[None])
    outputs, hidden, memory = torch.lstm(
        inputs, initial, cell.weights, True, 1, 0.0, torch.is_grad_enabled(), False, True
    )
    # Under autocast the kernel's state is bfloat16; what is carried on is not.
    return outputs, LSTMState(hidden[0].to(state.hidden), memory[0].to(state.cell))


def _fused_gru(cell: GRUCell, inputs: Tensor, state: Tensor) -> tuple[Tensor, State]:
    if inputs.device.type == "cpu":
        outputs = GRUKernel.apply(inputs, state, *cell.weights, _low())  # type: ignore[no-untyped-call]
        return outputs, outputs[:, -1].clone()
    outputs, hidden = torch.gru(
        inputs, state[None], cell.weights, True, 1, 0.0, torch.is_grad_enabled(), False, True
    )
    return outputs, hidden[0]


def _scanned(cell: LinearCell, inputs: Tensor, state: Tensor) -> tuple[Tensor, State]:
    kept, added = cell.coefficients(inputs.transpose(0, 1).contiguous())
    outputs = scan(kept, added, state).transpose(0, 1)
    return outputs, outputs[:, -1].clone()


# By exact type: a subclass that changes an equation is a different cell and runs as written. The
# kernels keep what the backward pass needs only in "training" mode, hence the grad mode above.
FUSED: dict[type, Callable[..., tuple[Tensor, State]]] = {
    VanillaCell: _fused_vanilla,
    LSTMCell: _fused_lstm,
    GRUCell: _fused_gru,
    MinGRUCell: _scanned,
    MinLSTMCell: _scanned,
}


class Zoneout:
    r"""A cell whose state keeps some of its old values (Krueger et al. 2017, equations 2 and 3).

    In training each unit of each lane keeps its old value with probability z, else it takes the
    new one; afterwards it takes the mean of both:

    .. math:: s_t = d_t \odot s_{t-1} + (1 - d_t) \odot \tilde s_t, \quad d_t \sim B(z)

    `rates` has one z for each leaf of the state, the hidden state first, which is also the output.
    An LSTM's hidden state is made of the new cell state before zoneout, as in the paper.
    """

    def __init__(self, cell: Cell, rates: Sequence[float]) -> None:
        self.cell = cell
        self.rates = rates
        self.output_size = cell.output_size

    def __call__(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        _, after = self.cell(inputs, state)
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

    The kernels compute the cell's own equations on the cell's own parameters; `fused=False`, an
    unknown cell, `zoneout` (its rates, one a leaf of the state), or `lengths` take the plain path,
    `unroll`. `weight_dropout` falls on the matrix from hidden to hidden state, one draw for all
    steps of a call (DropConnect: Wan et al. 2013; AWD-LSTM: Merity et al. 2018), in training.
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
        self.weight_dropout = weight_dropout
        self.zoneout = zoneout if any(zoneout) else ()
        self.fused = fused and type(cell) in FUSED and not self.zoneout

    def forward(
        self, inputs: Tensor, state: State, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        if self.training and self.weight_dropout:
            assert isinstance(self.cell, TorchLayoutCell)
            weight: Tensor = self.cell.weight_hh
            if isinstance(weight, nn.Parameter):  # It is dropped already inside of the call below.
                dropped = functional.dropout(weight, self.weight_dropout)
                return functional_call(  # type: ignore[no-any-return]
                    self, {"cell.weight_hh": dropped}, (inputs, state, lengths)
                )
        if self.fused and lengths is None and inputs.shape[1] > 0:
            return FUSED[type(self.cell)](self.cell, inputs, state)
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


def from_torch(module: nn.RNNBase) -> Stack:
    """A stack with the weights of a `torch.nn.RNN`, `LSTM` or `GRU`, copied unchanged.

    Raises ValueError for what our cells do not have: two directions, projections, no biases.
    """
    if module.bidirectional or module.proj_size or not module.bias:
        raise ValueError("only unidirectional modules with biases and no projection are supported")
    layers = []
    for i in range(module.num_layers):
        width = module.input_size if i == 0 else module.hidden_size
        cell: TorchLayoutCell
        if isinstance(module, nn.LSTM):
            cell = LSTMCell(width, module.hidden_size)
        elif isinstance(module, nn.GRU):
            cell = GRUCell(width, module.hidden_size)
        else:
            activation: Activation = "relu" if module.mode == "RNN_RELU" else "tanh"
            cell = VanillaCell(width, module.hidden_size, activation)
        reference = getattr(module, f"weight_hh_l{i}")
        cell.to(device=reference.device, dtype=reference.dtype)
        with torch.no_grad():
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(cell, name).copy_(getattr(module, f"{name}_l{i}"))
        layers.append(Recurrent(cell))
    return Stack(layers, dropout=float(module.dropout)).train(module.training)


def to_torch(stack: Stack) -> nn.RNNBase:
    """The `torch.nn.RNN`, `LSTM` or `GRU` (batch first) with a stack's weights, copied unchanged.

    Raises ValueError where torch has no such module: layers of different widths or cells, or
    skip connections.
    """
    cells: list[Any] = [layer.cell for layer in stack.layers]
    first = cells[0]
    kinds = {(type(c), c.hidden_size, getattr(c, "activation", None)) for c in cells}
    if len(kinds) > 1 or stack.skip_connections or type(first) not in FUSED:
        raise ValueError("torch.nn needs standard cells of one kind and width, without skips")
    kind: Any = {VanillaCell: nn.RNN, LSTMCell: nn.LSTM, GRUCell: nn.GRU}[type(first)]
    options: dict[str, Any] = (
        {"nonlinearity": first.activation} if isinstance(first, VanillaCell) else {}
    )
    module: nn.RNNBase = kind(
        first.input_size,
        first.hidden_size,
        num_layers=len(cells),
        dropout=stack.dropout if len(cells) > 1 else 0.0,
        batch_first=True,
        **options,
    ).to(device=first.weight_hh.device, dtype=first.weight_hh.dtype)
    with torch.no_grad():
        for i, cell in enumerate(cells):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(module, f"{name}_l{i}").copy_(getattr(cell, name))
    return module.train(stack.training)
