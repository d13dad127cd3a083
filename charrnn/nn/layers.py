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
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.backends.cudnn.rnn import get_cudnn_mode
from torch.func import functional_call
from torch.nn import functional

from charrnn.nn.cells.standard import (
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
from charrnn.nn.fast.cpu_kernels import GRUKernel, VanillaKernel
from charrnn.nn.fast.scan import scan
from charrnn.nn.state import State, leaves, map_state, replace_leaves, select_lanes


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


def real_steps(lengths: Tensor, inputs: Tensor) -> Tensor:
    """(N, T), True where a step of the inputs (N, T, D) is none of the padding."""
    return torch.arange(inputs.shape[1], device=inputs.device) < lengths[:, None]


def only(real: Tensor, sequence: Tensor) -> Tensor:
    """The sequence (N, T, D) with zeros for padding, through which no gradient flows.

    Chosen, not multiplied: what stands in the padding may be no number at all.
    """
    return sequence.where(real[:, :, None], sequence.new_zeros(()))


def reverse(sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The sequence (N, T, D) from its end to its beginning.

    With `lengths` the real steps of each lane are reversed and the padding stays behind them. Done
    twice, it is the sequence again.
    """
    if lengths is None:
        return sequence.flip(1)
    steps = torch.arange(sequence.shape[1], device=sequence.device).expand(sequence.shape[:2])
    ends = lengths.clamp(max=sequence.shape[1])[:, None] - 1
    steps = (ends - steps).where(steps <= ends, steps)
    return sequence.gather(1, steps[:, :, None].expand_as(sequence))


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


FAR = 1e12  # added to a gate's total: the logistic function of it is 1, exactly, and of -FAR 0


def _mark(inputs: Tensor, weights: list[Tensor], real: Tensor, totals: list[float]) -> Any:
    """Inputs and weights with one input more, which is 1 in the padding and adds to each gate's
    total what `totals` says, to steer the state through it."""
    column = weights[0].new_tensor(totals).repeat_interleave(weights[1].shape[1])
    mark = (~real)[:, :, None].to(inputs.dtype)
    wider = torch.cat([weights[0], column[:, None]], 1)
    return torch.cat([inputs, mark], -1), [wider, *weights[1:]]


# Each takes inputs, a state and, where there is padding, which steps are real. The first leaf of
# the state that it returns need not be the one at a lane's last real step (it is among the
# outputs); every other leaf must be.


def _fused_vanilla(
    cell: VanillaCell, inputs: Tensor, state: Tensor, real: Tensor | None
) -> tuple[Tensor, State]:
    weights = cell.weights
    if real is not None and cell.activation == "relu":
        # Zero in the padding, where on its own it could grow without bound.
        inputs, weights = _mark(inputs, weights, real, [-FAR])
    if inputs.device.type == "cpu":
        relu = cell.activation == "relu"
        outputs = VanillaKernel.apply(inputs, state, *weights, relu, _low())  # type: ignore[no-untyped-call]
        return outputs, outputs[:, -1].clone()
    kernel = torch.rnn_tanh if cell.activation == "tanh" else torch.rnn_relu
    outputs, hidden = kernel(
        inputs, state[None], weights, True, 1, 0.0, torch.is_grad_enabled(), False, True
    )
    return outputs, hidden[0].to(state)


def _fused_lstm(
    cell: LSTMCell, inputs: Tensor, state: LSTMState, real: Tensor | None
) -> tuple[Tensor, State]:
    weights = cell.weights
    if real is not None:
        # No kernel returns the cell state of an inner step. With the input gate shut and the forget
        # gate open it stays in the padding what it was, to the last bit.
        inputs, weights = _mark(inputs, weights, real, [-FAR, FAR, 0, 0])
    initial = (state.hidden[None], state.cell[None])
    outputs, hidden, memory = torch.lstm(
        inputs, initial, weights, True, 1, 0.0, torch.is_grad_enabled(), False, True
    )
    # Under autocast the kernel's state is bfloat16; what is carried on is not.
    return outputs, LSTMState(hidden[0].to(state.hidden), memory[0].to(state.cell))


def _fused_gru(
    cell: GRUCell, inputs: Tensor, state: Tensor, real: Tensor | None
) -> tuple[Tensor, State]:
    if inputs.device.type == "cpu":
        outputs = GRUKernel.apply(inputs, state, *cell.weights, _low())  # type: ignore[no-untyped-call]
        return outputs, outputs[:, -1].clone()
    outputs, hidden = torch.gru(
        inputs, state[None], cell.weights, True, 1, 0.0, torch.is_grad_enabled(), False, True
    )
    return outputs, hidden[0].to(state)


def _scanned(
    cell: LinearCell, inputs: Tensor, state: Tensor, real: Tensor | None
) -> tuple[Tensor, State]:
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


def _fused(
    cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """`unroll` by a cell's entry in `FUSED`."""
    if lengths is None:
        return FUSED[type(cell)](cell, inputs, state, None)
    real = real_steps(lengths, inputs)
    outputs, after = FUSED[type(cell)](cell, only(real, inputs), state, real)
    hidden, *others = leaves(after)
    last = (lengths.clamp(max=inputs.shape[1]) - 1).clamp(min=0)
    hidden = select_lanes(  # type: ignore[assignment]
        lengths > 0,
        outputs[torch.arange(len(last), device=last.device), last].to(hidden),
        next(leaves(state)),
    )
    return only(real, outputs), replace_leaves(after, iter([hidden, *others]))


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
                f"which {type(cell).__name__} does not have"
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


# What torch.nn calls the standard cells' layers.
IN_TORCH: dict[type, Any] = {VanillaCell: nn.RNN, LSTMCell: nn.LSTM, GRUCell: nn.GRU}
PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def from_torch(module: nn.RNNBase) -> Stack:
    """A stack with the weights of a `torch.nn.RNN`, `LSTM` or `GRU`, copied unchanged.

    Its layers are `Bidirectional` where the module is. Raises ValueError for what our cells do not
    have: projections, no biases.
    """
    if module.proj_size or not module.bias:
        raise ValueError("only modules with biases and without projections are supported")
    hidden = module.hidden_size

    def direction(width: int, suffix: str) -> Recurrent:
        cell: TorchLayoutCell
        if isinstance(module, nn.LSTM):
            cell = LSTMCell(width, hidden)
        elif isinstance(module, nn.GRU):
            cell = GRUCell(width, hidden)
        else:
            activation: Activation = "relu" if module.mode == "RNN_RELU" else "tanh"
            cell = VanillaCell(width, hidden, activation)
        reference = getattr(module, f"weight_hh_{suffix}")
        cell.to(device=reference.device, dtype=reference.dtype)
        with torch.no_grad():
            for name in PARTS:
                getattr(cell, name).copy_(getattr(module, f"{name}_{suffix}"))
        return Recurrent(cell)

    layers: list[nn.Module] = []
    width = module.input_size
    for i in range(module.num_layers):
        ahead = direction(width, f"l{i}")
        if module.bidirectional:
            layers.append(Bidirectional(ahead, direction(width, f"l{i}_reverse")))
            width = 2 * hidden
        else:
            layers.append(ahead)
            width = hidden
    return Stack(layers, dropout=float(module.dropout)).train(module.training)


def to_torch(stack: Stack) -> nn.RNNBase:
    """The `torch.nn.RNN`, `LSTM` or `GRU` (batch first) with a stack's weights, copied unchanged.

    Raises ValueError where torch has no such module: layers of different widths, cells or
    directions, directions that are not concatenated, or skip connections.
    """
    cells: dict[str, Any] = {}
    kinds = set()
    for i, layer in enumerate(stack.layers):
        merge = layer.merge if isinstance(layer, Bidirectional) else None
        both = [layer] if merge is None else [layer.forward_layer, layer.backward_layer]
        for one, suffix in zip(both, (f"l{i}", f"l{i}_reverse"), strict=False):
            cell = cells[suffix] = getattr(one, "cell", None)
            activation = getattr(cell, "activation", None)
            kinds.add((type(cell), getattr(cell, "hidden_size", 0), activation, merge))
    kind, width, activation, merge = kinds.pop()
    fits = not kinds and not stack.skip_connections and merge in (None, "concatenate")
    if not fits or kind not in IN_TORCH:
        raise ValueError(
            "torch.nn needs standard cells of one kind and width, in one direction or in two that "
            "are concatenated, without skip connections"
        )
    first = cells["l0"]
    module: nn.RNNBase = IN_TORCH[kind](
        first.input_size,
        width,
        num_layers=len(stack.layers),
        dropout=stack.dropout if len(stack.layers) > 1 else 0.0,
        batch_first=True,
        bidirectional=merge is not None,
        **({"nonlinearity": activation} if activation else {}),
    ).to(device=first.weight_hh.device, dtype=first.weight_hh.dtype)
    with torch.no_grad():
        for suffix, cell in cells.items():
            for name in PARTS:
                getattr(module, f"{name}_{suffix}").copy_(getattr(cell, name))
    return module.train(stack.training)
