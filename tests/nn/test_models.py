"""Embedding, stack and head put together."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from charrnn.nn.cells.standard import LSTMCell
from charrnn.nn.dropout import Dropouts
from charrnn.nn.layers import Stack
from charrnn.nn.models import LanguageModel, OneHot, language_model
from charrnn.nn.state import leaves, map_state
from charrnn.registry import CELLS
from tests import reference
from tests.reference import differences

V = 7
KINDS: dict[str, dict[str, Any]] = {
    **{cell: {"cell": cell, "hidden_sizes": (4, 3)} for cell in CELLS},
    "embedded vanilla": {"cell": "vanilla", "hidden_sizes": (4, 6), "embedding_size": 3},
    "one-hot relu": {"cell": "vanilla", "hidden_sizes": (4, 4), "activation": "relu"},
    "tied gru": {
        "cell": "gru",
        "hidden_sizes": (4, 3),
        "embedding_size": 3,
        "tie_embeddings": True,
    },
    "deep rhn": {"cell": "rhn", "hidden_sizes": (4, 3), "recurrence_depth": 4},
    "skipping lstm": {"cell": "lstm", "hidden_sizes": (4, 3), "skip_connections": True},
    "tied and skipping gru": {
        "cell": "gru",
        "hidden_sizes": (2, 3),
        "embedding_size": 5,
        "skip_connections": True,
        "tie_embeddings": True,
    },
}


def make(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> LanguageModel:
    torch.manual_seed(2)
    model = language_model(V, **KINDS[name], **options).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.9, 0.9)
    return model


def data(model: LanguageModel, batch: int = 3, length: int = 6) -> tuple[torch.Tensor, Any]:
    torch.manual_seed(4)
    state = map_state(torch.randn_like, model.initial_state(batch))
    return torch.randint(V, (batch, length)), state


def arrays(logits: torch.Tensor, state: Any) -> dict[str, np.ndarray]:
    named = {"logits": logits} | {f"state {i}": leaf for i, leaf in enumerate(leaves(state))}
    return {name: tensor.detach().numpy() for name, tensor in named.items()}


@pytest.mark.parametrize("name", KINDS)
def test_forward_is_step_by_step(name: str) -> None:
    model = make(name)
    ids, state = data(model)
    at_once, final = model(ids, state)
    assert at_once.shape == (3, 6, V)
    assert at_once.dtype == torch.float64
    steps = []
    for t in range(ids.shape[1]):
        logits, state = model.step(ids[:, t], state)
        steps.append(logits)
    assert differences(arrays(torch.stack(steps, 1), state), arrays(at_once, final)) == []


@pytest.mark.parametrize("name", KINDS)
def test_a_step_depends_on_the_past_alone(name: str) -> None:
    model = make(name)
    ids, state = data(model)
    changed = ids.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % V
    before, after = model(ids, state)[0], model(changed, state)[0]
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4], after[:, 4])


def test_the_whole_model_is_the_reference() -> None:
    model = make("embedded vanilla")
    ids, state = data(model)
    parameters = {name: p.detach().numpy() for name, p in model.named_parameters()}
    x = parameters["embedding.weight"][ids.numpy()]
    for i, before in enumerate(state):
        prefix = f"stack.layers.{i}.cell."
        weights = {n.removeprefix(prefix): p for n, p in parameters.items() if prefix in n}
        x, _ = reference.run("tanh", weights, x, [before.numpy()])
    expected = x @ parameters["head.weight"].T + parameters["head.bias"]
    actual = model(ids, state)[0].detach().numpy()
    assert differences({"logits": actual}, {"logits": expected}) == []


@pytest.mark.parametrize("cell", CELLS)
def test_one_hot_is_an_embedding_with_the_identity(cell: Any) -> None:
    torch.manual_seed(0)
    one_hot = language_model(V, cell=cell, hidden_sizes=(4, 3))
    embedded = language_model(V, cell=cell, hidden_sizes=(4, 3), embedding_size=V)
    with torch.no_grad():
        embedded.embedding.weight.copy_(torch.eye(V))
    embedded.load_state_dict(one_hot.state_dict(), strict=False)
    ids, state = data(one_hot)
    expected, actual = embedded(ids, state)[0], one_hot(ids, state)[0]
    assert torch.equal(actual, expected)


def test_one_hot_follows_the_dtype_and_has_nothing_to_save() -> None:
    one_hot = OneHot(3)
    assert one_hot(torch.tensor([[2, 0]])).tolist() == [[[0, 0, 1], [1, 0, 0]]]
    assert one_hot(torch.tensor(1)).tolist() == [0, 1, 0]
    assert one_hot(torch.tensor([1])).dtype == torch.float32
    assert one_hot.double()(torch.tensor([1])).dtype == torch.float64
    assert one_hot.state_dict() == {}
    assert list(one_hot.parameters()) == []


@pytest.mark.parametrize("name", KINDS)
def test_float64_throughout(name: str) -> None:
    model = make(name)
    ids, state = data(model)
    logits, final = model(ids, model.initial_state(3))
    assert {logits.dtype, *(leaf.dtype for leaf in leaves(final))} == {torch.float64}
    assert model.step(ids[:, 0], state)[0].dtype == torch.float64


def test_tied_embeddings_are_one_tensor() -> None:
    model = make("tied gru")
    assert model.embedding.weight is model.head.weight
    names = [name for name, _ in model.named_parameters()]
    assert "embedding.weight" in names
    assert "head.weight" not in names
    model.float()
    assert model.embedding.weight is model.head.weight
    assert model.embedding.weight.shape == (V, 3)


def test_untied_embeddings_are_two() -> None:
    model = language_model(V, hidden_sizes=(4,), embedding_size=4)
    assert model.embedding.weight is not model.head.weight


def test_tied_weights_learn_from_both_ends() -> None:
    tied, untied = (
        make("tied gru"),
        language_model(V, cell="gru", hidden_sizes=(4, 3), embedding_size=3),
    )
    untied.double().load_state_dict(tied.state_dict())
    ids, state = data(tied)
    for model in (tied, untied):
        model(ids, state)[0].square().sum().backward()
    both = untied.embedding.weight.grad + untied.head.weight.grad
    assert differences({"grad": tied.head.weight.grad.numpy()}, {"grad": both.numpy()}) == []


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"hidden_sizes": (4,), "embedding_size": 3}, "3 is not 4"),
        ({"hidden_sizes": (4,)}, "one-hot is not 4"),
        ({"hidden_sizes": (V,)}, "one-hot is not 7"),
        (
            {"hidden_sizes": (4, 3), "embedding_size": 3, "skip_connections": True},
            "3 is not 7",
        ),
    ],
    ids=str,
)
def test_tied_widths_must_fit(options: Any, received: str) -> None:
    with pytest.raises(ValueError, match=received):
        language_model(V, tie_embeddings=True, **options)


def test_skip_connections_reach_the_head() -> None:
    model = make("skipping lstm")
    assert model.head.weight.shape == (V, 4 + 3)
    ids, state = data(model)
    outputs, _ = model.stack(model.embedding(ids), state)
    assert outputs.shape == (3, 6, 7)
    assert torch.equal(model(ids, state)[0], model.head(outputs))


DROPOUTS = ["layers", "input", "output"]


@pytest.mark.parametrize("where", DROPOUTS)
@pytest.mark.parametrize("name", ["embedded vanilla", "tied gru"])
def test_dropout_is_off_in_evaluation(name: str, where: str) -> None:
    model, without = make(name, dropouts=Dropouts(**{where: 0.6})), make(name)
    ids, state = data(model)
    model.eval()
    assert torch.equal(model(ids, state)[0], without(ids, state)[0])
    assert torch.equal(model.step(ids[:, 0], state)[0], without.step(ids[:, 0], state)[0])
    model.train()
    assert not torch.equal(model(ids, state)[0], without(ids, state)[0])
    assert not torch.equal(model.step(ids[:, 0], state)[0], without.step(ids[:, 0], state)[0])


def test_input_dropout_falls_on_the_embedding() -> None:
    model = make("embedded vanilla", dropouts=Dropouts(input=1.0)).train()
    ids, state = data(model)
    outputs, _ = model.stack(torch.zeros(3, 6, 3, dtype=torch.float64), state)
    assert torch.equal(model(ids, state)[0], model.head(outputs))


def test_output_dropout_falls_before_the_head_and_not_on_the_state() -> None:
    model = make("embedded vanilla", dropouts=Dropouts(output=1.0)).train()
    ids, state = data(model)
    logits, final = model(ids, state)
    assert torch.equal(logits, model.head.bias.expand(3, 6, V))
    _, expected = model.eval()(ids, state)
    assert all(map(torch.equal, leaves(final), leaves(expected)))


def test_dropout_between_layers_reaches_the_stack() -> None:
    model = language_model(V, hidden_sizes=(3, 3), dropouts=Dropouts(layers=0.4))
    assert isinstance(model.stack, Stack)
    assert model.stack.dropout == 0.4


def test_layers_have_their_own_widths() -> None:
    model = language_model(V, cell="gru", hidden_sizes=(5, 2, 3), embedding_size=4)
    cells = [layer.cell for layer in model.stack.layers]
    assert [(cell.input_size, cell.hidden_size) for cell in cells] == [(4, 5), (5, 2), (2, 3)]
    assert [tuple(leaf.shape) for leaf in leaves(model.initial_state(2))] == [
        (2, 5),
        (2, 2),
        (2, 3),
    ]
    assert model.head.weight.shape == (V, 3)


def test_no_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        language_model(V, hidden_sizes=())


@pytest.mark.parametrize("value", [0.0, 1.0, 3.0])
def test_forget_biases_start_where_they_are_asked_to(value: float) -> None:
    model = language_model(V, cell="lstm", hidden_sizes=(2, 3), forget_bias=value)
    for layer, width in zip(model.stack.layers, (2, 3), strict=True):
        gates = (layer.cell.bias_ih + layer.cell.bias_hh).reshape(4, width)
        assert gates[1].tolist() == [value] * width
        assert not gates[[0, 2, 3]].any()


def test_forget_bias_is_one_by_default() -> None:
    cell = language_model(V, hidden_sizes=(2,)).stack.layers[0].cell
    assert isinstance(cell, LSTMCell)
    assert cell.bias_ih[2:4].tolist() == [1, 1]


def test_cells_get_the_options_that_are_theirs() -> None:
    rhn = language_model(V, cell="rhn", recurrence_depth=3, transform_bias=-4.0).stack.layers[0]
    assert rhn.cell.recurrence_depth == 3
    assert rhn.cell.bias_hh.unique().tolist() == [-4, 0]
    for cell in ("mlstm", "minlstm"):
        built = language_model(V, cell=cell, forget_bias=2.5).stack.layers[0].cell
        assert built.bias_ih.unique().tolist() == [0, 2.5]


@pytest.mark.parametrize(
    ("cell", "normed", "received"),
    [("elman", False, "no cell 'elman'; use vanilla, lstm"), ("rhn", True, "vanilla, lstm or gru")],
)
def test_a_cell_that_there_is_not_is_refused(cell: str, normed: bool, received: str) -> None:
    with pytest.raises(ValueError, match=received):
        language_model(V, cell=cell, layer_norm=normed)


@pytest.mark.parametrize(("cell", "gates"), [("vanilla", 1), ("lstm", 4), ("gru", 3)])
def test_recurrent_weights_of_every_layer_start_orthogonal(cell: Any, gates: int) -> None:
    torch.manual_seed(0)
    for layer in language_model(V, cell=cell, hidden_sizes=(6, 5)).stack.layers:
        width = layer.output_size
        for gate in layer.cell.weight_hh.detach().numpy().reshape(gates, width, width):
            np.testing.assert_allclose(gate.T @ gate, np.eye(width), atol=1e-5)


def test_relu_layers_start_as_the_identity() -> None:
    model = language_model(V, cell="vanilla", activation="relu", hidden_sizes=(3, 3))
    for layer in model.stack.layers:
        assert layer.cell.activation == "relu"
        assert torch.equal(layer.cell.weight_hh, torch.eye(3))


@pytest.mark.parametrize("tie", [False, True])
def test_a_new_model_is_almost_indifferent(tie: bool) -> None:
    torch.manual_seed(0)
    model = language_model(50, hidden_sizes=(64,), embedding_size=64, tie_embeddings=tie)
    assert not model.head.bias.any()
    ids = torch.randint(50, (4, 30))
    logits, _ = model(ids, model.initial_state(4))
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert loss.item() == pytest.approx(np.log(50), rel=0.05)


def test_the_same_seed_gives_the_same_model() -> None:
    def weights() -> list[torch.Tensor]:
        torch.manual_seed(11)
        return list(language_model(V, hidden_sizes=(3, 3), embedding_size=4).parameters())

    assert all(map(torch.equal, weights(), weights()))
