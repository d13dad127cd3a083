"""Dropout: the operation, and its rates at every place of a network.

Networks call the methods of `Dropouts`, so that each use of dropout is defined in one place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


def drop(inputs: Tensor, rate: float, training: bool, locked: bool) -> Tensor:
    """Apply dropout to (N, T, D), or to (N, D) in a single step.

    In training each number becomes 0 with probability `rate` and is divided by 1 - rate
    otherwise, so that its expectation stays the same (Srivastava et al. 2014). With `locked` one
    mask serves all T steps of a lane (variational dropout: Gal and Ghahramani 2016). Otherwise,
    and in evaluation, the inputs are returned unchanged.

    >>> drop(torch.ones(1, 2, 2), rate=0.5, training=False, locked=False)
    tensor([[[1., 1.],
             [1., 1.]]])
    """
    if not training or not rate:
        return inputs
    if not locked:
        return functional.dropout(inputs, rate)
    mask = torch.ones_like(inputs[:, :1]) if inputs.dim() == 3 else torch.ones_like(inputs)
    return inputs * functional.dropout(mask, rate)


@dataclass(frozen=True)
class Dropouts:
    """The rates of dropout in one network, each a probability; 0 turns that kind off.

    ::

        ids --> embedding --input--> layer 1 --layers--> layer 2 --output--> head
                (embedding)          (weight, zoneout)   (weight, zoneout)

    >>> Dropouts(layers=0.2, output=0.2).on_output(torch.ones(1, 1, 3), training=False)
    tensor([[[1., 1., 1.]]])
    """

    input: float = 0.0
    """Applied to the vectors that the first layer reads."""
    layers: float = 0.0
    """Applied between recurrent layers, never to the state (`layers.Stack`)."""
    output: float = 0.0
    """Applied to the vectors that the head reads."""
    embedding: float = 0.0
    """Removes whole symbols of the vocabulary for one call (Gal and Ghahramani 2016)."""
    weight: float = 0.0
    """Applied to the recurrent weight matrices (`layers.Recurrent`)."""
    zoneout: tuple[float, ...] = ()
    """Keeps old values of the state: one rate for each part of a cell's state, the hidden state
    first (`layers.Zoneout`)."""
    locked: bool = False
    """Draw `input`, `layers` and `output` once for all steps of a call (see `drop`)."""

    def on_input(self, vectors: Tensor, training: bool) -> Tensor:
        """Drop from the vectors (N, T, D) or (N, D) that the first layer reads."""
        return drop(vectors, self.input, training, self.locked)

    def on_output(self, outputs: Tensor, training: bool) -> Tensor:
        """Drop from the vectors (N, T, D) or (N, D) that the head reads."""
        return drop(outputs, self.output, training, self.locked)

    def on_symbols(self, vectors: Tensor, ids: Tensor, symbols: int, training: bool) -> Tensor:
        """Zero the `vectors` (..., D) of random symbols; the vocabulary has `symbols` symbols.

        `ids` (...) are the symbols of the vectors. A symbol is kept or removed everywhere in the
        call; those that are kept are divided by 1 - rate.
        """
        if not training or not self.embedding:
            return vectors
        kept = functional.dropout(vectors.new_ones(symbols, 1), self.embedding)
        return vectors * kept[ids]


NO_DROPOUT = Dropouts()
