"""The contracts of every cell and every layer, over all cells of the registry.

A cell that is added to the registry is tested here without a change.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from charrnn.nn.cells.minimal import MinGRUCell
from charrnn.nn.cells.stacked import StackedCell
from charrnn.nn.cells.standard import GRUCell, LSTMCell, VanillaCell
from charrnn.nn.fast.fused import FUSED
from charrnn.nn.layers import Bidirectional, Recurrent, Stack
from charrnn.nn.models import cell_class
from charrnn.nn.state import leaves, map_state, replace_leaves
from charrnn.registry import CELLS as REGISTERED
from tests.layers import (
    CELLS,
    FAST,
    D,
    H,
    arrays,
    both_ways,
    data,
    deep,
    everything,
    filled,
    mixed,
    random_state,
)
from tests.reference import differences

# Cells.


@pytest.mark.parametrize("kind", CELLS)
def test_the_initial_state_is_zero_in_the_dtype_of_the_cell(kind: str) -> None:
    for leaf in leaves(CELLS[kind](D, 5).double().initial_state(2)):
        assert torch.equal(leaf, torch.zeros(2, 5, dtype=torch.float64))


@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_stores_nothing_and_leaves_its_state_alone(kind: str) -> None:
    cell = filled(CELLS[kind](D, H))
    inputs, state = torch.randn(2, D, dtype=torch.float64), random_state(cell, 2)
    copied = map_state(torch.clone, state)
    with torch.no_grad():
        first, after = cell(inputs, state)
        cell(torch.randn_like(inputs), after)
        second, _ = cell(inputs, state)
    assert torch.equal(first, second)
    assert all(map(torch.equal, leaves(state), leaves(copied)))


@pytest.mark.parametrize("kind", CELLS)
def test_gradients_through_time_are_the_numeric_ones(kind: str) -> None:
    layer = filled(Recurrent(CELLS[kind](2, 2), fused=False))
    torch.manual_seed(1)
    state = map_state(torch.randn_like, layer.initial_state(2))
    names = [name for name, _ in layer.named_parameters()]
    parameters = [parameter.detach().clone() for parameter in layer.parameters()]
    lengths = torch.tensor([3, 1])  # That padding changes no gradient is a contract of layers.

    def run(inputs: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        weights = dict(zip(names, rest[: len(names)], strict=True))
        before = replace_leaves(state, iter(rest[len(names) :]))
        outputs, after = functional_call(layer, weights, (inputs, before, lengths))
        return outputs, *leaves(after)

    tensors = [torch.randn(2, 3, 2, dtype=torch.float64), *parameters, *leaves(state)]
    assert torch.autograd.gradcheck(run, [tensor.requires_grad_() for tensor in tensors])


@pytest.mark.parametrize("kind", CELLS)
def test_no_steps_are_refused(kind: str) -> None:
    for fused in (False, True):
        layer = Recurrent(CELLS[kind](D, H), fused=fused)
        with pytest.raises(ValueError, match="0 time steps"):
            layer(torch.zeros(2, 0, D), layer.initial_state(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", FAST)
def test_fast_is_plain(kind: str, dtype: torch.dtype) -> None:
    fast, plain = filled(deep(kind, 2), dtype), filled(deep(kind, 2, fused=False), dtype)
    assert [layer.fused for layer in (*fast.layers, *plain.layers)] == [True] * 2 + [False] * 2
    for batch, length in ((3, 7), (1, 1)):
        inputs, state = data(fast, batch, length, dtype)
        expected = everything(plain, inputs, state)
        assert differences(everything(fast, inputs, state), expected) == []
        with torch.no_grad():  # The kernels keep nothing for a backward pass.
            actual = arrays(*fast(inputs, state))
        assert differences(actual, {name: expected[name] for name in actual}) == []
        turned = inputs.transpose(0, 1).contiguous().transpose(0, 1)
        assert differences(everything(fast, turned, state), expected) == []


def test_the_registry_knows_which_cells_are_fused() -> None:
    for name, entry in REGISTERED.items():
        assert entry.fused == (cell_class(name) in FUSED), name


@pytest.mark.parametrize("name", REGISTERED)
def test_even_a_subclass_that_changes_nothing_takes_the_plain_path(name: str) -> None:
    base: Any = cell_class(name)
    assert Recurrent(base(D, H)).fused == REGISTERED[name].fused
    assert not Recurrent(type("Same", (base,), {})(D, H)).fused


# Layers.


def stacked_cell() -> StackedCell:
    return StackedCell([LSTMCell(D, 5), MinGRUCell(5, 3), StackedCell([VanillaCell(3, 2)])])


def both_ways_above() -> Bidirectional:
    return Bidirectional(Recurrent(GRUCell(2 * H, 2)), Recurrent(VanillaCell(2 * H, 2)), "sum")


CAUSAL: dict[str, Callable[[], Any]] = {
    **{kind: lambda kind=kind: Recurrent(CELLS[kind](D, H)) for kind in CELLS},
    "plain lstm": lambda: Recurrent(LSTMCell(D, H), fused=False),
    "zoneout": lambda: Recurrent(LSTMCell(D, H), zoneout=[0.3, 0.2]).eval(),
    "stack": lambda: deep("lstm", 2),
    "mixed stack": mixed,
    "stack in a stack": lambda: Stack([mixed(True), Recurrent(GRUCell(14, 2))]),
    "stacked cell": lambda: Stack([Recurrent(stacked_cell()), Recurrent(GRUCell(2, 3))]),
}
# A layer that reads from both ends can be neither cut nor stepped; the rest holds for it too.
ALL: dict[str, Callable[[], Any]] = {
    **CAUSAL,
    "both ways": lambda: both_ways("gru"),
    "both ways, plain": lambda: both_ways("rhn"),
    "both ways, scanned": lambda: both_ways("mingru"),
    "both ways, unlike": lambda: Bidirectional(Recurrent(LSTMCell(D, 2)), mixed(True)),
    "stack of both ways": lambda: Stack([both_ways("lstm"), both_ways_above()]),
}


@pytest.mark.parametrize("name", CAUSAL)
def test_chunked_is_whole(name: str) -> None:
    layer = filled(CAUSAL[name]())
    inputs, state = data(layer, 3, 6)
    at_once = everything(layer, inputs, state)
    for cuts in ((1, 5), (4, 1, 1)):

        def chunked(inputs: Tensor, state: Any, cuts: Any = cuts) -> tuple[Tensor, Any]:
            pieces = []
            for chunk in inputs.split(cuts, 1):
                outputs, state = layer(chunk, state)
                pieces.append(outputs)
            return torch.cat(pieces, 1), state

        assert differences(everything(layer, inputs, state, chunked), at_once) == [], cuts


@pytest.mark.parametrize("name", CAUSAL)
def test_stepped_is_unrolled(name: str) -> None:
    layer = filled(CAUSAL[name]())
    inputs, state = data(layer, 3, 6)

    def stepped(inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs = []
        for t in range(inputs.shape[1]):
            output, state = layer.step(inputs[:, t], state)
            outputs.append(output)
        return torch.stack(outputs, 1), state

    actual = everything(layer, inputs, state, stepped)
    assert differences(actual, everything(layer, inputs, state)) == []


@pytest.mark.parametrize("name", CAUSAL)
def test_a_state_keeps_its_structure(name: str) -> None:
    layer = filled(CAUSAL[name]())
    inputs, state = data(layer, 2, 3)

    def structure(state: Any) -> Any:
        return type(state), [structure(part) for part in state] if isinstance(state, tuple) else []

    expected = structure(layer.initial_state(2))
    assert structure(layer(inputs, state)[1]) == expected
    assert structure(layer(inputs, state, torch.tensor([1, 3]))[1]) == expected
    assert structure(layer.step(inputs[:, 0], state)[1]) == expected


def alone(layer: Any, lengths: list[int]) -> Callable[[Tensor, Any], tuple[Tensor, Any]]:
    """Run each lane by itself over its real steps, with zeros after its end."""

    def run(inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs, states = [], []
        for lane, length in enumerate(lengths):
            before = map_state(lambda leaf, i=lane: leaf[i : i + 1], state)
            output, after = layer(inputs[lane : lane + 1, :length], before)
            outputs.append(functional.pad(output, (0, 0, 0, inputs.shape[1] - length)))
            states.append(after)
        return torch.cat(outputs), map_state(lambda *lanes: torch.cat(lanes), *states)

    return run


@pytest.mark.parametrize("name", ALL)
def test_a_lane_in_a_batch_is_that_lane_alone(name: str) -> None:
    layer = filled(ALL[name]())
    inputs, state = data(layer, 4, 4)  # As many lanes as steps: no axis is taken for the other.
    expected = everything(layer, inputs, state, alone(layer, [4] * 4))
    assert differences(everything(layer, inputs, state), expected) == []


@pytest.mark.parametrize("name", ALL)
def test_padded_is_each_sequence_alone(name: str) -> None:
    layer = filled(ALL[name]())
    for lengths, steps in (([4, 1, 2, 4], 4), ([2, 3], 5), ([3, 3], 3)):
        inputs, state = data(layer, len(lengths), steps)

        def padded(inputs: Tensor, state: Any, lengths: Any = lengths) -> tuple[Tensor, Any]:
            return layer(inputs, state, torch.tensor(lengths))  # type: ignore[no-any-return]

        actual = everything(layer, inputs, state, padded)
        expected = everything(layer, inputs, state, alone(layer, lengths))
        assert differences(actual, expected) == [], lengths
        for lane, length in enumerate(lengths):
            assert not actual["outputs"][lane, length:].any()
            assert not actual["d inputs"][lane, length:].any()


@pytest.mark.parametrize("name", ALL)
def test_a_lane_of_no_steps_keeps_its_state_and_says_zeros(name: str) -> None:
    layer = filled(ALL[name]())
    for steps in (1, 4):
        inputs, state = data(layer, 2, steps)
        outputs, after = layer(inputs, state, torch.tensor([0, steps]))
        assert not outputs[0].any()
        for old, new in zip(leaves(state), leaves(after), strict=True):
            assert torch.equal(old[0], new[0])
            assert not torch.equal(old[1], new[1])


@pytest.mark.parametrize(
    ("name", "steps"), [*((name, 4) for name in ALL), *((name, 700) for name in FAST)]
)
def test_what_is_no_number_in_the_padding_reaches_nothing(name: str, steps: int) -> None:
    """Neither does a state that overflows in the padding, as relu does with such weights."""
    layer: nn.Module = ALL[name]().double()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.5, 1.5)
    inputs, state = data(layer, 2, steps)
    clean = layer(inputs, state, torch.tensor([2, 1]))
    inputs[0, 2:], inputs[1, 1:] = torch.nan, torch.inf
    results = everything(layer, inputs, state, lambda x, s: layer(x, s, torch.tensor([2, 1])))
    assert all(np.isfinite(result).all() for result in results.values())
    assert any(result.any() for name, result in results.items() if name.startswith("d "))
    for name_, result in arrays(*clean).items():
        np.testing.assert_array_equal(results[name_], result)
