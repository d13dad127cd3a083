"""Whole-sequence kernels for a CPU, each with its backward pass derived by hand.

torch computes its GRU and vanilla layers on a CPU by many small recorded operations. Here the
input products of all steps are one matrix product, the loop over time does only what depends on
the state before, and in the backward pass everything that does not depend on the gradient to come
is computed for all steps at once: with a_t the total of a gate before its nonlinearity, what is
left of a step is

    dL/da_t = dL/dh_t * K_t        with K_t known from the forward pass,
    dL/dh_{t-1} += W^T dL/da_t,

and the gradients of the weights are one product each over all steps. The equations are those of
`cells`, in the same order of gates; all tensors are (T, N, ...), time first.

tanh(x) is computed as 2 sigmoid(2x) - 1, which is three times as fast in torch and as good to
float32 rounding; the factor 2 is exact and goes into the weights. With `low`, products take
bfloat16 operands; states and sums of gates stay float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable

LOW_WIDTH = 192  # from here on a step's product gains more by bfloat16 than its conversions cost
BLOCK = 1 << 15  # numbers of a quantity that stay in a core's cache while others join them


def _time_first(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, 1).contiguous()


def _operand(tensor: Tensor, low: bool) -> Tensor:
    return tensor.bfloat16() if low else tensor


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Of operands in the precision of products, in that of everything else."""
    product = left @ right
    return product.float() if product.dtype == torch.bfloat16 else product


