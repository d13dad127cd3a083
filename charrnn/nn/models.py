"""Models: embedding, stack and head put together, run over a sequence at once or step by step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.nn.attention import Attention, Memory
from charrnn.nn.cells.base import Activation, Cell
from charrnn.nn.dropout import NO_DROPOUT, Dropouts
from charrnn.nn.layers import Bidirectional, Layer, Recurrent, Stack
from charrnn.nn.state import State, leaves, replace_leaves
from charrnn.nn.word_vectors import SpelledEmbedding
from charrnn.registry import CELLS, LAYER_NORM_CELLS, one_of, resolve


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
    outputs to one logit (unnormalised log-probability, nats) a symbol. `dropouts` act in training
    mode only; its `input`, `output` and `embedding` are applied here.
    """

    def __init__(
        self,
        embedding: nn.Module,
        stack: Layer,
        head: nn.Module,
        dropouts: Dropouts = NO_DROPOUT,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.stack = stack
        self.head = head
        self.dropouts = dropouts

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
        if isinstance(self.embedding, nn.Embedding | OneHot | SpelledEmbedding):
            symbols = self.embedding.num_embeddings
            vectors = self.dropouts.on_symbols(vectors, ids, symbols, self.training)
        return self.dropouts.on_input(vectors, self.training)

    def _read_out(self, outputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropouts.on_output(outputs, self.training))
        return logits


class Decoding(NamedTuple):
    """The state of a decoder: that of its layers, and what it attends to, if anything."""

    layers: State
    memory: Memory | tuple[()]


class EncoderDecoder(nn.Module):
    r"""Next-symbol logits of a target from a whole source and the target so far (Sutskever et al.
    2014).

    The encoder's final states become the decoder's first ones by a matrix for each layer and part
    of its state, with a tanh for hidden states. With attention (`attention.Attention`) an output
    h_t of the decoder looks for its context c_t in the encoder's outputs, and

    .. math:: \tilde h_t = \tanh(W_c [c_t; h_t])

    takes its place before the head (Luong et al. 2015, global attention, without input feeding).
    Whatever the score, attention thus comes after the layers, which fused kernels run over a whole
    target; Bahdanau et al. (2015) put it before them, where every step has to wait for the last.
    """

    def __init__(
        self,
        source_embedding: nn.Module,
        encoder: Stack,
        target_embedding: nn.Module,
        decoder: Stack,
        head: nn.Module,
        attention: Attention | None = None,
        dropouts: Dropouts = NO_DROPOUT,
    ) -> None:
        super().__init__()
        self.source_embedding = source_embedding
        self.encoder = encoder
        self.target_embedding = target_embedding
        self.decoder = decoder
        self.head = head
        self.attention = attention
        self.dropouts = dropouts
        given = _final(encoder, encoder.initial_state(1))
        self.bridges = nn.ModuleList(
            nn.Linear(part.shape[1], leaf.shape[1])
            for parts, state in zip(given, decoder.initial_state(1), strict=True)
            for part, leaf in zip(parts, leaves(state), strict=True)
        )
        if attention is not None:
            widths = encoder.output_size + decoder.output_size
            self.combine = nn.Linear(widths, decoder.output_size)

    def read(self, sources: Tensor, lengths: Tensor) -> Decoding:
        """The decoder's state after sources (N, S) of `lengths` (N,), each at least 1."""
        vectors = self._drop_input(self.source_embedding(sources))
        outputs, state = self.encoder(vectors, self.encoder.initial_state(len(sources)), lengths)
        bridges = iter(self.bridges)
        begun = []
        for parts in _final(self.encoder, state):
            hidden, *others = (bridge(part) for part, bridge in zip(parts, bridges, strict=False))
            begun += [torch.tanh(hidden), *others]
        layers = replace_leaves(self.decoder.initial_state(len(sources)), iter(begun))
        attention = self.attention
        return Decoding(layers, () if attention is None else attention.remember(outputs, lengths))

    def forward(self, sources: Tensor, lengths: Tensor, inputs: Tensor) -> Tensor:
        """Logits (N, T, V) of what follows each of the target's symbols `inputs` (N, T), the first
        of which is the start (teacher forcing)."""
        return self._run(self.read(sources, lengths), inputs)[0]

    def alignment(self, sources: Tensor, lengths: Tensor, inputs: Tensor) -> Tensor:
        """The weights (N, T, S) of the attention behind those logits. Raises ValueError without
        attention."""
        weights = self._run(self.read(sources, lengths), inputs)[1]
        if weights is None:
            raise ValueError("a decoder without attention is aligned with nothing")
        return weights

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """One symbol a lane, (N,), gives logits (N, V) and the next state."""
        layers, memory = cast(Decoding, state)
        vectors = self._drop_input(self.target_embedding(token))
        output, layers = self.decoder.step(vectors, layers)
        return self._read_out(output, memory)[0], Decoding(layers, memory)

    def _run(self, state: Decoding, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        vectors = self._drop_input(self.target_embedding(inputs))
        return self._read_out(self.decoder(vectors, state.layers)[0], state.memory)

    def _drop_input(self, vectors: Tensor) -> Tensor:
        return self.dropouts.on_input(vectors, self.training)

    def _read_out(
        self, outputs: Tensor, memory: Memory | tuple[()]
    ) -> tuple[Tensor, Tensor | None]:
        weights = None
        if self.attention is not None:
            assert isinstance(memory, Memory)
            contexts, weights = self.attention(outputs, memory)
            outputs = torch.tanh(self.combine(torch.cat([contexts, outputs], -1)))
        outputs = self.dropouts.on_output(outputs, self.training)
        return self.head(outputs), weights


def _final(stack: Stack, state: State) -> list[list[Tensor]]:
    """The parts of each layer's state, those of two directions side by side."""
    found = []
    for layer, of in zip(stack.layers, state, strict=True):
        ends = of if isinstance(layer, Bidirectional) else (of,)
        parts = zip(*(leaves(end) for end in ends), strict=True)
        found.append([torch.cat(both, -1) for both in parts])
    return found


def cell_class(name: str, layer_norm: bool = False) -> Callable[..., Cell]:
    """Load the class of a cell by its name in `registry.CELLS`.

    Raises ValueError for a name that is not there, ConfigError where an installed package's class
    cannot be loaded.
    """
    known: Mapping[str, Any] = LAYER_NORM_CELLS if layer_norm else CELLS
    if name not in known:
        normed = " with layer normalisation" if layer_norm else ""
        raise ValueError(f"there is no cell {name!r}{normed}; use {one_of(known)}")
    kind: Callable[..., Cell] = resolve(known[name] if layer_norm else known[name].cell)
    return kind


def make_cell(
    name: str,
    input_size: int,
    hidden_size: int,
    options: Mapping[str, Any],
    layer_norm: bool = False,
) -> Cell:
    """Make a cell with those of the `options` that its constructor names.

    Raises as `cell_class` does.
    """
    kind = cell_class(name, layer_norm)
    named = inspect.signature(kind).parameters
    known = {option: value for option, value in options.items() if option in named}
    return kind(input_size, hidden_size, **known)


def recurrent_stack(
    input_size: int,
    *,
    cell: str = "lstm",
    hidden_sizes: Sequence[int] = (128, 128),
    activation: Activation = "tanh",
    forget_bias: float = 1.0,
    recurrence_depth: int = 5,
    transform_bias: float = -2.0,
    dropouts: Dropouts = NO_DROPOUT,
    layer_norm: bool = False,
    skip_connections: bool = False,
    bidirectional: bool = False,
) -> Stack:
    """Recurrent layers over inputs (N, T, `input_size`), one for each of `hidden_sizes`.

    `cell` is a name in `registry.CELLS`, `layer_norm` takes its kind with layer normalisation
    inside. `activation`, `forget_bias`, `recurrence_depth` and `transform_bias` go to the cells
    that have them. A `bidirectional` layer is two of that width, side by side. Of `dropouts` the
    stack uses `layers`, `weight`, `zoneout` and `locked`. Raises ValueError for an unknown cell.
    """
    options = {
        "activation": activation,
        "forget_bias": forget_bias,
        "recurrence_depth": recurrence_depth,
        "transform_bias": transform_bias,
    }

    def layer(d: int, h: int) -> Recurrent:
        one = make_cell(cell, d, h, options, layer_norm)
        parts = len([*leaves(one.initial_state(1))])
        zoneout = [*dropouts.zoneout, *[0.0] * parts][:parts]
        return Recurrent(one, weight_dropout=dropouts.weight, zoneout=zoneout)

    layers: list[nn.Module] = []
    width = input_size
    for h in hidden_sizes:
        both = bidirectional
        layers.append(Bidirectional(layer(width, h), layer(width, h)) if both else layer(width, h))
        width = 2 * h if both else h
    return Stack(layers, dropouts.layers, skip_connections, dropouts.locked)


def embedding_of(vocabulary_size: int, embedding_size: int | None, scale: float = 1.0) -> nn.Module:
    """Ids to vectors, drawn from a normal distribution of that `scale` (standard deviation);
    one-hot ones where `embedding_size` is None."""
    if embedding_size is None:
        return OneHot(vocabulary_size)
    embedding = nn.Embedding(vocabulary_size, embedding_size)
    with torch.no_grad():
        embedding.weight *= scale
    return embedding


def language_model(
    vocabulary_size: int,
    *,
    embedding_size: int | None = None,
    embedding: nn.Module | None = None,
    embedding_scale: float = 1.0,
    dropouts: Dropouts = NO_DROPOUT,
    tie_embeddings: bool = False,
    **layers: Any,
) -> LanguageModel:
    """A language model over `vocabulary_size` symbols.

    `layers` are the options of `recurrent_stack`. `embedding_size` None feeds one-hot vectors; an
    `embedding` of that width stands in for the lookup, which starts at `embedding_scale`.
    `tie_embeddings` uses the embedding's matrix as the
    head's weights, which start as such (Press and Wolf 2017; Inan et al. 2017). Raises ValueError
    where tied widths do not fit, and for a cell that there is not.
    """
    stack = recurrent_stack(embedding_size or vocabulary_size, dropouts=dropouts, **layers)
    embedding = embedding or embedding_of(vocabulary_size, embedding_size, embedding_scale)
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
    return LanguageModel(embedding, stack, head, dropouts)
