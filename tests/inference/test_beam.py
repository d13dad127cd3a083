"""Beam search against all possible sequences, and its promises."""

import itertools
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from charrnn.inference.beam import Hypothesis, beam_search

V, END, START = 4, 3, 2


@cache
def drawn(seed: int, key: int) -> NDArray[np.float64]:
    return np.random.default_rng([seed, key]).normal(size=V)


class Chances:
    """A stepper whose logits depend on everything that a lane has read: its state is a hash."""

    def __init__(self, seed: int = 1, sharpness: float = 2.0) -> None:
        self.seed, self.sharpness = seed, sharpness
        self.lanes: list[int] = []

    def initial_state(self, batch_size: int) -> Any:
        return (np.arange(batch_size),)

    def step(self, token: NDArray[np.int64], state: Any) -> tuple[NDArray[Any], Any]:
        self.lanes.append(len(token))
        after = state[0] * (V + 1) + token + 1
        return self.sharpness * np.array([drawn(self.seed, int(key)) for key in after]), (after,)


def log_probability(
    stepper: Chances, lane: int, symbols: tuple[int, ...], start: int = START
) -> float:
    state, token, total = (np.array([lane]),), start, 0.0
    for symbol in symbols:
        logits, state = stepper.step(np.array([token]), state)
        powers = [math.exp(logit) for logit in logits[0]]
        total += math.log(powers[symbol] / sum(powers))
        token = symbol
    return total


def everything(stepper: Chances, lane: int, limit: int, alpha: float) -> list[Any]:
    """Return all sequences that end within the limit, with their scores, best first."""
    found = []
    for length in range(limit):
        for ids in itertools.product(range(END), repeat=length):
            nats = log_probability(stepper, lane, (*ids, END))
            found.append((nats / (length + 1) ** alpha, ids, nats))
    return sorted(found, reverse=True)


def search(stepper: Any, lanes: int, **options: Any) -> list[list[Hypothesis]]:
    limits = options.pop("limits", [4] * lanes)
    return beam_search(stepper, stepper.initial_state(lanes), START, END, limits, **options)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_a_beam_as_wide_as_all_sequences_finds_the_best(alpha: float) -> None:
    for seed in range(8):
        found = search(Chances(seed, 1.0), 2, limits=[3, 4], width=V**4, alpha=alpha)
        for lane, limit in enumerate([3, 4]):
            score, ids, nats = everything(Chances(seed, 1.0), lane, limit, alpha)[0]
            best = found[lane][0]
            assert (best.ids, best.ended) == (ids, True)
            assert best.log_probability == pytest.approx(nats, abs=1e-9)
            assert best.score(alpha) == pytest.approx(score, abs=1e-9)


def test_width_one_takes_the_likeliest_symbol_each_time() -> None:
    for seed in range(8):
        stepper = Chances(seed)
        for lane, (hypothesis,) in enumerate(search(stepper, 3, limits=[6] * 3)):
            state, token, ids = (np.array([lane]),), START, []
            while len(ids) < 6 and token != END:
                logits, state = stepper.step(np.array([token]), state)
                token = int(logits[0].argmax())
                ids.append(token)
            ended = token == END
            assert hypothesis.ids == tuple(ids[:-1] if ended else ids)
            assert hypothesis.ended == ended
            assert hypothesis.log_probability == pytest.approx(
                log_probability(stepper, lane, tuple(ids)), abs=1e-9
            )


@pytest.mark.parametrize("width", [1, 2, 3, 7])
def test_a_lane_is_what_it_is_alone(width: int) -> None:
    stepper, limits = Chances(5, 1.0), [5, 1, 8, 3]
    together = search(stepper, 4, limits=limits, width=width)
    for lane, limit in enumerate(limits):
        (alone,) = beam_search(stepper, (np.array([lane]),), START, END, [limit], width)
        assert together[lane] == alone
        assert 1 <= len(alone) <= width
        scores = [h.score(1.0) for h in alone]
        assert scores == sorted(scores, reverse=True)
        assert len({h.ids for h in alone}) == len(alone)
        assert all(len(h.ids) + h.ended <= limit for h in alone)


