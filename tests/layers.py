"""Cells and layers for tests, and functions that compare everything they compute.

`CELLS` holds every cell of the registry, so that a new cell is tested without a change here.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from charrnn.nn.cells.layer_norm import LayerNormGRUCell, LayerNormLSTMCell, LayerNormVanillaCell
from charrnn.nn.cells.minimal import MinGRUCell, MinLSTMCell
from charrnn.nn.cells.mlstm import MultiplicativeLSTMCell
from charrnn.nn.cells.rhn import RHNCell
from charrnn.nn.cells.standard import GRUCell, LSTMCell, ResetFirstGRUCell, VanillaCell
from charrnn.nn.layers import Bidirectional, Recurrent, Stack
from charrnn.nn.models import cell_class
from charrnn.nn.state import leaves, map_state
from charrnn.registry import CELLS as REGISTERED

Maker = Callable[[int, int], Any]
D, H = 3, 4  # input and hidden width

STANDARD: dict[str, Maker] = {
    "tanh": VanillaCell,
    "relu": lambda d, h: VanillaCell(d, h, "relu"),
    "lstm": LSTMCell,
    "gru": GRUCell,
}
SCANNED: dict[str, Maker] = {"mingru": MinGRUCell, "minlstm": MinLSTMCell}
FAST = STANDARD | SCANNED
OURS: dict[str, Maker] = {
    **FAST,
    "reset-first gru": ResetFirstGRUCell,
    "mlstm": MultiplicativeLSTMCell,
    "rhn": lambda d, h: RHNCell(d, h, recurrence_depth=3),
    "normed vanilla": LayerNormVanillaCell,
    "normed lstm": LayerNormLSTMCell,
    "normed gru": LayerNormGRUCell,
}
"""The cells with an equation in `tests.reference`."""
CELLS: dict[str, Maker] = {
    **OURS,
    **{name: cell_class(name) for name in REGISTERED if name not in {*OURS, "vanilla"}},
}


def filled(module: nn.Module, dtype: torch.dtype = torch.float64, seed: int = 5) -> Any:
    """Fill the module with parameters that are not zero, so that leaving one out is noticed."""
    torch.manual_seed(seed)
    module.to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-0.8, 0.8)
    return module


def random_state(system: Any, batch: int) -> Any:
    """Return a state of a cell or a layer without zeros."""
    return map_state(lambda leaf: torch.randn_like(leaf) * 0.6, system.initial_state(batch))


def data(
    layer: Any, batch: int, length: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Any]:
    """Return inputs (N, T, D) and an initial state."""
    torch.manual_seed(9)
    state = random_state(layer, batch)
    return torch.randn(batch, length, D, dtype=dtype), state


def arrays(outputs: Tensor, state: Any) -> dict[str, np.ndarray]:
    """Return outputs and the tensors of a state by name."""
    named = {"outputs": outputs} | {f"final state {i}": s for i, s in enumerate(leaves(state))}
    return {name: tensor.detach().numpy() for name, tensor in named.items()}


def everything(
    module: nn.Module,
    inputs: Tensor,
    state: Any,
    run: Callable[[Tensor, Any], tuple[Tensor, Any]] | None = None,
) -> dict[str, np.ndarray]:
    """Return outputs, final state, and gradients of inputs, initial state and all parameters.

    The gradients are those of a weighted sum, with a different weight for each number.
    """
    inputs = inputs.clone().requires_grad_()
    state = map_state(lambda leaf: leaf.clone().requires_grad_(), state)
    outputs, final = (run or module)(inputs, state)
    results = {"outputs": outputs}
    results |= {f"final state {i}": leaf for i, leaf in enumerate(leaves(final))}
    loss = sum(
        (result * torch.arange(1.0, result.numel() + 1).to(result).sin().view_as(result)).sum()
        for result in results.values()
    )
    sources = {"inputs": inputs}
    sources |= {f"initial state {i}": leaf for i, leaf in enumerate(leaves(state))}
    sources |= dict(module.named_parameters())
    gradients = torch.autograd.grad(loss, list(sources.values()))
    results |= {f"d {name}": g for name, g in zip(sources, gradients, strict=True)}
    return {name: result.detach().numpy() for name, result in results.items()}


def deep(kind: str, depth: int, fused: bool = True) -> Stack:
    """Build a stack of layers of one cell."""
    return Stack(Recurrent(CELLS[kind](D if i == 0 else H, H), fused=fused) for i in range(depth))


def mixed(skip_connections: bool = False) -> Stack:
    """Build a stack of different cells and widths, with and without fused kernels."""
    return Stack(
        [
            Recurrent(LSTMCell(D, 5)),
            Recurrent(VanillaCell(5, 2, "relu")),
            Recurrent(GRUCell(2, 4), fused=False),
            Recurrent(VanillaCell(4, 3), fused=False),
        ],
        skip_connections=skip_connections,
    )


def both_ways(kind: str, merge: Any = "concatenate", fused: bool = True) -> Bidirectional:
    """Build two layers of one cell, one for each direction."""
    return Bidirectional(
        Recurrent(CELLS[kind](D, H), fused), Recurrent(CELLS[kind](D, H), fused), merge
    )
