"""A language model stepped by numpy: no torch on the way to the first character.

The equations are those of `cells` on the same weights, arranged for one step at a time: the first
layer's input product is a table with one row a symbol, and sigmoid(x) = (1 + tanh(x / 2)) / 2, so
that one call of tanh serves all gates of a cell. The logits are the torch model's to float32
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
State = Any

MOST_TABLE = 1 << 26  # numbers in the first layer's table


class NumpyModel:
    """A stepper in the sampler's sense, on a language model's weights by name.

    The state is that of the torch model with arrays for tensors: a tuple with one entry a layer,
    (N, H), for an LSTM the pair of hidden state and cell state.
    """

    @staticmethod
    def fits(weights: Mapping[str, Array], cell: str, activation: str) -> bool:
        """Whether these equations are known here, and the table is of a reasonable size."""
        gates = weights.get("stack.layers.0.cell.weight_ih", np.empty((0, 0)))
        return (cell, activation) in CELLS and len(weights["head.bias"]) * len(gates) <= MOST_TABLE

    def __init__(
        self, weights: Mapping[str, Array], cell: str, activation: str, skip_connections: bool
    ) -> None:
        self._advance, halved, self._states = CELLS[cell, activation]
        self._skip_connections = skip_connections
        self._layers: list[tuple[Array, Array, Array, Array]] = []
        while (prefix := f"stack.layers.{len(self._layers)}.cell") + ".weight_ih" in weights:
            matrices = [weights[f"{prefix}.{n}"] for n in ("weight_ih", "weight_hh")]
            biases = [weights[f"{prefix}.{n}"] for n in ("bias_ih", "bias_hh")]
            width = matrices[1].shape[1]
            scale = np.ones((len(matrices[1]), 1), np.float32)
            for gate in halved:
                scale[gate * width : (gate + 1) * width] = 0.5  # Exact: a power of two.
            input_matrix, recurrent = (np.ascontiguousarray((m * scale).T) for m in matrices)
            input_bias, state_bias = (b * scale[:, 0] for b in biases)
            if not self._layers:
                embedding = weights.get("embedding.weight")
                table = input_matrix if embedding is None else embedding @ input_matrix
                input_matrix = table + input_bias
            self._layers.append((input_matrix, recurrent, input_bias, state_bias))
        self._head = np.ascontiguousarray(weights["head.weight"].T)
        self._head_bias = weights["head.bias"].copy()

    def initial_state(self, batch_size: int) -> State:
        """The zero state for `batch_size` lanes."""
        zeros = [np.zeros((batch_size, len(layer[1])), np.float32) for layer in self._layers]
        return tuple((z, z) if self._states == 2 else z for z in zeros)

    def step(self, token: NDArray[np.int64], state: State) -> tuple[Array, State]:
        """Ids (N,) and a state give logits (N, V), in nats, and the next state."""
        outputs: list[Array] = []
        states = []
        for i, (input_matrix, recurrent, input_bias, state_bias) in enumerate(self._layers):
            hidden = state[i][0] if self._states == 2 else state[i]
            if i == 0:
                from_input = input_matrix.take(token, axis=0)
            else:
                from_input = np.dot(outputs[-1], input_matrix)
                from_input += input_bias
            from_state = np.dot(hidden, recurrent)
            from_state += state_bias
            output, after = self._advance(from_input, from_state, state[i])
            outputs.append(output)
            states.append(after)
        read = np.concatenate(outputs, axis=1) if self._skip_connections else outputs[-1]
        logits: Array = np.dot(read, self._head)
        logits += self._head_bias
        return logits, tuple(states)


def _vanilla(from_input: Array, from_state: Array, _: Array) -> tuple[Array, Array]:
    hidden = np.tanh(np.add(from_input, from_state, out=from_state), out=from_state)
    return hidden, hidden


def _vanilla_relu(from_input: Array, from_state: Array, _: Array) -> tuple[Array, Array]:
    hidden = np.maximum(np.add(from_input, from_state, out=from_state), 0, out=from_state)
    return hidden, hidden


def _lstm(from_input: Array, gates: Array, state: State) -> tuple[Array, State]:
    gates += from_input
    np.tanh(gates, out=gates)
    width = gates.shape[1] // 4
    candidate = gates[:, 2 * width : 3 * width].copy()
    gates *= 0.5
    gates += 0.5
    cell = gates[:, width : 2 * width] * state[1]
    candidate *= gates[:, :width]
    cell += candidate
    hidden = np.tanh(cell, out=candidate)
    hidden *= gates[:, 3 * width :]
    return hidden, (hidden, cell)


def _gru(from_input: Array, from_state: Array, hidden: Array) -> tuple[Array, Array]:
    width = hidden.shape[1]
    gates = from_input[:, : 2 * width]
    gates += from_state[:, : 2 * width]
    np.tanh(gates, out=gates)
    gates *= 0.5
    gates += 0.5
    candidate = gates[:, :width] * from_state[:, 2 * width :]
    candidate += from_input[:, 2 * width :]
    np.tanh(candidate, out=candidate)
    after = hidden - candidate
    after *= gates[:, width:]
    after += candidate
    return after, after


Advance = Callable[[Array, Array, Any], tuple[Array, Any]]
# By cell and activation: the equations, the gates whose rows are halved for tanh, and how many
# leaves the state has.
CELLS: dict[tuple[str, str], tuple[Advance, tuple[int, ...], int]] = {
    ("vanilla", "tanh"): (_vanilla, (), 1),
    ("vanilla", "relu"): (_vanilla_relu, (), 1),
    ("lstm", "tanh"): (_lstm, (0, 1, 3), 2),
    ("gru", "tanh"): (_gru, (0, 1), 1),
}
