"""The most probable sequences that a stepper generates: greedy and beam search.

Nothing here knows text or torch: a stepper gives numpy logits, and the leaves of its state, one
lane a row, are arrays or tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charrnn.inference.sampler import Stepper
from charrnn.nn.state import map_state


class Hypothesis(NamedTuple):
    """A sequence without its end symbol, its log-probability in nats (with that of the end), and
    whether it ended before the limit."""

    ids: tuple[int, ...]
    log_probability: float
    ended: bool

    def score(self, alpha: float) -> float:
        """By which hypotheses are ranked: the log-probability over length**alpha, the length with
        the end symbol, so that 0 is no normalisation and 1 the mean."""
        length = max(1, len(self.ids) + self.ended)
        return float(self.log_probability / length**alpha)


def beam_search(
    stepper: Stepper,
    state: Any,
    start: int,
    end: int,
    limits: Sequence[int],
    width: int = 1,
    alpha: float = 1.0,
) -> list[list[Hypothesis]]:
    """For each lane of `state`, up to `width` sequences from `start` to `end`, the best first.

    At each step the `width` most probable extensions of the hypotheses so far are kept; those that
    end are done. A lane is finished when it has `width` of them, when none that goes on can get a
    better score, or at its limit, which counts symbols with the end symbol; only where none has
    ended by then are those that did not given. Width 1 takes the most probable symbol each time.
    What a lane gives does not depend on its neighbours.

    Raises ValueError for logits that are not numbers.
    """
    lanes = np.arange(len(limits))
    state = _select(state, np.repeat(lanes, width))
    tokens = np.full(len(limits) * width, start, np.int64)
    # A dead hypothesis has probability 0: at first all but one of each lane.
    totals = np.full((len(limits), width), -np.inf)
    totals[:, 0] = 0
    sequences = np.zeros((len(limits), width, 0), np.int64)
    found: list[list[Hypothesis]] = [[] for _ in limits]
    length = 0
    while len(lanes):
        length += 1
        logits, state = stepper.step(tokens, state)
        logs = _log_softmax(logits).reshape(len(lanes), width, -1)
        parents, symbols, values = _best(totals[:, :, None] + logs, 2 * width)
        ends = symbols == end
        going_on = []
        for row, lane in enumerate(lanes.tolist()):
            for rank in np.flatnonzero(ends[row, :width]):
                if np.isfinite(values[row, rank]):
                    ids = tuple(sequences[row, parents[row, rank]].tolist())
                    found[lane].append(Hypothesis(ids, float(values[row, rank]), True))
            # Of twice as many as are needed at most half end.
            kept = np.flatnonzero(~ends[row])[:width]
            limit = limits[lane]
            best = max((h.score(alpha) for h in found[lane]), default=-np.inf)
            hope = values[row, kept[0]] / max(limit, 1) ** alpha
            if length < limit and len(found[lane]) < width and hope > best:
                going_on.append((row, kept))
            elif not found[lane]:
                for rank in kept[np.isfinite(values[row, kept])]:
                    ids = (*sequences[row, parents[row, rank]].tolist(), int(symbols[row, rank]))
                    found[lane].append(Hypothesis(ids, float(values[row, rank]), False))
        rows = np.array([row for row, _ in going_on], np.int64)
        places = rows[:, None], np.array([k for _, k in going_on], np.int64).reshape(-1, width)
        parents, symbols, totals = parents[places], symbols[places], values[places]
        sequences = np.concatenate([sequences[rows[:, None], parents], symbols[:, :, None]], 2)
        chosen = (rows[:, None] * width + parents).ravel()
        if not np.array_equal(chosen, np.arange(len(tokens))):
            state = _select(state, chosen)
        lanes, tokens = lanes[rows], symbols.ravel()
    return [sorted(of, key=lambda h: -h.score(alpha))[:width] for of in found]


def _select(state: Any, rows: NDArray[np.int64]) -> Any:
    return map_state(lambda leaf: leaf[rows], state)


def _log_softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    logs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    if np.isnan(logs).any():
        raise ValueError("the model's logits are not finite")
    return logs


def _best(
    values: NDArray[np.float64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Of values (N, W, V) the `count` largest of each row, largest first, of equal ones that which
    stands first: where they stand, as hypotheses and symbols, and what they are."""
    flat = values.reshape(len(values), -1)
    count = min(count, flat.shape[1])
    places = np.sort(np.argpartition(-flat, count - 1, axis=1)[:, :count], axis=1)
    found = np.take_along_axis(flat, places, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    places = np.take_along_axis(places, order, axis=1)
    hypotheses, symbols = np.divmod(places, values.shape[2])
    return hypotheses, symbols, np.take_along_axis(found, order, axis=1)
