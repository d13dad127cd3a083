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

from typing import Any

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable

LOW_WIDTH = 192  # from here on a step's product gains more by bfloat16 than its conversions cost


def _time_first(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, 1).contiguous()


def _product(left: Tensor, right: Tensor, low: bool) -> Tensor:
    return (left.bfloat16() @ right.bfloat16()).to(left.dtype) if low else left @ right


def _input_product(inputs: Tensor, weight: Tensor, bias: Tensor, low: bool) -> Tensor:
    steps, lanes, width = inputs.shape
    flat = inputs.view(steps * lanes, width)
    total = _product(flat, weight.t(), low).add_(bias) if low else bias.addmm(flat, weight.t())
    return total.view(steps, lanes, -1)


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
    outputs: Tensor, factors: Tensor, weight: Tensor, kept: Tensor | None, low: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """dL/dh_t of every step, dL/da_t = dL/dh_t * factors_t of every gate, and dL/dh_0.

    `outputs` is the gradient from above, `kept` what h_{t-1} adds to h_t beside the gates.
    """
    steps, lanes, gates, width = factors.shape
    totals = torch.empty_like(factors)
    # One place more in front: the gradient of the state before the first step.
    hidden = factors.new_zeros(steps + 1, lanes, width)
    hidden[1:] = outputs
    now = hidden.unbind()
    wide = hidden[:, :, None].unbind()
    factor, total = factors.unbind(), totals.unbind()
    flat = totals.view(steps, lanes, gates * width).unbind()
    passed = () if kept is None else kept.unbind()
    add_product = _Step(weight, low)
    for t in range(steps - 1, -1, -1):
        torch.mul(wide[t + 1], factor[t], out=total[t])
        if passed:
            now[t].addcmul_(now[t + 1], passed[t])
        add_product(now[t], flat[t])
    return hidden[1:], totals, hidden[0]


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
        inputs = _time_first(inputs)
        scale = 1 if relu else 2
        hidden = _input_product(inputs, weight_ih * scale, (bias_ih + bias_hh) * scale, low)
        add_product, before = _Step(weight_hh.t() * scale, low), state
        minus_one = torch.full_like(state, -1)
        for now in hidden.unbind():
            add_product(now, before)
            if relu:
                now.relu_()
            else:
                torch.add(minus_one, now.sigmoid_(), alpha=2, out=now)
            before = now
        context.save_for_backward(inputs, state, weight_ih, weight_hh, hidden)
        context.relu, context.low = relu, low
        return hidden.transpose(0, 1)

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, state, weight_ih, weight_hh, hidden = context.saved_tensors
        low = context.low
        steps, lanes, width = hidden.shape
        slope = (hidden > 0).to(hidden.dtype) if context.relu else 1 - hidden * hidden
        _, totals, before = _through_time(
            gradient.transpose(0, 1), slope[:, :, None], weight_hh, None, low
        )
        flat = totals.view(steps * lanes, width)
        earlier = torch.cat([state[None], hidden[:-1]]).view(steps * lanes, width)
        bias = flat.sum(0)
        return (
            _product(flat, weight_ih, low).view(inputs.shape).transpose(0, 1),
            before,
            _product(flat.t(), inputs.view(steps * lanes, -1), low),
            _product(flat.t(), earlier, low),
            bias,
            bias.clone(),
            None,
            None,
        )


class GRUKernel(torch.autograd.Function):
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
        low: bool,
    ) -> Tensor:
        inputs = _time_first(inputs)
        steps, lanes, _ = inputs.shape
        width = state.shape[1]
        # Of a candidate, its share of the input and its share of the state are kept apart, both
        # doubled for the tanh; of the other gates the totals are all that matters.
        scale = torch.ones_like(bias_ih)
        scale[2 * width :] = 2
        bias = bias_ih * scale
        bias[: 2 * width] += bias_hh[: 2 * width]
        from_input = _input_product(inputs, weight_ih * scale[:, None], bias, low)
        gates = torch.empty_like(from_input)
        gates[:, :, : 2 * width] = from_input[:, :, : 2 * width]
        gates[:, :, 2 * width :] = 2 * bias_hh[2 * width :]
        candidates = from_input.new_empty(steps, lanes, width)
        hidden = torch.empty_like(candidates)
        add_product, before = _Step((weight_hh * scale[:, None]).t(), low), state
        minus_one = torch.full_like(state, -1)
        for gate, both, reset, update, of_state, of_input, candidate, now in zip(
            gates.unbind(),
            gates[:, :, : 2 * width].unbind(),
            gates[:, :, :width].unbind(),
            gates[:, :, width : 2 * width].unbind(),
            gates[:, :, 2 * width :].unbind(),
            from_input[:, :, 2 * width :].unbind(),
            candidates.unbind(),
            hidden.unbind(),
            strict=True,
        ):
            add_product(gate, before)
            both.sigmoid_()
            torch.addcmul(of_input, reset, of_state, out=candidate)
            torch.add(minus_one, candidate.sigmoid_(), alpha=2, out=candidate)
            torch.lerp(candidate, before, update, out=now)
            before = now
        context.save_for_backward(inputs, state, weight_ih, weight_hh, gates, candidates, hidden)
        context.low = low
        return hidden.transpose(0, 1)

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, state, weight_ih, weight_hh, gates, candidates, hidden = context.saved_tensors
        low = context.low
        steps, lanes, width = hidden.shape
        reset, update = gates[:, :, :width], gates[:, :, width : 2 * width]
        earlier = torch.cat([state[None], hidden[:-1]])
        factors = hidden.new_empty(steps, lanes, 3, width)
        into_candidate = (1 - update) * (1 - candidates * candidates)
        torch.mul(into_candidate, reset, out=factors[:, :, 2])
        # What stands in the candidate's place of `gates` is doubled.
        torch.mul(into_candidate, gates[:, :, 2 * width :], out=factors[:, :, 0])
        factors[:, :, 0].mul_((reset - reset * reset).mul_(0.5))
        torch.mul(earlier - candidates, update - update * update, out=factors[:, :, 1])
        each, totals, before = _through_time(
            gradient.transpose(0, 1), factors, weight_hh, update, low
        )
        flat = totals.view(steps * lanes, 3 * width)
        state_weight = _product(flat.t(), earlier.view(steps * lanes, width), low)
        state_bias = flat.sum(0)
        # The input's part of the candidate is not multiplied by the reset gate.
        torch.mul(each, into_candidate, out=totals[:, :, 2])
        return (
            _product(flat, weight_ih, low).view(inputs.shape).transpose(0, 1),
            before,
            _product(flat.t(), inputs.view(steps * lanes, -1), low),
            state_weight,
            flat.sum(0),
            state_bias,
            None,
        )
