"""Run whole sequences by fused kernels, on the parameters of our cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from charrnn.nn.cells.base import Cell
from charrnn.nn.cells.minimal import LinearCell, MinGRUCell, MinLSTMCell
from charrnn.nn.cells.standard import GRUCell, LSTMCell, LSTMState, VanillaCell
from charrnn.nn.fast.cpu_kernels import GRUKernel, VanillaKernel
from charrnn.nn.fast.scan import scan
from charrnn.nn.sequences import only, real_steps
from charrnn.nn.state import State, leaves, replace_leaves, select_lanes


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
