"""What holds for every causal layer, and the fused kernels against the plain equations."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from charrnn.nn.cells.layer_norm import LayerNormGRUCell, LayerNormLSTMCell, LayerNormVanillaCell
from charrnn.nn.cells.minimal import MinGRUCell, MinLSTMCell
from charrnn.nn.cells.stacked import StackedCell
from charrnn.nn.cells.standard import GRUCell, LSTMCell, LSTMState, VanillaCell
from charrnn.nn.fast.fused import FUSED
from charrnn.nn.fast.scan import scan
from charrnn.nn.layers import MERGES, Bidirectional, Recurrent, Stack, unroll
from charrnn.nn.models import cell_class
from charrnn.nn.sequences import reverse
from charrnn.nn.state import leaves, map_state, replace_leaves
from charrnn.nn.torch_weights import from_torch, to_torch
from charrnn.registry import CELLS as REGISTERED
from tests import reference
from tests.nn.test_cells import CELLS as EVERY_CELL
from tests.reference import differences

CELLS: dict[str, Callable[[int, int], Any]] = {
    "tanh": VanillaCell,
    "relu": lambda d, h: VanillaCell(d, h, "relu"),
    "lstm": LSTMCell,
    "gru": GRUCell,
}
SCANNED: dict[str, Callable[[int, int], Any]] = {"mingru": MinGRUCell, "minlstm": MinLSTMCell}
FAST = CELLS | SCANNED
NORMED: dict[str, Callable[[int, int], Any]] = {
    "normed vanilla": LayerNormVanillaCell,
    "normed lstm": LayerNormLSTMCell,
    "normed gru": LayerNormGRUCell,
}
DTYPES = [torch.float32, torch.float64]
D, H = 3, 4  # input and hidden width


def filled(module: nn.Module, dtype: torch.dtype = torch.float64, seed: int = 5) -> Any:
    """The module with no parameter zero, so that none can be left out unnoticed."""
    torch.manual_seed(seed)
    module.to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-0.8, 0.8)
    return module


def deep(kind: str, depth: int, fused: bool = True) -> Stack:
    return Stack(
        Recurrent(EVERY_CELL[kind](D if i == 0 else H, H), fused=fused) for i in range(depth)
    )


def data(layer: Any, batch: int, length: int, dtype: torch.dtype) -> tuple[Tensor, Any]:
    torch.manual_seed(9)
    state = map_state(lambda leaf: torch.randn_like(leaf) * 0.6, layer.initial_state(batch))
    return torch.randn(batch, length, D, dtype=dtype), state


def everything(
    module: nn.Module,
    inputs: Tensor,
    state: Any,
    run: Callable[[Tensor, Any], tuple[Tensor, Any]] | None = None,
) -> dict[str, np.ndarray]:
    """Outputs, final state, and the gradient of inputs, initial state and every parameter.

    The gradients are those of a sum in which every number has a weight of its own.
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


# The plain path.


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", EVERY_CELL)
def test_layer_is_the_reference_looped(kind: str, batch: int, length: int, fused: bool) -> None:
    layer = filled(Recurrent(EVERY_CELL[kind](D, H), fused=fused))
    inputs, state = data(layer, batch, length, torch.float64)
    with torch.no_grad():
        outputs, final = layer(inputs, state)
    weights = {name: weight.detach().numpy() for name, weight in layer.cell.named_parameters()}
    expected, last = reference.run(
        kind, weights, inputs.numpy(), [leaf.numpy() for leaf in leaves(state)]
    )
    assert differences({"outputs": outputs.numpy()}, {"outputs": expected}) == []
    for leaf, wanted in zip(leaves(final), last, strict=True):
        assert differences({"state": leaf.numpy()}, {"state": wanted}) == []


