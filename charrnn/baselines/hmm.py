"""Hidden Markov models of ids: the baseline with K states and nothing else to remember.

Nothing here knows text or torch. A hidden state z_t in [0, K) emits the id x_t in [0, V) and is
followed by z_{t+1}:

    pi_i = P(z_0 = i),    A_ij = P(z_{t+1} = j | z_t = i),    B_iv = P(x_t = v | z_t = i).

With f_t(i) = P(z_t = i | x_0 .. x_{t-1}), f_0 = pi, reading one id is

    p_t = sum_i f_t(i) B_i(x_t),    a_t(i) = f_t(i) B_i(x_t) / p_t,    f_{t+1} = a_t A,

where p_t = P(x_t | x_0 .. x_{t-1}) and a_t is the filtered distribution: the scaled forward
algorithm. The scaled backward variables b_t(i), in proportion to P(x_{t+1} .. x_{T-1} | z_t = i),
obey the same recurrence on the ids in reverse order with the transposed matrix, beginning with
equal numbers. With n_t = sum_i f_t(i) B_i(x_t) b_t(i), Baum-Welch's expectations are

    P(z_t = i | x) = f_t(i) B_i(x_t) b_t(i) / n_t,
    P(z_t = i, z_{t+1} = j | x) = a_t(i) A_ij B_j(x_{t+1}) b_{t+1}(j) / n_{t+1},

and the new parameters are their sums over t, each distribution divided by its own sum.

The text is one sequence, and yet it is read in many places at once. A block of it is cut into
lanes of equal length, which are read side by side as matrix products, all but the first from a
guess (equal probabilities). Then each lane is read again from where the one before it ended, as
far as it takes to meet what the guess had become: two beginnings of a lane never move apart, since
no step widens the largest ratio between entries of one and of the other (Birkhoff 1957), and in
practice they meet within some tens of ids. Where a lane is changed to its end, the next one is
read again, so the result is that of one unbroken pass, to `AGREEMENT`.

Baum, Petrie, Soules and Weiss (1970), A maximization technique occurring in the statistical
analysis of probabilistic functions of Markov chains, Annals of Mathematical Statistics 41; Rabiner
(1989), A tutorial on hidden Markov models and selected applications in speech recognition,
Proceedings of the IEEE 77; Birkhoff (1957), Extensions of Jentzsch's theorem, Transactions of the
American Mathematical Society 85.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

SMOOTHING = 1e-5
NUMBERS = 1 << 22  # float64 in the states of a block: K an id
AGREEMENT = 1e-12  # relative: two readings of a lane that are so close in each entry have met
NEGLIGIBLE = 1e-30  # absolute: and so have entries that differ by less than this
ROUNDS = 8  # of reading lanes again together; after them one by one, which costs what one pass does


class Iteration(NamedTuple):
    """A model on the way, after `number` re-estimations, and ln P of the text by it, in nats."""

    number: int
    log_likelihood: float
    model: HiddenMarkovModel


class HiddenMarkovModel:
    """A hidden Markov model with pi (K,), A (K, K) and B (K, V), kept as float64.

    A stepper in the sampler's sense: its state (N, K) is f_t, the distribution of the hidden state
    that emits the next id, so that of nothing read is pi.

    Scores, states and steps are those of the smoothed model, in which every distribution is mixed
    with the uniform one over its n values, (1 - smoothing) P + smoothing / n, so that nothing is
    impossible: an id that the fit never saw costs at most ln(V / smoothing) nats. `fit` and the
    parameters kept here know no smoothing.

    Raises ValueError for shapes that do not agree, rows that are no distributions and a smoothing
    that is not from 0 to 1.
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
        self._smoothed[2] = np.ascontiguousarray(self._smoothed[2].T)  # (V, K): a row an id

    @classmethod
    def random(
        cls,
        ids: NDArray[Any],
        vocabulary_size: int,
        states: int,
        seed: int = 0,
        smoothing: float = SMOOTHING,
    ) -> HiddenMarkovModel:
        """A model for `fit` to begin with, the same for the same seed.

        pi and the rows of A are draws from the flat Dirichlet distribution; the rows of B are such
        draws times the frequencies in `ids` (T,). From rows that are nearly equal the fit would
        first have to leave a saddle: it gains less than its tolerance there, and stops.

        Raises ValueError for no ids, an id outside of the vocabulary, and `states` below 1.
        """
        if states < 1 or not len(ids):
            raise ValueError(f"{states} states of {len(ids)} ids: both must be above 0")
        counts = np.bincount(_checked(ids, vocabulary_size), minlength=vocabulary_size)
        generator = np.random.default_rng(seed)
        emissions = counts * generator.dirichlet(np.ones(vocabulary_size), states)
        return cls(
            generator.dirichlet(np.ones(states)),
            generator.dirichlet(np.ones(states), states),
            emissions / emissions.sum(axis=1, keepdims=True),
            smoothing,
        )

    # Fitting -----------------------------------------------------------------------------------

    def fit(
        self, ids: NDArray[Any], iterations: int = 100, tolerance: float = 1e-6
    ) -> Iterator[Iteration]:
        """Baum-Welch on `ids` (T,), T >= 1, as one sequence, from these parameters.

        Yields this model first, then each re-estimated one, until there were `iterations` or
        ln P(ids) rose by less than `tolerance` of itself; it never falls. What is 0 stays 0, so
        emissions that are the identity (K = V) are fixed. A state that is never visited keeps its
        distributions. Takes memory for three blocks (100 MB where the text is as long as that),
        and 8 bytes an id.

        Raises ValueError for no ids, an id outside of the vocabulary, and ids that are impossible
        by these parameters.
        """
        if not len(ids):
            raise ValueError("there are no ids to fit")
        blocks = list(_blocks(_checked(ids, self.vocabulary_size), len(self.initial)))
        model, before = self, -np.inf
        for number in range(iterations + 1):
            emissions = np.ascontiguousarray(model.emissions.T)
            starts, log_likelihood = [model.initial], 0.0
            for block in blocks:
                read = _read(block, model.transitions, emissions, starts[-1])
                starts.append(read.states[-1, -1].copy())
                log_likelihood += float(np.log(read.totals).sum())
            yield Iteration(number, log_likelihood, model)
            if number == iterations or log_likelihood - before < tolerance * abs(log_likelihood):
                return
            before = log_likelihood
            expected = Expectations(model.transitions, emissions)
            for block, start in zip(blocks[::-1], starts[-2::-1], strict=True):
                if block is not blocks[-1]:  # Which was read just now.
                    read = _read(block, model.transitions, emissions, start)
                expected.add(block, read)
            model = HiddenMarkovModel(
                expected.first / expected.first.sum(),
                _normalised(expected.pairs * model.transitions, model.transitions),
                _normalised(expected.emitted.T, model.emissions),
                self.smoothing,
            )

    # Scoring -----------------------------------------------------------------------------------

    def surprisals(
        self, ids: NDArray[Any], start: int = 0, stop: int | None = None
    ) -> NDArray[np.float64]:
        """-ln P in nats, (stop - start,), of each id in [start, stop) after all of those before it.

        The filter runs unbroken from the first of `ids`, which pi precedes. Takes memory for a
        block at a time. Raises ValueError for an id outside of the vocabulary and, without
        smoothing, for ids that are impossible.
        """
        start, stop, _ = slice(start, stop).indices(len(ids))
        state, transitions, emissions = self._smoothed
        surprisals = [np.empty(0)]
        for block in _blocks(_checked(ids[:stop], self.vocabulary_size), len(state)):
            read = _read(block, transitions, emissions, state)
            state = read.states[-1, -1].copy()
            surprisals.append(-np.log(read.totals.T.ravel()))
        return np.concatenate(surprisals)[start:stop]

    def most_likely_states(self, ids: NDArray[Any]) -> NDArray[np.intp]:
        """The hidden states (T,) of largest joint probability with `ids` (T,): Viterbi's.

        In log space, with the largest of each step subtracted; of equally good states the lowest.
        Takes T K bytes, twice as many for K above 256. Raises ValueError for an id outside of the
        vocabulary and, without smoothing, for ids that are impossible.
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

    # Stepping ----------------------------------------------------------------------------------

    def initial_state(self, batch_size: int) -> Array:
        """pi in each lane, shape (N, K): nothing was read."""
        return np.tile(self._smoothed[0], (batch_size, 1))

    def step(self, token: NDArray[np.int64], state: Array) -> tuple[Array, Array]:
        """Ids (N,) and a state f_t (N, K) give ln P (N, V), in nats, and the next state.

        Raises ValueError, without smoothing, for an id that is impossible.
        """
        _, transitions, emissions = self._smoothed
        state, _ = _advance(token, state, transitions, emissions)
        with np.errstate(divide="ignore"):
            return np.log(state @ emissions.T), state


class Reading(NamedTuple):
    """A block read: all that the recurrence leaves, in time order."""

    states: Array  # (length + 1, lanes, K): before each id, and after the last of each lane
    totals: Array  # (length, lanes): what each id divided by; p_t if reading forward


class Expectations:
    """What Baum-Welch counts, summed over the blocks of a text from the last to the first."""

    def __init__(self, transitions: Array, emissions: Array) -> None:
        self._transposed = np.ascontiguousarray(transitions.T)
        self._emissions = emissions
        states = len(transitions)
        self._after = np.full(states, 1 / states)  # b of the last id
        self._next = np.zeros(states)  # B_j(x_t) b_t(j) / n_t of the first id in the block after
        self.first = np.empty(0)  # (K,): the posterior of the first id
        self.pairs = np.zeros((states, states))  # to be multiplied by A
        self.emitted = np.zeros(emissions.shape)  # (V, K)

    def add(self, block: NDArray[np.int64], forward: Reading) -> None:
        """Count a block, of which the forward reading is given."""
        turned = _read(block[::-1, ::-1], self._transposed, self._emissions, self._after).states
        self._after = turned[-1, -1].copy()
        backward = turned[-2::-1, ::-1]
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
        # The last id of each lane is before the first of the next.
        following = np.concatenate([heads[1:], self._next[None]])
        self.pairs += filtered.T @ following
        self._next = heads[0]

    def _count(self, symbols: NDArray[np.int64], posterior: Array) -> None:
        order = symbols.argsort(kind="stable")
        ranked = symbols[order]
        begins = np.flatnonzero(np.diff(ranked, prepend=-1))
        self.emitted[ranked[begins]] += np.add.reduceat(posterior[order], begins)


def _read(block: NDArray[Any], transitions: Array, emissions: Array, start: Array) -> Reading:
    """Read a block (length, lanes) as one text, lane after lane, from the state `start` (K,)."""
    length, lanes = block.shape
    states = np.empty((length + 1, lanes, len(start)))
    totals = np.empty(block.shape)
    states[0] = 1 / len(start)
    states[0, 0] = start
    for t in range(length):
        states[t + 1], totals[t] = _advance(block[t], states[t], transitions, emissions)
    waiting, rounds = np.arange(1, lanes), 0
    while len(waiting):
        active = waiting if rounds < ROUNDS else waiting[:1]
        waiting, rounds = waiting[len(active) :], rounds + 1
        state = states[-1, active - 1]
        for t in range(length + 1):
            guessed = states[t, active]
            apart = np.abs(state - guessed) > AGREEMENT * guessed + NEGLIGIBLE
            moved = apart.any(axis=1)
            active, state = active[moved], state[moved]
            if not len(active):
                break
            states[t, active] = state
            if t < length:
                state, totals[t, active] = _advance(block[t, active], state, transitions, emissions)
        waiting = np.union1d(waiting, active[active < lanes - 1] + 1)
    return Reading(states, totals)


def _advance(
    symbols: NDArray[Any], states: Array, transitions: Array, emissions: Array
) -> tuple[Array, Array]:
    """One step of the recurrence: ids (N,) and f (N, K) give the next f and p (N,)."""
    read = emissions.take(symbols, axis=0)
    read *= states
    totals = read @ np.ones(states.shape[1])
    if not totals.all():
        raise ValueError("the model cannot emit these ids: their probability is 0")
    read /= totals[:, None]
    return read @ transitions, totals


def _blocks(ids: NDArray[np.int64], states: int) -> Iterator[NDArray[np.int64]]:
    """Cut ids (T,) into blocks (length, lanes): a column a lane, the lanes one after another.

    There are about as many lanes as ids in each, so that a step is not too small and there are not
    too many; what is left over makes the next block.
    """
    most = max(1, NUMBERS // states)
    begin = 0
    while begin < len(ids):
        size = min(len(ids) - begin, most)
        lanes = math.isqrt(size)
        end = begin + size // lanes * lanes
        yield np.ascontiguousarray(ids[begin:end].reshape(lanes, -1).T)
        begin = end


def _distributions(name: str, values: NDArray[Any]) -> Array:
    """Rows that sum to 1, as float64. Raises ValueError."""
    rows = np.array(values, np.float64)
    if not (rows >= 0).all() or not np.allclose(rows.sum(axis=-1), 1, rtol=0, atol=1e-8):
        raise ValueError(f"the {name} are not distributions: numbers of at least 0 that sum to 1")
    return rows


def _normalised(counts: Array, otherwise: Array) -> Array:
    """Rows divided by their sums; those whose sum is 0 from `otherwise`."""
    sums = counts.sum(axis=1, keepdims=True)
    return np.where(sums > 0, counts / np.where(sums > 0, sums, 1), otherwise)


def _checked(ids: NDArray[Any], vocabulary_size: int) -> NDArray[np.int64]:
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary_size:
        raise ValueError(
            f"ids from {ids.min()} to {ids.max()} are not all in a vocabulary of {vocabulary_size}"
        )
    return ids.astype(np.int64)
