"""Operations on padded sequences (N, T, D)."""

from __future__ import annotations

import torch
from torch import Tensor


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
