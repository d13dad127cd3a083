"""Choose the next id from logits, and generate ids one after another.

Nothing here depends on text or torch: a stepper is anything with `initial_state` and `step`, and
logits are numpy arrays. A lane is one of N sequences that are generated side by side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK = 256  # positions whose uniform numbers are drawn at once
RECENT = 256  # ids that a cursor remembers


class Stepper(Protocol):
    """Anything that predicts the next id step by step: an RNN, an n-gram model, a decoder."""

    def initial_state(self, batch_size: int) -> Any:
        """Return the state of `batch_size` lanes that have read nothing."""
        ...

    def step(self, token: NDArray[np.int64], state: Any) -> tuple[NDArray[np.floating[Any]], Any]:
        """Map ids (N,) and a state to logits (N, V) in nats and the next state."""
        ...


@dataclass(frozen=True)
class Choice:
    """A rule for drawing the next id from the logits.

    First, `repetition_penalty` (theta) lowers the probability p of each of the last
    `repetition_window` ids read or written to p**theta; then all are normalised again. This is the
    penalty of CTRL (Keskar et al. 2019), but on log-probabilities: it lowers all of them, while on
    logits it would raise those below 0.

    Then `temperature` divides the logits (0 takes the largest). Then the filters are applied in
    this order: `top_k` keeps the k most probable ids, `top_p` the fewest whose probabilities sum to
    p (nucleus sampling, Holtzman et al. 2020), `min_p` those at least p times as probable as the
    most probable one (Nguyen et al. 2024).

    `greedy_after` marks ids, (V,): after one of them the most probable id is taken, not drawn.

    >>> choice = Choice(temperature=0)
    >>> choice(np.array([[0.1, 2.0, 1.0]]), np.array([0.5])).tolist()
    [1]
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    repetition_window: int = 64
    greedy_after: NDArray[np.bool_] | None = field(default=None, compare=False)

    def __call__(
        self,
        logits: NDArray[np.floating[Any]],
        uniforms: NDArray[np.float64],
        recent: Sequence[NDArray[np.int64]] = (),
    ) -> NDArray[np.intp]:
        """Draw ids (N,) from logits (N, V) and one uniform number in [0, 1) for each lane.

        `recent` are the last ids of the lanes, (N,) each, the newest last. A logit of -inf is a
        probability of 0. Raises ValueError for logits that are not numbers, or +inf, or all -inf.
        """
        scaled = self._scaled(logits, recent)
        if self.temperature == 0:
            greedy: NDArray[np.intp] = np.argmax(scaled, axis=1)
            return greedy
        likeliest = None if self.greedy_after is None else np.argmax(scaled, axis=1)
        cumulative = self._weights(scaled).cumsum(axis=1)
        # Inverse transform sampling. A uniform number is below 1, so the id drawn always has a
        # probability above 0.
        thresholds = uniforms[:, None] * cumulative[:, -1:]
        drawn: NDArray[np.intp] = (cumulative <= thresholds).sum(axis=1)
        return drawn if likeliest is None else np.where(self._takes(recent), likeliest, drawn)

    def probabilities(
        self, logits: NDArray[np.floating[Any]], recent: Sequence[NDArray[np.int64]] = ()
    ) -> NDArray[np.float64]:
        """Return the probabilities (N, V) from which a call with these arguments draws."""
        scaled = self._scaled(logits, recent)
        taken = np.zeros_like(scaled)
        np.put_along_axis(taken, np.argmax(scaled, axis=1)[:, None], 1.0, axis=1)
        if self.temperature == 0:
            return taken
        weights = self._weights(scaled)
        weights /= weights.sum(axis=1, keepdims=True)
        return np.where(self._takes(recent)[:, None], taken, weights) if len(recent) else weights

    def _scaled(
        self, logits: NDArray[np.floating[Any]], recent: Sequence[NDArray[np.int64]]
    ) -> NDArray[np.float64]:
        """Return new logits (N, V) with the repetition penalty; the largest of each row is 0."""
        scaled = _shifted(logits.astype(np.float64))
        if self.repetition_penalty == 1 or not len(recent):
            return scaled
        scaled -= np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        ids = np.stack(list(recent)[-self.repetition_window :], axis=1)
        lowered = np.take_along_axis(scaled, ids, axis=1) * self.repetition_penalty
        np.put_along_axis(scaled, ids, lowered, axis=1)
        return _shifted(scaled)

    def _takes(self, recent: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
        """Say for each lane, (N,), whether the most probable id is taken and none is drawn."""
        if self.greedy_after is None:
            return np.zeros(len(recent[-1]), bool)
        marked: NDArray[np.bool_] = self.greedy_after[recent[-1]]
        return marked

    def _weights(self, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        """Overwrite scaled logits (N, V) with weights: probabilities that do not sum to 1."""
        if self.temperature != 1:
            scaled /= self.temperature
        weights = np.exp(scaled, out=scaled)
        if self.top_k or self.top_p or self.min_p:
            weights *= self._kept(weights / weights.sum(axis=1, keepdims=True))
        return weights

    def _kept(self, probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Mark the ids (N, V) that the filters keep."""
        order = np.argsort(-probabilities, axis=1, kind="stable")
        ranked = np.take_along_axis(probabilities, order, axis=1)
        kept = np.ones(ranked.shape, bool)
        if self.top_k:
            kept[:, self.top_k :] = False
        if self.top_p:
            remaining = ranked * kept
            remaining /= remaining.sum(axis=1, keepdims=True)
            kept &= remaining.cumsum(axis=1) - remaining < self.top_p
        if self.min_p:
            kept &= ranked >= self.min_p * ranked[:, :1]
        result = np.empty_like(kept)
        np.put_along_axis(result, order, kept, axis=1)
        return result


def _shifted(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the largest of each row from the row, in place. Raises ValueError."""
    largest = logits.max(axis=1, keepdims=True)
    if not np.isfinite(largest).all():  # The maximum of a row with a NaN is NaN.
        raise ValueError("the model's logits are not finite")
    logits -= largest
    return logits


class Draws:
    """Uniform numbers keyed by (seed, sample index, position).

    They come from the counter-based generator Philox (Salmon et al. 2011). So sample 3 of 10 is the
    same as sample 3 of 100, and a sample that is continued is the same as an unbroken one.
    """

    def __init__(self, seed: int, samples: Sequence[int]) -> None:
        self.seed = seed
        self.samples = samples
        self._block = -1
        self._numbers = np.empty((0, 0))

    def at(self, position: int) -> NDArray[np.float64]:
        """Return one number in [0, 1) for each sample, (N,)."""
        block, offset = divmod(position, BLOCK)
        if block != self._block:
            self._block = block
            key = np.uint64(self.seed % 2**64)
            self._numbers = np.stack(
                [
                    np.random.Generator(
                        np.random.Philox(
                            key=np.array([key, i], np.uint64), counter=[0, block, 0, 0]
                        )
                    ).random(BLOCK)
                    for i in self.samples
                ]
            )
        return self._numbers[:, offset]


@dataclass
class Cursor:
    """The position of a generation, from which it can be continued."""

    token: NDArray[np.int64]  # (N,) the last ids, which the stepper has not read yet
    state: Any
    position: int = 0  # the position of the next draw
    recent: deque[NDArray[np.int64]] = field(default_factory=lambda: deque(maxlen=RECENT))
    """The last ids, (N,) each, the newest last, which is `token`."""

    def __post_init__(self) -> None:
        """Remember `token`, if no last ids were given."""
        if not self.recent:
            self.recent.append(self.token)

    def copy(self) -> Cursor:
        """Return a copy, which does not change when this cursor moves."""
        return Cursor(self.token, self.state, self.position, self.recent.copy())


def prime(stepper: Stepper, tokens: NDArray[np.int64], cursor: Cursor | None = None) -> Cursor:
    """Read `tokens` (N, T), T >= 1, after those of `cursor`; leave the last for `sample`."""
    lanes = tokens.shape[0]
    if cursor is None:
        cursor = Cursor(tokens[:, 0], stepper.initial_state(lanes))
        tokens = tokens[:, 1:]
    after = cursor.copy()
    for t in range(tokens.shape[1]):
        _, after.state = stepper.step(after.token, after.state)
        after.token = tokens[:, t]
        after.recent.append(after.token)
    return after


def sample(
    stepper: Stepper, cursor: Cursor, choice: Choice, draws: Draws
) -> Iterator[NDArray[np.int64]]:
    """Yield ids (N,) for ever, one step of the stepper each.

    After each step, `cursor` is the position of the generation.
    """
    while True:
        logits, cursor.state = stepper.step(cursor.token, cursor.state)
        cursor.token = choice(logits, draws.at(cursor.position), cursor.recent)
        cursor.recent.append(cursor.token)
        cursor.position += 1
        yield cursor.token
