"""Greedy and beam search: the most probable sequences that a stepper generates.

Each lane (one source to translate, say) keeps `width` hypotheses. A step of the search scores every
symbol after every hypothesis, here for one lane, a width of 2 and the symbols a, b and the end `.`
(log-probabilities of the whole sequence, in nats)::

                       a      b      .
    "ba"   -0.7      -3.5   -1.8   -1.2        among the 2 best, ended: "ba." -1.2
    "ab"   -1.2      -1.5   -3.2   -3.3        the 2 best that go on: "aba" -1.5, "bab" -1.8

"ba." is a finished hypothesis; the next step starts from "aba" and "bab". Nothing here
depends on text or torch: a stepper gives numpy logits, and the leaves of its state, with one row
for each hypothesis, are arrays or tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charrnn.inference.sampler import Stepper
from charrnn.nn.state import map_state

Places = NDArray[np.int64]
Nats = NDArray[np.float64]


class Hypothesis(NamedTuple):
    """A sequence without its end symbol, and whether it ended before the limit.

    Its log-probability in nats includes the end symbol.
    """

    ids: tuple[int, ...]
    log_probability: float
    ended: bool

    def score(self, alpha: float) -> float:
        """Return the score that ranks hypotheses: log-probability / length**alpha.

        The length counts the end symbol. Alpha 0 does not normalise; 1 takes the mean per symbol.

        >>> Hypothesis((4, 2), -3.0, ended=True).score(alpha=1.0)
        -1.0
        """
        length = max(1, len(self.ids) + self.ended)
        return float(self.log_probability / length**alpha)


class _Beams(NamedTuple):
    """The L lanes that are still searched, with W hypotheses each."""

    lanes: Places  # (L,) the numbers of the lanes
    state: Any  # the state of the stepper, L * W rows
    tokens: Places  # (L * W,) the last symbol of each hypothesis
    totals: Nats  # (L, W) log-probabilities, -inf for a hypothesis that does not exist
    sequences: Places  # (L, W, t) the symbols so far


class _Extensions(NamedTuple):
    """The best extensions of each lane's hypotheses by one symbol, the best first: (L, K) each."""

    parents: Places  # the numbers of the extended hypotheses
    symbols: Places
    totals: Nats


def beam_search(
    stepper: Stepper,
    state: Any,
    start: int | Places,
    end: int | None,
    limits: Sequence[int],
    width: int = 1,
    alpha: float = 1.0,
    stops: Callable[[Places], bool] | None = None,
) -> list[list[Hypothesis]]:
    """Return for each lane of `state` up to `width` sequences from `start` to `end`, best first.

    `start` is the id before the sequences, one for all lanes or one for each, (L,). A sequence also
    ends if `stops`, called with its ids so far (t,), is true; its last id then belongs to it.

    A lane is finished when it has `width` ended hypotheses, when no unfinished hypothesis can reach
    a better score, or at its limit of symbols, the end symbol included. Hypotheses that did not end
    are returned only for a lane where none ended. Width 1 is greedy search. A lane's result does
    not depend on the other lanes, and a finished lane is not stepped any more.

    Raises ValueError for logits that are not numbers.
    """
    beams = _begin(state, start, len(limits), width)
    finished: list[list[Hypothesis]] = [[] for _ in limits]
    length = 0
    while len(beams.lanes):
        length += 1
        logits, state = stepper.step(beams.tokens, beams.state)
        extensions = _extend(beams, logits)
        rows, kept = [], []
        for row, lane in enumerate(beams.lanes.tolist()):
            at_end = extensions.symbols[row] == (-1 if end is None else end)
            stopped = _stopped(beams, extensions, row, stops) & ~at_end
            ended = at_end | stopped
            finished[lane] += _hypotheses(beams, extensions, row, np.flatnonzero(ended[:width]),
                                          at_end, ended=True)  # fmt: skip
            # If fewer than `width` are left, hypotheses that do not exist fill the beam.
            extensions.totals[row, ended] = -np.inf
            going_on = np.concatenate([np.flatnonzero(~ended), np.flatnonzero(ended)])[:width]
            best = extensions.totals[row, going_on[0]]
            if _can_improve(finished[lane], best, length, limits[lane], width, alpha):
                rows.append(row)
                kept.append(going_on)
            elif not finished[lane]:
                finished[lane] = _hypotheses(beams, extensions, row, going_on, at_end)
        beams = _advance(beams, extensions, state, rows, kept)
    return [sorted(lane, key=lambda h: -h.score(alpha))[:width] for lane in finished]


