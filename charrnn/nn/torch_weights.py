"""Copy weights to and from `torch.nn.RNN`, `LSTM` and `GRU`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from charrnn.nn.cells.base import Activation, TorchLayoutCell
from charrnn.nn.cells.standard import GRUCell, LSTMCell, VanillaCell
from charrnn.nn.layers import Bidirectional, Recurrent, Stack

# What torch.nn calls the standard cells' layers.
IN_TORCH: dict[type, Any] = {VanillaCell: nn.RNN, LSTMCell: nn.LSTM, GRUCell: nn.GRU}


PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def from_torch(module: nn.RNNBase) -> Stack:
    """A stack with the weights of a `torch.nn.RNN`, `LSTM` or `GRU`, copied unchanged.

    Its layers are `Bidirectional` where the module is. Raises ValueError for what our cells do not
    have: projections, no biases.
    """
    if module.proj_size or not module.bias:
        raise ValueError("only modules with biases and without projections are supported")
    hidden = module.hidden_size

    def direction(width: int, suffix: str) -> Recurrent:
        cell: TorchLayoutCell
        if isinstance(module, nn.LSTM):
            cell = LSTMCell(width, hidden)
        elif isinstance(module, nn.GRU):
            cell = GRUCell(width, hidden)
        else:
            activation: Activation = "relu" if module.mode == "RNN_RELU" else "tanh"
            cell = VanillaCell(width, hidden, activation)
        reference = getattr(module, f"weight_hh_{suffix}")
        cell.to(device=reference.device, dtype=reference.dtype)
        with torch.no_grad():
            for name in PARTS:
                getattr(cell, name).copy_(getattr(module, f"{name}_{suffix}"))
        return Recurrent(cell)

    layers: list[nn.Module] = []
    width = module.input_size
    for i in range(module.num_layers):
        ahead = direction(width, f"l{i}")
        if module.bidirectional:
            layers.append(Bidirectional(ahead, direction(width, f"l{i}_reverse")))
            width = 2 * hidden
        else:
            layers.append(ahead)
            width = hidden
    return Stack(layers, dropout=float(module.dropout)).train(module.training)


def to_torch(stack: Stack) -> nn.RNNBase:
    """The `torch.nn.RNN`, `LSTM` or `GRU` (batch first) with a stack's weights, copied unchanged.

    Raises ValueError where torch has no such module: layers of different widths, cells or
    directions, directions that are not concatenated, or skip connections.
    """
    cells: dict[str, Any] = {}
    kinds = set()
    for i, layer in enumerate(stack.layers):
        merge = layer.merge if isinstance(layer, Bidirectional) else None
        both = [layer] if merge is None else [layer.forward_layer, layer.backward_layer]
        for one, suffix in zip(both, (f"l{i}", f"l{i}_reverse"), strict=False):
            cell = cells[suffix] = getattr(one, "cell", None)
            activation = getattr(cell, "activation", None)
            kinds.add((type(cell), getattr(cell, "hidden_size", 0), activation, merge))
    kind, width, activation, merge = kinds.pop()
    fits = not kinds and not stack.skip_connections and merge in (None, "concatenate")
    if not fits or kind not in IN_TORCH:
        raise ValueError(
            "torch.nn needs standard cells of one kind and width, in one direction or in two that "
            "are concatenated, without skip connections"
        )
    first = cells["l0"]
    module: nn.RNNBase = IN_TORCH[kind](
        first.input_size,
        width,
        num_layers=len(stack.layers),
        dropout=stack.dropout if len(stack.layers) > 1 else 0.0,
        batch_first=True,
        bidirectional=merge is not None,
        **({"nonlinearity": activation} if activation else {}),
    ).to(device=first.weight_hh.device, dtype=first.weight_hh.dtype)
    with torch.no_grad():
        for suffix, cell in cells.items():
            for name in PARTS:
                getattr(module, f"{name}_{suffix}").copy_(getattr(cell, name))
    return module.train(stack.training)
