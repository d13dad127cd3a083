"""The cells' equations, their parameters and initial values, their limits, and cells in cells.

The contracts of all cells stand in `tests/contracts/test_cells_and_layers.py`.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from charrnn.nn.cells.minimal import MinGRUCell, MinLSTMCell
from charrnn.nn.cells.mlstm import MultiplicativeLSTMCell
from charrnn.nn.cells.rhn import RHNCell
from charrnn.nn.cells.stacked import StackedCell
from charrnn.nn.cells.standard import GRUCell, LSTMCell, LSTMState, VanillaCell
from charrnn.nn.state import leaves
from tests import reference
from tests.layers import CELLS, OURS, STANDARD, arrays, filled, random_state
from tests.reference import differences

GATES = {"tanh": 1, "relu": 1, "lstm": 4, "gru": 3}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", OURS)
def test_a_step_is_the_reference_equation(kind: str, dtype: torch.dtype) -> None:
    for batch, width, hidden in ((5, 3, 4), (1, 1, 1), (4, 4, 4)):
        cell = filled(CELLS[kind](width, hidden), dtype)
        inputs, state = torch.randn(batch, width, dtype=dtype), random_state(cell, batch)
        with torch.no_grad():
            output, after = cell(inputs, state)
        weights = {name: weight.detach().numpy() for name, weight in cell.named_parameters()}
        before = [leaf.numpy() for leaf in leaves(state)]
        outputs, final = reference.run(kind, weights, inputs[:, None].numpy(), before)
        expected = {"outputs": outputs[:, 0]}
        expected |= {f"final state {i}": leaf for i, leaf in enumerate(final)}
        assert differences(arrays(output, after), expected) == [], (batch, width, hidden)


@pytest.mark.parametrize("kind", STANDARD)
def test_parameters_have_the_names_and_shapes_of_torch(kind: str) -> None:
    cell, rows = STANDARD[kind](3, 5), GATES[kind] * 5
    shapes = {name: tuple(parameter.shape) for name, parameter in cell.named_parameters()}
    assert shapes == {
        "weight_ih": (rows, 3),
        "weight_hh": (rows, 5),
        "bias_ih": (rows,),
        "bias_hh": (rows,),
    }
    assert list(cell.state_dict()) == list(shapes)
    assert [id(weight) for weight in cell.weights] == [id(p) for p in cell.parameters()]
    assert cell.output_size == 5


def test_lstm_state_has_names_and_the_output_is_the_hidden_state() -> None:
    cell = filled(LSTMCell(3, 4))
    assert isinstance(cell.initial_state(2), LSTMState)
    output, state = cell(torch.randn(2, 3, dtype=torch.float64), random_state(cell, 2))
    assert isinstance(state, LSTMState)
    assert torch.equal(output, state.hidden)
    assert not torch.equal(state.hidden, state.cell)


@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
def test_recurrent_weights_of_each_gate_start_orthogonal(kind: str) -> None:
    torch.manual_seed(0)
    gates = STANDARD[kind](3, 6).weight_hh.detach().numpy().reshape(GATES[kind], 6, 6)
    for gate in gates:
        np.testing.assert_allclose(gate @ gate.T, np.eye(6), atol=1e-5)
    assert len({gate.tobytes() for gate in gates}) == GATES[kind]


def test_recurrent_weights_with_relu_start_as_the_identity() -> None:
    assert torch.equal(VanillaCell(3, 6, "relu").weight_hh, torch.eye(6))


@pytest.mark.parametrize("kind", STANDARD)
def test_input_weights_of_each_gate_start_glorot_uniform(kind: str) -> None:
    torch.manual_seed(0)
    weights = STANDARD[kind](40, 20).weight_ih.detach().numpy().reshape(GATES[kind], 20, 40)
    bound = np.sqrt(6 / (20 + 40))
    for gate in weights:
        assert 0.95 * bound < np.abs(gate).max() <= bound
        assert np.std(gate) == pytest.approx(bound / np.sqrt(3), rel=0.1)


def test_the_weights_of_the_other_cells_start_block_by_block() -> None:
    torch.manual_seed(0)
    rhn, mlstm, minlstm = RHNCell(9, 6, 3), MultiplicativeLSTMCell(9, 6), MinLSTMCell(9, 6)
    for block in [*rhn.weight_hh.chunk(6), mlstm.weight_mh]:
        torch.testing.assert_close(block @ block.T, torch.eye(6))
    bound = np.sqrt(6 / (9 + 6))
    for block in [*rhn.weight_ih.chunk(2), mlstm.weight_mx, *minlstm.weight_ih.chunk(3)]:
        assert 0.9 * bound < block.detach().abs().max() <= bound


def test_transform_gates_start_where_they_are_asked_to() -> None:
    assert RHNCell(2, 2, 2).bias_hh.tolist() == [0, 0, -2, -2] * 2
    assert RHNCell(2, 1, 3, -4.0).bias_hh.tolist() == [0, -4] * 3


def test_a_shut_transform_gate_carries_the_state_through_every_layer() -> None:
    cell = RHNCell(2, 3, recurrence_depth=7, transform_bias=-50.0).double()
    state = torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(cell(torch.randn(2, 2, dtype=torch.float64), state)[1], state)


@pytest.mark.parametrize("cell", [MinGRUCell(2, 3), MinLSTMCell(2, 3)], ids=["mingru", "minlstm"])
def test_no_input_overflows_a_linear_cell(cell: Any) -> None:
    """For large inputs, a plain 1 - sigmoid(x) gives 1 - 1, and a plain f / (f + i) gives 0 / 0."""
    inputs = torch.tensor([[-1e4, -1e4], [1e4, 1e4], [-1e4, 1e4]], requires_grad=True)
    with torch.no_grad():
        cell.weight_ih.fill_(0.7)
    output, _ = cell(inputs, cell.initial_state(3))
    output.sum().backward()
    assert output.isfinite().all()
    assert inputs.grad is not None
    assert inputs.grad.isfinite().all()


def test_a_stacked_cell_feeds_each_cell_with_the_one_below() -> None:
    torch.manual_seed(0)
    cell = StackedCell([LSTMCell(3, 5), GRUCell(5, 4), StackedCell([VanillaCell(4, 2)])])
    x, state = torch.randn(2, 3), random_state(cell, 2)
    output, after = cell(x, state)
    for one, before, new in zip(cell.cells, state, after, strict=True):
        x, expected = one(x, before)
        assert all(map(torch.equal, leaves(new), leaves(expected)))
    assert torch.equal(output, x)
    assert cell.output_size == 2
    assert [type(entry) for entry in after] == [LSTMState, Tensor, tuple]
    with pytest.raises(ValueError, match="at least one cell"):
        StackedCell([])


@pytest.mark.parametrize("kind", ["tanh", "relu", "gru"])
def test_biases_start_at_zero(kind: str) -> None:
    cell = STANDARD[kind](3, 4)
    assert not cell.bias_ih.any()
    assert not cell.bias_hh.any()


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_the_other_forget_biases_start_where_they_are_asked_to(value: float) -> None:
    assert MinLSTMCell(3, 2, value).bias_ih.tolist() == [value, value, 0, 0, 0, 0]
    cell = MultiplicativeLSTMCell(3, 2, value)
    assert cell.bias_ih.tolist() == [0, 0, value, value, 0, 0, 0, 0]


@pytest.mark.parametrize("value", [None, 0.0, 2.5])
def test_forget_bias_is_the_only_bias_that_starts_elsewhere(value: float | None) -> None:
    cell = LSTMCell(3, 2) if value is None else LSTMCell(3, 2, value)
    expected = 1.0 if value is None else value
    assert cell.bias_ih.tolist() == [0, 0, expected, expected, 0, 0, 0, 0]
    assert not cell.bias_hh.any()
    assert cell.bias_ih.requires_grad
