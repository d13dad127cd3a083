"""Choosing the next id, and generation from a stepper that is not a network."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from charrnn.inference.sampler import BLOCK, RECENT, Choice, Cursor, Draws, prime, sample

PROPERTY = settings(deadline=None, derandomize=True, max_examples=100)
ALMOST_ONE = np.nextafter(1, 0)
# Multiples of 1/4, so that there are ties.
rows = st.lists(st.integers(-16, 16).map(lambda n: n / 4), min_size=1, max_size=9)
temperatures = st.sampled_from([0.5, 1.0, 2.0])


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def choose(choice: Choice, logits: list[float], uniforms: Any) -> list[int]:
    """Draw once for each of the uniform numbers."""
    uniforms = np.asarray(uniforms, np.float64)
    return choice(np.tile(np.array(logits, np.float64), (len(uniforms), 1)), uniforms).tolist()


def frequencies(choice: Choice, logits: list[float], grid: int = 20_000) -> NDArray[np.float64]:
    """Return how often each id is drawn over an even grid of uniform numbers."""
    drawn = choose(choice, logits, (np.arange(grid) + 0.5) / grid)
    return np.bincount(drawn, minlength=len(logits)) / grid


# Draws.


def test_a_sample_draws_the_same_among_ten_and_among_a_hundred() -> None:
    few, many, one = Draws(7, range(10)), Draws(7, range(100)), Draws(7, [3])
    for position in (0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 5):
        assert np.array_equal(few.at(position), many.at(position)[:10])
        assert one.at(position).tolist() == [few.at(position)[3]]


def test_samples_need_not_be_in_order() -> None:
    assert np.array_equal(Draws(7, [5, 0, 5]).at(9), Draws(7, range(6)).at(9)[[5, 0, 5]])


def test_random_access_is_sequential_access() -> None:
    draws = Draws(1, range(3))
    numbers = [draws.at(position).copy() for position in range(2 * BLOCK + 10)]
    again = Draws(1, range(3))
    for position in (2 * BLOCK + 9, 0, BLOCK, BLOCK - 1, 5, 2 * BLOCK, 4, 2 * BLOCK + 9):
        assert np.array_equal(again.at(position), numbers[position])


def test_every_seed_sample_and_position_draws_its_own_number() -> None:
    positions = [0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK]
    numbers = [
        Draws(seed, range(5)).at(position).tolist()
        for seed in (0, 1, 2, 2**63)
        for position in positions
    ]
    distinct = set(itertools.chain.from_iterable(numbers))
    assert len(distinct) == 4 * 5 * len(positions)


def test_blocks_do_not_overlap() -> None:
    draws = Draws(0, [0])
    assert len({float(draws.at(position)[0]) for position in range(3 * BLOCK)}) == 3 * BLOCK


def test_numbers_are_uniform_from_zero_to_below_one() -> None:
    draws = Draws(123, range(40))
    numbers = np.concatenate([draws.at(position) for position in range(500)])
    assert 0 <= numbers.min() < 0.001
    assert 0.999 < numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert np.square(counts - 1000).sum() / 1000 < 45  # chi-square, 19 degrees of freedom
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03


@pytest.mark.parametrize("seed", [0, 2**64 - 1, 2**70 + 3, -1])
def test_any_integer_is_a_seed(seed: int) -> None:
    assert np.array_equal(Draws(seed, [2]).at(0), Draws(seed, [2]).at(0))


# The choice.


@PROPERTY
@given(rows, st.floats(0, ALMOST_ONE))
def test_temperature_zero_takes_the_largest(logits: list[float], uniform: float) -> None:
    assert choose(Choice(temperature=0), logits, [uniform]) == [logits.index(max(logits))]


def test_temperature_zero_takes_the_largest_of_each_lane() -> None:
    logits = np.array([[0.0, 2.0, 1.0], [5.0, 2.0, 1.0], [-3.0, -2.0, -1.0]], np.float32)
    assert Choice(temperature=0)(logits, np.zeros(3)).tolist() == [1, 0, 2]


@pytest.mark.parametrize("temperature", [0.25, 0.8, 1.0, 3.0])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_temperature_divides_the_logits(temperature: float, shift: float) -> None:
    logits = [0.0, 1.0, -2.0, 0.5, 1.5]
    drawn = frequencies(Choice(temperature), [logit + shift for logit in logits])
    np.testing.assert_allclose(drawn, softmax(logits, temperature), atol=1.1e-4)


def test_a_temperature_close_to_zero_takes_the_largest() -> None:
    drawn = choose(Choice(temperature=1e-300), [1.0, 3.0, 2.0], [0.0, 0.5, ALMOST_ONE])
    assert drawn == [1, 1, 1]


def kept_ids(choice: Choice, probabilities: list[float]) -> list[int]:
    """Return the ids that the filters keep, found one by one; ties go by id."""
    ranked = sorted(range(len(probabilities)), key=lambda i: (-probabilities[i], i))
    if choice.top_k is not None:
        ranked = ranked[: choice.top_k]
    if choice.top_p is not None:
        mass, total, nucleus = 0.0, sum(probabilities[i] for i in ranked), []
        for i in ranked:
            nucleus.append(i)
            mass += probabilities[i] / total
            assume(abs(mass - choice.top_p) > 1e-9)
            if mass >= choice.top_p:
                break
        ranked = nucleus
    if choice.min_p is not None:
        least = choice.min_p * max(probabilities)
        assume(all(abs(p - least) > 1e-9 or p == max(probabilities) for p in probabilities))
        ranked = [i for i in ranked if probabilities[i] >= least]
    return sorted(ranked)


def assert_keeps_exactly(choice: Choice, logits: list[float]) -> None:
    """Check draws just inside both borders of each id's share, which move with every kept id."""
    probabilities = softmax(logits, choice.temperature)
    kept = kept_ids(choice, probabilities)
    shares = np.array([probabilities[i] for i in kept])
    upper = shares.cumsum() / shares.sum()
    lower = np.concatenate([[0.0], upper[:-1]])
    assert choose(choice, logits, lower + 1e-11) == kept
    assert choose(choice, logits, upper - 1e-11) == kept


