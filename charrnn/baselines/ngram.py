"""Character n-grams with interpolated smoothing: the baseline that counts instead of training.

Nothing here knows text or torch. A context h is the last symbols before w, and h' is h without its
first symbol. Every smoothing here has the form

    P_k(w | h) = share_k(h w) + rest_k(h) P_{k-1}(w | h'),    P_0(w) = 1 / V,

where k - 1 is the length of h: what the n-grams of k symbols say themselves, and the share of the
probability that they leave to the shorter context. In a context that was never seen before another
symbol, share is 0 and rest is 1: it backs off whole. With c for counts, c(h .) = sum_w c(h w) and
N(h .) = |{w : c(h w) > 0}|:

    Kneser-Ney, modified  share = (c(h w) - D(c(h w))) / c(h .),  rest = sum_w D(c(h w)) / c(h .)
    Witten-Bell           share = c(h w) / (c(h .) + N(h .)),     rest = N(h .) / (c(h .) + N(h .))
    none                  share = c(h w) / c(h .),                rest = 0 (maximum likelihood)

Kneser-Ney counts occurrences at the highest order only. Below it, c(w_1 .. w_k) is the number of
distinct symbols that stand before w_1 .. w_k (continuations), where the beginning of the text is
one more. D(1), D(2) and D(3) = D(4) = ... are estimated at each order from n_i, the number of its
n-grams with count i, as D(i) = i - (i + 1) Y n_{i+1} / n_i with Y = n_1 / (n_1 + 2 n_2). Where one
of n_1 .. n_4 is 0 or D(i) is not inside (0, i), as in short texts and for the few distinct symbols
at order 1, the order's discounts are 0.5, 1 and 1.5, as in KenLM (Heafield et al. 2013).

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
"""N-grams of one length by their rank among those seen; UNSEEN for all others."""

UNSEEN = -1
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
NO_HISTORY = np.empty(0, np.int64)
CHUNK = 1 << 18  # ids: how much is scored at a time


@dataclass(frozen=True)
class Level:
    """The n-grams of k symbols, as one level of a trie.

    An n-gram is the node of its first k - 1 symbols and its last symbol, in one number. The
    last two arrays end with what holds for UNSEEN, which is the index -1.
    """

    keys: NDArray[np.int64]  # (n_k,), sorted: parent * V + symbol
    counts: NDArray[np.int64]  # (n_k,)
    share: NDArray[np.float64]  # (n_k + 1,): what each n-gram gives its last symbol
    rest: NDArray[np.float64]  # (n_{k-1} + 1,): what each context leaves to the shorter one

    def find(self, keys: NDArray[np.int64]) -> Nodes:
        """The nodes of keys of any shape."""
        if not len(self.keys):
            return np.full(keys.shape, UNSEEN, np.int64)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, at, UNSEEN)


class NgramModel:
    """An n-gram model of `ids` (T,), each in [0, V), V being `vocabulary_size`.

    `order` is the length of the longest n-gram, so order 1 knows no context. A stepper in the
    sampler's sense: its state (N, order - 1) is the last ids of each lane, oldest first, and -1
    where there is none. Probabilities are float64, and over the V symbols they sum to 1.

    `counts` is the number of distinct n-grams of each order from 1, `discounts` Kneser-Ney's D(1),
    D(2) and D(3) of each order.

    Raises ValueError for an order or a vocabulary size below 1, an id outside of the vocabulary
    and an unknown smoothing.
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

    # Counting ----------------------------------------------------------------------------------

    def _count(
        self, ids: NDArray[np.int64]
    ) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
        """The keys of each level, and the counts that its smoothing is made of."""
        keys: list[NDArray[np.int64]] = []
        counts: list[NDArray[np.int64]] = []
        nodes = np.zeros(len(ids) + 1, np.int64)  # At each position, of the symbols from there.
        for k in range(self.order):
            found, first, following, occurrences = np.unique(
                nodes[:-1] * self.vocabulary_size + ids[k:],
                return_index=True,
                return_inverse=True,
                return_counts=True,
            )
            if k and self.smoothing == "kneser-ney":
                # An n-gram of this level is one symbol before its suffix on the level below.
                suffixes = np.bincount(nodes[first + 1], minlength=len(keys[-1]))
                suffixes[nodes[:1]] += 1  # The beginning of the text is before the first one.
                counts[-1] = suffixes
            keys.append(found)
            counts.append(occurrences)
            nodes = following
        return keys, counts

    def _level(self, keys: NDArray[np.int64], counts: NDArray[np.int64], contexts: int) -> Level:
        parents = keys // self.vocabulary_size

        def of_contexts(values: NDArray[Any]) -> NDArray[np.float64]:
            return np.bincount(parents, values, contexts).astype(np.float64)

        total, taken, left = of_contexts(counts), np.zeros(len(keys)), np.zeros(contexts)
        match self.smoothing:
            case "kneser-ney":
                self.discounts.append(_discounts(counts))
                taken = np.array([0.0, *self.discounts[-1]])[np.minimum(counts, 3)]
                left = of_contexts(taken)
            case "witten-bell":
                left = of_contexts(np.ones(len(keys)))
                total += left
            case "none":
                pass
            case _:
                raise ValueError(f"unknown smoothing {self.smoothing!r}")
        ends = total == 0  # Only the text's last symbols may have nothing after them.
        rest = np.where(ends, 1.0, left / np.where(ends, 1.0, total))
        shares = np.append((counts - taken) / total[parents], 0.0)
        return Level(keys, counts, shares, np.append(rest, 1.0))

    # Scoring -----------------------------------------------------------------------------------

    def surprisals(
        self, ids: NDArray[Any], start: int = 0, stop: int | None = None
    ) -> NDArray[np.float64]:
        """-ln P in nats, (stop - start,), of each id in [start, stop) after those before it.

        Up to order - 1 ids before each are its context, those before `start` too. Infinite where
        a model without smoothing gives no probability. Takes memory for `CHUNK` ids at a time.
        Raises ValueError for an id outside of the vocabulary.
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
        """P of each id after the ids before it, (T,)."""
        probabilities = np.full(len(ids), 1 / self.vocabulary_size)
        contexts = np.zeros(len(ids), np.int64)  # For each id that has so many before it.
        for k, level in enumerate(self._levels[: len(ids)]):
            nodes = level.find(contexts * self.vocabulary_size + ids[k:])
            probabilities[k:] = level.share[nodes] + level.rest[contexts] * probabilities[k:]
            contexts = nodes[:-1]  # The context of the id after it.
        return probabilities

    # Stepping ----------------------------------------------------------------------------------

    def initial_state(self, batch_size: int) -> NDArray[np.int64]:
        """No symbols read: -1, shape (N, order - 1)."""
        return np.full((batch_size, self.order - 1), UNSEEN, np.int64)

    def step(
        self, token: NDArray[np.int64], state: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Ids (N,) and a state give ln P (N, V), in nats, and the next state."""
        state = np.concatenate([state, token[:, None]], axis=1)[:, 1:]
        with np.errstate(divide="ignore"):
            return np.log(self.probabilities(state)), state

    def probabilities(self, state: NDArray[np.int64]) -> NDArray[np.float64]:
        """P of the V symbols after a state: (N, order - 1) gives (N, V)."""
        size = self.vocabulary_size
        probabilities = np.full((len(state), size), 1 / size)
        for k, level in enumerate(self._levels):
            contexts = self._find(state[:, self.order - 1 - k :])
            probabilities *= level.rest[contexts, None]
            # The n-grams that begin with a context stand one after another.
            begin = np.searchsorted(level.keys, contexts * size)
            lengths = np.searchsorted(level.keys, (contexts + 1) * size) - begin
            lanes = np.repeat(np.arange(len(state)), lengths)
            nodes = np.arange(len(lanes)) + np.repeat(begin - lengths.cumsum() + lengths, lengths)
            probabilities[lanes, level.keys[nodes] % size] += level.share[nodes]
        return probabilities

    def after(self, context: NDArray[np.int64]) -> tuple[list[int], list[int]]:
        """The symbols seen after a context (k,), k below the order, and their counts."""
        node = int(self._find(context[None])[0])
        if node == UNSEEN:
            return [], []
        level, size = self._levels[len(context)], self.vocabulary_size
        begin, end = np.searchsorted(level.keys, [node * size, (node + 1) * size])
        return (level.keys[begin:end] % size).tolist(), level.counts[begin:end].tolist()

    def _find(self, symbols: NDArray[np.int64]) -> Nodes:
        """The nodes (N,) of rows of k symbols (N, k), UNSEEN where one of them is -1."""
        nodes = np.zeros(len(symbols), np.int64)
        for level, column in zip(self._levels, symbols.T, strict=False):
            # Below 0, and so no key, after what is UNSEEN, and for -1, which stands at the front.
            nodes = level.find(nodes * self.vocabulary_size + column)
        return nodes

    def _checked(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary_size:
            raise ValueError(
                f"ids from {ids.min()} to {ids.max()} are not all in a vocabulary of "
                f"{self.vocabulary_size}"
            )
        return ids.astype(np.int64)


class AdaptiveNgramModel:
    """A Kneser-Ney model that goes on counting in the text that it reads.

    It begins with the counts of `model`. A symbol w after a context h adds one to the count of h w
    at the highest order; where that n-gram is new there, it is one continuation more of h' w, and
    so on downwards, which is what counting both texts together would give. The discounts stay
    those of `model`. `read` goes on from `history`, the last ids before the text.

    Raises ValueError for a model of another smoothing.
    """

    def __init__(self, model: NgramModel, history: NDArray[Any] = NO_HISTORY) -> None:
        if model.smoothing != "kneser-ney":
            raise ValueError("only a Kneser-Ney model can go on counting")
        self._model = model
        self._discounts = [np.array([0.0, *three]) for three in model.discounts]
        # By context, of those met so far: the symbols seen after it, and how often.
        self._seen: list[dict[tuple[int, ...], tuple[list[int], list[int]]]] = [
            {} for _ in range(model.order)
        ]
        self._history = tuple(int(i) for i in history)[-(model.order - 1) or len(history) :]

    def probabilities(self) -> NDArray[np.float64]:
        """P of the V symbols, (V,), after what was read."""
        size = self._model.vocabulary_size
        found = np.full(size, 1 / size)
        for k, (context, discounts) in enumerate(
            zip(self._contexts(), self._discounts, strict=False)
        ):
            symbols, counts = self._after(k, context)
            if symbols:
                number = np.array(counts)
                taken, total = discounts[np.minimum(number, 3)], number.sum()
                found *= taken.sum() / total
                found[symbols] += (number - taken) / total
        return found

    def read(self, symbol: int) -> None:
        """Count `symbol` after what was read, and go on behind it."""
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
        """The last symbols, none of them first."""
        length = len(self._history)
        return [self._history[length - k :] for k in range(min(length, self._model.order - 1) + 1)]

    def _after(self, k: int, context: tuple[int, ...]) -> tuple[list[int], list[int]]:
        known = self._seen[k].get(context)
        if known is None:
            known = self._seen[k][context] = self._model.after(np.array(context, np.int64))
        return known


def _discounts(counts: NDArray[np.int64]) -> tuple[float, ...]:
    """Kneser-Ney's discounts of an order, for counts of 1, 2 and 3 or more."""
    n = np.bincount(counts[counts <= 4], minlength=5)
    if not n[1:].all():
        return FALLBACK_DISCOUNTS
    y = n[1] / (n[1] + 2 * n[2])
    discounts = tuple(float(i - (i + 1) * y * n[i + 1] / n[i]) for i in (1, 2, 3))
    inside = all(0 < discount < i for i, discount in enumerate(discounts, 1))
    return discounts if inside else FALLBACK_DISCOUNTS
