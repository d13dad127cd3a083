r"""Attention: weighted means of a memory, with weights that depend on a query.

The score e_{ts} rates entry m_s of the memory for the query q_t:

.. math::
    \text{dot} &: q_t^\top m_s \\
    \text{general} &: q_t^\top W m_s \\
    \text{additive} &: v^\top \tanh(W_q q_t + W_k m_s)

(the first two: Luong et al. 2015; the third: Bahdanau et al. 2015). The weights are
a_t = softmax(e_t) over the real entries, and the context is c_t = \sum_s a_{ts} m_s.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from charrnn.nn.sequences import only, real_steps

Score = Literal["additive", "dot", "general"]


class Memory(NamedTuple):
    """The entries that queries attend to. A state: each leaf has a row for each lane."""

    keys: Tensor  # (N, S, K): compared with queries; computed once
    values: Tensor  # (N, S, E), 0 past the end
    lengths: Tensor  # (N,), each at least 1


class Attention(nn.Module):
    """Attention of queries (N, T, D) over a memory (N, S, E), by one of three scores.

    `hidden_size` is the width of the additive score's hidden layer; it is D by default. Raises
    ValueError for an unknown score, and for a dot product if D is not E.

    >>> attention = Attention("general", query_size=3, memory_size=5)
    >>> memory = attention.remember(torch.zeros(2, 4, 5), lengths=torch.tensor([4, 2]))
    >>> contexts, weights = attention(torch.zeros(2, 7, 3), memory)
    >>> contexts.shape, weights[1, 0]
    (torch.Size([2, 7, 5]), tensor([0.5000, 0.5000, 0.0000, 0.0000], grad_fn=<SelectBackward0>))
    """

    def __init__(
        self, score: Score, query_size: int, memory_size: int, hidden_size: int | None = None
    ) -> None:
        super().__init__()
        if score not in ("additive", "dot", "general"):
            raise ValueError(f"the score is additive, dot or general; received: {score!r}")
        if score == "dot" and query_size != memory_size:
            raise ValueError(
                f"a dot product needs queries as wide as the memory; received widths: "
                f"{query_size} and {memory_size}; use the score general, which projects"
            )
        self.score: Score = score
        self.key: nn.Module = nn.Identity()
        if score == "general":
            self.key = nn.Linear(memory_size, query_size, bias=False)
        if score == "additive":
            width = hidden_size or query_size
            self.key = nn.Linear(memory_size, width, bias=False)
            self.query = nn.Linear(query_size, width, bias=False)
            self.weight = nn.Parameter(torch.empty(width))
            nn.init.uniform_(self.weight, -1 / math.sqrt(width), 1 / math.sqrt(width))

    def remember(self, values: Tensor, lengths: Tensor) -> Memory:
        """Make a memory of `values` (N, S, E), with `lengths` (N,) real ones in each lane.

        Each length is at least 1. The values in the padding are never read.
        """
        values = only(real_steps(lengths, values), values)
        return Memory(self.key(values), values, lengths)

    def forward(self, queries: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return contexts (N, T, E) and weights (N, T, S) for queries (N, T, D).

        Queries (N, D) of one step give contexts (N, E) and weights (N, S). The weights sum to 1
        and are 0 in the padding.
        """
        if queries.dim() == 2:
            contexts, weights = self(queries[:, None], memory)
            return contexts[:, 0], weights[:, 0]
        if self.score == "additive":
            hidden = torch.tanh(self.query(queries)[:, :, None] + memory.keys[:, None])
            scores = hidden @ self.weight
        else:
            scores = queries @ memory.keys.transpose(1, 2)
        real = real_steps(memory.lengths, memory.values)[:, None]
        weights = scores.float().where(real, -math.inf).softmax(-1).to(memory.values)
        return weights @ memory.values, weights
