"""Character n-grams with interpolated smoothing: a baseline that counts instead of training.

This module depends on neither text nor torch. A context h is the last symbols before w, and h' is h
without its first symbol. Every smoothing has the form

    P_k(w | h) = share_k(h w) + rest_k(h) P_{k-1}(w | h'),    P_0(w) = 1 / V,

where k - 1 is the length of h. `share` is the probability from the n-grams of k symbols, and `rest`
is the part of the probability that is left to the shorter context. If no symbol was ever seen after
h, share is 0 and rest is 1: the shorter context decides. With c for counts, c(h .) = sum_w c(h w)
and N(h .) = |{w : c(h w) > 0}|:

    Kneser-Ney, modified  share = (c(h w) - D(c(h w))) / c(h .),  rest = sum_w D(c(h w)) / c(h .)
    Witten-Bell           share = c(h w) / (c(h .) + N(h .)),     rest = N(h .) / (c(h .) + N(h .))
    none                  share = c(h w) / c(h .),                rest = 0 (maximum likelihood)

Kneser-Ney counts occurrences at the highest order only. At a lower order, c(w_1 .. w_k) is the
number of distinct symbols that precede w_1 .. w_k (continuations); the beginning of the text counts
as one of them. D(1), D(2) and D(3) = D(4) = ... are estimated at each order from n_i, the number of
n-grams with count i, as D(i) = i - (i + 1) Y n_{i+1} / n_i with Y = n_1 / (n_1 + 2 n_2). If one of
n_1 .. n_4 is 0 or a D(i) is not inside (0, i), as in short texts and for the few distinct symbols
at order 1, the discounts of the order are 0.5, 1 and 1.5, as in KenLM (Heafield et al. 2013).

Chen and Goodman (1999), An empirical study of smoothing techniques for language modeling, Computer
Speech and Language 13; Witten and Bell (1991), The zero-frequency problem, IEEE Transactions on
Information Theory 37 (their method C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Smoothing: TypeAlias = Literal["kneser-ney", "witten-bell", "none"]
Nodes: TypeAlias = NDArray[np.int64]
"""N-grams of one length, each as its rank among the seen ones; UNSEEN for all others."""

UNSEEN = -1
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
NO_HISTORY = np.empty(0, np.int64)
CHUNK = 1 << 18  # ids that are scored at a time


@dataclass(frozen=True)
class Level:
    """The n-grams of k symbols, as one level of a trie.

    A key combines the node of the first k - 1 symbols and the last symbol in one number. The last
    entry of `share` and of `rest` is for UNSEEN, the index -1.
    """

    keys: NDArray[np.int64]  # (n_k,), sorted: parent * V + symbol
    counts: NDArray[np.int64]  # (n_k,)
    share: NDArray[np.float64]  # (n_k + 1,): share_k of each n-gram
    rest: NDArray[np.float64]  # (n_{k-1} + 1,): rest_k of each context

    def find(self, keys: NDArray[np.int64]) -> Nodes:
        """Find the nodes of an array of keys, of any shape."""
        if not len(self.keys):
            return np.full(keys.shape, UNSEEN, np.int64)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, at, UNSEEN)


class NgramModel:
    """An n-gram model of `ids` (T,), each in [0, V) where V is `vocabulary_size`.

    `order` is the length of the longest n-gram, so order 1 uses no context. The sampler can step
    the model: its state (N, order - 1) is the last ids of each sequence, the oldest first, with -1
    before the first id. Probabilities are float64 and sum to 1 over the V symbols.

    `counts` is the number of distinct n-grams of each order from 1, and `discounts` are D(1), D(2)
    and D(3) of Kneser-Ney for each order.

    Raises ValueError for an order or a vocabulary size below 1, an id that is not in the vocabulary
    and an unknown smoothing.

    >>> model = NgramModel(np.array([0, 1, 0, 1, 0]), vocabulary_size=2, order=2, smoothing="none")
    >>> np.exp(-model.surprisals(np.array([0, 1]))).round(4).tolist()  # P(0), P(1 | 0)
    [0.6, 1.0]
    """

    def __init__(
        self,
        ids: NDArray[Any],
        vocabulary_size: int,
        order: int = 7,
        smoothing: Smoothing = "kneser-ney",
    ) -> None:
        if order < 1 or vocabulary_size < 1:
            raise ValueError(f"order {order} and vocabulary size {vocabulary_size} must be above 0")
        self.order = order
        self.vocabulary_size = vocabulary_size
        self.smoothing = smoothing
        self.discounts: list[tuple[float, ...]] = []
        keys, counts = self._count(self._checked(ids))
        self.counts = [len(level) for level in keys]
        self._levels = [
            self._level(keys[k], counts[k], len(keys[k - 1]) if k else 1) for k in range(order)
        ]

    def _count(
        self, ids: NDArray[np.int64]
    ) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
        """Collect the keys of each level and the counts for its smoothing."""
        keys: list[NDArray[np.int64]] = []
        counts: list[NDArray[np.int64]] = []
        nodes = np.zeros(len(ids) + 1, np.int64)  # The n-gram that starts at each position.
        for k in range(self.order):
            level_keys, first, following, occurrences = np.unique(
                nodes[:-1] * self.vocabulary_size + ids[k:],
                return_index=True,
                return_inverse=True,
                return_counts=True,
            )
            if k and self.smoothing == "kneser-ney":
                # Each n-gram of this level puts a symbol before an n-gram of the level below.
                suffixes = np.bincount(nodes[first + 1], minlength=len(keys[-1]))
                suffixes[nodes[:1]] += 1  # The beginning of the text counts as a symbol.
                counts[-1] = suffixes
            keys.append(level_keys)
            counts.append(occurrences)
            nodes = following
        return keys, counts

    def _level(self, keys: NDArray[np.int64], counts: NDArray[np.int64], contexts: int) -> Level:
        """Compute a level from its counts: the share of each n-gram, the rest of each context."""
        parents = keys // self.vocabulary_size

        def summed(values: NDArray[Any]) -> NDArray[np.float64]:
            """Sum the values of the n-grams that have the same context."""
            return np.bincount(parents, values, contexts).astype(np.float64)

        total, taken, left = summed(counts), np.zeros(len(keys)), np.zeros(contexts)
        match self.smoothing:
            case "kneser-ney":
                self.discounts.append(_discounts(counts))
                taken = np.array([0.0, *self.discounts[-1]])[np.minimum(counts, 3)]
                left = summed(taken)
            case "witten-bell":
                left = summed(np.ones(len(keys)))
                total += left
            case "none":
                pass
            case _:
                raise ValueError(f"unknown smoothing {self.smoothing!r}")
        ends = total == 0  # The last symbols of the text may have no symbol after them.
        rest = np.where(ends, 1.0, left / np.where(ends, 1.0, total))
        shares = np.append((counts - taken) / total[parents], 0.0)
        return Level(keys, counts, shares, np.append(rest, 1.0))

    def surprisals(
        self, ids: NDArray[Any], start: int = 0, stop: int | None = None
    ) -> NDArray[np.float64]:
        """Compute -ln P in nats of each id in [start, stop), given the ids before it.

        Returns shape (stop - start,). The context is up to order - 1 ids, including those before
        `start`. A model without smoothing gives infinity for an n-gram that it never saw. Needs
        memory for `CHUNK` ids. Raises ValueError for an id that is not in the vocabulary.
        """
        start, stop, _ = slice(start, stop).indices(len(ids))
        pieces = [np.empty(0)]
        for begin in range(start, stop, CHUNK):
            end = min(begin + CHUNK, stop)
            first = max(0, begin - (self.order - 1))
            pieces.append(self._probabilities(self._checked(ids[first:end]))[begin - first :])
        with np.errstate(divide="ignore"):
            return -np.log(np.concatenate(pieces))

    def _probabilities(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Compute P of each id given the ids before it, shape (T,)."""
        probabilities = np.full(len(ids), 1 / self.vocabulary_size)
        contexts = np.zeros(len(ids), np.int64)  # The context of each id from position k on.
        for k, level in enumerate(self._levels[: len(ids)]):
            nodes = level.find(contexts * self.vocabulary_size + ids[k:])
            probabilities[k:] = level.share[nodes] + level.rest[contexts] * probabilities[k:]
            contexts = nodes[:-1]  # An n-gram is the context of the id after it.
        return probabilities

    def initial_state(self, batch_size: int) -> NDArray[np.int64]:
        """Return the state before any id: -1, shape (N, order - 1)."""
        return np.full((batch_size, self.order - 1), UNSEEN, np.int64)

    def step(
        self, token: NDArray[np.int64], state: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Read ids (N,) in a state; return ln P (N, V) in nats and the next state."""
        state = np.concatenate([state, token[:, None]], axis=1)[:, 1:]
        with np.errstate(divide="ignore"):
            return np.log(self.probabilities(state)), state

    def probabilities(self, state: NDArray[np.int64]) -> NDArray[np.float64]:
        """Compute P (N, V) of the V symbols in a state (N, order - 1)."""
        size = self.vocabulary_size
        probabilities = np.full((len(state), size), 1 / size)
        for k, level in enumerate(self._levels):
            contexts = self._find(state[:, self.order - 1 - k :])
            probabilities *= level.rest[contexts, None]
            # The keys of n-grams with the same context are consecutive.
            begin = np.searchsorted(level.keys, contexts * size)
            lengths = np.searchsorted(level.keys, (contexts + 1) * size) - begin
            rows = np.repeat(np.arange(len(state)), lengths)
            nodes = np.arange(len(rows)) + np.repeat(begin - lengths.cumsum() + lengths, lengths)
            probabilities[rows, level.keys[nodes] % size] += level.share[nodes]
        return probabilities

    def after(self, context: NDArray[np.int64]) -> tuple[list[int], list[int]]:
        """List the symbols seen after a context (k,), with k below the order, and their counts."""
        node = int(self._find(context[None])[0])
        if node == UNSEEN:
            return [], []
        level, size = self._levels[len(context)], self.vocabulary_size
        begin, end = np.searchsorted(level.keys, [node * size, (node + 1) * size])
        return (level.keys[begin:end] % size).tolist(), level.counts[begin:end].tolist()

    def _find(self, symbols: NDArray[np.int64]) -> Nodes:
        """Find the nodes (N,) of rows of k symbols (N, k); UNSEEN if a symbol is -1."""
        nodes = np.zeros(len(symbols), np.int64)
        for level, column in zip(self._levels, symbols.T, strict=False):
            # UNSEEN and a leading -1 give a number below 0, which is not a key.
            nodes = level.find(nodes * self.vocabulary_size + column)
        return nodes

    def _checked(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Return ids as int64. Raises ValueError for an id that is not in the vocabulary."""
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary_size:
            raise ValueError(
                f"ids from {ids.min()} to {ids.max()} are not all in a vocabulary of "
                f"{self.vocabulary_size}"
            )
        return ids.astype(np.int64)


class AdaptiveNgramModel:
    """A Kneser-Ney model that keeps counting in the text that it reads.

    It starts from the counts of `model`. A symbol w after a context h adds one to the count of h w
    at the highest order. If that n-gram is new, it is a new continuation of h' w, which adds one at
    the next lower order, and so on. The counts are those of both texts together; the discounts of
    `model` are kept. `history` is the last ids before the text.

    Raises ValueError for a model with another smoothing.
    """

    def __init__(self, model: NgramModel, history: NDArray[Any] = NO_HISTORY) -> None:
        if model.smoothing != "kneser-ney":
            raise ValueError("only a model with Kneser-Ney smoothing can keep counting")
        self._model = model
        self._discounts = [np.array([0.0, *three]) for three in model.discounts]
        # For each context that was met: the symbols seen after it and their counts.
        self._seen: list[dict[tuple[int, ...], tuple[list[int], list[int]]]] = [
            {} for _ in range(model.order)
        ]
        self._history = tuple(int(i) for i in history)[-(model.order - 1) or len(history) :]

    def probabilities(self) -> NDArray[np.float64]:
        """Compute P (V,) of the V symbols after the ids that were read."""
        size = self._model.vocabulary_size
        probabilities = np.full(size, 1 / size)
        for k, (context, discounts) in enumerate(
            zip(self._contexts(), self._discounts, strict=False)
        ):
            symbols, counts = self._after(k, context)
            if symbols:
                number = np.array(counts)
                taken, total = discounts[np.minimum(number, 3)], number.sum()
                probabilities *= taken.sum() / total
                probabilities[symbols] += (number - taken) / total
        return probabilities

    def read(self, symbol: int) -> None:
        """Read a symbol: count it after its contexts and append it to the history."""
        for k, context in reversed(list(enumerate(self._contexts()))):
            symbols, counts = self._after(k, context)
            if symbol in symbols:
                counts[symbols.index(symbol)] += 1
                break
            symbols.append(symbol)
            counts.append(1)
        longest = self._model.order - 1
        self._history = (*self._history, symbol)[-longest:] if longest else ()

    def _contexts(self) -> list[tuple[int, ...]]:
        """List the contexts of the next symbol, from the empty one to the longest."""
        length = len(self._history)
        return [self._history[length - k :] for k in range(min(length, self._model.order - 1) + 1)]

    def _after(self, k: int, context: tuple[int, ...]) -> tuple[list[int], list[int]]:
        """The symbols seen after a context of k symbols and their counts, as lists to change."""
        known = self._seen[k].get(context)
        if known is None:
            known = self._seen[k][context] = self._model.after(np.array(context, np.int64))
        return known


def _discounts(counts: NDArray[np.int64]) -> tuple[float, ...]:
    """Estimate the discounts of an order for counts of 1, 2 and 3 or more."""
    n = np.bincount(counts[counts <= 4], minlength=5)
    if not n[1:].all():
        return FALLBACK_DISCOUNTS
    y = n[1] / (n[1] + 2 * n[2])
    discounts = tuple(float(i - (i + 1) * y * n[i + 1] / n[i]) for i in (1, 2, 3))
    inside = all(0 < discount < i for i, discount in enumerate(discounts, 1))
    return discounts if inside else FALLBACK_DISCOUNTS
