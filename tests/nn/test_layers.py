"""Layers: the paths that a cell takes, the scan, both directions and the stack.

The contracts of every cell and layer stand in `tests/contracts/test_cells_and_layers.py`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.nn.cells.standard import GRUCell, LSTMCell, LSTMState
from charrnn.nn.fast.scan import scan
from charrnn.nn.layers import Bidirectional, Recurrent, Stack, unroll
from charrnn.nn.sequences import reverse
from charrnn.nn.state import leaves
from tests import reference
from tests.layers import (
    CELLS,
    FAST,
    OURS,
    SCANNED,
    STANDARD,
    D,
    H,
    both_ways,
    data,
    deep,
    everything,
    filled,
    mixed,
)
from tests.reference import differences

# The plain path.


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


# The fused kernels against changed equations.


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


@pytest.mark.parametrize("kind", STANDARD)
def test_a_broken_equation_is_seen_by_fast_is_plain(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused, plain = filled(deep(kind, 1)), filled(deep(kind, 1, fused=False))
    inputs, state = data(fused, 3, 7)
    assert differences(everything(fused, inputs, state), everything(plain, inputs, state)) == []
    monkeypatch.setattr(type(plain.layers[0].cell), "forward", BROKEN[kind])
    seen = differences(everything(fused, inputs, state), everything(plain, inputs, state))
    assert {"outputs", "final state 0", "d inputs", "d layers.0.cell.weight_hh"} <= set(seen)


@pytest.mark.parametrize("kind", STANDARD)
def test_a_subclass_with_its_own_equation_runs_and_trains_as_written(kind: str) -> None:
    standard = filled(Recurrent(STANDARD[kind](D, H)))
    own = type("Own", (type(standard.cell),), {"forward": BROKEN[kind]})
    cell = own(D, H, "relu") if kind == "relu" else own(D, H)
    cell.double().load_state_dict(standard.cell.state_dict())
    layer = Recurrent(cell)
    assert standard.fused
    assert not layer.fused
    inputs, state = data(layer, 3, 5)

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
    gradients = everything(layer, *data(layer, 2, 6))
    gates = gradients["d cell.weight_hh"].reshape(4, -1)
    assert not gates[1].any()
    assert all(gate.any() for gate in gates[[0, 2, 3]])


# The scan.


@pytest.mark.parametrize("kind", SCANNED)
def test_the_scan_is_step_by_step(kind: str) -> None:
    for batch, width, steps in (
        (3, 5, 8), (3, 5, 9), (3, 5, 64), (3, 5, 65), (1, 1, 33), (3, 5, 1000)
    ):  # fmt: skip
        fast = filled(Recurrent(SCANNED[kind](D, width)), torch.float32)
        plain = Recurrent(fast.cell, fused=False)
        inputs, state = data(fast, batch, steps, torch.float32)
        expected = everything(plain.double(), inputs.double(), state.double())
        actual = everything(fast.float(), inputs, state)
        # Gradients of weights are sums over all steps and lanes in float32, on either path.
        exact = {name for name in actual if not name.startswith("d cell")}
        assert not exact & set(differences(actual, expected)), steps
        for name in set(actual) - exact:
            error = np.abs(actual[name] - expected[name]).max() / np.abs(expected[name]).max()
            assert error < 1e-4, (name, steps)


@pytest.mark.parametrize("steps", [1, 8, 9, 22])
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


@pytest.mark.parametrize(
    ("kind", "merge"),
    [*((kind, "concatenate") for kind in OURS), *(("gru", merge) for merge in NUMPY_MERGES)],
)
def test_both_ways_is_the_reference_from_both_ends(kind: str, merge: str) -> None:
    layer, lengths = filled(both_ways(kind, merge)), [2, 5, 1]
    inputs, state = data(layer, 3, 5)
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
    inputs, state = data(stack, 2, 4)
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
    with pytest.raises(ValueError, match=r"stack of 2 layers needs a state .* has 3"):
        stack(torch.zeros(1, 1, D), deep("gru", 3).initial_state(1))


@pytest.mark.parametrize("stepped", [False, True], ids=["sequence", "step"])
@pytest.mark.parametrize("skip_connections", [False, True], ids=["top", "skips"])
def test_dropout_falls_between_layers_alone(skip_connections: bool, stepped: bool) -> None:
    """If everything is dropped, each layer above the first reads zeros; nothing else changes."""
    layers = list(filled(mixed()).layers)
    stack = Stack(layers, 1.0, skip_connections).train()
    inputs, state = data(stack, 2, 4)
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
    inputs, state = data(stack, 2, 4)
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
    inputs, state = data(stack, 2, 4)
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


# The state of a plain vanilla cell is a nonlinearity of a product, and so it is bfloat16.
GATED = [kind for kind in OURS if kind not in {*STANDARD, "normed vanilla"}]


@pytest.mark.parametrize("kind", GATED)
def test_the_state_stays_in_float32_under_autocast(kind: str) -> None:
    for fused in (False, True):
        torch.manual_seed(0)
        layer = Recurrent(CELLS[kind](5, 4), fused)
        inputs, state = torch.randn(3, 6, 5), layer.initial_state(3)
        expected, _ = layer(inputs, state)
        with torch.autocast("cpu", torch.bfloat16):
            for lengths in (None, torch.tensor([6, 2, 4])):
                outputs, after = layer(inputs, state, lengths)
                assert {leaf.dtype for leaf in leaves(after)} == {torch.float32}
                torch.testing.assert_close(outputs[0].float(), expected[0], atol=0.03, rtol=0)
