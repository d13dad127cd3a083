"""Hidden Markov models against sums over all paths and against the equations one id at a time."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from charrnn.baselines import hmm
from charrnn.baselines.hmm import HiddenMarkovModel
from charrnn.inference.sampler import Choice, Cursor, Draws, prime, sample

Array = NDArray[np.float64]
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def random_parameters(states: int, symbols: int, seed: int) -> tuple[Array, Array, Array]:
    generator = np.random.default_rng(seed)
    return (
        generator.dirichlet(np.ones(states)),
        generator.dirichlet(np.ones(states), states),
        generator.dirichlet(np.ones(symbols), states),
    )


def fitted(model: HiddenMarkovModel, ids: Any, iterations: int) -> list[hmm.Iteration]:
    return list(model.fit(np.asarray(ids), iterations, tolerance=0))


# Against sums over all paths.


def paths(parameters: tuple[Array, Array, Array], ids: list[int]) -> dict[tuple[int, ...], float]:
    """Return the joint probability of the ids and each path of hidden states."""
    initial, transitions, emissions = parameters
    found = {}
    for path in itertools.product(range(len(initial)), repeat=len(ids)):
        probability = initial[path[0]]
        for before, after in itertools.pairwise(path):
            probability *= transitions[before, after]
        for state, symbol in zip(path, ids, strict=True):
            probability *= emissions[state, symbol]
        found[path] = float(probability)
    return found


TINY = [
    (states, symbols, length, block, seed)
    for seed, (states, symbols, length) in enumerate(
        [(1, 3, 5), (2, 2, 7), (3, 4, 6), (4, 3, 5), (3, 6, 6), (2, 5, 1)]
    )
    for block in (1, 2, 4, 100)  # ids
]


def tiny(states: int, symbols: int, length: int, seed: int) -> tuple[Any, list[int]]:
    ids = np.random.default_rng(seed + 100).integers(symbols, size=length).tolist()
    return random_parameters(states, symbols, seed), ids


@pytest.mark.parametrize(("states", "symbols", "length", "block", "seed"), TINY)
def test_the_likelihood_is_the_sum_over_all_paths(
    states: int, symbols: int, length: int, block: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hmm, "NUMBERS", block * states)
    parameters, ids = tiny(states, symbols, length, seed)
    model = HiddenMarkovModel(*parameters, smoothing=0)
    likelihoods = [1.0] + [sum(paths(parameters, ids[:t]).values()) for t in range(1, length + 1)]
    assert math.isclose(
        fitted(model, ids, 0)[0].log_likelihood, math.log(likelihoods[-1]), rel_tol=1e-12
    )
    surprisals = -np.diff(np.log(likelihoods))
    np.testing.assert_allclose(model.surprisals(np.array(ids)), surprisals, **CLOSE)


@pytest.mark.parametrize(("states", "symbols", "length", "block", "seed"), TINY)
def test_a_re_estimation_is_the_expectation_over_all_paths(
    states: int, symbols: int, length: int, block: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hmm, "NUMBERS", block * states)
    parameters, ids = tiny(states, symbols, length, seed)
    joint = paths(parameters, ids)
    first, pairs = np.zeros(states), np.zeros((states, states))
    emitted = np.zeros((states, symbols))
    for path, probability in joint.items():
        posterior = probability / sum(joint.values())
        first[path[0]] += posterior
        for before, after in itertools.pairwise(path):
            pairs[before, after] += posterior
        for state, symbol in zip(path, ids, strict=True):
            emitted[state, symbol] += posterior
    model = fitted(HiddenMarkovModel(*parameters), ids, 1)[1].model
    np.testing.assert_allclose(model.initial, first, **CLOSE)
    if length > 1:
        pairs /= pairs.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(model.transitions, pairs, **CLOSE)
    else:  # A single id has no transition.
        np.testing.assert_array_equal(model.transitions, parameters[1])
    emitted /= emitted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.emissions, emitted, **CLOSE)


@pytest.mark.parametrize("block", [1, 2, 4, 100])
def test_the_posterior_of_each_hidden_state(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """If an id occurs once, at t, state i is expected to emit it P(z_t = i | x) times."""
    monkeypatch.setattr(hmm, "NUMBERS", block * 3)
    ids = [3, 0, 5, 1, 4, 2]
    parameters = random_parameters(3, 6, 9)
    joint = paths(parameters, ids)
    posteriors = np.zeros((len(ids), 3))
    for path, probability in joint.items():
        posteriors[range(len(ids)), path] += probability / sum(joint.values())
    expected = posteriors / posteriors.sum(axis=0)
    model = fitted(HiddenMarkovModel(*parameters), ids, 1)[1].model
    np.testing.assert_allclose(model.emissions[:, ids].T, expected, **CLOSE)


@pytest.mark.parametrize(("states", "symbols", "length", "block", "seed"), TINY)
def test_viterbi_finds_the_best_path(
    states: int, symbols: int, length: int, block: int, seed: int
) -> None:
    parameters, ids = tiny(states, symbols, length, seed)
    joint = paths(parameters, ids)
    found = HiddenMarkovModel(*parameters, smoothing=0).most_likely_states(np.array(ids))
    assert tuple(found.tolist()) == max(joint, key=lambda path: joint[path])


# Against one pass without lanes, wherever the sequence is cut.


def one_by_one(parameters: tuple[Array, Array, Array], ids: NDArray[np.int64]) -> Any:
    """Compute Rabiner's scaled forward and backward variables and one step of Baum-Welch."""
    initial, transitions, emissions = parameters
    length, states = len(ids), len(initial)
    alpha, beta, scale = np.zeros((length, states)), np.ones((length, states)), np.zeros(length)
    for t in range(length):
        before = initial if t == 0 else np.dot(alpha[t - 1], transitions)
        alpha[t] = before * emissions[:, ids[t]]
        scale[t] = alpha[t].sum()
        alpha[t] /= scale[t]
    for t in range(length - 2, -1, -1):
        beta[t] = np.dot(transitions, emissions[:, ids[t + 1]] * beta[t + 1]) / scale[t + 1]
    gamma = alpha * beta
    pairs = np.zeros((states, states))
    emitted = np.zeros(emissions.shape)
    for t in range(length):
        emitted[:, ids[t]] += gamma[t]
        if t:
            after = emissions[:, ids[t]] * beta[t] / scale[t]
            pairs += np.outer(alpha[t - 1], after) * transitions
    return -np.log(scale), gamma[0], pairs, emitted


