"""Copy weights to and from `torch.nn.RNN`, `LSTM` and `GRU`."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from charrnn.nn.cells.base import Activation, TorchLayoutCell
from charrnn.nn.cells.standard import GRUCell, LSTMCell, VanillaCell
from charrnn.nn.layers import Bidirectional, Merge, Recurrent, Stack

TORCH_MODULES: dict[type, Any] = {VanillaCell: nn.RNN, LSTMCell: nn.LSTM, GRUCell: nn.GRU}
PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def from_torch(module: nn.RNNBase) -> Stack:
    """Build a stack with the weights of a `torch.nn.RNN`, `LSTM` or `GRU`, copied unchanged.

    Its layers are `Bidirectional` if the module is bidirectional. Raises ValueError for modules
    with projections or without biases, which our cells do not have.

    >>> module = nn.LSTM(3, 5, num_layers=2, batch_first=True)
    >>> stack = from_torch(module)
    >>> inputs = torch.zeros(2, 7, 3)
    >>> outputs, _ = stack(inputs, stack.initial_state(2))
    >>> torch.allclose(outputs, module(inputs)[0])
    True
    """
    if module.proj_size or not module.bias:
        raise ValueError(
            "only modules with biases and without projections can be converted; "
            "build the module with bias=True and proj_size=0"
        )
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
            for name in PARAMETERS:
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


class _Shape(NamedTuple):
    """The properties that all layers of one torch.nn module share."""

    cell: type
    hidden_size: int
    activation: Activation | None
    merge: Merge | None


def to_torch(stack: Stack) -> nn.RNNBase:
    """Build the `torch.nn.RNN`, `LSTM` or `GRU` (batch first) with a stack's weights, copied
    unchanged.

    Models with skip connections, which `charrnn train` makes by default, can be converted too: the
    layers compute the same. But torch's module returns the outputs of the last layer alone, which
    are the last `hidden_size` columns of the stack's outputs, while the head of such a model reads
    the outputs of all layers. For those, convert each layer alone: `to_torch(Stack([layer]))`.

    Raises ValueError if torch has no such module: for other cells, layers of different cells,
    widths or directions, directions that are not concatenated, and zoneout.

    >>> stack = Stack([Recurrent(GRUCell(3, 5)), Recurrent(GRUCell(5, 5))], skip_connections=True)
    >>> module = to_torch(stack)
    >>> module
    GRU(3, 5, num_layers=2, batch_first=True)
    >>> inputs = torch.zeros(2, 7, 3)
    >>> outputs, _ = stack(inputs, stack.initial_state(2))
    >>> torch.allclose(module(inputs)[0], outputs[:, :, -5:])
    True
    """
    shape = _common_shape(stack)
    cells = {suffix: layer.cell for suffix, layer in _by_suffix(stack).items()}
    first: Any = cells["l0"]
    module: nn.RNNBase = TORCH_MODULES[shape.cell](
        first.input_size,
        shape.hidden_size,
        num_layers=len(stack.layers),
        dropout=stack.dropout if len(stack.layers) > 1 else 0.0,
        batch_first=True,
        bidirectional=shape.merge is not None,
        **({"nonlinearity": shape.activation} if shape.activation else {}),
    ).to(device=first.weight_hh.device, dtype=first.weight_hh.dtype)
    with torch.no_grad():
        for suffix, cell in cells.items():
            for name in PARAMETERS:
                getattr(module, f"{name}_{suffix}").copy_(getattr(cell, name))
    return module.train(stack.training)


def _directions(layer: nn.Module) -> list[Any]:
    """The layer, or the forward and the backward layer of a bidirectional one."""
    both = isinstance(layer, Bidirectional)
    return [layer.forward_layer, layer.backward_layer] if both else [layer]


def _by_suffix(stack: Stack) -> dict[str, Recurrent]:
    """The layers by the suffix of torch's parameters: `l0`, `l0_reverse`, `l1`, ..."""
    return {
        suffix: layer
        for i, both in enumerate(map(_directions, stack.layers))
        for layer, suffix in zip(both, (f"l{i}", f"l{i}_reverse"), strict=False)
    }


def _common_shape(stack: Stack) -> _Shape:
    """The one shape of all layers. Raises ValueError if torch.nn has no module for them."""
    shapes = set()
    for layer in stack.layers:
        for one in _directions(layer):
            cell = getattr(one, "cell", one)
            if type(cell) not in TORCH_MODULES:
                raise ValueError(
                    f"torch.nn has no module that computes {type(cell).__name__}; "
                    f"use the charrnn layer itself, which is a torch.nn.Module"
                )
            if one.zoneout:
                raise ValueError(
                    "torch.nn has no zoneout; set it to (), or use the charrnn layer itself"
                )
            merge = layer.merge if isinstance(layer, Bidirectional) else None
            activation = getattr(cell, "activation", None)
            shapes.add(_Shape(type(cell), cell.hidden_size, activation, merge))
    shape = shapes.pop()
    if shapes:
        raise ValueError(
            "a torch.nn module has layers of one cell, one width and the same directions, and "
            "these layers differ; convert each layer alone: to_torch(Stack([layer]))"
        )
    if shape.merge not in (None, "concatenate"):
        raise ValueError(
            f"torch.nn concatenates two directions, and these are merged by {shape.merge}; "
            f"convert each direction alone: to_torch(Stack([layer.forward_layer]))"
        )
    return shape
