"""Operations on padded sequences (N, T, D)."""

from __future__ import annotations

import torch
from torch import Tensor


def real_steps(lengths: Tensor, inputs: Tensor) -> Tensor:
    """Return a mask (N, T) that is True at the real steps of inputs (N, T, D), not the padding.

    >>> real_steps(torch.tensor([1, 2]), torch.zeros(2, 3, 5))
    tensor([[ True, False, False],
            [ True,  True, False]])
    """
    return torch.arange(inputs.shape[1], device=inputs.device) < lengths[:, None]


def only(real: Tensor, sequence: Tensor) -> Tensor:
    """Replace the padding of a sequence (N, T, D) by zeros; no gradient flows into it.

    `real` is the mask (N, T) of `real_steps`. Numbers are selected by the mask, not multiplied by
    it: the padding may hold NaN or infinity.
    """
    return sequence.where(real[:, :, None], sequence.new_zeros(()))


def reverse(sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Reverse a sequence (N, T, D) in time.

    With `lengths` (N,) the real steps of each lane are reversed, and the padding stays behind them.
    Reversing twice gives the same sequence.

    >>> sequence = torch.tensor([[1, 2, 0], [3, 4, 5]])[:, :, None]
    >>> reverse(sequence, torch.tensor([2, 3]))[:, :, 0]
    tensor([[2, 1, 0],
            [5, 4, 3]])
    """
    if lengths is None:
        return sequence.flip(1)
    steps = torch.arange(sequence.shape[1], device=sequence.device).expand(sequence.shape[:2])
    ends = lengths.clamp(max=sequence.shape[1])[:, None] - 1
    steps = (ends - steps).where(steps <= ends, steps)
    return sequence.gather(1, steps[:, :, None].expand_as(sequence))