def difficult(kind: str) -> tuple[Array, Array, Array]:
    """Return a model that forgets what it has read: soon, late, or never."""
    initial, transitions, emissions = random_parameters(4, 5, 3)
    match kind:
        case "sticky":
            transitions = 0.999 * np.eye(4) + 0.001 * transitions
            emissions = 0.9 / 5 + 0.1 * emissions
        case "never forgets":
            transitions = np.eye(4)
            emissions = 0.9 / 5 + 0.1 * emissions
        case "cycle":
            transitions = np.roll(np.eye(4), 1, axis=1)
            emissions = 0.9 / 5 + 0.1 * emissions
        case "one beginning":
            initial, transitions = np.eye(4)[0], np.triu(transitions)
            transitions /= transitions.sum(axis=1, keepdims=True)
    return initial, transitions, emissions


KINDS = ["random", "sticky", "never forgets", "cycle", "one beginning"]


@pytest.mark.parametrize("block", [1, 3, 10, 100, 437])
@pytest.mark.parametrize("kind", KINDS)
def test_however_the_text_is_cut_it_is_one_sequence(
    kind: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hmm, "NUMBERS", block * 4)
    parameters = difficult(kind)
    ids = np.random.default_rng(5).integers(5, size=437)
    surprisals, first, pairs, emitted = one_by_one(parameters, ids)
    model = HiddenMarkovModel(*parameters, smoothing=0)
    np.testing.assert_allclose(model.surprisals(ids), surprisals, **CLOSE)
    before, after = fitted(model, ids, 1)
    assert math.isclose(before.log_likelihood, -surprisals.sum(), rel_tol=1e-12)
    np.testing.assert_allclose(after.model.initial, first, **CLOSE)
    rows = [part / part.sum(axis=1, keepdims=True) for part in (pairs, emitted)]
    np.testing.assert_allclose(after.model.transitions, rows[0], **CLOSE)
    np.testing.assert_allclose(after.model.emissions, rows[1], **CLOSE)


