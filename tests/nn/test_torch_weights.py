"""Weights moved to and from the modules of torch.nn, which compute the same."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import charrnn
from charrnn.nn.cells.standard import GRUCell, LSTMState, VanillaCell
from charrnn.nn.layers import Bidirectional, Recurrent, Stack
from charrnn.nn.models import language_model
from charrnn.nn.state import leaves
from charrnn.nn.torch_weights import from_torch, to_torch
from tests.layers import CELLS, STANDARD, D, H, both_ways, data, deep, everything, filled
from tests.reference import differences


def torch_module(kind: str, depth: int, **options: Any) -> Any:
    if kind in {"tanh", "relu"}:
        options["nonlinearity"] = kind
    maker = {"lstm": nn.LSTM, "gru": nn.GRU}.get(kind, nn.RNN)
    return maker(D, H, depth, batch_first=True, **options)


def run_torch(
    module: Any, lengths: list[int] | None = None
) -> Callable[[Tensor, Any], tuple[Tensor, Any]]:
    """Run the module from our state, with one entry for each layer, a pair if bidirectional.

    With lengths, use packed sequences, torch's own way of leaving out the padding.
    """

    def run(inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        packed: Any = inputs
        if lengths is not None:
            packed = nn.utils.rnn.pack_padded_sequence(
                inputs, torch.tensor(lengths), batch_first=True, enforce_sorted=False
            )
        if module.bidirectional:
            state = [direction for layer in state for direction in layer]
        if isinstance(module, nn.LSTM):
            initial: Any = tuple(torch.stack(leaf) for leaf in zip(*state, strict=True))
            outputs, final = module(packed, initial)
            final = tuple(map(LSTMState, *final))
        else:
            outputs, final = module(packed, torch.stack(state))
            final = tuple(final)
        if lengths is not None:
            outputs, _ = nn.utils.rnn.pad_packed_sequence(
                outputs, batch_first=True, total_length=inputs.shape[1]
            )
        return outputs, final  # Our states have the same leaves in the same order.

    return run


def in_our_names(results: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename `d weight_ih_l0` to `d layers.0.cell.weight_ih`; `_reverse` is the backward layer."""
    both = any(name.endswith("_reverse") for name in results)
    renamed = {}
    for name, result in results.items():
        stem, _, depth = name.removeprefix("d ").removesuffix("_reverse").rpartition("_l")
        way = ("backward_layer." if name.endswith("_reverse") else "forward_layer.") * both
        ours = f"d layers.{depth}.{way}cell.{stem}"
        renamed[ours if stem.count("_") == 1 else name] = result
    return renamed


# With as many lanes as steps, an axis that is taken for the other one changes no shape.
@pytest.mark.parametrize("lengths", [None, [6, 6, 6, 1, 5, 4], [2, 3, 1]], ids=str)
@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("kind", STANDARD)
def test_parity_with_torch(kind: str, both: bool, lengths: list[int] | None) -> None:
    """With lengths, torch takes packed sequences."""
    module = filled(torch_module(kind, 2, bidirectional=both))
    ours = from_torch(module)
    inputs, state = data(ours, len(lengths or [1, 1, 1]), 6)
    steps = None if lengths is None else torch.tensor(lengths)
    actual = everything(ours, inputs, state, lambda inputs, state: ours(inputs, state, steps))
    expected = in_our_names(everything(module, inputs, state, run_torch(module, lengths)))
    assert differences(actual, expected) == []
    back = to_torch(ours)
    again = in_our_names(everything(back, inputs, state, run_torch(back, lengths)))
    assert differences(again, expected) == []


@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("kind", STANDARD)
def test_weights_round_trip_bit_for_bit(kind: str, both: bool) -> None:
    module = filled(torch_module(kind, 3, bidirectional=both), torch.float32)
    ours = from_torch(module)
    back = to_torch(ours)
    assert type(back) is type(module)
    assert back.mode == module.mode
    assert back.batch_first
    assert list(back.state_dict()) == list(module.state_dict())
    for name, weights in module.state_dict().items():
        assert back.state_dict()[name].dtype == torch.float32
        assert torch.equal(back.state_dict()[name], weights)
    again = from_torch(back)
    for name, weights in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], weights)


