"""Step a torch model one symbol at a time."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charrnn.nn.fast.cuda_graphs import Captured
from charrnn.nn.models import EncoderDecoder, LanguageModel
from charrnn.nn.state import State, leaves, map_state


class TorchStepper:
    """A torch model as a stepper: numpy ids in, numpy logits out, without dropout.

    On a GPU a step is one CUDA graph for each batch size. For a decoder,
    `initial` is its state after reading the sources: one for each lane, or one for all lanes.
    """

    def __init__(self, model: LanguageModel | EncoderDecoder, initial: State | None = None) -> None:
        self._model = model
        self._initial = initial
        self._device = next(model.parameters()).device
        self._captured: dict[int, Captured] = {}

    def initial_state(self, batch_size: int) -> State:
        """Return the zero state for `batch_size` lanes, or the `initial` one.

        Raises ValueError for an `initial` state with another number of lanes.
        """
        if self._initial is None:
            return cast(LanguageModel, self._model).initial_state(batch_size)
        lanes = len(next(leaves(self._initial)))
        if lanes not in (1, batch_size):
            raise ValueError(f"the state is for {lanes} lanes, but the batch has {batch_size}")
        return map_state(lambda leaf: leaf.expand(batch_size, *leaf.shape[1:]), self._initial)

    def step(self, token: NDArray[np.int64], state: State) -> tuple[NDArray[np.float32], State]:
        """Map ids (N,) and a state, of tensors or arrays, to logits (N, V) and the next state."""
        was_training = self._model.training
        self._model.eval()
        with torch.inference_mode():
            ids = torch.as_tensor(np.asarray(token, np.int64), device=self._device)
            state = map_state(lambda leaf: torch.as_tensor(leaf, device=self._device), state)
            logits, state = self._advance(ids, state)
        self._model.train(was_training)
        return logits.float().cpu().numpy(), state

    def _advance(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        if self._device.type != "cuda" or self._initial is not None:
            return self._model.step(ids, state)
        if len(ids) not in self._captured:
            self._captured[len(ids)] = Captured(lambda pair: self._model.step(*pair), (ids, state))
        logits, after = cast(tuple[Tensor, State], self._captured[len(ids)]((ids, state)))
        # The next step overwrites the graph's memory.
        return logits, map_state(torch.clone, after)