def test_lanes_that_meet_save_steps_and_those_that_never_meet_cost_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stepped: list[int] = []
    advance = hmm._advance

    def counted(symbols: Any, states: Any, *matrices: Any) -> Any:
        stepped.append(len(symbols))
        return advance(symbols, states, *matrices)

    monkeypatch.setattr(hmm, "_advance", counted)
    ids = np.zeros(2000, np.int64)
    HiddenMarkovModel(*difficult("random")).surprisals(ids)
    assert len(stepped) < 200
    assert sum(stepped) < 2000 * 3
    stepped.clear()
    _, transitions, emissions = difficult("never forgets")
    model = HiddenMarkovModel(np.eye(4)[0], transitions, emissions, smoothing=0)
    model.surprisals(ids)
    assert len(stepped) <= 2000
    assert sum(stepped) < 2000 * 10  # Of 2000 * 22.


def test_surprisals_of_a_stretch_know_all_that_is_before_it() -> None:
    ids = np.random.default_rng(5).integers(5, size=437)
    model = HiddenMarkovModel(*random_parameters(4, 5, 3))
    whole = model.surprisals(ids)
    assert np.array_equal(model.surprisals(ids, 0, 437), whole)
    np.testing.assert_allclose(model.surprisals(ids, 100, 350), whole[100:350], **CLOSE)
    np.testing.assert_allclose(model.surprisals(ids, 436), whole[436:], **CLOSE)
    assert model.surprisals(ids, 20, 20).shape == (0,)
    assert abs(model.surprisals(ids[100:])[0] - whole[100]) > 1e-3


# Fitting.


