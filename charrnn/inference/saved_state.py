"""Save the position of a generation, to continue from it later: `charrnn sample --save-state`.

The file is a safetensors file like a checkpoint: the leaves of the hidden state, the last symbols
of each lane, the seed, the sample numbers and the position of the draws. Files of older versions
have only the very last symbol.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charrnn.errors import CheckpointError
from charrnn.inference.sampler import RECENT, Cursor
from charrnn.nn.state import leaves, map_state, replace_leaves
from charrnn.runs.checkpoint import Arrays, Layout, load_checkpoint, save_checkpoint


class SavedState(NamedTuple):
    """A cursor, the seed of its draws, and the number of the sample in each lane."""

    cursor: Cursor
    seed: int
    samples: list[int]


def save_state(path: Path, model: Any, state: SavedState) -> None:
    """Write a state of a model to a file. Raises StorageError if that fails."""
    cursor = state.cursor
    tensors: Arrays = {
        f"state/{i}": leaf if isinstance(leaf, np.ndarray) else leaf.cpu().numpy()
        for i, leaf in enumerate(leaves(cursor.state))
    }
    tensors["token"] = cursor.token
    tensors["recent"] = np.stack(list(cursor.recent), axis=1)
    metadata = {
        "cursor": {"position": cursor.position, "seed": state.seed, "samples": list(state.samples)},
        "model": _identity(model),
    }
    save_checkpoint(path, tensors, metadata)


def load_state(path: Path, model: Any) -> SavedState:
    """Read a state that `save_state` wrote.

    Raises CheckpointError for a state of a model of another shape or vocabulary, or a damaged one.
    """
    identity = _identity(model)

    def check(metadata: Mapping[str, Any], layout: Layout) -> None:
        cursor = metadata.get("cursor")
        if not isinstance(cursor, dict) or metadata.get("model") != identity:
            raise CheckpointError("it is not a state of a model with this shape and vocabulary")
        counts = [cursor.get("seed"), cursor.get("position"), *cursor["samples"]]
        lanes = len(cursor["samples"])
        shapes = [("F32", (lanes, *shape)) for shape in identity["state"]]
        expected = {f"state/{i}": shape for i, shape in enumerate(shapes)}
        expected["token"] = ("I64", (lanes,))
        _, shape = layout.get("recent", ("", ()))
        if len(shape) == 2 and 1 <= shape[1] <= RECENT:
            expected["recent"] = ("I64", (lanes, shape[1]))
        if layout != expected or not all(isinstance(n, int) and 0 <= n < 2**64 for n in counts):
            raise CheckpointError("it is damaged: its samples and its states differ in number")

    stored = load_checkpoint(path, check)
    about, token = stored.metadata["cursor"], stored.tensors["token"]
    recent = stored.tensors.get("recent", token[:, None])
    seen = np.append(recent, token)
    if seen.min(initial=0) < 0 or seen.max(initial=0) >= model.vocabulary.size:
        raise CheckpointError(
            f"{path} is not a state of this model: the model's vocabulary lacks a character in it"
        )
    zero = model.initial_state(len(token))
    arrays: Any = [stored.tensors[f"state/{i}"] for i, _ in enumerate(leaves(zero))]
    state = replace_leaves(zero, iter(arrays))
    cursor = Cursor(token, state, about["position"], deque(recent.T, maxlen=RECENT))
    return SavedState(cursor, about["seed"], about["samples"])


def _identity(model: Any) -> dict[str, Any]:
    """Describe the shape of a model's state and its vocabulary; a saved state must fit both."""
    shapes: list[Any] = []
    map_state(lambda leaf: shapes.append(list(leaf.shape[1:])), model.initial_state(1))
    return {"state": shapes, "vocabulary": model.vocabulary.to_data()}
