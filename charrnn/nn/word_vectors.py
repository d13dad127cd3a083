"""Vectors of words from their characters, for words of training and for all others.

A composer is a module that computes one vector per word, (W, size), from the characters of W words:
ids (W, L) with `lengths` (W,), each at least 1. It never reads the values in the padding. ::

    "cats"  -->  c a t s  -->  composer(s)  -->  v  \\
                                                     side by side: the word's vector
    its id  ------------->  lookup (optional)  -->  w  /
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.nn.cells.standard import LSTMCell
from charrnn.nn.layers import Bidirectional, Recurrent
from charrnn.nn.sequences import only, real_steps
from charrnn.nn.state import leaves

WIDTHS = range(1, 7)  # characters that a convolution spans
ALIKE = 64  # words of similar length in one call of a composer on a CPU
AT_A_TIME = 4096  # words in one call when a whole vocabulary is composed


class RecurrentComposer(nn.Module):
    r"""A composer that reads words with an LSTM in both directions (Ling et al. 2015).

    .. math:: v = W_f h^f_L + W_b h^b_1 + b

    h^f_L is the last output of an LSTM that reads the embedded characters forwards, h^b_1 the last
    output of one that reads them backwards; each is `hidden_size` wide.

    >>> composer = RecurrentComposer(characters=9, embedding_size=4, hidden_size=5, size=3)
    >>> composer(torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([3, 1])).shape
    torch.Size([2, 3])
    """

    def __init__(self, characters: int, embedding_size: int, hidden_size: int, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, embedding_size)
        forward, backward = (Recurrent(LSTMCell(embedding_size, hidden_size)) for _ in range(2))
        self.layer = Bidirectional(forward, backward)
        self.projection = nn.Linear(2 * hidden_size, size)

    def forward(self, characters: Tensor, lengths: Tensor) -> Tensor:
        state = self.layer.initial_state(len(characters))
        _, ends = self.layer(self.embedding(characters), state, lengths)
        vectors: Tensor = self.projection(torch.cat([next(leaves(end)) for end in ends], -1))
        return vectors


class Highway(nn.Module):
    r"""A highway layer (Srivastava et al. 2015) with a transform gate that starts nearly closed.

    .. math:: y = t \odot \max(0, W x + b) + (1 - t) \odot x, \quad t = \sigma(W_t x + b_t)
    """

    def __init__(self, size: int, transform_bias: float = -2.0) -> None:
        super().__init__()
        self.candidate = nn.Linear(size, size)
        self.transform = nn.Linear(size, size)
        nn.init.constant_(self.transform.bias, transform_bias)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.lerp(
            inputs, functional.relu(self.candidate(inputs)), torch.sigmoid(self.transform(inputs))
        )


class ConvolvingComposer(nn.Module):
    r"""A composer of convolutions over 1 to 6 characters and a highway layer (Kim et al. 2016).

    .. math:: f_k = \max_{1 \le t \le L} \tanh(b_k + \sum_{j < w} W_{kj} x_{t+j}), \quad
              v = W \operatorname{highway}(f) + b

    x are the embedded characters, and zero after the end of the word. `filters` is the number of
    filters of all widths together; the number of width w is proportional to w, as in the paper's
    small model (525 filters). Raises ValueError for fewer than 21.

    >>> composer = ConvolvingComposer(characters=9, embedding_size=4, filters=21, size=3)
    >>> composer(torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([3, 1])).shape
    torch.Size([2, 3])
    """

    def __init__(self, characters: int, embedding_size: int, filters: int, size: int) -> None:
        super().__init__()
        if filters < sum(WIDTHS):
            raise ValueError(
                f"convolutions of {len(WIDTHS)} widths need at least {sum(WIDTHS)} filters, and "
                f"there are {filters}; use more"
            )
        edges = [filters * w * (w + 1) // 2 // sum(WIDTHS) for w in (0, *WIDTHS)]
        self.embedding = nn.Embedding(characters, embedding_size)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(embedding_size, edges[w] - edges[w - 1], w) for w in WIDTHS
        )
        self.highway = Highway(filters)
        self.projection = nn.Linear(filters, size)

    def forward(self, characters: Tensor, lengths: Tensor) -> Tensor:
        embedded = self.embedding(characters)
        real = real_steps(lengths, embedded)
        embedded = only(real, embedded).transpose(1, 2)
        # One convolution of the greatest width, with zeros in the narrower kernels, is faster than
        # six; and since tanh is monotonic, it can come after the maximum.
        kernels = torch.cat(
            [functional.pad(c.weight, (0, WIDTHS[-1] - w)) for w, c in self._by_width()]
        )
        biases = torch.cat([c.bias for _, c in self._by_width()])
        totals = functional.conv1d(functional.pad(embedded, (0, WIDTHS[-1] - 1)), kernels, biases)
        totals = totals.where(real[:, None], totals.new_full((), -math.inf))
        features = torch.tanh(totals.amax(2))
        vectors: Tensor = self.projection(self.highway(features))
        return vectors

    def _by_width(self) -> Iterator[tuple[int, Any]]:
        return zip(WIDTHS, self.convolutions, strict=True)


def by_length(composer: nn.Module, characters: Tensor, lengths: Tensor) -> Tensor:
    """Compose words (W, L) a few at a time in order of length, so that a long word pads few others.

    On a GPU all words are composed at once, since reading their lengths would wait for the GPU.
    """
    if lengths.is_cuda or len(lengths) <= ALIKE:
        vectors: Tensor = composer(characters, lengths)
        return vectors
    order = torch.argsort(lengths, stable=True)
    parts = [
        composer(characters[rows, : int(lengths[rows[-1]])], lengths[rows])
        for rows in torch.split(order, ALIKE)
    ]
    return torch.cat(parts)[torch.argsort(order)]


class WordVectors(nn.Module):
    """Vectors of words, (W, size): the outputs of all `composers` and of a `lookup` side by side.

    `lookup` turns word ids into vectors; words that it lacks have the id `unknown`. In training,
    `chances` (W,) are the probabilities with which a word's id is replaced by `unknown`, so that
    the rest of the model learns to rely on the spelling.

    >>> vectors = WordVectors(7, nn.Embedding(3, 4), [RecurrentComposer(9, 4, 5, 3)], unknown=2)
    >>> ids, spellings = torch.tensor([0, 2]), torch.tensor([[1, 2, 3], [4, 0, 0]])
    >>> vectors(ids, spellings, torch.tensor([3, 1])).shape
    torch.Size([2, 7])
    """

    def __init__(
        self, size: int, lookup: nn.Module | None, composers: Iterable[nn.Module], unknown: int
    ) -> None:
        super().__init__()
        self.size = size
        self.lookup = lookup
        self.composers = nn.ModuleList(composers)
        self.unknown = unknown

    def forward(
        self, ids: Tensor, characters: Tensor, lengths: Tensor, chances: Tensor | None = None
    ) -> Tensor:
        parts = [by_length(composer, characters, lengths) for composer in self.composers]
        if self.lookup is not None:
            if self.training and chances is not None:
                ids = ids.masked_fill(torch.rand_like(chances) < chances, self.unknown)
            parts.append(self.lookup(ids))
        return torch.cat(parts, -1)


class SpelledEmbedding(nn.Module):
    """An embedding that composes the vector of each word from its characters.

    It maps word ids (...) to vectors (..., size), as `nn.Embedding` does. `spellings` (V, L) are
    the character ids of each word of the vocabulary, padded after `lengths` (V,). A call composes
    each distinct word once.

    >>> vectors = WordVectors(4, None, [RecurrentComposer(10, 3, 5, 4)], unknown=2)
    >>> spellings, lengths = torch.tensor([[7, 8], [9, 0], [1, 0]]), torch.tensor([2, 1, 1])
    >>> SpelledEmbedding(vectors, spellings, lengths)(torch.tensor([[0, 2, 0, 1]])).shape
    torch.Size([1, 4, 4])
    """

    def __init__(self, vectors: WordVectors, spellings: Tensor, lengths: Tensor) -> None:
        super().__init__()
        self.vectors = vectors
        self.num_embeddings, self.embedding_dim = len(spellings), vectors.size
        self.spellings: Tensor
        self.lengths: Tensor
        self.register_buffer("spellings", spellings, persistent=False)
        self.register_buffer("lengths", lengths, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        if ids.is_cuda and torch.cuda.is_current_stream_capturing():
            # A graph has fixed shapes, and the number of distinct words varies.
            vectors: Tensor = self.vectors(
                ids.flatten(), self.spellings[ids].flatten(0, -2), self.lengths[ids].flatten()
            )
            return vectors.view(*ids.shape, -1)
        distinct, places = torch.unique(ids, return_inverse=True)
        lengths = self.lengths[distinct]
        characters = self.spellings[distinct, : int(lengths.max())]
        return functional.embedding(places, self.vectors(distinct, characters, lengths))

    def vector_of(self, word_id: int, spelling: Tensor) -> Tensor:
        """Compose the vector (size,) of any word from its character ids `spelling` (L,).

        A word outside the vocabulary has the id of the unknown word.
        """
        spelling = spelling.to(self.spellings.device)
        ids, length = spelling.new_tensor([word_id]), spelling.new_tensor([len(spelling)])
        vectors: Tensor = self.vectors(ids, spelling[None], length)
        return vectors[0]

    def table(self) -> Tensor:
        """Compose the vectors (V, size) of the whole vocabulary."""
        ids = torch.arange(self.num_embeddings, device=self.spellings.device)
        return torch.cat([self(part) for part in torch.split(ids, AT_A_TIME)])