def text(length: int, symbols: int = 7, seed: int = 0) -> NDArray[np.int64]:
    """Return ids with a structure that can be learned: a random walk on a ring."""
    generator = np.random.default_rng(seed)
    return (generator.choice([0, 1, 2], size=length, p=[0.2, 0.7, 0.1]).cumsum() // 2) % symbols


@pytest.mark.parametrize("states", [1, 2, 5])
def test_the_likelihood_never_falls(states: int) -> None:
    ids = text(2000)
    iterations = fitted(HiddenMarkovModel.random(ids, 7, states, seed=1), ids, 60)
    assert [iteration.number for iteration in iterations] == list(range(len(iterations)))
    likelihoods = [iteration.log_likelihood for iteration in iterations]
    for before, after in itertools.pairwise(likelihoods):
        assert after >= before - 1e-9 * abs(before)
    assert likelihoods[-1] > likelihoods[0]
    for _, likelihood, model in iterations[:3]:  # Each likelihood is that of its model.
        unsmoothed = HiddenMarkovModel(model.initial, model.transitions, model.emissions, 0)
        assert math.isclose(-unsmoothed.surprisals(ids).sum(), likelihood, rel_tol=1e-10)


def test_the_fit_ends_by_its_gain_or_by_its_iterations() -> None:
    ids = text(1000)
    model = HiddenMarkovModel.random(ids, 7, 3)
    assert len(list(model.fit(ids, iterations=0))) == 1
    assert len(list(model.fit(ids, iterations=4, tolerance=0))) == 5
    likelihoods = [each.log_likelihood for each in model.fit(ids, 1000, tolerance=1e-3)]
    gains = -np.diff(likelihoods) / np.array(likelihoods[1:])
    assert 2 < len(likelihoods) < 1000
    assert gains[-1] < 1e-3 < gains[:-1].min()


def test_more_states_find_what_one_cannot() -> None:
    ids = np.arange(600) % 3
    *_, last = HiddenMarkovModel.random(ids, 3, 3, seed=2).fit(ids, 300)
    assert last.log_likelihood / len(ids) > -0.01
    *_, last = HiddenMarkovModel.random(ids, 3, 1).fit(ids, 300)
    assert math.isclose(last.log_likelihood / len(ids), -math.log(3), rel_tol=1e-9)


def test_one_state_counts() -> None:
    ids = text(1000)
    *_, last = HiddenMarkovModel.random(ids, 9, 1, seed=4).fit(ids)
    shares = np.bincount(ids, minlength=9) / len(ids)
    np.testing.assert_allclose(last.model.emissions, [shares], rtol=1e-12)
    entropy = -sum(share * math.log(share) for share in shares if share)
    assert abs(last.model.surprisals(ids).mean() - entropy) < 2e-5


def test_states_that_are_the_ids_are_the_bigrams() -> None:
    ids = text(1500)
    uniform = np.full(8, 1 / 8)  # The last id never occurs.
    start = HiddenMarkovModel(uniform, np.tile(uniform, (8, 1)), np.eye(8))
    *_, last = start.fit(ids)
    counts = np.zeros((8, 8))
    for before, after in itertools.pairwise(ids):
        counts[before, after] += 1
    bigrams = counts[:7] / counts[:7].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(last.model.transitions[:7], bigrams, rtol=1e-10, atol=1e-300)
    np.testing.assert_array_equal(last.model.transitions[7], uniform)
    np.testing.assert_allclose(last.model.emissions, np.eye(8), rtol=1e-12)
    nats = [-math.log(bigrams[before, after]) for before, after in itertools.pairwise(ids)]
    assert math.isclose(last.log_likelihood, -sum(nats), rel_tol=1e-10)
    np.testing.assert_allclose(last.model.surprisals(ids)[1:], nats, atol=1e-3)
    assert np.array_equal(last.model.most_likely_states(ids), ids)


def test_random_models_differ_by_seed_and_know_the_frequencies() -> None:
    ids = np.repeat([0, 1, 2], [600, 300, 100])
    one, again, other = (HiddenMarkovModel.random(ids, 5, 400, seed) for seed in (1, 1, 2))
    for name in ("initial", "transitions", "emissions"):
        assert np.array_equal(getattr(one, name), getattr(again, name))
        assert not np.array_equal(getattr(one, name), getattr(other, name))
    mean = one.emissions.mean(axis=0)
    assert mean[0] > mean[1] > mean[2] > 0
    assert not mean[3:].any()


# Smoothing and errors.


def test_nothing_is_impossible() -> None:
    ids = text(1000)
    *_, last = HiddenMarkovModel.random(ids, 9, 3).fit(ids)
    for unseen in (np.array([7, 3, 8, 8]), np.tile([8, 0], 300)):
        surprisals = last.model.surprisals(unseen)
        assert np.isfinite(surprisals).all()
        assert 5 < surprisals[unseen > 6].max() <= math.log(9 / last.model.smoothing)
        assert len(last.model.most_likely_states(unseen)) == len(unseen)


def test_smoothing_mixes_every_distribution_with_the_uniform_one() -> None:
    parameters = random_parameters(3, 5, 1)
    mixed = [0.7 * part + 0.3 / part.shape[-1] for part in parameters]
    ids = text(200, 5)
    smoothed, plain = HiddenMarkovModel(*parameters, 0.3), HiddenMarkovModel(*mixed, 0)  # type: ignore[arg-type]
    np.testing.assert_allclose(smoothed.surprisals(ids), plain.surprisals(ids), **CLOSE)
    assert np.array_equal(smoothed.most_likely_states(ids), plain.most_likely_states(ids))
    assert np.array_equal(smoothed.initial, parameters[0])


def test_what_is_impossible_without_smoothing_is_an_error() -> None:
    model = HiddenMarkovModel(np.ones(1), np.ones((1, 1)), np.array([[0.5, 0.5, 0.0]]), 0)
    ids = np.array([0, 1, 2, 0])
    for call in (
        lambda: model.surprisals(ids),
        lambda: model.most_likely_states(ids),
        lambda: list(model.fit(ids)),
        lambda: model.step(np.array([2]), model.initial_state(1)),
    ):
        with pytest.raises(ValueError, match="cannot emit"):
            call()


@pytest.mark.parametrize("bad", [np.array([0, 5]), np.array([-1, 0])])
def test_ids_outside_of_the_vocabulary_are_an_error(bad: NDArray[np.int64]) -> None:
    model = HiddenMarkovModel(*random_parameters(2, 5, 0))
    for call in (
        lambda: model.surprisals(bad),
        lambda: model.most_likely_states(bad),
        lambda: list(model.fit(bad)),
        lambda: HiddenMarkovModel.random(bad, 5, 2),
    ):
        with pytest.raises(ValueError, match="not all in a vocabulary of 5"):
            call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial": np.array([0.5, 0.6])}, "initial are not distributions"),
        ({"transitions": np.array([[1.5, -0.5], [0, 1]])}, "transitions are not distributions"),
        ({"emissions": np.full((2, 3), np.nan)}, "emissions are not distributions"),
        ({"emissions": np.full((3, 3), 1 / 3)}, "shapes"),
        ({"emissions": np.full(2, 1 / 2)}, "shapes"),
        ({"transitions": np.ones((2, 1))}, "shapes"),
        ({"initial": np.empty(0)}, "shapes"),
        ({"smoothing": -0.1}, "smoothing"),
    ],
)
def test_parameters_that_are_no_model_are_an_error(change: Any, message: str) -> None:
    initial, transitions, emissions = random_parameters(2, 3, 0)
    parameters = {"initial": initial, "transitions": transitions, "emissions": emissions}
    with pytest.raises(ValueError, match=message):
        HiddenMarkovModel(**(parameters | change))


