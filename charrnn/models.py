"""Models: embedding, stack and head put together, run over a sequence at once or step by step."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from charrnn.cells import Activation, Cell
from charrnn.graphs import Captured
from charrnn.layers import Bidirectional, Layer, Recurrent, Stack, drop
from charrnn.registry import CELLS, one_of
from charrnn.state import State, map_state
from charrnn.words import SpelledEmbedding


class OneHot(nn.Module):
    """Ids (...,) to one-hot vectors (..., V): the embedding with no parameters."""

    def __init__(self, num_embeddings: int) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        # Empty and not saved: it only follows the module's dtype.
        self.like: Tensor
        self.register_buffer("like", torch.empty(0), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        return functional.one_hot(ids, self.num_embeddings).to(self.like.dtype)


class LanguageModel(nn.Module):
    """Next-token logits from the tokens so far.

    `embedding` takes ids to vectors, `stack` is a causal layer over them, `head` takes its
    outputs to one logit (unnormalised log-probability, nats) a symbol. Dropout on the
    embedding's and on the stack's output acts in training mode only (`layers.drop`), as does
    `embedding_dropout`, which takes away whole symbols for one call (Gal and Ghahramani 2016;
    AWD-LSTM: Merity et al. 2018).
    """

    def __init__(
        self,
        embedding: nn.Module,
        stack: Layer,
        head: nn.Module,
        input_dropout: float = 0.0,
        output_dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        locked: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.stack = stack
        self.head = head
        self.input_dropout = input_dropout
        self.output_dropout = output_dropout
        self.embedding_dropout = embedding_dropout
        self.locked = locked

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Ids (N, T) and a state give logits (N, T, V) and the state after the last id."""
        outputs, state = self.stack(self._embed(ids), state)
        return self._read_out(outputs), state

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """One id a lane, (N,), gives logits (N, V) and the next state."""
        output, state = self.stack.step(self._embed(token), state)
        return self._read_out(output), state

    def initial_state(self, batch_size: int) -> State:
        """The zero state for `batch_size` lanes."""
        return self.stack.initial_state(batch_size)

    def _embed(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.embedding(ids)
        of = self.embedding
        kinds = nn.Embedding | OneHot | SpelledEmbedding
        if self.training and self.embedding_dropout and isinstance(of, kinds):
            symbols = vectors.new_ones(of.num_embeddings, 1)
            vectors = vectors * functional.dropout(symbols, self.embedding_dropout)[ids]
        return drop(vectors, self.input_dropout, self.training, self.locked)

    def _read_out(self, outputs: Tensor) -> Tensor:
        read: Tensor = self.head(drop(outputs, self.output_dropout, self.training, self.locked))
        return read


def cell_class(name: str, layer_norm: bool = False) -> Callable[..., Cell]:
    """The class of the cell of that name in `registry.CELLS`. Raises ValueError for another."""
    homes = {n: entry.normed if layer_norm else entry.home for n, entry in CELLS.items()}
    homes = {n: home for n, home in homes.items() if home}
    if name not in homes:
        normed = " with layer normalisation" if layer_norm else ""
        raise ValueError(f"there is no cell {name!r}{normed}; use {one_of(homes)}")
    module, _, kind = homes[name].rpartition(".")
    made: Callable[..., Cell] = getattr(importlib.import_module(f"charrnn.{module}"), kind)
    return made


def recurrent_stack(
    input_size: int,
    *,
    cell: str = "lstm",
    hidden_sizes: Sequence[int] = (128, 128),
    activation: Activation = "tanh",
    forget_bias: float = 1.0,
    recurrence_depth: int = 5,
    transform_bias: float = -2.0,
    dropout: float = 0.0,
    weight_dropout: float = 0.0,
    zoneout: Sequence[float] = (),
    locked_dropout: bool = False,
    layer_norm: bool = False,
    skip_connections: bool = False,
    bidirectional: bool = False,
) -> Stack:
    """Recurrent layers over inputs (N, T, `input_size`), one for each of `hidden_sizes`.

    `cell` is a name in `registry.CELLS`, `layer_norm` takes its kind with layer normalisation
    inside. `activation`, `forget_bias`, `recurrence_depth` and `transform_bias` go to the cells
    that have them. A `bidirectional` layer is two of that width, side by side. The kinds of dropout
    are those of `Stack` and `Recurrent`. Raises ValueError for a cell that there is not.
    """
    options = {
        "activation": activation,
        "forget_bias": forget_bias,
        "recurrence_depth": recurrence_depth,
        "transform_bias": transform_bias,
    }
    make_cell = cell_class(cell, layer_norm)
    options = {name: options[name] for name in CELLS[cell].options}

    def layer(d: int, h: int) -> Recurrent:
        return Recurrent(make_cell(d, h, **options), weight_dropout=weight_dropout, zoneout=zoneout)

    layers: list[nn.Module] = []
    width = input_size
    for h in hidden_sizes:
        both = bidirectional
        layers.append(Bidirectional(layer(width, h), layer(width, h)) if both else layer(width, h))
        width = 2 * h if both else h
    return Stack(layers, dropout, skip_connections, locked_dropout)


def embedding_of(vocabulary_size: int, embedding_size: int | None) -> nn.Module:
    """Ids to vectors; one-hot ones where `embedding_size` is None."""
    if embedding_size is None:
        return OneHot(vocabulary_size)
    return nn.Embedding(vocabulary_size, embedding_size)


def language_model(
    vocabulary_size: int,
    *,
    embedding_size: int | None = None,
    embedding: nn.Module | None = None,
    input_dropout: float = 0.0,
    output_dropout: float = 0.0,
    embedding_dropout: float = 0.0,
    locked_dropout: bool = False,
    tie_embeddings: bool = False,
    **layers: Any,
) -> LanguageModel:
    """A language model over `vocabulary_size` symbols.

    `layers` are the options of `recurrent_stack`. `embedding_size` None feeds one-hot vectors; an
    `embedding` of that width stands in for the lookup. The kinds of dropout are those of
    `LanguageModel`. `tie_embeddings` uses the embedding's matrix as the head's weights (Press and
    Wolf 2017; Inan et al. 2017). Raises ValueError where tied widths do not fit, and for a cell
    that there is not.
    """
    stack = recurrent_stack(
        embedding_size or vocabulary_size, locked_dropout=locked_dropout, **layers
    )
    embedding = embedding or embedding_of(vocabulary_size, embedding_size)
    head = nn.Linear(stack.output_size, vocabulary_size)
    nn.init.zeros_(head.bias)
    if tie_embeddings:
        tied = embedding.vectors.lookup if isinstance(embedding, SpelledEmbedding) else embedding
        if tied is None:
            raise ValueError(
                "tied embeddings need a matrix, and composed words have none; "
                "add lookup to model.words"
            )
        width = getattr(tied, "embedding_dim", None)
        if width != stack.output_size:
            raise ValueError(
                f"tied embeddings need an embedding as wide as the stack's output: "
                f"{width or 'one-hot'} is not {stack.output_size}; "
                f"set embedding_size to that width"
            )
        # The head's scale: unit-variance embeddings would start with logits of order sqrt(H).
        tied.weight = head.weight
    return LanguageModel(
        embedding, stack, head, input_dropout, output_dropout, embedding_dropout, locked_dropout
    )


class TorchStepper:
    """A language model in the sampler's terms: numpy ids in, numpy logits out, without dropout.

    On a GPU a step is one CUDA graph for each batch size.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._captured: dict[int, Captured] = {}

    def initial_state(self, batch_size: int) -> State:
        """The zero state for `batch_size` lanes."""
        return self._model.initial_state(batch_size)

    def step(self, token: NDArray[np.int64], state: State) -> tuple[NDArray[np.float32], State]:
        """Ids (N,) and a state, of tensors or arrays, give logits (N, V) and the next state."""
        was_training = self._model.training
        self._model.eval()
        with torch.inference_mode():
            ids = torch.as_tensor(np.asarray(token, np.int64), device=self._device)
            state = map_state(lambda leaf: torch.as_tensor(leaf, device=self._device), state)
            logits, state = self._advance(ids, state)
        self._model.train(was_training)
        return logits.float().cpu().numpy(), state

    def _advance(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        if self._device.type != "cuda":
            return self._model.step(ids, state)
        if len(ids) not in self._captured:
            self._captured[len(ids)] = Captured(lambda pair: self._model.step(*pair), (ids, state))
        logits, after = cast(tuple[Tensor, State], self._captured[len(ids)]((ids, state)))
        return logits, map_state(torch.clone, after)  # The next step overwrites the graph's own.