@PROPERTY
@given(rows, temperatures)
def test_without_filters_every_id_is_kept(logits: list[float], temperature: float) -> None:
    assert_keeps_exactly(Choice(temperature), logits)


@PROPERTY
@given(rows, temperatures, st.integers(1, 10))
def test_top_k_keeps_the_most_probable(logits: list[float], t: float, k: int) -> None:
    assert_keeps_exactly(Choice(t, top_k=k), logits)


@PROPERTY
@given(rows, temperatures, st.floats(0.01, 0.99))
def test_top_p_keeps_the_fewest_that_sum_to_it(logits: list[float], t: float, p: float) -> None:
    assert_keeps_exactly(Choice(t, top_p=p), logits)


@PROPERTY
@given(rows, temperatures, st.floats(0.01, 1.0))
def test_min_p_keeps_what_is_probable_enough(logits: list[float], t: float, p: float) -> None:
    assert_keeps_exactly(Choice(t, min_p=p), logits)


@PROPERTY
@given(
    rows,
    temperatures,
    st.none() | st.integers(1, 10),
    st.none() | st.floats(0.01, 0.99),
    st.none() | st.floats(0.01, 1.0),
)
def test_filters_together_apply_in_order(
    logits: list[float], t: float, k: int | None, p: float | None, m: float | None
) -> None:
    assert_keeps_exactly(Choice(t, k, p, m), logits)


def test_temperature_comes_before_the_filters() -> None:
    logits = [2.0, 1.0, 0.0, -1.0]
    assert frequencies(Choice(0.1, top_p=0.9), logits).tolist() == [1, 0, 0, 0]
    assert np.count_nonzero(frequencies(Choice(10.0, top_p=0.9), logits)) == 4


