"""Step a language model with numpy, so that sampling need not import torch.

The equations are those of `nn.cells` on the same weights, arranged for one step at a time:

- the first layer's product with its input is a table with one column for each symbol;
- sigmoid(x) = (1 + tanh(x / 2)) / 2, so that one call of tanh serves all gates of a cell;
- lanes are columns: with torch's layout of matrices, W h is up to twice as fast in OpenBLAS as
  h W^T, and each gate is one block of memory.

The logits equal torch's up to the rounding of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
State = Any
Leaves = tuple[Array, ...]

MOST_TABLE = 1 << 26  # numbers at most in the first layer's table


class NumpyModel:
    """A `Stepper` of the sampler, from the weights of a language model by name.

    Its state is the torch model's, with arrays in place of tensors: one entry (N, H) for each
    layer, for an LSTM the pair of hidden state and cell state. `clamps` hold units of a layer at
    fixed values, as `nn.clamped.Clamped` does.
    """

    @staticmethod
    def fits(weights: Mapping[str, Array], cell: str, activation: str) -> bool:
        """Whether this module has the cell, and the first layer's table would not be too large."""
        gates = weights.get("stack.layers.0.cell.weight_ih", np.empty((0, 0)))
        return (cell, activation) in CELLS and len(weights["head.bias"]) * len(gates) <= MOST_TABLE

    def __init__(
        self,
        weights: Mapping[str, Array],
        cell: str,
        activation: str,
        skip_connections: bool,
        clamps: Mapping[int, Mapping[int, float]] | None = None,
    ) -> None:
        self._clamps = {
            layer: (np.array(list(units)), np.array([*units.values()], np.float32)[:, None])
            for layer, units in (clamps or {}).items()
        }
        self._advance, halved, self._states = CELLS[cell, activation]
        self._skip_connections = skip_connections
        self._layers: list[tuple[Array, Array, Array, Array]] = []
        while (prefix := f"stack.layers.{len(self._layers)}.cell") + ".weight_ih" in weights:
            matrices = [weights[f"{prefix}.{n}"] for n in ("weight_ih", "weight_hh")]
            biases = [weights[f"{prefix}.{n}"] for n in ("bias_ih", "bias_hh")]
            width = matrices[1].shape[1]
            scale = np.ones((len(matrices[1]), 1), np.float32)
            for gate in halved:
                scale[gate * width : (gate + 1) * width] = 0.5  # exact: a power of two
            input_matrix, recurrent = (m * scale for m in matrices)
            bias, state_bias = (b[:, None] * scale for b in biases)
            # Add the two biases, except for the GRU's candidate, where a gate scales one of them.
            count = len(state_bias) - (width if self._advance is _gru else 0)
            bias[:count] += state_bias[:count]
            if not self._layers:
                embedding = weights.get("embedding.weight")
                table = input_matrix if embedding is None else input_matrix @ embedding.T
                input_matrix = table + bias
            self._layers.append((input_matrix, recurrent, bias, state_bias[count:]))
        self._head = weights["head.weight"]
        self._head_bias = weights["head.bias"][:, None]

    def initial_state(self, batch_size: int) -> State:
        """Return the zero state for `batch_size` lanes."""
        zeros = [np.zeros((len(layer[1].T), batch_size), np.float32).T for layer in self._layers]
        return tuple((z, z) if self._states == 2 else z for z in zeros)

    def step(self, token: NDArray[np.int64], state: State) -> tuple[Array, State]:
        """Map ids (N,) and a state to logits (N, V) in nats and the next state."""
        outputs: list[Array] = []
        states = []
        for i, (input_matrix, recurrent, bias, scaled_bias) in enumerate(self._layers):
            if i == 0:
                from_input = input_matrix.take(token, axis=1)
            else:
                from_input = np.dot(input_matrix, outputs[-1])
                from_input += bias
            if self._states == 2:
                hidden, cell = state[i]
                before: Leaves = (hidden.T, cell.T)
            else:
                before = (state[i].T,)
            from_state = np.dot(recurrent, before[0])
            if len(scaled_bias):
                from_state[-len(scaled_bias) :] += scaled_bias
            after = self._advance(from_input, from_state, before)
            if i in self._clamps:
                units, values = self._clamps[i]
                after[0][units] = values
            outputs.append(after[0])
            states.append((after[0].T, after[1].T) if self._states == 2 else after[0].T)
        read = np.concatenate(outputs) if self._skip_connections else outputs[-1]
        logits: Array = np.dot(self._head, read)
        logits += self._head_bias
        return logits.T, tuple(states)


# Each cell maps the products with the input and with the state (gates * H, N), and the leaves
# (H, N) of the state before, to the leaves after; the first of them is the output. The products may
# be overwritten.


def _vanilla(from_input: Array, from_state: Array, _: Leaves) -> Leaves:
    return (np.tanh(np.add(from_input, from_state, out=from_state), out=from_state),)


def _vanilla_relu(from_input: Array, from_state: Array, _: Leaves) -> Leaves:
    return (np.maximum(np.add(from_input, from_state, out=from_state), 0, out=from_state),)


def _lstm(from_input: Array, gates: Array, before: Leaves) -> Leaves:
    gates += from_input
    np.tanh(gates, out=gates)
    width = len(gates) // 4
    candidate = gates[2 * width : 3 * width].copy()
    gates *= 0.5
    gates += 0.5
    cell = gates[width : 2 * width] * before[1]
    candidate *= gates[:width]
    cell += candidate
    hidden = np.tanh(cell, out=candidate)
    hidden *= gates[3 * width :]
    return hidden, cell


def _gru(from_input: Array, from_state: Array, before: Leaves) -> Leaves:
    width = len(before[0])
    gates = from_input[: 2 * width]
    gates += from_state[: 2 * width]
    np.tanh(gates, out=gates)
    gates *= 0.5
    gates += 0.5
    candidate = gates[:width] * from_state[2 * width :]
    candidate += from_input[2 * width :]
    np.tanh(candidate, out=candidate)
    after = before[0] - candidate
    after *= gates[width:]
    after += candidate
    return (after,)


Advance = Callable[[Array, Array, Leaves], Leaves]
# By cell and activation: the equations, the gates whose rows are halved (the sigmoids), and the
# number of leaves of the state.
CELLS: dict[tuple[str, str], tuple[Advance, tuple[int, ...], int]] = {
    ("vanilla", "tanh"): (_vanilla, (), 1),
    ("vanilla", "relu"): (_vanilla_relu, (), 1),
    ("lstm", "tanh"): (_lstm, (0, 1, 3), 2),
    ("gru", "tanh"): (_gru, (0, 1), 1),
}