def test_there_is_nothing_to_fit_without_ids_or_states() -> None:
    nothing = np.empty(0, np.int64)
    model = HiddenMarkovModel(*random_parameters(2, 3, 0))
    assert model.surprisals(nothing).shape == model.most_likely_states(nothing).shape == (0,)
    with pytest.raises(ValueError, match="no ids"):
        list(model.fit(nothing))
    for ids, states in ((nothing, 2), (np.array([1]), 0)):
        with pytest.raises(ValueError, match="at least one state and one id"):
            HiddenMarkovModel.random(ids, 3, states)


# Stepping.


def test_steps_give_the_surprisals() -> None:
    model = HiddenMarkovModel(*random_parameters(6, 5, 2))
    lanes = np.stack([text(300, 5, seed) for seed in range(3)])
    state = model.initial_state(3)
    assert state.shape == (3, 6)
    assert state.dtype == np.float64
    expected = np.stack([model.surprisals(ids) for ids in lanes])
    np.testing.assert_allclose(
        -np.log(np.sum(state * model.emissions[:, lanes[:, 0]].T, axis=1)),
        expected[:, 0],
        atol=1e-3,  # The smoothing.
    )
    for t in range(299):
        before = state.copy()
        logits, after = model.step(lanes[:, t], state)
        assert np.array_equal(state, before)  # A step does not change it.
        assert logits.shape == (3, 5)
        assert logits.dtype == np.float64
        np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1, rtol=1e-12)
        np.testing.assert_allclose(after.sum(axis=1), 1, rtol=1e-12)
        np.testing.assert_allclose(
            -logits[range(3), lanes[:, t + 1]], expected[:, t + 1], rtol=0, atol=1e-10
        )
        alone, _ = model.step(lanes[1:2, t], state[1:2])
        np.testing.assert_allclose(logits[1:2], alone, **CLOSE)
        state = after


def test_a_model_that_knows_what_comes_next_is_sampled() -> None:
    *_, last = HiddenMarkovModel.random(np.arange(600) % 3, 3, 3, seed=2).fit(np.arange(600) % 3)
    cursor = prime(last.model, np.array([[0, 1], [2, 0]]))
    drawn = sample(last.model, cursor, Choice(), Draws(1, range(2)))
    ids = np.stack(list(itertools.islice(drawn, 12)), axis=1)
    assert ids.tolist() == [[(2 + t) % 3 for t in range(12)], [(1 + t) % 3 for t in range(12)]]


def test_samples_have_the_models_frequencies() -> None:
    initial, transitions, emissions = random_parameters(3, 4, 8)
    model = HiddenMarkovModel(initial, transitions, emissions)
    stationary = np.linalg.matrix_power(transitions, 200)[0]
    pairs = emissions.T @ (stationary[:, None] * transitions) @ emissions
    cursor = Cursor(np.zeros(200, np.int64), model.initial_state(200))
    drawn = sample(model, cursor, Choice(), Draws(3, range(200)))
    ids = np.stack(list(itertools.islice(drawn, 550)), axis=1)[:, 50:]
    counts = np.bincount((ids[:, :-1] * 4 + ids[:, 1:]).ravel(), minlength=16).reshape(4, 4)
    np.testing.assert_allclose(counts / counts.sum(), pairs, atol=0.005)


# Known numbers.


@pytest.mark.shared_data
def test_scores_of_tiny_shakespeare(shared_data: Path) -> None:
    """One state is the unigram model; 8 states fall below 3.01 nats within ten iterations."""
    characters = (shared_data / "tinyshakespeare.txt").read_text("utf-8")
    _, ids = np.unique(
        np.frombuffer(characters.encode("utf-32-le"), np.uint32), return_inverse=True
    )
    train, validation = ids[:1_003_854], ids[1_003_854:]
    *_, last = HiddenMarkovModel.random(train, 65, 1).fit(train)
    assert abs(last.model.surprisals(validation).mean() - 3.3473) < 1e-4
    *_, last = HiddenMarkovModel.random(train, 65, 8).fit(train, 10)
    assert last.number == 10
    assert abs(last.model.surprisals(validation).mean() - 3.0014) < 1e-3
