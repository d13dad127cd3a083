"""Choose the next id from logits, and generate ids one after another.

Nothing here depends on text or torch: a stepper is anything with `initial_state` and `step`, and
logits are numpy arrays. A lane is one of N sequences that are generated side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK = 256  # positions whose uniform numbers are drawn at once


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
    """How the next id is drawn from the logits.

    `temperature` divides the logits (0 takes the largest). Then the filters are applied in this
    order: `top_k` keeps the k most probable ids, `top_p` the fewest whose probabilities sum to p
    (nucleus sampling, Holtzman et al. 2020), `min_p` those at least p times as probable as the most
    probable one (Nguyen et al. 2024).

    >>> choice = Choice(temperature=0)
    >>> choice(np.array([[0.1, 2.0, 1.0]]), np.array([0.5])).tolist()
    [1]
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __call__(
        self, logits: NDArray[np.floating[Any]], uniforms: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """Draw ids (N,) from logits (N, V) and one uniform number in [0, 1) for each lane.

        A logit of -inf is a probability of 0. Raises ValueError for logits that are not numbers,
        or +inf, or all -inf.
        """
        scaled = logits.astype(np.float64)
        largest = scaled.max(axis=1, keepdims=True)
        if not np.isfinite(largest).all():  # The maximum of a row with a NaN is NaN.
            raise ValueError("the model's logits are not finite")
        if self.temperature == 0:
            greedy: NDArray[np.intp] = np.argmax(scaled, axis=1)
            return greedy
        scaled -= largest
        if self.temperature != 1:
            scaled /= self.temperature
        weights = np.exp(scaled, out=scaled)
        if self.top_k or self.top_p or self.min_p:
            weights *= self._kept(weights / weights.sum(axis=1, keepdims=True))
        cumulative = weights.cumsum(axis=1)
        # Inverse transform sampling. A uniform number is below 1, so the id drawn always has a
        # probability above 0.
        thresholds = uniforms[:, None] * cumulative[:, -1:]
        drawn: NDArray[np.intp] = (cumulative <= thresholds).sum(axis=1)
        return drawn

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
    """The position of a generation, from which it can go on."""

    token: NDArray[np.int64]  # (N,) the last ids, which the stepper has not read yet
    state: Any
    position: int = 0  # the position of the next draw


def prime(stepper: Stepper, tokens: NDArray[np.int64], cursor: Cursor | None = None) -> Cursor:
    """Read `tokens` (N, T), T >= 1, after those of `cursor`; the last one is read by `sample`."""
    lanes = tokens.shape[0]
    if cursor is None:
        cursor = Cursor(tokens[:, 0], stepper.initial_state(lanes))
        tokens = tokens[:, 1:]
    state, last = cursor.state, cursor.token
    for t in range(tokens.shape[1]):
        _, state = stepper.step(last, state)
        last = tokens[:, t]
    return Cursor(last, state, cursor.position)


def sample(
    stepper: Stepper, cursor: Cursor, choice: Choice, draws: Draws
) -> Iterator[NDArray[np.int64]]:
    """Yield ids (N,) for ever, one step of the stepper each.

    After each step, `cursor` is the position of the generation.
    """
    while True:
        logits, cursor.state = stepper.step(cursor.token, cursor.state)
        cursor.token = choice(logits, draws.at(cursor.position))
        cursor.position += 1
        yield cursor.token
