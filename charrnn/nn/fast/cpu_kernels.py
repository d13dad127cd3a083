"""Whole-sequence kernels of the vanilla cell and the GRU for a CPU, with hand-derived gradients.

torch computes these layers on a CPU by many small recorded operations. These kernels instead

- compute the input products of all steps by one matrix product;
- keep in the loop over time only the operations that depend on the previous state;
- compute before the backward loop all that does not depend on later gradients. With a_t the total
  of a gate before its nonlinearity and K_t the factor computed in advance, a backward step is ::

      dL/da_t      = dL/dh_t * K_t
      dL/dh_{t-1} += W_hh^T dL/da_t

- compute the gradient of each weight matrix by one matrix product over all steps.

The equations and the order of the gates are those of `charrnn.nn.cells.standard`. All tensors are
time first: (T, N, ...).

tanh(x) is computed as 2 sigmoid(2x) - 1, which is three times as fast in torch and equal within
float32 rounding. The factor 2 inside is exact, and goes into the weights.

`low` asks for matrix products with bfloat16 operands; states and sums of gates stay float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable

LOW_WIDTH = 192  # from this width on, bfloat16 saves more time in a step than conversions cost
CACHED = 1 << 15  # numbers in a tensor that stays in a core's cache


def _operand(tensor: Tensor, low: bool) -> Tensor:
    return tensor.bfloat16() if low else tensor


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Multiply two operands, and return the result in float32 if they are bfloat16."""
    product = left @ right
    return product.float() if product.dtype == torch.bfloat16 else product


