"""Operations on padded sequences (N, T, D)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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