def test_each_lane_has_its_own_filter() -> None:
    logits = np.array([[3.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    for uniform in (0.0, 0.5, ALMOST_ONE):
        assert Choice(top_k=1)(logits, np.full(2, uniform)).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        (Choice(), [0, 1, 2, 3, 4]),
        (Choice(top_k=3), [0, 3, 4]),
        (Choice(top_p=0.6), [0, 4]),
        (Choice(min_p=0.25), [0, 3, 4]),
        (Choice(top_k=2, min_p=0.1), [0, 4]),
        (Choice(top_k=2, top_p=0.5), [4]),
    ],
    ids=str,
)
def test_frequencies_are_the_probabilities_of_what_is_kept(choice: Choice, kept: list[int]) -> None:
    shares = np.array([0.3, 0.06, 0.04, 0.2, 0.4])
    expected = np.where(np.isin(np.arange(5), kept), shares, 0)
    drawn = frequencies(choice, np.log(shares).tolist())
    np.testing.assert_allclose(drawn, expected / expected.sum(), atol=1.1e-4)
    assert np.flatnonzero(drawn).tolist() == kept


@PROPERTY
@given(
    st.lists(st.sampled_from([0.0, -1.0, -1e5]), min_size=1, max_size=8).filter(
        lambda row: max(row) > -1e5
    ),
    st.floats(0, ALMOST_ONE),
)
def test_an_id_of_probability_zero_is_never_drawn(logits: list[float], uniform: float) -> None:
    for drawn in choose(Choice(), logits, [0.0, uniform, ALMOST_ONE]):
        assert logits[drawn] > -1e5


@PROPERTY
@given(rows, st.integers(1, 3), st.floats(0, ALMOST_ONE))
def test_a_filtered_id_is_never_drawn(logits: list[float], k: int, uniform: float) -> None:
    kept = kept_ids(Choice(top_k=k), softmax(logits))
    assert set(choose(Choice(top_k=k), logits, [0.0, uniform, ALMOST_ONE])) <= set(kept)


@pytest.mark.parametrize("size", [3, 1000, 60_000])
def test_the_ends_of_the_uniform_numbers_draw_the_first_and_the_last(size: int) -> None:
    logits = np.sin(np.arange(size)).tolist()
    assert choose(Choice(), logits, [0.0, ALMOST_ONE]) == [0, size - 1]


@pytest.mark.parametrize("temperature", [0, 0.5, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize("place", [0, 1])
def test_logits_that_are_no_numbers_are_refused(place: int, bad: float, temperature: float) -> None:
    logits = np.zeros((2, 3))
    logits[1, place] = bad
    with pytest.raises(ValueError, match="not finite"):
        Choice(temperature)(logits, np.zeros(2))


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_logits_that_leave_nothing_to_choose_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        Choice(temperature)(np.full((1, 3), -math.inf), np.zeros(1))


def test_the_callers_logits_are_left_alone() -> None:
    logits = np.array([[0.5, 2.0, 1.0]])
    kept = logits.copy()
    Choice(0.7, 2, 0.9, 0.1)(logits, np.array([0.3]))
    assert np.array_equal(logits, kept)


@PROPERTY
@given(rows, st.floats(1, 8), st.lists(st.integers(0, 8), min_size=1, max_size=9))
def test_the_repetition_penalty_raises_probabilities_to_a_power(
    logits: list[float], theta: float, written: list[int]
) -> None:
    recent = [np.array([i % len(logits)]) for i in written]
    penalised = {int(ids[0]) for ids in recent[-4:]}
    powers = [p**theta if i in penalised else p for i, p in enumerate(softmax(logits))]
    choice = Choice(repetition_penalty=theta, repetition_window=4)
    (result,) = choice.probabilities(np.array([logits]), recent)
    np.testing.assert_allclose(result, np.array(powers) / sum(powers), rtol=1e-9)


def test_the_penalty_comes_before_temperature_and_filters() -> None:
    logits, recent = np.log([[0.5, 0.3, 0.2]]), [np.array([0])]
    greedy = Choice(temperature=0, repetition_penalty=3)
    assert greedy(logits, np.zeros(1)).tolist() == [0]
    assert greedy(logits, np.zeros(1), recent).tolist() == [1]
    assert Choice(top_k=1, repetition_penalty=3)(logits, np.zeros(1), recent).tolist() == [1]


def test_after_marked_ids_the_most_probable_is_taken() -> None:
    choice = Choice(greedy_after=np.array([False, True, True]))
    logits = np.log([[0.5, 0.3, 0.2]] * 2)
    recent = [np.array([0, 0]), np.array([0, 2])]
    assert choice(logits, np.full(2, ALMOST_ONE), recent).tolist() == [2, 0]
    np.testing.assert_allclose(
        choice.probabilities(logits, recent), [[0.5, 0.3, 0.2], [1, 0, 0]], atol=1e-12
    )


@pytest.mark.parametrize("choice", [Choice(), Choice(0.6, 4, 0.9, 0.05, 1.7), Choice(0)], ids=str)
def test_probabilities_are_the_frequencies_of_draws(choice: Choice) -> None:
    logits = np.array([0.0, 1.0, -2.0, 0.5, 1.5])
    recent = [np.array([4]), np.array([1])]
    grid = 20_000
    uniforms = (np.arange(grid) + 0.5) / grid
    many = [np.repeat(ids, grid) for ids in recent]
    drawn = np.bincount(choice(np.tile(logits, (grid, 1)), uniforms, many), minlength=5) / grid
    (probabilities,) = choice.probabilities(logits[None], recent)
    np.testing.assert_allclose(drawn, probabilities, atol=1.1e-4)


# Generation.


class Hash:
    """A stepper whose logits depend on every token read and on their order."""

    def __init__(self) -> None:
        self.read: list[list[int]] = []

    def initial_state(self, batch_size: int) -> NDArray[np.int64]:
        return np.full(batch_size, 17)

    def step(
        self, token: NDArray[np.int64], state: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        self.read.append(token.tolist())
        state = (state * 31 + token + 7) % 10007
        return 2 * np.sin(state[:, None] * 0.37 + np.arange(6) * 1.3), state


PROMPT = np.array([[1, 2, 3, 4], [0, 5, 0, 5], [2, 2, 2, 2]])


def generate(cursor: Cursor, draws: Draws, count: int, choice: Choice | None = None) -> list[Any]:
    stream = sample(Hash(), cursor, choice or Choice(), draws)
    return [ids.tolist() for ids in itertools.islice(stream, count)]


@pytest.mark.parametrize("count", [1, 50, BLOCK - 1, BLOCK, BLOCK + 1])
def test_going_on_from_the_cursor_is_one_unbroken_run(count: int) -> None:
    whole = generate(prime(Hash(), PROMPT), Draws(5, range(3)), count + 50)
    cursor = prime(Hash(), PROMPT)
    first = generate(cursor, Draws(5, range(3)), count)
    assert cursor.position == count
    assert cursor.token.tolist() == first[-1]
    assert first + generate(cursor, Draws(5, range(3)), 50) == whole
    assert len({tuple(ids) for ids in whole}) > 20 or count == 1


def test_a_sample_is_the_same_in_any_company() -> None:
    many = generate(prime(Hash(), np.full((10, 2), 1)), Draws(5, range(10)), 40)
    one = generate(prime(Hash(), np.full((1, 2), 1)), Draws(5, [3]), 40)
    assert [ids[3] for ids in many] == [ids[0] for ids in one]
    assert [ids[4] for ids in many] != [ids[0] for ids in one]


def test_generation_feeds_the_prompt_and_then_what_it_chose() -> None:
    stepper = Hash()
    stream = sample(stepper, prime(stepper, PROMPT), Choice(), Draws(5, range(3)))
    chosen = [ids.tolist() for ids in itertools.islice(stream, 5)]
    assert stepper.read == PROMPT.T.tolist() + chosen[:-1]


def test_each_id_is_chosen_from_its_own_logits_and_draw() -> None:
    stepper, draws = Hash(), Draws(5, range(3))
    tokens, state = PROMPT[:, -1], prime(stepper, PROMPT).state
    for position, ids in enumerate(generate(prime(Hash(), PROMPT), Draws(5, range(3)), 20)):
        logits, state = stepper.step(tokens, state)
        tokens = np.array(ids)
        for lane in range(3):
            below = np.cumsum(softmax(logits[lane].tolist()))
            assert ids[lane] == int((below <= draws.at(position)[lane]).sum())


def test_greedy_generation_needs_no_draws() -> None:
    greedy = Choice(temperature=0)
    first = generate(prime(Hash(), PROMPT), Draws(5, range(3)), 30, greedy)
    second = generate(prime(Hash(), PROMPT), Draws(6, range(3)), 30, greedy)
    assert first == second
    assert first != generate(prime(Hash(), PROMPT), Draws(5, range(3)), 30)


def test_seeds_generate_differently() -> None:
    first = generate(prime(Hash(), PROMPT), Draws(5, range(3)), 30)
    assert first != generate(prime(Hash(), PROMPT), Draws(6, range(3)), 30)


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_prompt_can_be_read_in_parts(cut: int) -> None:
    whole = prime(Hash(), PROMPT)
    parts = prime(Hash(), PROMPT[:, cut:], prime(Hash(), PROMPT[:, :cut]))
    assert np.array_equal(parts.token, whole.token)
    assert np.array_equal(parts.state, whole.state)
    assert parts.position == whole.position == 0


def test_the_cursor_remembers_what_was_read_and_written() -> None:
    cursor = prime(Hash(), PROMPT)
    before = cursor.copy()
    chosen = generate(cursor, Draws(5, range(3)), 5)
    assert [ids.tolist() for ids in cursor.recent] == PROMPT.T.tolist() + chosen
    assert [ids.tolist() for ids in before.recent] == PROMPT.T.tolist()
    later = prime(Hash(), PROMPT[:, :1], cursor)
    assert [ids.tolist() for ids in later.recent] == [*PROMPT.T.tolist(), *chosen, [1, 0, 2]]
    generate(cursor, Draws(5, range(3)), RECENT)
    assert len(cursor.recent) == RECENT


@pytest.mark.parametrize("count", [1, 7, 30])
def test_going_on_with_a_penalty_is_one_unbroken_run(count: int) -> None:
    choice = Choice(repetition_penalty=2.0, repetition_window=5)
    whole = generate(prime(Hash(), PROMPT), Draws(5, range(3)), 40, choice)
    cursor = prime(Hash(), PROMPT)
    first = generate(cursor, Draws(5, range(3)), count, choice)
    assert first + generate(cursor, Draws(5, range(3)), 40 - count, choice) == whole
    assert whole != generate(prime(Hash(), PROMPT), Draws(5, range(3)), 40)


def test_a_prompt_is_read_but_for_its_last_token() -> None:
    stepper = Hash()
    cursor = prime(stepper, PROMPT)
    assert stepper.read == PROMPT.T.tolist()[:-1]
    assert cursor.token.tolist() == PROMPT[:, -1].tolist()


def test_reading_more_after_generating_keeps_the_position() -> None:
    cursor = prime(Hash(), PROMPT)
    chosen = generate(cursor, Draws(5, range(3)), 4)
    stepper = Hash()
    later = prime(stepper, PROMPT, cursor)
    assert later.position == 4
    assert stepper.read == [chosen[-1], *PROMPT.T.tolist()[:-1]]
    assert cursor.token.tolist() == chosen[-1]