def test_weights_are_copied_not_shared() -> None:
    module = filled(torch_module("gru", 1))
    ours = from_torch(module)
    back = to_torch(ours)
    with torch.no_grad():
        ours.layers[0].cell.weight_ih.zero_()
    assert module.weight_ih_l0.any()
    assert back.weight_ih_l0.any()


def test_dropout_is_kept_both_ways() -> None:
    module = torch_module("lstm", 2, dropout=0.25)
    assert from_torch(module).dropout == 0.25
    assert to_torch(from_torch(module)).dropout == 0.25


def test_one_layer_with_dropout_becomes_a_torch_module_without_a_warning() -> None:
    stack = Stack([Recurrent(GRUCell(D, H))], dropout=0.5)
    assert to_torch(stack).num_layers == 1


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("lstm", {"proj_size": 2}),
        ("relu", {"bias": False}),
        ("lstm", {"bias": False}),
    ],
)
def test_from_torch_refuses_what_our_cells_do_not_have(kind: str, options: Any) -> None:
    with pytest.raises(ValueError, match="biases and without projections"):
        from_torch(torch_module(kind, 1, **options))


@pytest.mark.parametrize("kind", ["vanilla", "lstm", "gru"])
def test_a_model_with_skip_connections_becomes_a_torch_module(kind: str) -> None:
    """`charrnn train` makes such models by default; torch returns the outputs of the last layer."""
    model = language_model(
        7, cell=kind, hidden_sizes=(5, 5), embedding_size=D, skip_connections=True
    )
    stack: Any = filled(model).stack
    module: Any = charrnn.to_torch(stack)
    assert module.num_layers == 2
    inputs, state = data(stack, 2, 6)
    outputs, final = stack(inputs, state)
    theirs, after = run_torch(module)(inputs, state)
    torch.testing.assert_close(theirs, outputs[:, :, -5:])
    for ended, expected in zip(after, final, strict=True):
        torch.testing.assert_close([*leaves(ended)], [*leaves(expected)])
    first = to_torch(Stack([stack.layers[0]]))
    torch.testing.assert_close(run_torch(first)(inputs, state[:1])[0], outputs[:, :, :5])


UNLIKE: dict[str, Callable[[], Stack]] = {
    "widths": lambda: Stack([Recurrent(GRUCell(D, 4)), Recurrent(GRUCell(4, 5))]),
    "cells": lambda: Stack([Recurrent(GRUCell(D, H)), Recurrent(VanillaCell(H, H))]),
    "activations": lambda: Stack(
        [Recurrent(VanillaCell(D, H)), Recurrent(VanillaCell(H, H, "relu"))]
    ),
    "zoneout": lambda: Stack([Recurrent(GRUCell(D, H), zoneout=[0.1])]),
    "own cell": lambda: Stack([Recurrent(type("Own", (GRUCell,), {})(D, H))]),
    "directions": lambda: Stack([both_ways("gru"), Recurrent(GRUCell(2 * H, H))]),
    "widths of two directions": lambda: Stack(
        [Bidirectional(Recurrent(GRUCell(D, H)), Recurrent(GRUCell(D, H + 1)))]
    ),
    "a sum": lambda: Stack([both_ways("gru", "sum")]),
    "stack in a direction": lambda: Stack([Bidirectional(deep("gru", 1), deep("gru", 1))]),
    "another cell": lambda: Stack([Recurrent(CELLS["rhn"](D, H))]),
}


@pytest.mark.parametrize("unlike", UNLIKE)
def test_to_torch_refuses_what_torch_does_not_have(unlike: str) -> None:
    with pytest.raises(ValueError, match=r"torch\.nn"):
        to_torch(UNLIKE[unlike]())
