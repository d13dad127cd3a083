"""Parity with Keras, on its torch backend: the same numbers from the same weights."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from charrnn.nn.cells.stacked import StackedCell
from charrnn.nn.cells.standard import GRUCell, LSTMCell, ResetFirstGRUCell, VanillaCell
from charrnn.nn.layers import Bidirectional, Merge, Recurrent, Stack
from charrnn.nn.sequences import reverse
from charrnn.nn.state import leaves, map_state
from tests.reference import differences

pytestmark = [
    pytest.mark.keras,
    # Keras itself causes it when it turns tensors into arrays.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

N, T, D, H = 4, 6, 3, 5
LENGTHS = [None, [6, 1, 4, 2]]
# Our cell, Keras' layer, and the options of Keras' cell.
KINDS: dict[str, tuple[Callable[[int, int], Any], str, dict[str, Any]]] = {
    "simple": (VanillaCell, "SimpleRNN", {}),
    "lstm": (LSTMCell, "LSTM", {}),
    "gru": (GRUCell, "GRU", {"reset_after": True}),
    "reset-first gru": (ResetFirstGRUCell, "GRU", {"reset_after": False}),
}


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        # Keras reads these when it is imported; else it writes a settings file at home.
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        import keras

        assert keras.backend.backend() == "torch"
        yield keras


def theirs(keras: Any, kind: str, seed: int = 0, inputs: int = D, **options: Any) -> Any:
    """Build the layer of Keras, without zero weights, which returns outputs and states."""
    _, name, own = KINDS[kind]
    options = {"return_sequences": True, "return_state": True} | own | options
    layer = getattr(keras.layers, name)(H, **options)
    return randomised(layer, seed, inputs)


def randomised(layer: Any, seed: int, inputs: int = D) -> Any:
    layer.build((N, None, inputs))
    numbers = np.random.default_rng(seed)
    layer.set_weights([numbers.uniform(-0.9, 0.9, w.shape) for w in layer.get_weights()])
    return layer


def ours(kind: str, weights: list[Any]) -> Any:
    """Build our cell from three arrays of Keras: kernel, recurrent kernel, bias."""
    kernel, recurrent, bias = weights
    if "gru" in kind:  # Keras has the update gate first.
        update, reset, candidate = np.split(np.arange(kernel.shape[1]), 3)
        order = np.concatenate([reset, update, candidate])
        kernel, recurrent, bias = kernel[:, order], recurrent[:, order], bias[..., order]
    cell = KINDS[kind][0](*np.shape(kernel[:, :H]))
    bias_ih, bias_hh = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
    arguments = {
        "weight_ih": kernel.T,
        "weight_hh": recurrent.T,
        "bias_ih": bias_ih,
        "bias_hh": bias_hh,
    }
    cell.load_state_dict({name: torch.tensor(array) for name, array in arguments.items()})
    return cell


def data(layer: Any) -> tuple[Tensor, Any]:
    torch.manual_seed(1)
    return torch.randn(N, T, D), map_state(torch.randn_like, layer.initial_state(N))


def run_ours(layer: Any, inputs: Tensor, state: Any, lengths: list[int] | None = None) -> Any:
    with torch.no_grad():
        outputs, after = layer(inputs, state, None if lengths is None else torch.tensor(lengths))
    return named([outputs, *leaves(after)])


def run_theirs(layer: Any, inputs: Tensor, state: Any, lengths: list[int] | None = None) -> Any:
    mask = None if lengths is None else torch.arange(T) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        return named(layer(inputs, initial_state=state, mask=mask))


def named(results: Any) -> dict[str, Any]:
    flat = [leaf for result in results for leaf in leaves(listless(result))]
    return {str(i): leaf.detach().numpy() for i, leaf in enumerate(flat)}


def listless(state: Any) -> Any:
    """Turn the lists in which Keras nests states into tuples."""
    return tuple(map(listless, state)) if isinstance(state, list | tuple) else state


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_and_masking(keras: Any, kind: str, fused: bool, lengths: list[int] | None) -> None:
    their = theirs(keras, kind, zero_output_for_mask=True)
    our = Recurrent(ours(kind, their.get_weights()), fused)
    inputs, state = data(our)
    expected = run_theirs(their, inputs, list(leaves(state)), lengths)
    assert differences(run_ours(our, inputs, state, lengths), expected) == []


MODES: dict[Merge, str] = {"concatenate": "concat", "sum": "sum", "mean": "ave", "product": "mul"}


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("merge", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_both_directions(keras: Any, kind: str, merge: Merge, lengths: list[int] | None) -> None:
    ahead = theirs(keras, kind, 0, zero_output_for_mask=True)
    back = theirs(keras, kind, 1, zero_output_for_mask=True, go_backwards=True)
    their = keras.layers.Bidirectional(ahead, merge_mode=MODES[merge], backward_layer=back)
    randomised(their, 2)
    both = [ours(kind, their.get_weights()[i : i + 3]) for i in (0, 3)]
    our = Bidirectional(Recurrent(both[0]), Recurrent(both[1]), merge)
    inputs, state = data(our)
    expected = run_theirs(their, inputs, list(leaves(state)), lengths)
    assert differences(run_ours(our, inputs, state, lengths), expected) == []


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("kinds", [["lstm", "gru"], ["simple", "lstm", "reset-first gru"]], ids=str)
def test_stacks(keras: Any, kinds: list[str], lengths: list[int] | None) -> None:
    layers = [
        theirs(keras, kind, i, H if i else D, zero_output_for_mask=True)
        for i, kind in enumerate(kinds)
    ]
    cells = [ours(k, layer.get_weights()) for k, layer in zip(kinds, layers, strict=True)]
    our, stacked = Stack(map(Recurrent, cells)), Recurrent(StackedCell(cells))
    inputs, state = data(our)
    expected: Any = inputs
    finals = []
    mask = None if lengths is None else torch.arange(T) < torch.tensor(lengths)[:, None]
    for layer, before in zip(layers, state, strict=True):
        expected, *after = layer(expected, initial_state=list(leaves(before)), mask=mask)
        finals += after
    for layer in (our, stacked):
        assert differences(run_ours(layer, inputs, state, lengths), named([expected, finals])) == []


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("kinds", [["lstm", "gru"], ["simple", "lstm", "reset-first gru"]], ids=str)
def test_stacked_cells(keras: Any, kinds: list[str], lengths: list[int] | None) -> None:
    parts = [getattr(keras.layers, f"{KINDS[kind][1]}Cell")(H, **KINDS[kind][2]) for kind in kinds]
    their = keras.layers.RNN(
        keras.layers.StackedRNNCells(parts),
        return_sequences=True,
        return_state=True,
        zero_output_for_mask=True,
    )
    randomised(their, 3)
    weights = their.get_weights()
    cells = [ours(kind, weights[3 * i : 3 * i + 3]) for i, kind in enumerate(kinds)]
    our = Recurrent(StackedCell(cells))
    inputs, state = data(our)
    nested = [list(leaves(entry)) for entry in state]
    expected = run_theirs(their, inputs, nested, lengths)
    assert differences(run_ours(our, inputs, state, lengths), expected) == []


# What the table in docs/use/python.md says about each of Keras' options.


@pytest.mark.parametrize("kind", KINDS)
def test_how_the_options_are_said(keras: Any, kind: str) -> None:
    their = theirs(keras, kind)
    weights = their.get_weights()
    layer = Recurrent(ours(kind, weights))
    inputs, state = data(layer)
    initial = list(leaves(state))

    def with_options(**options: Any) -> Any:
        other = theirs(keras, kind, **options)
        other.set_weights(weights)
        return other

    def same(actual: Any, expected: Any) -> None:
        assert differences(named(actual), named(expected)) == []

    with torch.no_grad():
        outputs, after = layer(inputs, state)
        last = with_options(return_sequences=False, return_state=False)
        same([outputs[:, -1]], [last(inputs, initial_state=initial)])
        backwards = with_options(go_backwards=True)
        same(layer(reverse(inputs), state), backwards(inputs, initial_state=initial))
        unrolled = with_options(unroll=True)
        same([outputs, after], unrolled(inputs, initial_state=initial))
        stateful = with_options(stateful=True)
        first, carried = layer(inputs[:, :2], layer.initial_state(N))
        same([first], [stateful(inputs[:, :2])[0]])
        same(layer(inputs[:, 2:], carried), stateful(inputs[:, 2:]))