@pytest.mark.parametrize("lengths", [None, [3, 1]], ids=str)
@pytest.mark.parametrize("kind", EVERY_CELL)
def test_gradient_of_the_plain_path_is_the_numeric_one(
    kind: str, lengths: list[int] | None
) -> None:
    layer = filled(Recurrent(EVERY_CELL[kind](2, 2), fused=False))
    torch.manual_seed(1)
    state = map_state(torch.randn_like, layer.initial_state(2))
    names = [name for name, _ in layer.named_parameters()]
    parameters = [parameter.detach().clone() for parameter in layer.parameters()]
    steps = None if lengths is None else torch.tensor(lengths)

    def run(inputs: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        weights = dict(zip(names, rest[: len(names)], strict=True))
        before = replace_leaves(state, iter(rest[len(names) :]))
        outputs, after = functional_call(layer, weights, (inputs, before, steps))
        return outputs, *leaves(after)

    tensors = [torch.randn(2, 3, 2, dtype=torch.float64), *parameters, *leaves(state)]
    assert torch.autograd.gradcheck(run, [tensor.requires_grad_() for tensor in tensors])


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("kind", EVERY_CELL)
def test_no_steps_are_refused(kind: str, fused: bool) -> None:
    layer = Recurrent(EVERY_CELL[kind](D, H), fused=fused)
    with pytest.raises(ValueError, match="0 time steps"):
        layer(torch.zeros(2, 0, D), layer.initial_state(2))


def test_unroll_refuses_no_steps() -> None:
    cell = GRUCell(D, H)
    with pytest.raises(ValueError, match="0 time steps"):
        unroll(cell, torch.zeros(2, 0, D), cell.initial_state(2))


def test_any_cell_that_keeps_the_contract_can_be_unrolled() -> None:
    class Sum:
        output_size = D

        def __call__(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
            total = state[0] + inputs
            return total, (total, ())

        def initial_state(self, batch_size: int) -> Any:
            return torch.zeros(batch_size, D), ()

    layer = Recurrent(Sum())
    inputs = torch.arange(24.0).reshape(2, 4, D)
    outputs, final = layer(inputs, layer.initial_state(2))
    assert torch.equal(outputs, inputs.cumsum(1))
    assert torch.equal(final[0], inputs.sum(1))
    outputs, final = layer(inputs, layer.initial_state(2), torch.tensor([2, 4]))
    assert torch.equal(final[0], torch.stack([inputs[0, :2].sum(0), inputs[1].sum(0)]))


# The fused kernels.


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("kind", FAST)
def test_fused_is_plain(kind: str, depth: int, batch: int, length: int, dtype: torch.dtype) -> None:
    fused, plain = filled(deep(kind, depth), dtype), filled(deep(kind, depth, False), dtype)
    assert all(layer.fused for layer in fused.layers)
    assert not any(layer.fused for layer in plain.layers)
    inputs, state = data(fused, batch, length, dtype)
    expected = everything(plain, inputs, state)
    assert differences(everything(fused, inputs, state), expected) == []
    with torch.no_grad():
        outputs, final = fused(inputs, state)
    actual = {"outputs": outputs.numpy()}
    actual |= {f"final state {i}": leaf.numpy() for i, leaf in enumerate(leaves(final))}
    assert differences(actual, {name: expected[name] for name in actual}) == []


@pytest.mark.parametrize("kind", FAST)
def test_fused_takes_inputs_that_are_not_contiguous(kind: str) -> None:
    fused, plain = filled(deep(kind, 2)), filled(deep(kind, 2, False))
    inputs, state = data(fused, 3, 5, torch.float64)
    turned = inputs.transpose(0, 1).contiguous().transpose(0, 1)
    assert not turned.is_contiguous()
    assert differences(everything(fused, turned, state), everything(plain, inputs, state)) == []


def vanilla_without_state_bias(self: Any, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    total = functional.linear(inputs, self.weight_ih, self.bias_ih) + functional.linear(
        state, self.weight_hh
    )
    hidden = torch.tanh(total) if self.activation == "tanh" else torch.relu(total)
    return hidden + 0 * self.bias_hh, hidden


def lstm_without_forget_gate(
    self: Any, inputs: Tensor, state: LSTMState
) -> tuple[Tensor, LSTMState]:
    gates = functional.linear(inputs, self.weight_ih, self.bias_ih) + functional.linear(
        state.hidden, self.weight_hh, self.bias_hh
    )
    i, _, g, o = gates.chunk(4, dim=1)
    cell = state.cell + torch.sigmoid(i) * torch.tanh(g)
    hidden = torch.sigmoid(o) * torch.tanh(cell)
    return hidden, LSTMState(hidden, cell)


def gru_with_reset_before_the_product(
    self: Any, inputs: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    x = functional.linear(inputs, self.weight_ih, self.bias_ih).chunk(3, dim=1)
    h = functional.linear(state, self.weight_hh, self.bias_hh).chunk(3, dim=1)
    reset, update = torch.sigmoid(x[0] + h[0]), torch.sigmoid(x[1] + h[1])
    rows = slice(2 * self.hidden_size, None)
    candidate = torch.tanh(
        x[2] + functional.linear(reset * state, self.weight_hh[rows], self.bias_hh[rows])
    )
    hidden = (1 - update) * candidate + update * state
    return hidden, hidden


BROKEN: dict[str, Any] = {
    "tanh": vanilla_without_state_bias,
    "relu": vanilla_without_state_bias,
    "lstm": lstm_without_forget_gate,
    "gru": gru_with_reset_before_the_product,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", CELLS)
def test_a_broken_equation_is_seen_by_fused_is_plain(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused, plain = filled(deep(kind, 1), dtype), filled(deep(kind, 1, False), dtype)
    inputs, state = data(fused, 3, 7, dtype)
    assert differences(everything(fused, inputs, state), everything(plain, inputs, state)) == []
    monkeypatch.setattr(type(plain.layers[0].cell), "forward", BROKEN[kind])
    found = differences(everything(fused, inputs, state), everything(plain, inputs, state))
    assert {"outputs", "final state 0", "d inputs", "d layers.0.cell.weight_hh"} <= set(found)


@pytest.mark.parametrize("kind", CELLS)
def test_a_subclass_with_its_own_equation_runs_and_trains_as_written(kind: str) -> None:
    standard = filled(Recurrent(CELLS[kind](D, H)))
    own = type("Own", (type(standard.cell),), {"forward": BROKEN[kind]})
    cell = own(D, H, "relu") if kind == "relu" else own(D, H)
    cell.double().load_state_dict(standard.cell.state_dict())
    layer = Recurrent(cell)
    assert standard.fused
    assert not layer.fused
    inputs, state = data(layer, 3, 5, torch.float64)

    def by_hand(inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs = []
        for t in range(inputs.shape[1]):
            output, state = BROKEN[kind](cell, inputs[:, t], state)
            outputs.append(output)
        return torch.stack(outputs, 1), state

    actual = everything(layer, inputs, state)
    assert differences(actual, everything(layer, inputs, state, by_hand)) == []
    assert "d cell.weight_hh" in differences(actual, everything(standard, inputs, state))


def test_a_gate_that_a_subclass_drops_gets_no_gradient() -> None:
    class WithoutForgetGate(LSTMCell):
        forward = lstm_without_forget_gate

    layer = filled(Recurrent(WithoutForgetGate(D, H)))
    gradients = everything(layer, *data(layer, 2, 6, torch.float64))
    gates = gradients["d cell.weight_hh"].reshape(4, -1)
    assert not gates[1].any()
    assert all(gate.any() for gate in gates[[0, 2, 3]])


@pytest.mark.parametrize("kind", FAST)
def test_even_a_subclass_that_changes_nothing_takes_the_plain_path(kind: str) -> None:
    base = type(FAST[kind](D, H))
    assert not Recurrent(type("Same", (base,), {})(D, H)).fused
    assert Recurrent(base(D, H)).fused


# torch.nn's own modules.


def torch_module(kind: str, depth: int, **options: Any) -> Any:
    if kind in {"tanh", "relu"}:
        options["nonlinearity"] = kind
    maker = {"lstm": nn.LSTM, "gru": nn.GRU}.get(kind, nn.RNN)
    return maker(D, H, depth, batch_first=True, **options)


def run_torch(
    module: Any, lengths: list[int] | None = None
) -> Callable[[Tensor, Any], tuple[Tensor, Any]]:
    """The module run on our state, one entry a layer, of pairs where it goes both ways.

    With lengths by a packed sequence, which is torch's own way of leaving the padding out.
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
        return outputs, final  # Ours are these leaves in this order, whatever the nesting.

    return run


def in_our_names(results: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`d weight_ih_l0` as `d layers.0.cell.weight_ih`; with `_reverse`, as the backward layer's."""
    both = any(name.endswith("_reverse") for name in results)
    renamed = {}
    for name, result in results.items():
        stem, _, depth = name.removeprefix("d ").removesuffix("_reverse").rpartition("_l")
        way = ("backward_layer." if name.endswith("_reverse") else "forward_layer.") * both
        ours = f"d layers.{depth}.{way}cell.{stem}"
        renamed[ours if stem.count("_") == 1 else name] = result
    return renamed


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("kind", CELLS)
def test_parity_with_torch(
    kind: str, depth: int, both: bool, batch: int, length: int, dtype: torch.dtype
) -> None:
    module = filled(torch_module(kind, depth, bidirectional=both), dtype)
    ours = from_torch(module)
    inputs, state = data(ours, batch, length, dtype)
    expected = in_our_names(everything(module, inputs, state, run_torch(module)))
    assert differences(everything(ours, inputs, state), expected) == []
    back = to_torch(ours)
    actual = in_our_names(everything(back, inputs, state, run_torch(back)))
    assert differences(actual, expected) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", [[4, 1, 6], [2, 2, 3], [6, 6, 6, 1, 5, 6]], ids=str)
@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("kind", CELLS)
def test_lengths_are_packed_sequences_of_torch(
    kind: str, depth: int, both: bool, lengths: list[int], dtype: torch.dtype
) -> None:
    module = filled(torch_module(kind, depth, bidirectional=both), dtype)
    ours = from_torch(module)
    inputs, state = data(ours, len(lengths), 6, dtype)
    steps = torch.tensor(lengths)
    actual = everything(ours, inputs, state, lambda inputs, state: ours(inputs, state, steps))
    expected = everything(module, inputs, state, run_torch(module, lengths))
    assert differences(actual, in_our_names(expected)) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("kind", CELLS)
def test_weights_round_trip_bit_for_bit(
    kind: str, depth: int, both: bool, dtype: torch.dtype
) -> None:
    module = filled(torch_module(kind, depth, bidirectional=both), dtype)
    ours = from_torch(module)
    back = to_torch(ours)
    assert type(back) is type(module)
    assert back.mode == module.mode
    assert back.batch_first
    assert list(back.state_dict()) == list(module.state_dict())
    for name, weights in module.state_dict().items():
        assert back.state_dict()[name].dtype == dtype
        assert torch.equal(back.state_dict()[name], weights)
    again = from_torch(back)
    for name, weights in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], weights)


@pytest.mark.parametrize("kind", CELLS)
def test_weights_are_copied_not_shared(kind: str) -> None:
    module = filled(torch_module(kind, 1))
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


UNLIKE: dict[str, Callable[[], Stack]] = {
    "widths": lambda: Stack([Recurrent(GRUCell(D, 4)), Recurrent(GRUCell(4, 5))]),
    "cells": lambda: Stack([Recurrent(GRUCell(D, H)), Recurrent(VanillaCell(H, H))]),
    "activations": lambda: Stack(
        [Recurrent(VanillaCell(D, H)), Recurrent(VanillaCell(H, H, "relu"))]
    ),
    "skip connections": lambda: Stack([Recurrent(GRUCell(D, H))], skip_connections=True),
    "own cell": lambda: Stack([Recurrent(type("Own", (GRUCell,), {})(D, H))]),
    "directions": lambda: Stack([both_ways("gru"), Recurrent(GRUCell(2 * H, H))]),
    "widths of two directions": lambda: Stack(
        [Bidirectional(Recurrent(GRUCell(D, H)), Recurrent(GRUCell(D, H + 1)))]
    ),
    "a sum": lambda: Stack([both_ways("gru", "sum")]),
    "stack in a direction": lambda: Stack([Bidirectional(deep("gru", 1), deep("gru", 1))]),
    "another cell": lambda: Stack([Recurrent(EVERY_CELL["rhn"](D, H))]),
}


@pytest.mark.parametrize("unlike", UNLIKE)
def test_to_torch_refuses_what_torch_does_not_have(unlike: str) -> None:
    with pytest.raises(ValueError, match=r"torch\.nn"):
        to_torch(UNLIKE[unlike]())


# What every causal layer keeps.


def mixed(skip_connections: bool = False) -> Stack:
    return Stack(
        [
            Recurrent(LSTMCell(D, 5)),
            Recurrent(VanillaCell(5, 2, "relu")),
            Recurrent(GRUCell(2, 4), fused=False),
            Recurrent(VanillaCell(4, 3), fused=False),
        ],
        skip_connections=skip_connections,
    )


def stacked_cell() -> StackedCell:
    return StackedCell([LSTMCell(D, 5), MinGRUCell(5, 3), StackedCell([VanillaCell(3, 2)])])


def both_ways_above() -> Bidirectional:
    return Bidirectional(Recurrent(GRUCell(2 * H, 2)), Recurrent(VanillaCell(2 * H, 2)), "sum")


LAYERS: dict[str, Callable[[], nn.Module]] = {
    **{kind: lambda kind=kind: Recurrent(EVERY_CELL[kind](D, H)) for kind in EVERY_CELL},
    **{f"plain {kind}": lambda kind=kind: Recurrent(FAST[kind](D, H), False) for kind in FAST},
    **{
        name: lambda name=name: Recurrent(cell_class(name)(D, H))
        for name in REGISTERED
        if name not in EVERY_CELL
    },
    **{name: lambda name=name: Recurrent(NORMED[name](D, H)) for name in NORMED},
    "zoneout": lambda: Recurrent(LSTMCell(D, H), zoneout=[0.3, 0.2]).eval(),
    "stack": lambda: deep("lstm", 2),
    "mixed stack": mixed,
    "mixed stack with skips": lambda: mixed(True),
    "stack in a stack": lambda: Stack([mixed(True), Recurrent(GRUCell(14, 2))]),
    "stacked cell": lambda: Recurrent(stacked_cell()),
    "stacked cell in a stack": lambda: Stack([Recurrent(stacked_cell()), Recurrent(GRUCell(2, 3))]),
}


def both_ways(kind: str, merge: Any = "concatenate", fused: bool = True) -> Bidirectional:
    return Bidirectional(
        Recurrent(EVERY_CELL[kind](D, H), fused), Recurrent(EVERY_CELL[kind](D, H), fused), merge
    )


# What reads from both ends is cut nowhere and stepped nowhere; all else holds.
WHOLE: dict[str, Callable[[], nn.Module]] = {
    **LAYERS,
    **{f"both ways, {merge}": lambda m=merge: both_ways("gru", m) for merge in MERGES},
    "both ways, lstm": lambda: both_ways("lstm"),
    "both ways, plain": lambda: both_ways("rhn"),
    "both ways, scanned": lambda: both_ways("mingru"),
    "both ways, unlike": lambda: Bidirectional(Recurrent(LSTMCell(D, 2)), mixed(True)),
    "stack of both ways": lambda: Stack([both_ways("lstm"), both_ways_above()]),
}


@pytest.mark.parametrize("cut", range(1, 6))
@pytest.mark.parametrize("name", LAYERS)
def test_chunked_is_whole(name: str, cut: int) -> None:
    layer = filled(LAYERS[name]())
    inputs, state = data(layer, 3, 6, torch.float64)

    def chunked(inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        first, state = layer(inputs[:, :cut], state)
        second, state = layer(inputs[:, cut:], state)
        return torch.cat([first, second], 1), state

    actual = everything(layer, inputs, state, chunked)
    assert differences(actual, everything(layer, inputs, state)) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_stepped_is_unrolled(name: str, dtype: torch.dtype) -> None:
    layer = filled(LAYERS[name](), dtype)
    inputs, state = data(layer, 3, 6, dtype)

    def stepped(inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs = []
        for t in range(inputs.shape[1]):
            output, state = layer.step(inputs[:, t], state)
            outputs.append(output)
        return torch.stack(outputs, 1), state

    actual = everything(layer, inputs, state, stepped)
    assert differences(actual, everything(layer, inputs, state)) == []


def alone(layer: Any, lengths: list[int]) -> Callable[[Tensor, Any], tuple[Tensor, Any]]:
    """Each lane run by itself over its real steps, zeros after its end."""

    def run(inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs, states = [], []
        for lane, length in enumerate(lengths):
            before = map_state(lambda leaf, i=lane: leaf[i : i + 1], state)
            output, after = layer(inputs[lane : lane + 1, :length], before)
            outputs.append(functional.pad(output, (0, 0, 0, inputs.shape[1] - length)))
            states.append(after)
        return torch.cat(outputs), map_state(lambda *lanes: torch.cat(lanes), *states)

    return run


@pytest.mark.parametrize(
    ("lengths", "steps"),
    [
        ([1, 3, 6], 6),
        ([4, 1, 2, 4], 4),
        ([1, 1, 1], 3),
        ([2, 3], 5),
        ([3, 2, 1], 3),
        ([5], 5),
        ([2], 4),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", WHOLE)
def test_padded_is_each_sequence_alone(name: str, lengths: list[int], steps: int) -> None:
    layer = filled(WHOLE[name]())
    inputs, state = data(layer, len(lengths), steps, torch.float64)
    actual = everything(
        layer, inputs, state, lambda inputs, state: layer(inputs, state, torch.tensor(lengths))
    )
    expected = everything(layer, inputs, state, alone(layer, lengths))
    assert differences(actual, expected) == []
    for lane, length in enumerate(lengths):
        assert not actual["outputs"][lane, length:].any()
        assert not actual["d inputs"][lane, length:].any()


@pytest.mark.parametrize("name", WHOLE)
def test_what_stands_in_the_padding_is_never_read(name: str) -> None:
    layer = filled(WHOLE[name]())
    inputs, state = data(layer, 3, 5, torch.float64)
    lengths = torch.tensor([2, 5, 1])
    scribbled = inputs.clone()
    scribbled[0, 2:], scribbled[2, 1:] = 1e3, -1e3
    clean, dirty = layer(inputs, state, lengths), layer(scribbled, state, lengths)
    assert torch.equal(clean[0], dirty[0])
    assert all(map(torch.equal, leaves(clean[1]), leaves(dirty[1])))


@pytest.mark.parametrize("name", WHOLE)
def test_full_lengths_are_no_lengths(name: str) -> None:
    layer = filled(WHOLE[name]())
    inputs, state = data(layer, 3, 4, torch.float64)
    lengths = torch.full((3,), 4)
    actual = everything(layer, inputs, state, lambda inputs, state: layer(inputs, state, lengths))
    assert differences(actual, everything(layer, inputs, state)) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [2, 3, 4])
@pytest.mark.parametrize("name", WHOLE)
def test_a_lane_in_a_batch_is_that_lane_alone(name: str, batch: int, dtype: torch.dtype) -> None:
    layer = filled(WHOLE[name](), dtype)
    inputs, state = data(layer, batch, 4, dtype)
    expected = everything(layer, inputs, state, alone(layer, [4] * batch))
    assert differences(everything(layer, inputs, state), expected) == []


@pytest.mark.parametrize("name", LAYERS)
def test_lstm_states_keep_their_names(name: str) -> None:
    layer = filled(LAYERS[name]())
    inputs, state = data(layer, 2, 3, torch.float64)

    def shape(state: Any) -> Any:
        return (type(state), [shape(part) for part in state] if isinstance(state, tuple) else [])

    for after in (
        layer(inputs, state)[1],
        layer(inputs, state, torch.tensor([1, 3]))[1],
        layer.step(inputs[:, 0], state)[1],
    ):
        assert shape(after) == shape(layer.initial_state(2))


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("name", WHOLE)
def test_a_lane_of_no_steps_keeps_its_state_and_says_zeros(name: str, steps: int) -> None:
    layer = filled(WHOLE[name]())
    inputs, state = data(layer, 2, steps, torch.float64)
    outputs, after = layer(inputs, state, torch.tensor([0, steps]))
    assert not outputs[0].any()
    for old, new in zip(leaves(state), leaves(after), strict=True):
        assert torch.equal(old[0], new[0])
        assert not torch.equal(old[1], new[1])


@pytest.mark.parametrize(
    ("name", "steps"), [*((name, 4) for name in WHOLE), *((name, 700) for name in FAST)]
)
def test_what_is_no_number_in_the_padding_reaches_nothing(name: str, steps: int) -> None:
    """Nor does what a cell would grow to there: a relu state soon overflows with such weights."""
    layer = WHOLE[name]().double()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.5, 1.5)
    inputs, state = data(layer, 2, steps, torch.float64)
    inputs[0, 2:], inputs[1, 1:] = torch.nan, torch.inf
    results = everything(layer, inputs, state, lambda x, s: layer(x, s, torch.tensor([2, 1])))
    assert all(np.isfinite(result).all() for result in results.values())
    assert any(result.any() for name, result in results.items() if name.startswith("d "))


def test_the_registry_knows_which_cells_are_fused() -> None:
    for name, entry in REGISTERED.items():
        assert entry.fused == (cell_class(name) in FUSED), name


# The scan.


@pytest.mark.parametrize(
    ("batch", "width", "steps"),
    [*((3, 5, steps) for steps in (1, 2, 8, 9, 63, 64, 65, 1000)), (1, 1, 33)],
)
@pytest.mark.parametrize("kind", SCANNED)
def test_the_scan_is_step_by_step(kind: str, batch: int, width: int, steps: int) -> None:
    fused = filled(Recurrent(SCANNED[kind](D, width)), torch.float32)
    plain = Recurrent(fused.cell, fused=False)
    inputs, state = data(fused, batch, steps, torch.float32)
    expected = everything(plain.double(), inputs.double(), state.double())
    actual = everything(fused.float(), inputs, state)
    # Gradients of weights are sums over all steps and lanes in float32, on either path.
    exact = {name for name in actual if not name.startswith("d cell")}
    assert not exact & set(differences(actual, expected))
    for name in set(actual) - exact:
        error = np.abs(actual[name] - expected[name]).max() / np.abs(expected[name]).max()
        assert error < 1e-4, name


@pytest.mark.parametrize("steps", [1, 3, 8, 9, 22])
def test_the_gradient_of_the_scan_is_the_numeric_one(steps: int) -> None:
    torch.manual_seed(2)
    like: Any = {"dtype": torch.float64, "requires_grad": True}
    kept, added = torch.rand(steps, 2, 2, **like), torch.randn(steps, 2, 2, **like)
    assert torch.autograd.gradcheck(scan, (kept, added, torch.randn(2, 2, **like)))


# Both directions.


@pytest.mark.parametrize("lengths", [None, [4, 1, 6], [6, 6, 6], [0, 3, 2]], ids=str)
def test_reverse_turns_the_real_steps_alone(lengths: list[int] | None) -> None:
    sequence = torch.randn(3, 6, 2)
    steps = None if lengths is None else torch.tensor(lengths)
    turned = reverse(sequence, steps)
    for lane, length in enumerate(lengths or [6] * 3):
        assert torch.equal(turned[lane, :length], sequence[lane, :length].flip(0))
        assert torch.equal(turned[lane, length:], sequence[lane, length:])
    assert torch.equal(reverse(turned, steps), sequence)


NUMPY_MERGES: dict[str, Callable[[Any, Any], Any]] = {
    "concatenate": lambda a, b: np.concatenate([a, b], -1),
    "sum": lambda a, b: a + b,
    "mean": lambda a, b: (a + b) / 2,
    "product": lambda a, b: a * b,
}


@pytest.mark.parametrize("lengths", [[5, 5, 5], [2, 5, 1]], ids=str)
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("merge", NUMPY_MERGES)
@pytest.mark.parametrize("kind", EVERY_CELL)
def test_both_ways_is_the_reference_from_both_ends(
    kind: str, merge: str, fused: bool, lengths: list[int]
) -> None:
    layer = filled(both_ways(kind, merge, fused))
    inputs, state = data(layer, 3, 5, torch.float64)
    with torch.no_grad():
        outputs, after = layer(inputs, state, torch.tensor(lengths))
    for lane, length in enumerate(lengths):
        said, ends = [], []
        for i, (way, one) in enumerate(
            zip((1, -1), (layer.forward_layer, layer.backward_layer), strict=True)
        ):
            weights = {n: w.detach().numpy() for n, w in one.cell.named_parameters()}
            text = inputs[lane : lane + 1, :length].numpy()[:, ::way]
            before = [leaf[lane : lane + 1].numpy() for leaf in leaves(state[i])]
            results, final = reference.run(kind, weights, text, before)
            said.append(results[0, ::way])
            ends += final
        expected = {"outputs": NUMPY_MERGES[merge](*said)}
        expected |= {f"state {i}": leaf[0] for i, leaf in enumerate(ends)}
        actual = {"outputs": outputs[lane, :length].numpy()}
        actual |= {f"state {i}": leaf[lane].numpy() for i, leaf in enumerate(leaves(after))}
        assert differences(actual, expected) == []


def test_both_ways_cannot_be_stepped() -> None:
    layer = both_ways("gru")
    with pytest.raises(TypeError, match="cannot be stepped"):
        layer.step(torch.zeros(1, D), layer.initial_state(1))


def test_both_ways_refuses_what_does_not_merge() -> None:
    with pytest.raises(ValueError, match="received: 'average'"):
        both_ways("gru", "average")
    with pytest.raises(ValueError, match=r"one width; received: \[4, 5\]"):
        Bidirectional(Recurrent(GRUCell(D, 4)), Recurrent(GRUCell(D, 5)), "mean")
    unlike = Bidirectional(Recurrent(GRUCell(D, 4)), Recurrent(GRUCell(D, 5)))
    assert unlike.output_size == 9


# The stack.


def test_a_stack_has_one_state_a_layer_from_the_bottom_up() -> None:
    state = mixed().initial_state(2)
    assert [len(list(leaves(entry))) for entry in state] == [2, 1, 1, 1]
    assert [next(leaves(entry)).shape for entry in state] == [(2, 5), (2, 2), (2, 4), (2, 3)]
    assert isinstance(state[0], LSTMState)


def test_output_size() -> None:
    assert mixed().output_size == 3
    assert mixed(True).output_size == 5 + 2 + 4 + 3
    assert Recurrent(GRUCell(D, 7)).output_size == 7


def test_skip_connections_put_every_layer_side_by_side() -> None:
    stack = filled(mixed(True))
    inputs, state = data(stack, 2, 4, torch.float64)
    outputs, final = stack(inputs, state)
    expected, x = [], inputs
    for layer, before, after in zip(stack.layers, state, final, strict=True):
        x, last = layer(x, before)
        expected.append(x)
        assert all(map(torch.equal, leaves(last), leaves(after)))
    assert torch.equal(outputs, torch.cat(expected, -1))


def test_an_empty_stack_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        Stack([])


def test_a_state_of_another_depth_is_refused() -> None:
    stack = deep("gru", 2)
    with pytest.raises(ValueError, match="zip"):
        stack(torch.zeros(1, 1, D), deep("gru", 3).initial_state(1))


@pytest.mark.parametrize("stepped", [False, True], ids=["sequence", "step"])
@pytest.mark.parametrize("skip_connections", [False, True], ids=["top", "skips"])
def test_dropout_falls_between_layers_alone(skip_connections: bool, stepped: bool) -> None:
    """With everything dropped, each layer above the first reads zeros and all else is as it was."""
    layers = list(filled(mixed()).layers)
    stack = Stack(layers, 1.0, skip_connections).train()
    inputs, state = data(stack, 2, 4, torch.float64)
    run = Stack.step if stepped else Stack.forward
    if stepped:
        inputs = inputs[:, 0]
    outputs, final = run(stack, inputs, state)
    expected, x = [], inputs
    for layer, before, after in zip(layers, state, final, strict=True):
        y, last = layer.step(x, before) if stepped else layer(x, before)
        assert all(map(torch.equal, leaves(last), leaves(after)))
        expected.append(y)
        x = torch.zeros_like(y)
    assert torch.equal(outputs, torch.cat(expected, -1) if skip_connections else expected[-1])


@pytest.mark.parametrize("stepped", [False, True], ids=["sequence", "step"])
def test_dropout_acts_in_training_alone(stepped: bool) -> None:
    stack = Stack(filled(mixed()).layers, dropout=0.9).eval()
    without = Stack(stack.layers).eval()
    inputs, state = data(stack, 2, 4, torch.float64)
    if stepped:
        inputs = inputs[:, 0]
    run = Stack.step if stepped else Stack.forward
    assert torch.equal(run(stack, inputs, state)[0], run(without, inputs, state)[0])
    assert not torch.equal(run(stack.train(), inputs, state)[0], run(without, inputs, state)[0])


def test_dropout_scales_what_it_keeps_and_changes_every_time() -> None:
    class Echo(nn.Module):
        output_size = D

        def forward(self, inputs: Tensor, state: Any, lengths: Any = None) -> tuple[Tensor, Any]:
            return inputs, state

        def initial_state(self, batch_size: int) -> Any:
            return ()

    torch.manual_seed(0)
    stack = Stack([Echo(), Echo()], dropout=0.25)
    ones = torch.ones(10, 100, D)
    first, second = (stack(ones, stack.initial_state(10))[0] for _ in range(2))
    assert first.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert first.mean() == pytest.approx(1, abs=0.05)
    assert not torch.equal(first, second)


def test_one_layer_has_nowhere_to_drop() -> None:
    stack = filled(Stack([Recurrent(GRUCell(D, H))], dropout=0.9)).train()
    inputs, state = data(stack, 2, 4, torch.float64)
    assert torch.equal(stack(inputs, state)[0], stack.layers[0](inputs, state[0])[0])


@pytest.mark.parametrize("kind", ["tanh", "gru", "mingru", "minlstm"])
def test_our_kernels_stay_in_float32_under_autocast(kind: str) -> None:
    torch.manual_seed(0)
    cell: Any = FAST[kind](5, 4)
    layer = Recurrent(cell)
    inputs, state = torch.randn(3, 6, 5), layer.initial_state(3)
    expected, _ = layer(inputs, state)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, after = layer(inputs.bfloat16().float(), state)
        reduced, _ = layer(inputs.bfloat16(), state)
    assert outputs.dtype == reduced.dtype == after.dtype == torch.float32
    assert torch.equal(outputs, reduced)
    torch.testing.assert_close(outputs, expected, atol=0.02, rtol=0)
    reduced.sum().backward()
    assert cell.weight_ih.grad.dtype == torch.float32


@pytest.mark.parametrize("kind", sorted(EVERY_CELL.keys() - CELLS.keys()))
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_what_is_carried_is_float32_under_autocast(kind: str, fused: bool) -> None:
    torch.manual_seed(0)
    layer = Recurrent(EVERY_CELL[kind](5, 4), fused)
    inputs, state = torch.randn(3, 6, 5), layer.initial_state(3)
    expected, _ = layer(inputs, state)
    with torch.autocast("cpu", torch.bfloat16):
        for lengths in (None, torch.tensor([6, 2, 4])):
            outputs, after = layer(inputs, state, lengths)
            assert {leaf.dtype for leaf in leaves(after)} == {torch.float32}
            torch.testing.assert_close(outputs[0].float(), expected[0], atol=0.03, rtol=0)


@pytest.mark.parametrize("kind", ["tanh", "relu", "gru"])
def test_the_hand_derived_gradients_are_those_of_the_equations(kind: str) -> None:
    torch.manual_seed(1)
    cell: Any = GRUCell(3, 4) if kind == "gru" else VanillaCell(3, 4, kind)  # type: ignore[arg-type]
    cell.double()
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    inputs = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)

    def run(inputs: Tensor, state: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        outputs, after = Recurrent(cell)(inputs, state)
        return outputs, after

    assert torch.autograd.gradcheck(run, (inputs, state, *cell.parameters()))
