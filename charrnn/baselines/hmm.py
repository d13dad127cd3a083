"""Hidden Markov models of ids: a baseline that remembers one of K states and nothing else.

This module depends on neither text nor torch. A hidden state z_t in [0, K) emits the id x_t in [0,
V), and then the state z_{t+1} follows:

    pi_i = P(z_0 = i),    A_ij = P(z_{t+1} = j | z_t = i),    B_iv = P(x_t = v | z_t = i).

With f_t(i) = P(z_t = i | x_0 .. x_{t-1}) and f_0 = pi, reading one id computes

    p_t = sum_i f_t(i) B_i(x_t),    a_t(i) = f_t(i) B_i(x_t) / p_t,    f_{t+1} = a_t A,

where p_t = P(x_t | x_0 .. x_{t-1}) and a_t is the filtered distribution. This is the scaled forward
algorithm. The scaled backward variables b_t(i), proportional to P(x_{t+1} .. x_{T-1} | z_t = i),
follow the same recurrence on the ids in reverse order, with the transposed matrix and a uniform
start. With n_t = sum_i f_t(i) B_i(x_t) b_t(i), the expectations of Baum-Welch are

    P(z_t = i | x) = f_t(i) B_i(x_t) b_t(i) / n_t,
    P(z_t = i, z_{t+1} = j | x) = a_t(i) A_ij B_j(x_{t+1}) b_{t+1}(j) / n_{t+1},

and the new parameters are their sums over t, with each distribution divided by its own sum.

Reading in lanes
----------------
The recurrence runs over the text from one end to the other, but one vector times one matrix at a
time is slow. So a block of the text is cut into lanes of equal length, which are read side by side
as one matrix product a step:

    block     x_0 ................................................ x_19
    lane 0    x_0  x_1  x_2  x_3  x_4     starts from the true state
    lane 1    x_5  x_6  x_7  x_8  x_9     starts from a guess: equal probabilities
    lane 2    x_10 x_11 x_12 x_13 x_14    starts from a guess
    lane 3    x_15 x_16 x_17 x_18 x_19    starts from a guess

Then each lane but the first is read once more, now from the state in which the lane before it
ended. The second reading stops as soon as its state agrees with the first reading's, because from
there on both are the same. This happens soon: a step never increases the largest ratio between the
entries of two states (Birkhoff 1957), and in practice the states agree after some tens of ids:

    lane 1, first reading     guess  .    .    .    .    end
    lane 1, second reading    end of lane 0  .    .  = agrees, stop

If the second reading changes the last state of a lane, the next lane has a new start and is read
again. The result equals one unbroken pass, up to `AGREEMENT`.

Baum, Petrie, Soules and Weiss (1970), A maximization technique occurring in the statistical
analysis of probabilistic functions of Markov chains, Annals of Mathematical Statistics 41; Rabiner
(1989), A tutorial on hidden Markov models and selected applications in speech recognition,
Proceedings of the IEEE 77; Birkhoff (1957), Extensions of Jentzsch's theorem, Transactions of the
American Mathematical Society 85.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

SMOOTHING = 1e-5
NUMBERS = 1 << 22  # float64 numbers in the states of a block, with K of them for each id
AGREEMENT = 1e-12  # relative: two readings of a lane agree if every entry is as close as this,
NEGLIGIBLE = 1e-30  # absolute: or closer than this
ROUNDS = 8  # rounds of reading lanes again side by side; then they are read one by one


class Iteration(NamedTuple):
    """The model after `number` re-estimations, and its ln P(text) in nats."""

    number: int
    log_likelihood: float
    model: HiddenMarkovModel


class HiddenMarkovModel:
    """A hidden Markov model with pi (K,), A (K, K) and B (K, V), kept as float64.

    The sampler can step it: its state (N, K) is f_t, the distribution of the hidden state that
    emits the next id; before any id it is pi.

    Scores, states and steps use smoothed parameters: every distribution is mixed with the uniform
    one over its n values, (1 - smoothing) P + smoothing / n. So nothing is impossible, and an id
    that the fit never saw costs at most ln(V / smoothing) nats. `fit` and the attributes `initial`,
    `transitions` and `emissions` are not smoothed.

    Raises ValueError for shapes that do not agree, rows that are not distributions, and a smoothing
    outside of 0 to 1.

    >>> ids = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    >>> start = HiddenMarkovModel.random(ids, vocabulary_size=2, states=2)
    >>> *_, last = start.fit(ids, iterations=50)
    >>> bool(last.log_likelihood > -0.1)
    True
    """

    def __init__(
        self,
        initial: NDArray[Any],
        transitions: NDArray[Any],
        emissions: NDArray[Any],
        smoothing: float = SMOOTHING,
    ) -> None:
        if not 0 <= smoothing <= 1:
            raise ValueError(f"smoothing {smoothing} must be from 0 to 1")
        states = len(initial)
        shapes = [np.shape(part) for part in (initial, transitions, emissions)]
        if not states or shapes != [(states,), (states, states), (states, *shapes[2][-1:])]:
            raise ValueError(f"shapes {shapes} must be (K,), (K, K) and (K, V)")
        self.initial = _distributions("initial", initial)
        self.transitions = _distributions("transitions", transitions)
        self.emissions = _distributions("emissions", emissions)
        self.smoothing = smoothing
        self.vocabulary_size = self.emissions.shape[1]
        self._smoothed = [
            (1 - smoothing) * part + smoothing / part.shape[-1]
            for part in (self.initial, self.transitions, self.emissions)
        ]
        self._smoothed[2] = np.ascontiguousarray(self._smoothed[2].T)  # (V, K): a row for each id

    @classmethod
    def random(
        cls,
        ids: NDArray[Any],
        vocabulary_size: int,
        states: int,
        seed: int = 0,
        smoothing: float = SMOOTHING,
    ) -> HiddenMarkovModel:
        """Draw a model for `fit` to start from; the same seed gives the same model.

        pi and the rows of A are draws from the flat Dirichlet distribution. The rows of B are draws
        of the same kind, multiplied by the frequencies in `ids` (T,) and normalised. Rows that are
        nearly equal would be a saddle point, where the fit gains less than its tolerance and stops.

        Raises ValueError if there are no ids or no states, or an id is not in the vocabulary.
        """
        if states < 1 or not len(ids):
            raise ValueError(
                f"a model needs at least one state and one id; received {states} and {len(ids)}"
            )
        counts = np.bincount(_checked(ids, vocabulary_size), minlength=vocabulary_size)
        generator = np.random.default_rng(seed)
        emissions = counts * generator.dirichlet(np.ones(vocabulary_size), states)
        return cls(
            generator.dirichlet(np.ones(states)),
            generator.dirichlet(np.ones(states), states),
            emissions / emissions.sum(axis=1, keepdims=True),
            smoothing,
        )

    def fit(
        self, ids: NDArray[Any], iterations: int = 100, tolerance: float = 1e-6
    ) -> Iterator[Iteration]:
        """Fit the model to `ids` (T,), T >= 1, as one sequence, by Baum-Welch.

        Yields this model first and then each re-estimated one. It stops after `iterations`, or when
        ln P(ids), which never falls, rises by less than `tolerance` times its size. A probability
        of 0 stays 0, so emissions that are the identity (K = V) do not change. A state that is
        never visited keeps its distributions. Needs memory for three blocks (100 MB for a long
        text) and 8 bytes for each id.

        Raises ValueError if there are no ids, an id is not in the vocabulary, or these parameters
        make the ids impossible.
        """
        if not len(ids):
            raise ValueError("there are no ids to fit")
        blocks = list(_blocks(_checked(ids, self.vocabulary_size), len(self.initial)))
        model, before = self, -np.inf
        for number in range(iterations + 1):
            starts, last, log_likelihood = model._read_forward(blocks)
            yield Iteration(number, log_likelihood, model)
            if number == iterations or log_likelihood - before < tolerance * abs(log_likelihood):
                return
            before = log_likelihood
            model = model._reestimated(blocks, starts, last)

    def _read_forward(
        self, blocks: Sequence[NDArray[np.int64]]
    ) -> tuple[list[Array], LaneReading, float]:
        """Read all blocks; return the state before each, the last reading, and ln P in nats."""
        emissions = np.ascontiguousarray(self.emissions.T)
        starts, state, log_likelihood = [], self.initial, 0.0
        for block in blocks:
            starts.append(state)
            reading = read_in_lanes(block, self.transitions, emissions, state)
            state = reading.states[-1, -1].copy()
            log_likelihood += float(np.log(reading.totals).sum())
        return starts, reading, log_likelihood

    def _reestimated(
        self, blocks: Sequence[NDArray[np.int64]], starts: Sequence[Array], last: LaneReading
    ) -> HiddenMarkovModel:
        """Compute the next model of Baum-Welch, with one reading in memory at a time."""
        emissions = np.ascontiguousarray(self.emissions.T)
        expected = Expectations(self.transitions, emissions)
        expected.add(blocks[-1], last)
        for block, start in zip(blocks[-2::-1], starts[-2::-1], strict=True):
            expected.add(block, read_in_lanes(block, self.transitions, emissions, start))
        return HiddenMarkovModel(
            expected.first / expected.first.sum(),
            _normalised(expected.pairs * self.transitions, self.transitions),
            _normalised(expected.emitted.T, self.emissions),
            self.smoothing,
        )

    def surprisals(
        self, ids: NDArray[Any], start: int = 0, stop: int | None = None
    ) -> NDArray[np.float64]:
        """Compute -ln P in nats of each id in [start, stop), given all ids before it.

        Returns shape (stop - start,). The filter runs from the first of `ids`, where the state is
        pi, without a break. Needs memory for one block. Raises ValueError for an id that is not in
        the vocabulary and, without smoothing, for ids that are impossible.
        """
        start, stop, _ = slice(start, stop).indices(len(ids))
        state, transitions, emissions = self._smoothed
        surprisals = [np.empty(0)]
        for block in _blocks(_checked(ids[:stop], self.vocabulary_size), len(state)):
            reading = read_in_lanes(block, transitions, emissions, state)
            state = reading.states[-1, -1].copy()
            surprisals.append(-np.log(reading.totals.T.ravel()))
        return np.concatenate(surprisals)[start:stop]

    def most_likely_states(self, ids: NDArray[Any]) -> NDArray[np.intp]:
        """Find the hidden states (T,) with the largest joint probability with `ids` (T,).

        This is Viterbi's algorithm in log space, with the largest score of each step subtracted;
        of equally good states it takes the lowest. Needs T K bytes, or twice as many for K above
        256. Raises ValueError for an id that is not in the vocabulary and, without smoothing, for
        ids that are impossible.
        """
        ids = _checked(ids, self.vocabulary_size)
        with np.errstate(divide="ignore"):
            initial, transitions, emissions = (np.log(part) for part in self._smoothed)
        states = len(initial)
        to_from = np.ascontiguousarray(transitions.T)
        origins = np.empty((len(ids), states), np.min_scalar_type(states - 1))
        best = initial
        for t, symbol in enumerate(ids):
            if t:
                through = to_from + best
                origin = through.argmax(axis=1)
                origins[t] = origin
                best = through[np.arange(states), origin]
            best = best + emissions[symbol]
            largest = best.max()
            if largest == -np.inf:
                raise ValueError(f"the model cannot emit the first {t + 1:,} ids")
            best -= largest
        path = np.empty(len(ids), np.intp)
        state = best.argmax()
        for t in range(len(ids) - 1, -1, -1):
            path[t] = state
            state = origins[t, state]
        return path

    def initial_state(self, batch_size: int) -> Array:
        """Return the state before any id: pi for each sequence, shape (N, K)."""
        return np.tile(self._smoothed[0], (batch_size, 1))

    def step(self, token: NDArray[np.int64], state: Array) -> tuple[Array, Array]:
        """Read ids (N,) in the state f_t (N, K); return ln P (N, V) in nats and the next state.

        Without smoothing, raises ValueError for an id that is impossible.
        """
        _, transitions, emissions = self._smoothed
        state, _ = _advance(token, state, transitions, emissions)
        with np.errstate(divide="ignore"):
            return np.log(state @ emissions.T), state


class LaneReading(NamedTuple):
    """The states and normalisers of a block that was read in lanes, in time order."""

    states: Array
    """Shape (length + 1, lanes, K): the state before each id, and after the last of each lane."""
    totals: Array
    """Shape (length, lanes): the sum that each step was divided by; p_t when reading forward."""


class Expectations:
    """The expectations of Baum-Welch, summed over the blocks of a text from the last to the
    first."""

    def __init__(self, transitions: Array, emissions: Array) -> None:
        self._transposed = np.ascontiguousarray(transitions.T)
        self._emissions = emissions
        states = len(transitions)
        self._after = np.full(states, 1 / states)  # b_t of the last id of the block
        self._next = np.zeros(states)  # B_j(x_t) b_t(j) / n_t of the first id of the next block
        self.first = np.empty(0)  # (K,): P(z_0 = i | x)
        self.pairs = np.zeros((states, states))  # sum of P(z_t = i, z_{t+1} = j | x) / A_ij
        self.emitted = np.zeros(emissions.shape)  # (V, K): sum of P(z_t = i | x) where x_t = v

    def add(self, block: NDArray[np.int64], forward: LaneReading) -> None:
        """Add the expectations of a block (length, lanes) and its forward reading."""
        backward = self._read_backward(block)
        ones = np.ones(len(self._after))
        filtered = heads = np.zeros_like(backward[0])
        for t, symbols in enumerate(block):
            emission = self._emissions.take(symbols, axis=0)
            before, filtered = filtered, forward.states[t] * emission
            posterior = filtered * backward[t]
            scale = (posterior @ ones)[:, None]
            posterior /= scale
            self._count(symbols, posterior)
            filtered /= forward.totals[t][:, None]
            emission *= backward[t]
            emission /= scale  # B_j(x_t) b_t(j) / n_t
            self.pairs += before.T @ emission
            if t == 0:
                self.first, heads = posterior[0], emission
        # The last id of a lane comes before the first id of the next lane.
        following = np.concatenate([heads[1:], self._next[None]])
        self.pairs += filtered.T @ following
        self._next = heads[0]

    def _read_backward(self, block: NDArray[np.int64]) -> Array:
        """b_t (length, lanes, K), by reading the block in reverse order."""
        reverse = block[::-1, ::-1]
        states = read_in_lanes(reverse, self._transposed, self._emissions, self._after).states
        self._after = states[-1, -1].copy()
        return states[-2::-1, ::-1]

    def _count(self, symbols: NDArray[np.int64], posterior: Array) -> None:
        """Add the posterior (lanes, K) of each id to the row of its symbol."""
        order = symbols.argsort(kind="stable")
        ranked = symbols[order]
        begins = np.flatnonzero(np.diff(ranked, prepend=-1))
        self.emitted[ranked[begins]] += np.add.reduceat(posterior[order], begins)


def read_in_lanes(
    block: NDArray[Any], transitions: Array, emissions: Array, start: Array
) -> LaneReading:
    """Read a block (length, lanes) as one text, lane after lane, from the state `start` (K,).

    See "Reading in lanes" above. Raises ValueError for ids that are impossible.
    """
    reading = _read_from_guesses(block, transitions, emissions, start)
    # Lanes whose start is not yet the end of the lane before them.
    stale, rounds = np.arange(1, block.shape[1]), 0
    while len(stale):
        chosen = stale if rounds < ROUNDS else stale[:1]
        changed = _read_again(reading, chosen, block, transitions, emissions)
        following = changed[changed < block.shape[1] - 1] + 1
        stale, rounds = np.union1d(stale[len(chosen) :], following), rounds + 1
    return reading


def _read_from_guesses(
    block: NDArray[Any], transitions: Array, emissions: Array, start: Array
) -> LaneReading:
    """Read all lanes side by side: the first from `start`, the others from equal probabilities."""
    length, lanes = block.shape
    states = np.empty((length + 1, lanes, len(start)))
    totals = np.empty(block.shape)
    states[0] = 1 / len(start)
    states[0, 0] = start
    for t in range(length):
        states[t + 1], totals[t] = _advance(block[t], states[t], transitions, emissions)
    return LaneReading(states, totals)


def _read_again(
    reading: LaneReading,
    lanes: NDArray[np.intp],
    block: NDArray[Any],
    transitions: Array,
    emissions: Array,
) -> NDArray[np.intp]:
    """Read lanes again, each from the end of the lane before it, and correct `reading` in place.

    Returns the lanes whose state did not agree with the earlier reading before their end.
    """
    states, totals = reading
    state = states[-1, lanes - 1]
    for t in range(len(block) + 1):
        earlier = states[t, lanes]
        differs = np.abs(state - earlier) > AGREEMENT * earlier + NEGLIGIBLE
        still = differs.any(axis=1)
        lanes, state = lanes[still], state[still]
        if not len(lanes):
            break
        states[t, lanes] = state
        if t < len(block):
            state, totals[t, lanes] = _advance(block[t, lanes], state, transitions, emissions)
    return lanes


def _advance(
    symbols: NDArray[Any], states: Array, transitions: Array, emissions: Array
) -> tuple[Array, Array]:
    """Take one step of the recurrence: ids (N,) and f (N, K) give the next f (N, K) and p (N,)."""
    filtered = emissions.take(symbols, axis=0)
    filtered *= states
    totals = filtered @ np.ones(states.shape[1])
    if not totals.all():
        raise ValueError("the model cannot emit these ids: their probability is 0")
    filtered /= totals[:, None]
    return filtered @ transitions, totals


def _blocks(ids: NDArray[np.int64], states: int) -> Iterator[NDArray[np.int64]]:
    """Cut ids (T,) into blocks (length, lanes), with about as many lanes as steps."""
    most = max(1, NUMBERS // states)
    begin = 0
    while begin < len(ids):
        size = min(len(ids) - begin, most)
        lanes = math.isqrt(size)
        end = begin + size // lanes * lanes
        yield np.ascontiguousarray(ids[begin:end].reshape(lanes, -1).T)
        begin = end


def _distributions(name: str, values: NDArray[Any]) -> Array:
    """Return rows that sum to 1 as float64. Raises ValueError for any others."""
    rows = np.array(values, np.float64)
    if not (rows >= 0).all() or not np.allclose(rows.sum(axis=-1), 1, rtol=0, atol=1e-8):
        raise ValueError(
            f"the {name} are not distributions; give numbers of at least 0 that sum to 1"
        )
    return rows


def _normalised(counts: Array, otherwise: Array) -> Array:
    """Divide rows by their sums; a row with the sum 0 is taken from `otherwise`."""
    sums = counts.sum(axis=1, keepdims=True)
    return np.where(sums > 0, counts / np.where(sums > 0, sums, 1), otherwise)


def _checked(ids: NDArray[Any], vocabulary_size: int) -> NDArray[np.int64]:
    """Return ids as int64. Raises ValueError for an id that is not in the vocabulary."""
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary_size:
        raise ValueError(
            f"ids from {ids.min()} to {ids.max()} are not all in a vocabulary of {vocabulary_size}"
        )
    return ids.astype(np.int64)
