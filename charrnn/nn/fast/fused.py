"""Run whole sequences with fused kernels, on the parameters of our own cells.

`FUSED` maps the exact type of a cell to a function that computes the cell's equations for a whole
sequence. A subclass that changes an equation is another type, and runs step by step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from charrnn.nn.cells.base import Cell
from charrnn.nn.cells.minimal import LinearCell, MinGRUCell, MinLSTMCell
from charrnn.nn.cells.standard import GRUCell, LSTMCell, LSTMState, VanillaCell
from charrnn.nn.fast.cpu_kernels import GRUKernel, VanillaKernel
from charrnn.nn.fast.scan import scan
from charrnn.nn.sequences import only, real_steps
from charrnn.nn.state import State, leaves, replace_leaves, select_lanes

SATURATING = 1e12  # as a gate's total: sigmoid(1e12) is exactly 1, sigmoid(-1e12) exactly 0


def run_fused(
    cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """Compute `charrnn.unroll(cell, inputs, state, lengths)` by the cell's entry in `FUSED`."""
    if lengths is None:
        return FUSED[type(cell)](cell, inputs, state, None)
    real = real_steps(lengths, inputs)
    outputs, after = FUSED[type(cell)](cell, only(real, inputs), state, real)
    # The hidden state after a lane's last real step is its output there.
    hidden, *others = leaves(after)
    last = (lengths.clamp(max=inputs.shape[1]) - 1).clamp(min=0)
    hidden = select_lanes(  # type: ignore[assignment]
        lengths > 0,
        outputs[torch.arange(len(last), device=last.device), last].to(hidden),
        next(leaves(state)),
    )
    return only(real, outputs), replace_leaves(after, iter([hidden, *others]))


# Each function below takes a cell, inputs (N, T, D), a state and, if there is padding, the mask
# (N, T) of real steps. With padding, the first part of the state that it returns may be that of any
# step, because `run_fused` takes it from the outputs; the other parts must be those after a lane's
# last real step. torch's kernels keep what the backward pass needs only in their "training" mode,
# hence `torch.is_grad_enabled()`.


def _vanilla(
    cell: VanillaCell, inputs: Tensor, state: Tensor, real: Tensor | None
) -> tuple[Tensor, State]:
    weights = cell.weights
    if real is not None and cell.activation == "relu":
        # Keep the state at zero in the padding, where it could otherwise grow without bound.
        inputs, weights = _steer_padding(inputs, weights, real, [-SATURATING])
    if inputs.device.type == "cpu":
        relu = cell.activation == "relu"
        outputs = VanillaKernel.apply(inputs, state, *weights, relu, _bfloat16_products())  # type: ignore[no-untyped-call]
        return outputs, outputs[:, -1].clone()
    kernel = torch.rnn_tanh if cell.activation == "tanh" else torch.rnn_relu
    outputs, hidden = kernel(
        inputs, state[None], weights, True, 1, 0.0, torch.is_grad_enabled(), False, True
    )
    return outputs, hidden[0].to(state)


def _lstm(
    cell: LSTMCell, inputs: Tensor, state: LSTMState, real: Tensor | None
) -> tuple[Tensor, State]:
    weights = cell.weights
    if real is not None:
        # The kernel returns the cell state of the last step alone. With the input gate at 0 and the
        # forget gate at 1 in the padding, it is still that of the last real step, bit for bit.
        inputs, weights = _steer_padding(inputs, weights, real, [-SATURATING, SATURATING, 0, 0])
    initial = (state.hidden[None], state.cell[None])
    outputs, hidden, memory = torch.lstm(
        inputs, initial, weights, True, 1, 0.0, torch.is_grad_enabled(), False, True
    )
    # Under autocast the kernel's state is bfloat16; the state that is carried on stays float32.
    return outputs, LSTMState(hidden[0].to(state.hidden), memory[0].to(state.cell))


def _gru(cell: GRUCell, inputs: Tensor, state: Tensor, real: Tensor | None) -> tuple[Tensor, State]:
    if inputs.device.type == "cpu":
        outputs = GRUKernel.apply(inputs, state, *cell.weights, _bfloat16_products())  # type: ignore[no-untyped-call]
        return outputs, outputs[:, -1].clone()
    outputs, hidden = torch.gru(
        inputs, state[None], cell.weights, True, 1, 0.0, torch.is_grad_enabled(), False, True
    )
    return outputs, hidden[0].to(state)


def _linear(
    cell: LinearCell, inputs: Tensor, state: Tensor, real: Tensor | None
) -> tuple[Tensor, State]:
    kept, added = cell.coefficients(inputs.transpose(0, 1).contiguous())
    outputs = scan(kept, added, state).transpose(0, 1)
    return outputs, outputs[:, -1].clone()


FUSED: dict[type, Callable[..., tuple[Tensor, State]]] = {
    VanillaCell: _vanilla,
    LSTMCell: _lstm,
    GRUCell: _gru,
    MinGRUCell: _linear,
    MinLSTMCell: _linear,
}


def _bfloat16_products() -> bool:
    """Whether autocast asks for matrix products in bfloat16 on a CPU."""
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def _steer_padding(
    inputs: Tensor, weights: list[Tensor], real: Tensor, totals: list[float]
) -> tuple[Tensor, list[Tensor]]:
    """Append one input that is 1 in the padding and 0 elsewhere, and its column of weights::

        inputs (N, T, D + 1)                weight_ih (gates x H, D + 1)
        [ x_1 ... x_D | 0 ]  real step      [ W_gate 1 | totals[0] ]
        [ x_1 ... x_D | 0 ]  real step      [ W_gate 2 | totals[1] ]
        [  0  ...  0  | 1 ]  padding        [   ...    |    ...    ]

    So `totals` are added to the gates' totals in the padding alone.
    """
    column = weights[0].new_tensor(totals).repeat_interleave(weights[1].shape[1])
    mark = (~real)[:, :, None].to(inputs.dtype)
    wider = torch.cat([weights[0], column[:, None]], 1)
    return torch.cat([inputs, mark], -1), [wider, *weights[1:]]