def _stopped(
    beams: _Beams, extensions: _Extensions, row: int, stops: Callable[[Places], bool] | None
) -> NDArray[np.bool_]:
    """Say for each extension of a row, (K,), whether `stops` ends it."""
    stopped = np.zeros(extensions.symbols.shape[1], bool)
    if stops is not None:
        for place in np.flatnonzero(np.isfinite(extensions.totals[row])):
            before = beams.sequences[row, extensions.parents[row, place]]
            stopped[place] = stops(np.append(before, extensions.symbols[row, place]))
    return stopped


def _begin(state: Any, start: int | Places, lanes: int, width: int) -> _Beams:
    """Begin each lane with one hypothesis, the empty one; the others do not exist yet."""
    totals = np.full((lanes, width), -np.inf)
    totals[:, 0] = 0
    return _Beams(
        np.arange(lanes),
        _select(state, np.repeat(np.arange(lanes), width)),
        np.repeat(np.broadcast_to(np.asarray(start, np.int64), lanes), width),
        totals,
        np.zeros((lanes, width, 0), np.int64),
    )


def _extend(beams: _Beams, logits: NDArray[np.floating[Any]]) -> _Extensions:
    """Return the 2 * width best extensions of each lane; at most `width` are the end symbol."""
    lanes, width = beams.totals.shape
    logs = _log_softmax(logits).reshape(lanes, width, -1)
    return _best(beams.totals[:, :, None] + logs, 2 * width)


def _hypotheses(
    beams: _Beams,
    extensions: _Extensions,
    row: int,
    places: Places,
    at_end: NDArray[np.bool_],
    ended: bool = False,
) -> list[Hypothesis]:
    """Turn the extensions at some places of a row into hypotheses; leave out impossible ones.

    `at_end` marks the places whose symbol is the end, which is not part of the sequence.
    """
    hypotheses = []
    for place in places[np.isfinite(extensions.totals[row, places])]:
        ids = beams.sequences[row, extensions.parents[row, place]].tolist()
        ids += [] if at_end[place] else [int(extensions.symbols[row, place])]
        total = float(extensions.totals[row, place])
        hypotheses.append(Hypothesis(tuple(ids), total, ended))
    return hypotheses


def _can_improve(
    finished: list[Hypothesis], best: float, length: int, limit: int, width: int, alpha: float
) -> bool:
    """Whether a continuation of log-probability `best` can still beat the finished hypotheses."""
    if length >= limit or len(finished) >= width:
        return False
    highest = best / max(limit, 1) ** alpha
    return bool(highest > max((h.score(alpha) for h in finished), default=-np.inf))


def _advance(
    beams: _Beams, extensions: _Extensions, state: Any, rows: list[int], kept: list[Places]
) -> _Beams:
    """Continue with the `kept` extensions of the lanes in `rows`; drop the other lanes."""
    width = beams.totals.shape[1]
    lanes = np.array(rows, np.int64)
    places = lanes[:, None], np.array(kept, np.int64).reshape(-1, width)
    parents, symbols = extensions.parents[places], extensions.symbols[places]
    totals = extensions.totals[places]
    sequences = np.concatenate(
        [beams.sequences[lanes[:, None], parents], symbols[:, :, None]], axis=2
    )
    chosen = (lanes[:, None] * width + parents).ravel()
    if not np.array_equal(chosen, np.arange(len(beams.tokens))):
        state = _select(state, chosen)
    return _Beams(beams.lanes[lanes], state, symbols.ravel(), totals, sequences)


def _select(state: Any, rows: Places) -> Any:
    return map_state(lambda leaf: leaf[rows], state)


def _log_softmax(logits: NDArray[np.floating[Any]]) -> Nats:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    logs: Nats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    if np.isnan(logs).any():
        raise ValueError("the model's logits are not finite")
    return logs


def _best(values: Nats, count: int) -> _Extensions:
    """Return the `count` largest of each row of values (L, W, V); of equal ones, the first."""
    flat = values.reshape(len(values), -1)
    count = min(count, flat.shape[1])
    places = np.sort(np.argpartition(-flat, count - 1, axis=1)[:, :count], axis=1)
    largest = np.take_along_axis(flat, places, axis=1)
    order = np.argsort(-largest, axis=1, kind="stable")
    places = np.take_along_axis(places, order, axis=1)
    parents, symbols = np.divmod(places, values.shape[2])
    return _Extensions(parents, symbols, np.take_along_axis(largest, order, axis=1))