def _input_product(operand: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    """weight x_t + bias of all steps, (T * N, rows), into `out`."""
    if operand.dtype == out.dtype:
        torch.addmm(bias, operand, weight.t(), out=out)
    else:
        torch.add(operand @ weight.t().to(operand.dtype), bias, out=out)


class _Step:
    """total += state @ weight, once a step of the loop over time."""

    def __init__(self, weight: Tensor, low: bool) -> None:
        self.low = low and min(weight.shape) >= LOW_WIDTH
        self.weight = weight.to(torch.bfloat16 if self.low else weight.dtype).contiguous()

    def __call__(self, total: Tensor, state: Tensor) -> Tensor:
        if self.low:
            return total.add_(state.bfloat16() @ self.weight)
        return total.addmm_(state, self.weight)


def _through_time(
    outputs: Tensor,
    totals: Tensor,
    weight: Tensor,
    low: bool,
    factors: Callable[[slice], Tensor],
    kept: Tensor | None = None,
) -> Tensor:
    """Fills dL/da_t = dL/dh_t * factors_t of every step and quantity, and returns dL/dh_0.

    `outputs` (T, N, H) is the gradient from above, `totals` (T, N, quantities, H) what is filled;
    `weight` (rows, H) are the state's weights of the quantities that come first. `factors` gives
    those of some steps, while they are still in the cache. `kept` is what h_{t-1} adds to h_t
    beside the gates.
    """
    steps, lanes, _, width = totals.shape
    # One place more in front: the gradient of the state before the first step.
    hidden = totals.new_zeros(steps + 1, lanes, width)
    hidden[1:] = outputs
    now, wide = hidden.unbind(), hidden[:, :, None].unbind()
    total, flat = totals.unbind(), totals.flatten(2)[:, :, : len(weight)].unbind()
    passed = () if kept is None else kept.unbind()
    add_product = _Step(weight, low)
    size = max(1, BLOCK // (lanes * width))
    for stop in range(steps, 0, -size):
        start = max(0, stop - size)
        factor = factors(slice(start, stop)).unbind()
        for t in range(stop - 1, start - 1, -1):
            torch.mul(wide[t + 1], factor[t - start], out=total[t])
            if passed:
                now[t].addcmul_(now[t + 1], passed[t])
            add_product(now[t], flat[t])
    return hidden[0]


class VanillaKernel(torch.autograd.Function):
    """Inputs (N, T, D), state (N, H) and the cell's weights give outputs (N, T, H)."""

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
        operand = _operand(_time_first(inputs).flatten(0, 1), low)
        scale = 1 if relu else 2
        hidden = state.new_empty(steps, lanes, state.shape[1])
        bias = (bias_ih + bias_hh) * scale
        _input_product(operand, weight_ih * scale, bias, hidden.flatten(0, 1))
        add_product, before = _Step(weight_hh.t() * scale, low), state
        minus_one = torch.full_like(state, -1)
        for now in hidden.unbind():
            add_product(now, before)
            if relu:
                now.relu_()
            else:
                torch.add(minus_one, now.sigmoid_(), alpha=2, out=now)
            before = now
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
            now: Tensor = hidden[some, :, None]
            return (now > 0).to(now.dtype) if context.relu else 1 - now * now

        totals = torch.empty_like(hidden)[:, :, None]
        before = _through_time(gradient.transpose(0, 1), totals, weight_hh, low, slope)
        flat = totals.view(steps * lanes, width)
        earlier = torch.cat([state[None], hidden[:-1]]).flatten(0, 1)
        bias = flat.sum(0)
        flat = _operand(flat, low)
        return (
            _product(flat, _operand(weight_ih, low)).view(steps, lanes, -1).transpose(0, 1),
            before,
            _product(flat.t(), operand),
            _product(flat.t(), _operand(earlier, low)),
            bias,
            bias.clone(),
            None,
            None,
        )


class GRUKernel(torch.autograd.Function):
    """Inputs (N, T, D), state (N, H) and the cell's weights give outputs (N, T, H).

    Four quantities a step are kept side by side: what the state gives to the candidate, the reset
    gate, the update gate, what the input gives to the candidate. The first three are products with
    the state, the last three with the input. Both parts of the candidate are doubled, for tanh.
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
        operand = _operand(_time_first(inputs).flatten(0, 1), low)
        parts = state.new_empty(steps, lanes, 4 * width)
        parts[:, :, :width] = 2 * bias_hh[2 * width :]
        scale = torch.ones_like(bias_ih)
        scale[2 * width :] = 2
        bias = bias_ih * scale
        bias[: 2 * width] += bias_hh[: 2 * width]
        from_input = parts.flatten(0, 1)[:, width:]
        _input_product(operand, weight_ih * scale[:, None], bias, from_input)
        candidates = state.new_empty(steps, lanes, width)
        hidden = torch.empty_like(candidates)
        rolled = (weight_hh * scale[:, None]).roll(width, 0)
        add_product, before = _Step(rolled.t(), low), state
        minus_one = torch.full_like(state, -1)
        for of_state, inner, both, reset, update, outer, candidate, now in zip(
            parts[:, :, : 3 * width].unbind(),
            parts[:, :, :width].unbind(),
            parts[:, :, width : 3 * width].unbind(),
            parts[:, :, width : 2 * width].unbind(),
            parts[:, :, 2 * width : 3 * width].unbind(),
            parts[:, :, 3 * width :].unbind(),
            candidates.unbind(),
            hidden.unbind(),
            strict=True,
        ):
            add_product(of_state, before)
            both.sigmoid_()
            torch.addcmul(outer, reset, inner, out=candidate)
            torch.add(minus_one, candidate.sigmoid_(), alpha=2, out=candidate)
            torch.lerp(candidate, before, update, out=now)
            before = now
        context.save_for_backward(operand, state, weight_ih, weight_hh, parts, candidates, hidden)
        context.low = low
        return hidden.transpose(0, 1)

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        operand, state, weight_ih, weight_hh, parts, candidates, hidden = context.saved_tensors
        low = context.low
        steps, lanes, width = hidden.shape
        parts = parts.view(steps, lanes, 4, width)
        earlier = torch.cat([state[None], hidden[:-1]])

        def factors(some: slice) -> Tensor:
            inner, reset, update, _ = parts[some].unbind(2)
            candidate = candidates[some]
            found = torch.empty_like(parts[some])
            torch.mul(1 - update, 1 - candidate * candidate, out=found[:, :, 3])
            torch.mul(found[:, :, 3], reset, out=found[:, :, 0])
            torch.mul(found[:, :, 0], inner, out=found[:, :, 1])  # `inner` is doubled.
            found[:, :, 1].mul_(0.5 - 0.5 * reset)
            torch.mul(earlier[some] - candidate, update - update * update, out=found[:, :, 2])
            return found

        totals = torch.empty_like(parts)
        before = _through_time(
            gradient.transpose(0, 1),
            totals,
            weight_hh.roll(width, 0),
            low,
            factors,
            parts[:, :, 2],
        )
        flat = totals.view(steps * lanes, 4 * width)
        bias = flat.sum(0)
        flat = _operand(flat, low)
        of_state, of_input = flat[:, : 3 * width], flat[:, width:]
        states = _operand(earlier.flatten(0, 1), low)
        return (
            _product(of_input, _operand(weight_ih, low)).view(steps, lanes, -1).transpose(0, 1),
            before,
            _product(of_input.t(), operand),
            _product(of_state.t(), states).roll(-width, 0),
            bias[width:],
            bias[: 3 * width].roll(-width),
            None,
        )