def test_a_wider_beam_finds_what_a_greedy_choice_misses() -> None:
    better = 0
    for seed in range(30):
        greedy = search(Chances(seed), 1, alpha=0.0)[0][0]
        best = search(Chances(seed), 1, alpha=0.0, width=V**4)[0][0]
        if greedy.ended:
            assert best.log_probability >= greedy.log_probability - 1e-9
            better += best.log_probability > greedy.log_probability + 1e-9
    assert better


class Never(Chances):
    """A stepper that never ends a sequence."""

    def step(self, token: NDArray[np.int64], state: Any) -> tuple[NDArray[Any], Any]:
        logits, state = super().step(token, state)
        logits[:, END] = -np.inf
        return logits, state


def test_what_does_not_end_is_given_at_the_limit() -> None:
    (found,) = search(Never(), 1, limits=[3], width=2)
    assert [(len(h.ids), h.ended) for h in found] == [(3, False), (3, False)]
    assert found[0].log_probability == pytest.approx(
        log_probability(Never(), 0, found[0].ids), abs=1e-9
    )


def test_lanes_that_are_done_are_not_stepped() -> None:
    stepper = Never()
    search(stepper, 3, limits=[1, 4, 2], width=2)
    assert stepper.lanes == [6, 4, 2, 2]


def test_the_state_may_be_of_tensors() -> None:
    class Tensors(Chances):
        def initial_state(self, batch_size: int) -> Any:
            return (torch.arange(batch_size),)

        def step(self, token: NDArray[np.int64], state: Any) -> tuple[NDArray[Any], Any]:
            logits, (after,) = super().step(token, (state[0].numpy(),))
            return logits, (torch.as_tensor(after),)

    assert search(Tensors(3), 3, width=3) == search(Chances(3), 3, width=3)


@pytest.mark.parametrize("width", [1, 3, V**4])
def test_sequences_may_have_no_end_and_lanes_starts_of_their_own(width: int) -> None:
    stepper, starts = Chances(4, 1.0), np.array([0, 3])
    found = beam_search(stepper, stepper.initial_state(2), starts, None, [3, 2], width)
    for lane, (start, limit) in enumerate(zip(starts.tolist(), [3, 2], strict=True)):
        assert all(len(h.ids) == limit and not h.ended for h in found[lane])
        scored = sorted(
            ((log_probability(stepper, lane, ids, start), ids)
             for ids in itertools.product(range(V), repeat=limit)), reverse=True)  # fmt: skip
        if width == V**4:
            assert [h.ids for h in found[lane]] == [ids for _, ids in scored]
        for h in found[lane]:
            total = log_probability(stepper, lane, h.ids, start)
            assert h.log_probability == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_a_stop_ends_a_sequence_and_belongs_to_it(seed: int) -> None:
    def search_with(stops: Any, width: int, alpha: float = 0.0) -> list[Hypothesis]:
        stepper = Chances(seed, 1.0)
        (found,) = beam_search(
            stepper, stepper.initial_state(1), START, END, [4], width, alpha, stops=stops
        )
        return found

    possible = [
        ids
        for length in range(1, 5)
        for ids in itertools.product(range(V), repeat=length)
        if (ids[-1] == END or ids[-2:] == (1, 0))
        and END not in ids[:-1]
        and (1, 0) not in itertools.pairwise(ids[:-1])
    ]
    best = max(possible, key=lambda ids: log_probability(Chances(seed, 1.0), 0, ids))
    found = search_with(lambda ids: ids[-2:].tolist() == [1, 0], V**4)
    assert found[0].ids == (best[:-1] if best[-1] == END else best)
    # If nearly every symbol ends a sequence, fewer hypotheses than the width go on.
    for one in search_with(lambda ids: ids[-1] != 2, 2, alpha=1.0):
        assert one.ended
        assert np.isfinite(one.log_probability)
        assert set(one.ids[:-1]) <= {2}


def test_logits_that_are_no_numbers_are_an_error() -> None:
    class Broken(Chances):
        def step(self, token: NDArray[np.int64], state: Any) -> tuple[NDArray[Any], Any]:
            return np.full((len(token), V), np.nan), state

    with pytest.raises(ValueError, match="not finite"):
        search(Broken(), 1)