def _input_product(operand: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    """Write weight x_t + bias of all steps, (T * N, rows), into `out`."""
    if operand.dtype == out.dtype:
        torch.addmm(bias, operand, weight.t(), out=out)
    else:
        torch.add(operand @ weight.t().to(operand.dtype), bias, out=out)


class _AddProduct:
    """total += state @ weight, the one matrix product in each step of a loop over time."""

    def __init__(self, weight: Tensor, low: bool) -> None:
        self.low = low and min(weight.shape) >= LOW_WIDTH
        self.weight = weight.to(torch.bfloat16 if self.low else weight.dtype).contiguous()

    def __call__(self, total: Tensor, state: Tensor) -> Tensor:
        if self.low:
            return total.add_(state.bfloat16() @ self.weight)
        return total.addmm_(state, self.weight)


def _backward_through_time(
    outputs: Tensor,
    totals: Tensor,
    weight: Tensor,
    low: bool,
    factors: Callable[[slice], Tensor],
    carried: Tensor | None = None,
) -> Tensor:
    """Fill `totals` with dL/da_t = dL/dh_t * K_t for all steps, and return dL/dh_0.

    `outputs` (T, N, H) is the gradient at the outputs; `totals` (T, N, Q, H) has Q quantities for
    each step, and `weight` (rows, H) belongs to the first of them. `factors` computes K of a few
    steps at a time, (steps, N, Q, H), so that it is still in the cache when it is used. `carried`
    (T, N, H) is the factor with which h_{t-1} enters h_t directly: the GRU's update gate.
    """
    steps, lanes, _, width = totals.shape
    # dL/dh_t for t from 0 (the state before the first step) to T.
    hidden = totals.new_zeros(steps + 1, lanes, width)
    hidden[1:] = outputs
    hidden_at, hidden_of_all = hidden.unbind(), hidden[:, :, None].unbind()
    totals_at = totals.unbind()
    recurrent_at = totals.flatten(2)[:, :, : len(weight)].unbind()
    carried_at = () if carried is None else carried.unbind()
    add_product = _AddProduct(weight, low)
    chunk = max(1, CACHED // (lanes * width))
    for stop in range(steps, 0, -chunk):
        start = max(0, stop - chunk)
        factor_at = factors(slice(start, stop)).unbind()
        for t in range(stop - 1, start - 1, -1):
            torch.mul(hidden_of_all[t + 1], factor_at[t - start], out=totals_at[t])
            if carried_at:
                hidden_at[t].addcmul_(hidden_at[t + 1], carried_at[t])
            add_product(hidden_at[t], recurrent_at[t])
    return hidden[0]


def _previous(state: Tensor, hidden: Tensor) -> Tensor:
    """The states before each step, (T, N, H), from the initial state and the hidden states."""
    return torch.cat([state[None], hidden[:-1]])


class VanillaKernel(torch.autograd.Function):
    r"""Run a `VanillaCell` over inputs (N, T, D) from a state (N, H) to outputs (N, T, H).

    Forward, with f = tanh or relu, and the factor of the backward pass:

    .. math::
        h_t &= f(a_t), \quad a_t = W_{ih} x_t + b_{ih} + b_{hh} + W_{hh} h_{t-1} \\
        K_t &= f'(a_t) = 1 - h_t^2 \text{ for tanh}, \; [h_t > 0] \text{ for relu}
    """

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(
        context: Any,
        inputs: Tensor,
        state: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        relu: bool,
        low: bool,
    ) -> Tensor:
        lanes, steps, _ = inputs.shape
        operand = _operand(inputs.transpose(0, 1).contiguous().flatten(0, 1), low)
        scale = 1 if relu else 2
        hidden = state.new_empty(steps, lanes, state.shape[1])
        bias = (bias_ih + bias_hh) * scale
        _input_product(operand, weight_ih * scale, bias, hidden.flatten(0, 1))
        add_product, previous = _AddProduct(weight_hh.t() * scale, low), state
        minus_one = torch.full_like(state, -1)
        for new in hidden.unbind():  # `hidden` holds the input products until it is overwritten.
            add_product(new, previous)
            if relu:
                new.relu_()
            else:
                torch.add(minus_one, new.sigmoid_(), alpha=2, out=new)
            previous = new
        context.save_for_backward(operand, state, weight_ih, weight_hh, hidden)
        context.relu, context.low = relu, low
        return hidden.transpose(0, 1)

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        operand, state, weight_ih, weight_hh, hidden = context.saved_tensors
        steps, lanes, width = hidden.shape
        low = context.low

        def slope(some: slice) -> Tensor:
            output: Tensor = hidden[some, :, None]
            return (output > 0).to(output.dtype) if context.relu else 1 - output * output

        totals = torch.empty_like(hidden)[:, :, None]
        initial = _backward_through_time(gradient.transpose(0, 1), totals, weight_hh, low, slope)
        flat = totals.view(steps * lanes, width)
        previous = _previous(state, hidden).flatten(0, 1)
        bias = flat.sum(0)
        flat = _operand(flat, low)
        return (
            _product(flat, _operand(weight_ih, low)).view(steps, lanes, -1).transpose(0, 1),
            initial,
            _product(flat.t(), operand),
            _product(flat.t(), _operand(previous, low)),
            bias,
            bias.clone(),
            None,
            None,
        )


class GRUKernel(torch.autograd.Function):
    r"""Run a `GRUCell` over inputs (N, T, D) from a state (N, H) to outputs (N, T, H).

    With x_n = W_in x_t + b_in and h_n = W_hn h_{t-1} + b_hn, the two parts of the candidate:

    .. math::
        r &= \sigma(W_{ir} x_t + b_{ir} + W_{hr} h_{t-1} + b_{hr}) \\
        z &= \sigma(W_{iz} x_t + b_{iz} + W_{hz} h_{t-1} + b_{hz}) \\
        n &= \tanh(x_n + r \odot h_n) \\
        h_t &= (1 - z) \odot n + z \odot h_{t-1}

    The buffer (T, N, 4H) has four blocks of width H for each step and lane. In their order, each
    product adds to adjacent blocks: W_hh h_{t-1} to the first three, W_ih x_t to the last three::

          block 0      block 1      block 2      block 3
        +------------+------------+------------+------------+
        |   2 h_n    |     r      |     z      |   2 x_n    |
        +------------+------------+------------+------------+
        |<------------- W_hh h_{t-1} --------->|
                     |<-------------- W_ih x_t ------------>|

    Blocks 0 and 3 are doubled, because tanh(a) is computed as 2 sigmoid(2a) - 1. The rows of
    `weight_hh` (reset, update, candidate) are rolled by H to match blocks 0 to 2.

    The backward pass has the same blocks, with the gradients of h_n, r and z before their
    nonlinearity, and x_n. Their factors of dL/dh_t are

    .. math::
        K_3 &= (1 - z)(1 - n^2) \\
        K_0 &= K_3 \, r \\
        K_1 &= K_3 \, h_n \, r (1 - r) \\
        K_2 &= (h_{t-1} - n) \, z (1 - z)

    and in addition z dL/dh_t goes directly to dL/dh_{t-1}.
    """

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(
        context: Any,
        inputs: Tensor,
        state: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        low: bool,
    ) -> Tensor:
        lanes, steps, _ = inputs.shape
        width = state.shape[1]
        operand = _operand(inputs.transpose(0, 1).contiguous().flatten(0, 1), low)
        double = torch.ones_like(bias_ih)  # 2 in the rows of the candidate
        double[2 * width :] = 2
        buffer = state.new_empty(steps, lanes, 4 * width)
        buffer[:, :, :width] = 2 * bias_hh[2 * width :]
        bias = bias_ih * double
        bias[: 2 * width] += bias_hh[: 2 * width]
        from_input = buffer.flatten(0, 1)[:, width:]
        _input_product(operand, weight_ih * double[:, None], bias, from_input)
        recurrent = (weight_hh * double[:, None]).roll(width, 0)
        candidates, hidden = _run_gru(buffer, state, _AddProduct(recurrent.t(), low))
        context.save_for_backward(operand, state, weight_ih, weight_hh, buffer, candidates, hidden)
        context.low = low
        return hidden.transpose(0, 1)

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        operand, state, weight_ih, weight_hh, buffer, candidates, hidden = context.saved_tensors
        low = context.low
        steps, lanes, width = hidden.shape
        blocks = buffer.view(steps, lanes, 4, width)
        previous = _previous(state, hidden)
        totals = torch.empty_like(blocks)
        initial = _backward_through_time(
            gradient.transpose(0, 1),
            totals,
            weight_hh.roll(width, 0),
            low,
            lambda some: _gru_factors(blocks[some], candidates[some], previous[some]),
            carried=blocks[:, :, 2],
        )
        flat = totals.view(steps * lanes, 4 * width)
        bias = flat.sum(0)
        flat = _operand(flat, low)
        of_recurrent, of_input = flat[:, : 3 * width], flat[:, width:]
        states = _operand(previous.flatten(0, 1), low)
        return (
            _product(of_input, _operand(weight_ih, low)).view(steps, lanes, -1).transpose(0, 1),
            initial,
            _product(of_input.t(), operand),
            _product(of_recurrent.t(), states).roll(-width, 0),
            bias[width:],
            bias[: 3 * width].roll(-width),
            None,
        )


def _run_gru(buffer: Tensor, state: Tensor, add_product: _AddProduct) -> tuple[Tensor, Tensor]:
    """Run the loop over time on the buffer of `GRUKernel`; return n and h, (T, N, H) each."""
    width = state.shape[1]

    def blocks(first: int, last: int) -> tuple[Tensor, ...]:
        """The blocks `first` to `last` - 1, in one tensor for each step."""
        return buffer[:, :, first * width : last * width].unbind()

    candidates = state.new_empty(*buffer.shape[:2], width)
    hidden = torch.empty_like(candidates)
    minus_one = torch.full_like(state, -1)
    for recurrent, gates, h_n, reset, update, x_n, candidate, new in zip(
        blocks(0, 3), blocks(1, 3), *(blocks(i, i + 1) for i in range(4)),
        candidates.unbind(), hidden.unbind(), strict=True,
    ):  # fmt: skip
        add_product(recurrent, state)
        gates.sigmoid_()
        torch.addcmul(x_n, reset, h_n, out=candidate)
        torch.add(minus_one, candidate.sigmoid_(), alpha=2, out=candidate)
        torch.lerp(candidate, state, update, out=new)
        state = new
    return candidates, hidden


def _gru_factors(blocks: Tensor, candidate: Tensor, previous: Tensor) -> Tensor:
    """Compute the factors K of `GRUKernel` for some steps, (steps, N, 4, H), in block order."""
    doubled_h_n, reset, update, _ = blocks.unbind(2)
    factors = torch.empty_like(blocks)
    of_h_n, of_reset, of_update, of_x_n = factors.unbind(2)
    torch.mul(1 - update, 1 - candidate * candidate, out=of_x_n)
    torch.mul(of_x_n, reset, out=of_h_n)
    torch.mul(of_h_n, doubled_h_n, out=of_reset)
    of_reset.mul_(0.5 - 0.5 * reset)  # Half of 1 - r, because h_n is doubled.
    torch.mul(previous - candidate, update - update * update, out=of_update)
    return factors
