"""Models of an embedding, recurrent layers and a head, run over sequences or step by step."""

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
    """Turn ids (...) into one-hot vectors (..., V): an embedding without parameters.

    >>> OneHot(3)(torch.tensor([2, 0]))
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """

    def __init__(self, num_embeddings: int) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        # This empty buffer is not saved; it only follows the dtype of the module.
        self.like: Tensor
        self.register_buffer("like", torch.empty(0), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        return functional.one_hot(ids, self.num_embeddings).to(self.like.dtype)


class LanguageModel(nn.Module):
    r"""A language model: the logits of the next symbol from the symbols so far.

    .. math:: P(x_{t+1} \mid x_1 \dots x_t) = \operatorname{softmax}(W y_t + b), \quad
              y_t, s_t = \operatorname{stack}(E x_t, s_{t-1})

    `embedding` (E) turns ids into vectors, `stack` is a causal layer over them, and `head` (W, b)
    turns its outputs into one logit for each symbol: an unnormalised log-probability in nats. The
    `input`, `output` and `embedding` rates of `dropouts` apply here, in training mode only.
    `language_model` builds one.

    >>> stack = recurrent_stack(16, cell="gru", hidden_sizes=(32,))
    >>> model = LanguageModel(nn.Embedding(65, 16), stack, nn.Linear(32, 65))
    >>> logits, state = model.step(torch.tensor([3, 7]), model.initial_state(2))
    >>> logits.shape
    torch.Size([2, 65])
    """

    def __init__(
        self, embedding: nn.Module, stack: Layer, head: nn.Module, dropouts: Dropouts = NO_DROPOUT
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.stack = stack
        self.head = head
        self.dropouts = dropouts

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Run over ids (N, T); return logits (N, T, V) and the state after the last id."""
        outputs, state = self.stack(self._embed(ids), state)
        return self._read_out(outputs), state

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one id in each lane, (N,); return logits (N, V) and the next state."""
        output, state = self.stack.step(self._embed(token), state)
        return self._read_out(output), state

    def initial_state(self, batch_size: int) -> State:
        """Return the zero state for `batch_size` lanes."""
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
    """The state of a decoder: its layers' state, and the memory that it attends to, if any."""

    layers: State
    memory: Memory | tuple[()]


class EncoderDecoder(nn.Module):
    r"""Encoder and decoder: the logits of a target's next symbol from the source and the target so
    far (Sutskever et al. 2014).

    Each part of the encoder's final state becomes a part of the decoder's initial state by a
    linear map, with a tanh for hidden states. With attention (`charrnn.nn.attention.Attention`) an
    output h_t of the decoder attends to the encoder's outputs with context c_t, and the head reads

    .. math:: \tilde h_t = \tanh(W_c [c_t; h_t])

    instead of h_t (Luong et al. 2015, global attention without input feeding). With every score,
    attention therefore comes after the recurrent layers, so that fused kernels can run these over a
    whole target. Bahdanau et al. (2015) put it before them, where each step waits for the one
    before.

    >>> encoder, decoder = (recurrent_stack(8, cell="gru", hidden_sizes=(16,)) for _ in range(2))
    >>> read, written, head = nn.Embedding(30, 8), nn.Embedding(40, 8), nn.Linear(16, 40)
    >>> model = EncoderDecoder(read, encoder, written, decoder, head)
    >>> sources, inputs = torch.tensor([[3, 5, 7]]), torch.tensor([[0, 1]])
    >>> model(sources, torch.tensor([3]), inputs).shape
    torch.Size([1, 2, 40])
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
        encoded = _final_parts(encoder, encoder.initial_state(1))
        self.bridges = nn.ModuleList(
            nn.Linear(part.shape[1], leaf.shape[1])
            for parts, state in zip(encoded, decoder.initial_state(1), strict=True)
            for part, leaf in zip(parts, leaves(state), strict=True)
        )
        if attention is not None:
            widths = encoder.output_size + decoder.output_size
            self.combine = nn.Linear(widths, decoder.output_size)

    def read(self, sources: Tensor, lengths: Tensor) -> Decoding:
        """Encode sources (N, S) of `lengths` (N,), each at least 1; return the decoder's state."""
        vectors = self._drop_input(self.source_embedding(sources))
        outputs, state = self.encoder(vectors, self.encoder.initial_state(len(sources)), lengths)
        bridges = iter(self.bridges)
        initial = []
        for parts in _final_parts(self.encoder, state):
            hidden, *others = (bridge(part) for part, bridge in zip(parts, bridges, strict=False))
            initial += [torch.tanh(hidden), *others]
        layers = replace_leaves(self.decoder.initial_state(len(sources)), iter(initial))
        attention = self.attention
        return Decoding(layers, () if attention is None else attention.remember(outputs, lengths))

    def forward(self, sources: Tensor, lengths: Tensor, inputs: Tensor) -> Tensor:
        """Return logits (N, T, V) of the symbols after each of the target's `inputs` (N, T).

        The first input is the start symbol, the others are the true target (teacher forcing).
        """
        return self._run(self.read(sources, lengths), inputs)[0]

    def alignment(self, sources: Tensor, lengths: Tensor, inputs: Tensor) -> Tensor:
        """Return the attention's weights (N, T, S) for those logits.

        Raises ValueError for a decoder without attention.
        """
        weights = self._run(self.read(sources, lengths), inputs)[1]
        if weights is None:
            raise ValueError(
                "a decoder without attention has no alignment; train one with attention"
            )
        return weights

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one symbol in each lane, (N,); return logits (N, V) and the next state."""
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


def _final_parts(stack: Stack, state: State) -> list[list[Tensor]]:
    """The parts of each layer's state; the parts of two directions lie side by side."""
    parts_by_layer = []
    for layer, layer_state in zip(stack.layers, state, strict=True):
        directions = layer_state if isinstance(layer, Bidirectional) else (layer_state,)
        parts = zip(*(leaves(direction) for direction in directions), strict=True)
        parts_by_layer.append([torch.cat(part, -1) for part in parts])
    return parts_by_layer


def cell_class(name: str, layer_norm: bool = False) -> Callable[..., Cell]:
    """Load the class of a cell by its name in `registry.CELLS`.

    Raises ValueError for an unknown name, ConfigError if an installed package's class cannot be
    loaded.
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
    """Make a cell, with those of the `options` that its constructor accepts.

    Raises the errors of `cell_class`.
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
    """Build recurrent layers over inputs (N, T, `input_size`), one for each of `hidden_sizes`.

    `cell` is a name in `charrnn.registry.CELLS`; `layer_norm` takes the cell's variant with layer
    normalisation. `activation`, `forget_bias`, `recurrence_depth` and `transform_bias` go to the
    cells that have them. A `bidirectional` layer is two layers of that width, side by side. The
    stack uses the fields `layers`, `weight`, `zoneout` and `locked` of `dropouts`. Raises
    ValueError for an unknown cell.

    >>> recurrent_stack(10, cell="gru", hidden_sizes=(8, 6), bidirectional=True).output_size
    12
    """
    options = {
        "activation": activation,
        "forget_bias": forget_bias,
        "recurrence_depth": recurrence_depth,
        "transform_bias": transform_bias,
    }

    def layer(d: int, h: int) -> Recurrent:
        new_cell = make_cell(cell, d, h, options, layer_norm)
        # One rate for each part of this cell's state: missing ones are 0, further ones unused.
        parts = len([*leaves(new_cell.initial_state(1))])
        zoneout = [*dropouts.zoneout, *[0.0] * parts][:parts]
        return Recurrent(new_cell, weight_dropout=dropouts.weight, zoneout=zoneout)

    layers: list[nn.Module] = []
    width = input_size
    for h in hidden_sizes:
        new = layer(width, h)
        layers.append(Bidirectional(new, layer(width, h)) if bidirectional else new)
        width = 2 * h if bidirectional else h
    return Stack(layers, dropouts.layers, skip_connections, dropouts.locked)


def embedding_of(vocabulary_size: int, embedding_size: int | None, scale: float = 1.0) -> nn.Module:
    """Build an embedding that is drawn from a normal distribution of standard deviation `scale`.

    If `embedding_size` is None, the embedding is one-hot.
    """
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
    """Build a language model over `vocabulary_size` symbols.

    `layers` are the options of `recurrent_stack`. Without `embedding_size` the layers read one-hot
    vectors. An `embedding` of that width replaces the table of vectors, which otherwise starts with
    the standard deviation `embedding_scale`. With `tie_embeddings` embedding and head share one
    matrix, which starts as a head's (Press and Wolf 2017; Inan et al. 2017). Raises ValueError
    if tied widths do not fit, and for an unknown cell.

    >>> model = language_model(65, embedding_size=16, cell="gru", hidden_sizes=(32, 32))
    >>> logits, state = model(torch.zeros(2, 7, dtype=torch.long), model.initial_state(2))
    >>> logits.shape
    torch.Size([2, 7, 65])
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
                "add lookup to model.words, or set model.tie_embeddings to false"
            )
        width = getattr(tied, "embedding_dim", None)
        if width != stack.output_size:
            raise ValueError(
                f"tied embeddings need an embedding as wide as the stack's output: "
                f"{width or 'one-hot'} is not {stack.output_size}; "
                f"set model.embedding_size to {stack.output_size}"
            )
        # The head's scale: embeddings of unit variance would start with logits of order sqrt(H).
        tied.weight = head.weight
    return LanguageModel(embedding, stack, head, dropouts)
