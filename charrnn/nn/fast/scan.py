r"""All steps of h_t = a_t h_{t-1} + b_t at once, for cells that are linear in their state.

Two steps in a row are one step of the same form, with a = a_2 a_1 and b = a_2 b_1 + b_2, so pairs
of steps are composed until few are left, and what lies between is filled in on the way back
(the odd-even form of a prefix scan: Blelloch 1990; Martin and Cundy 2018 for recurrent networks):
2 log_2 T operations one after the other in the place of T, and about twice the arithmetic. Nothing
is divided by and no logarithm is taken. The logarithmic form of Feng et al. (2024), with
logcumsumexp, subtracts sums of logarithms that grow with T: in float32 it was off by 5e-5 after
1,000 steps, and 1.6 to 6.9 times slower on a CPU (docs/experiments/scan.md).

Everything is time first: (T, N, H).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

FEW = 8  # steps: fewer operations one by one than in pairs


def scan(kept: Tensor, added: Tensor, state: Tensor) -> Tensor:
    """h_t = kept_t h_{t-1} + added_t for all t: (T, N, H) twice and h_0 (N, H) give (T, N, H).

    Differentiable once, by the same scan read backwards.
    """
    return _Scan.apply(kept, added, state)  # type: ignore[no-untyped-call, no-any-return]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, kept: Tensor, added: Tensor, state: Tensor) -> Tensor:
        hidden = _compute(kept, added, state)
        context.save_for_backward(kept, state, hidden)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        kept, state, hidden = context.saved_tensors
        # dL/dh_t = gradient_t + kept_{t+1} dL/dh_{t+1}, with nothing after the last step.
        later = kept.roll(-1, 0).flip(0)
        total = _compute(later, gradient.flip(0), torch.zeros_like(state)).flip(0)
        before = torch.cat([state[None], hidden[:-1]])
        return total * before, total, kept[0] * total[0]


def _compute(kept: Tensor, added: Tensor, before: Tensor) -> Tensor:
    steps = len(added)
    hidden = torch.empty_like(added)
    if steps <= FEW:
        for a, b, now in zip(kept.unbind(), added.unbind(), hidden.unbind(), strict=True):
            before = torch.addcmul(b, a, before, out=now)
        return hidden
    # Steps 0 and 1, 2 and 3, ... as one each; an odd one out stays at the end.
    first, second = slice(0, steps - 1, 2), slice(1, steps, 2)
    hidden[second] = _compute(
        kept[second] * kept[first],
        torch.addcmul(added[second], kept[second], added[first]),
        before,
    )
    earlier = torch.cat([before[None], hidden[second]])[: steps - steps // 2]
    torch.addcmul(added[::2], kept[::2], earlier, out=hidden[::2])
    return hidden
