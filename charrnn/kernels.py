"""Whole-sequence kernels for a CPU, each with its backward pass derived by hand.

torch computes its GRU and vanilla layers on a CPU by many small recorded operations. Here the
input products of all steps are one matrix product, the loop over time does only what depends on
the state before, and in the backward pass everything that does not depend on the gradient to come
is computed for all steps at once: with a = W h + ... the total of a gate, what is left of a step is

    dL/da_t = dL/dh_t * K_t        with K_t known from the forward pass,
    dL/dh_{t-1} += W^T dL/da_t,

and the gradients of the weights are one product each over all steps. The equations are those of
`cells`, in the same order of gates; all tensors are (T, N, ...), time first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable


def _time_first(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, 1).contiguous()


def _input_product(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    steps, lanes, width = inputs.shape
    return torch.addmm(bias, inputs.view(steps * lanes, width), weight.t()).view(steps, lanes, -1)


def _through_time(
    outputs: Tensor, factors: Tensor, weight: Tensor, kept: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """dL/dh_t of every step, dL/da_t = dL/dh_t * factors_t of every gate, and dL/dh_0.

    `outputs` is the gradient from above, `kept` what h_{t-1} adds to h_t beside the gates.
    """
    steps, lanes, gates, width = factors.shape
    totals = torch.empty_like(factors)
    hidden = factors.new_empty(steps, lanes, width)
    hidden[-1] = outputs[-1]
    above, now = outputs.unbind(), hidden.unbind()
    factor, total = factors.unbind(), totals.unbind()
    flat = totals.view(steps, lanes, gates * width).unbind()
    passed = () if kept is None else kept.unbind()
    for t in range(steps - 1, 0, -1):
        torch.mul(now[t][:, None], factor[t], out=total[t])
        direct = torch.addcmul(above[t - 1], now[t], passed[t]) if passed else above[t - 1]
        torch.addmm(direct, flat[t], weight, out=now[t - 1])
    torch.mul(now[0][:, None], factor[0], out=total[0])
    first = flat[0] @ weight
    if passed:
        first.addcmul_(now[0], passed[0])
    return hidden, totals, first


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
    ) -> Tensor:
        inputs = _time_first(inputs)
        hidden = _input_product(inputs, weight_ih, bias_ih + bias_hh)
        transposed, before = weight_hh.t(), state
        for now in hidden.unbind():
            now.addmm_(before, transposed)
            before = now.relu_() if relu else now.tanh_()
        context.save_for_backward(inputs, state, weight_ih, weight_hh, hidden)
        context.relu = relu
        return hidden.transpose(0, 1)

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, state, weight_ih, weight_hh, hidden = context.saved_tensors
        steps, lanes, width = hidden.shape
        slope = (hidden > 0).to(hidden.dtype) if context.relu else 1 - hidden * hidden
        _, totals, before = _through_time(
            gradient.transpose(0, 1), slope[:, :, None], weight_hh, None
        )
        flat = totals.view(steps * lanes, width)
        earlier = torch.cat([state[None], hidden[:-1]]).view(steps * lanes, width)
        bias = flat.sum(0)
        return (
            (flat @ weight_ih).view(inputs.shape).transpose(0, 1),
            before,
            flat.t() @ inputs.view(steps * lanes, -1),
            flat.t() @ earlier,
            bias,
            bias.clone(),
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
    ) -> Tensor:
        inputs = _time_first(inputs)
        width = state.shape[1]
        # The reset and update gates' two biases are one; the candidate's second one is inside.
        outer, inner = bias_hh.clone(), bias_hh.clone()
        outer[2 * width :] = 0
        inner[: 2 * width] = 0
        gates = _input_product(inputs, weight_ih, bias_ih + outer)
        from_state = torch.empty_like(gates)
        candidates = gates.new_empty(gates.shape[0], gates.shape[1], width)
        hidden = torch.empty_like(candidates)
        transposed, before = weight_hh.t(), state
        for gate, product, candidate, now in zip(
            gates.unbind(), from_state.unbind(), candidates.unbind(), hidden.unbind(), strict=True
        ):
            torch.addmm(inner, before, transposed, out=product)
            both = gate[:, : 2 * width].add_(product[:, : 2 * width]).sigmoid_()
            torch.addcmul(
                gate[:, 2 * width :], both[:, :width], product[:, 2 * width :], out=candidate
            ).tanh_()
            torch.lerp(candidate, before, both[:, width:], out=now)
            before = now
        context.save_for_backward(
            inputs, state, weight_ih, weight_hh, gates, from_state, candidates, hidden
        )
        return hidden.transpose(0, 1)

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        (
            inputs, state, weight_ih, weight_hh, gates, from_state, candidates, hidden,
        ) = context.saved_tensors  # fmt: skip
        steps, lanes, width = hidden.shape
        reset, update = gates[:, :, :width], gates[:, :, width : 2 * width]
        earlier = torch.cat([state[None], hidden[:-1]])
        factors = hidden.new_empty(steps, lanes, 3, width)
        into_candidate = (1 - update) * (1 - candidates * candidates)
        torch.mul(into_candidate, reset, out=factors[:, :, 2])
        torch.mul(into_candidate, from_state[:, :, 2 * width :], out=factors[:, :, 0])
        factors[:, :, 0].mul_(reset - reset * reset)
        torch.mul(earlier - candidates, update - update * update, out=factors[:, :, 1])
        each, totals, before = _through_time(gradient.transpose(0, 1), factors, weight_hh, update)
        of_state = totals.view(steps * lanes, 3 * width)
        state_weight = of_state.t() @ earlier.view(steps * lanes, width)
        state_bias = of_state.sum(0)
        # The input's part of the candidate is not multiplied by the reset gate.
        torch.mul(each, into_candidate, out=totals[:, :, 2])
        return (
            (of_state @ weight_ih).view(inputs.shape).transpose(0, 1),
            before,
            of_state.t() @ inputs.view(steps * lanes, -1),
            state_weight,
            of_state.sum(0),
            state_bias,
        )
