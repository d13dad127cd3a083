"""The cells' equations in float64 numpy, one lane and one gate at a time.

Written from the papers, in torch's gate order, and kept apart from the package: what is tested
against these equations shares no code with them.
"""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def products(w: Any, gate: int, x: Array, h: Array) -> tuple[Array, Array]:
    """Compute what the input and what the hidden state contribute to one gate."""
    rows = slice(gate * len(h), (gate + 1) * len(h))
    return (
        np.dot(w.weight_ih[rows], x) + w.bias_ih[rows],
        np.dot(w.weight_hh[rows], h) + w.bias_hh[rows],
    )


def tanh_step(w: Any, x: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    return (np.tanh(sum(products(w, 0, x, state[0]))),)


def relu_step(w: Any, x: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    return (np.maximum(sum(products(w, 0, x, state[0])), 0),)


def lstm_step(w: Any, x: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    hidden, memory = state
    i, f, g, o = (sum(products(w, gate, x, hidden)) for gate in range(4))
    memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(memory), memory


def gru_step(w: Any, x: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    (hidden,) = state
    reset = sigmoid(sum(products(w, 0, x, hidden)))
    update = sigmoid(sum(products(w, 1, x, hidden)))
    from_input, from_hidden = products(w, 2, x, hidden)
    candidate = np.tanh(from_input + reset * from_hidden)
    return ((1 - update) * candidate + update * hidden,)


def reset_first_gru_step(w: Any, x: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    (hidden,) = state
    reset = sigmoid(sum(products(w, 0, x, hidden)))
    update = sigmoid(sum(products(w, 1, x, hidden)))
    candidate = np.tanh(sum(products(w, 2, x, reset * hidden)))
    return ((1 - update) * candidate + update * hidden,)


def mlstm_step(w: Any, x: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    hidden, memory = state
    return lstm_step(w, x, ((w.weight_mx @ x) * (w.weight_mh @ hidden), memory))


def rhn_step(w: Any, x: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    (s,) = state
    n = len(s)
    for layer in range(len(w.bias_hh) // (2 * n)):
        rows = slice(2 * layer * n, 2 * (layer + 1) * n)
        total = w.weight_hh[rows] @ s + w.bias_hh[rows]
        if layer == 0:
            total = total + w.weight_ih @ x
        transform = sigmoid(total[n:])
        s = np.tanh(total[:n]) * transform + s * (1 - transform)
    return (s,)


def g(x: Array) -> Array:
    return np.array([e + 0.5 if e >= 0 else sigmoid(e) for e in x])


def mingru_step(w: Any, x: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    z, h = np.split(w.weight_ih @ x + w.bias_ih, 2)
    return ((1 - sigmoid(z)) * state[0] + sigmoid(z) * g(h),)


def minlstm_step(w: Any, x: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    f, i, h = np.split(w.weight_ih @ x + w.bias_ih, 3)
    both = sigmoid(f) + sigmoid(i)
    return (sigmoid(f) / both * state[0] + sigmoid(i) / both * g(h),)


def normed(x: Array, gain: Array, bias: Array | float = 0.0) -> Array:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * gain + bias


def normed_vanilla_step(w: Any, x: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    p = vars(w)  # The names of the norms' weights contain a dot.
    total = p["weight_ih"] @ x + p["bias_ih"] + p["weight_hh"] @ state[0] + p["bias_hh"]
    return (np.tanh(normed(total, p["norm.weight"], p["norm.bias"])),)


def normed_lstm_step(w: Any, x: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    p = vars(w)
    hidden, memory = state
    total = normed(p["weight_hh"] @ hidden, p["norm_hh.weight"])
    total = total + normed(p["weight_ih"] @ x, p["norm_ih.weight"]) + p["bias_ih"] + p["bias_hh"]
    i, f, g, o = np.split(total, 4)
    memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
    shown = normed(memory, p["norm_cell.weight"], p["norm_cell.bias"])
    return sigmoid(o) * np.tanh(shown), memory


def normed_gru_step(w: Any, x: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    p = vars(w)
    (hidden,) = state
    n = 2 * len(hidden)
    of_input, of_state = p["weight_ih"] @ x, p["weight_hh"] @ hidden
    both = normed(of_input[:n], p["norm_ih.weight"]) + p["bias_ih"][:n]
    both = both + normed(of_state[:n], p["norm_hh.weight"]) + p["bias_hh"][:n]
    reset, update = np.split(sigmoid(both), 2)
    from_state = normed(of_state[n:], p["norm_hn.weight"]) + p["bias_hh"][n:]
    from_input = normed(of_input[n:], p["norm_in.weight"]) + p["bias_ih"][n:]
    candidate = np.tanh(from_input + reset * from_state)
    return ((1 - update) * candidate + update * hidden,)


STEPS: dict[str, Callable[[Any, Array, Sequence[Array]], tuple[Array, ...]]] = {
    "tanh": tanh_step,
    "relu": relu_step,
    "lstm": lstm_step,
    "gru": gru_step,
    "reset-first gru": reset_first_gru_step,
    "mlstm": mlstm_step,
    "rhn": rhn_step,
    "mingru": mingru_step,
    "minlstm": minlstm_step,
    "normed vanilla": normed_vanilla_step,
    "normed lstm": normed_lstm_step,
    "normed gru": normed_gru_step,
}


def run(
    kind: str, weights: Mapping[str, Array], inputs: Array, state: Sequence[Array]
) -> tuple[Array, list[Array]]:
    """Compute outputs (N, T, H) and the final state's arrays (N, H) from inputs (N, T, D).

    The weights are by the cell's own names. The output of every cell is the first leaf of its new
    state.
    """
    w = SimpleNamespace(**{name: np.asarray(part, np.float64) for name, part in weights.items()})
    outputs, finals = [], []
    for lane in range(inputs.shape[0]):
        carried: tuple[Array, ...] = tuple(np.asarray(leaf[lane], np.float64) for leaf in state)
        steps = []
        for x in inputs[lane].astype(np.float64):
            carried = STEPS[kind](w, x, carried)
            steps.append(carried[0])
        outputs.append(np.stack(steps))
        finals.append(carried)
    return np.stack(outputs), [np.stack(leaf) for leaf in zip(*finals, strict=True)]


def differences(actual: Mapping[str, Array], expected: Mapping[str, Array]) -> list[str]:
    """Return the names whose arrays differ by more than the tolerance of their dtype.

    The error is relative to the largest expected number of the array.
    """
    names = sorted(set(actual) ^ set(expected))
    for name in actual.keys() & expected.keys():
        a, e = np.asarray(actual[name]), np.asarray(expected[name])
        if a.shape != e.shape:
            names.append(name)
            continue
        error = np.abs(a.astype(np.float64) - e).max(initial=0)
        if not error <= TOLERANCE[a.dtype.name] * np.abs(e).max(initial=0):
            names.append(name)
    return sorted(names)
