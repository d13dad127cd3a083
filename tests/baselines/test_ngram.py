"""Character n-grams against plain dictionaries, and properties that every such model must have."""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.baselines import ngram
from charrnn.baselines.ngram import FALLBACK_DISCOUNTS, NgramModel
from charrnn.data.corpus import corpus_of_text, load_corpus
from charrnn.data.sources import find_sources
from charrnn.data.vocabulary import CharacterVocabulary
from charrnn.errors import DataError
from charrnn.evaluation.score import score_unbroken
from charrnn.inference.sampler import Choice, Draws, prime, sample

PROPERTY = settings(deadline=None, derandomize=True, max_examples=150)
SMOOTHINGS: list[Any] = ["kneser-ney", "witten-bell", "none"]
PAGES = sorted((Path(__file__).parents[2] / "docs" / "experiments").glob("*.md"))
TEXT = "".join(page.read_text("utf-8") for page in PAGES)[:10_000].replace("k", "ķ")
VOCABULARY = CharacterVocabulary(sorted(set(TEXT)))
IDS = VOCABULARY.encode(TEXT)
TRAIN = 9_000

# The definitions, in dictionaries ------------------------------------------------------------

Probability = Callable[[Sequence[int], int], float]


def from_definition(train: Sequence[int], size: int, order: int, smoothing: str) -> Probability:
    """Compute P(symbol after context) by the formulas of the papers."""
    followers: list[dict[Any, dict[int, int]]] = []  # By length of the context.
    for length in range(1, order + 1):
        grams = [(i, tuple(train[i : i + length])) for i in range(len(train) - length + 1)]
        counted: dict[Any, int] = Counter(gram for _, gram in grams)
        if smoothing == "kneser-ney" and length < order:
            before: dict[Any, set[Any]] = {gram: set() for gram in counted}
            for i, gram in grams:
                before[gram].add(train[i - 1] if i > 0 else "the beginning")
            counted = {gram: len(symbols) for gram, symbols in before.items()}
        table: dict[Any, dict[int, int]] = {}
        for gram, count in counted.items():
            table.setdefault(gram[:-1], {})[gram[-1]] = count
        followers.append(table)
    discounts = [discounts_from_definition(table) for table in followers]

    def probability(context: Sequence[int], symbol: int) -> float:
        context = tuple(context)[max(0, len(context) - order + 1) :]
        shorter = probability(context[1:], symbol) if context else 1 / size
        counts = followers[len(context)].get(context)
        if counts is None:
            return shorter
        total, count = sum(counts.values()), counts.get(symbol, 0)
        if smoothing == "none":
            return count / total
        if smoothing == "witten-bell":
            return (count + len(counts) * shorter) / (total + len(counts))
        taken = discounts[len(context)]
        gamma = sum(taken[min(c, 3)] for c in counts.values()) / total
        return (count - taken[min(count, 3)]) / total + gamma * shorter

    return probability


def discounts_from_definition(table: dict[Any, dict[int, int]]) -> list[float]:
    counts = [count for followers in table.values() for count in followers.values()]
    n1, n2, n3, n4 = (sum(count == i for count in counts) for i in (1, 2, 3, 4))
    if 0 in (n1, n2, n3, n4):
        return [0, 0.5, 1, 1.5]
    y = n1 / (n1 + 2 * n2)
    one, two, three = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    if 0 < one < 1 and 0 < two < 2 and 0 < three < 3:
        return [0, one, two, three]
    return [0, 0.5, 1, 1.5]


def minus_log(probability: float) -> float:
    return -math.log(probability) if probability else math.inf


def states(contexts: Sequence[Sequence[int]], order: int) -> Any:
    """Return contexts of any length up to order - 1 as states."""
    rows = [[-1] * (order - 1 - len(context)) + list(context) for context in contexts]
    return np.array(rows, np.int64).reshape(len(rows), order - 1)


# Probabilities -------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_surprisals_are_those_of_the_definition(smoothing: Any, order: int) -> None:
    train = IDS[:TRAIN].tolist()
    expected = from_definition(train, VOCABULARY.size, order, smoothing)
    model = NgramModel(IDS[:TRAIN], VOCABULARY.size, order, smoothing)
    everything = IDS.tolist()
    for start, stop in ((TRAIN, len(IDS)), (0, 300)):
        nats = [
            minus_log(expected(everything[max(0, i - order + 1) : i], everything[i]))
            for i in range(start, stop)
        ]
        np.testing.assert_allclose(model.surprisals(IDS, start, stop), nats, rtol=1e-12, atol=1e-12)
    if smoothing == "kneser-ney" and order >= 3:
        assert FALLBACK_DISCOUNTS not in model.discounts[2:]  # So estimated ones are tested.


@PROPERTY
@given(
    st.lists(st.integers(0, 3), max_size=30),
    st.lists(st.integers(0, 3), max_size=8),
    st.integers(1, 6),
    st.sampled_from(SMOOTHINGS),
)
def test_texts_of_every_kind_follow_the_definition(
    train: list[int], context: list[int], order: int, smoothing: Any
) -> None:
    """Short and empty texts, one symbol, symbols that never occur, an order beyond the text."""
    model = NgramModel(np.array(train, np.uint8), 5, order, smoothing)
    expected = from_definition(train, 5, order, smoothing)
    contexts = [context[len(context) - n :] for n in range(min(order, len(context) + 1))]
    probabilities = model.probabilities(states(contexts, order))
    for row, one in zip(probabilities, contexts, strict=True):
        np.testing.assert_allclose(row, [expected(one, w) for w in range(5)], atol=1e-12)
    assert np.abs(probabilities.sum(axis=1) - 1).max() < 1e-9


@pytest.mark.parametrize("order", [1, 2, 4, 7])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_probabilities_sum_to_one_in_every_context(smoothing: Any, order: int) -> None:
    model = NgramModel(IDS[:TRAIN], VOCABULARY.size, order, smoothing)
    train = IDS[:TRAIN].tolist()
    seen = {tuple(train[i : i + n]) for n in range(order) for i in range(len(train) - n + 1)}
    generator = random.Random(1)
    unseen = {
        tuple(generator.randrange(VOCABULARY.size) for _ in range(n))
        for n in range(order)
        for _ in range(300)
    }
    assert () in seen
    if order > 2:
        assert len(unseen - seen) > 500
    contexts = sorted(seen | unseen)
    for i in range(0, len(contexts), 4096):
        probabilities = model.probabilities(states(contexts[i : i + 4096], order))
        assert np.abs(probabilities.sum(axis=1) - 1).max() < 1e-9
        assert probabilities.min() >= 0
        if smoothing != "none":
            assert probabilities.min() > 0


def test_counts_of_single_symbols_give_the_unigram_entropy() -> None:
    model = NgramModel(IDS, VOCABULARY.size, 1, "none")
    counts = Counter(TEXT).values()
    entropy = -sum(count / len(TEXT) * math.log(count / len(TEXT)) for count in counts)
    assert model.surprisals(IDS).mean() == pytest.approx(entropy, abs=1e-9)


def test_what_a_text_has_not_is_impossible_without_smoothing() -> None:
    model = NgramModel(np.array([0, 1, 0, 1]), 3, 2, "none")
    nats = model.surprisals(np.array([0, 1, 2, 0]))
    assert nats[[0, 1, 3]].tolist() == [math.log(2), 0, math.log(2)]  # 2 is no known context.
    assert nats[2] == math.inf


def test_discounts_are_chen_and_goodmans() -> None:
    # At order 1: eight symbols once, four twice, two three times, one four times.
    ids = np.repeat(np.arange(15), [1] * 8 + [2] * 4 + [3] * 2 + [4])
    y = 8 / (8 + 2 * 4)
    (discounts,) = NgramModel(ids, 15, 1).discounts
    assert discounts == pytest.approx((1 - 2 * y * 4 / 8, 2 - 3 * y * 2 / 4, 3 - 4 * y * 1 / 2))
    assert NgramModel(ids[:-4], 15, 1).discounts == [FALLBACK_DISCOUNTS]  # n_4 = 0
    # n_3 = 40: D(2) would be below 0.
    ids = np.repeat(np.arange(53), [1] * 8 + [2] * 4 + [3] * 40 + [4])
    assert NgramModel(ids, 53, 1).discounts == [FALLBACK_DISCOUNTS]


def test_n_grams_are_counted() -> None:
    model = NgramModel(IDS, VOCABULARY.size, 4)
    expected = [len({TEXT[i : i + k] for i in range(len(TEXT) - k + 1)}) for k in range(1, 5)]
    assert model.counts == expected


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_tiny_texts(smoothing: Any) -> None:
    only = NgramModel(np.zeros(5, np.uint8), 1, 7, smoothing)
    assert np.abs(only.surprisals(np.zeros(9, np.uint8))).max() < 1e-12
    for text in ([], [1], [0, 1]):
        model = NgramModel(np.array(text, np.uint8), 2, 7, smoothing)
        assert model.counts == [max(0, len(text) - k) for k in range(7)]
        assert model.surprisals(np.array([0, 1, 1])).shape == (3,)
        assert model.surprisals(np.array([], np.uint8)).shape == (0,)
    assert NgramModel(np.array([], np.uint8), 2).surprisals(np.array([1])) == pytest.approx(
        math.log(2)
    )


def test_a_large_vocabulary() -> None:
    size = 1_000_000
    ids = np.random.default_rng(1).integers(0, size, 3000)
    ids[1000:2000] = ids[:1000]
    model = NgramModel(ids[:2000], size, 5)
    expected = from_definition(ids[:2000].tolist(), size, 5, "kneser-ney")
    nats = [-math.log(expected(ids[i - 4 : i].tolist(), int(ids[i]))) for i in range(1990, 2010)]
    np.testing.assert_allclose(model.surprisals(ids, 1990, 2010), nats, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([0], 2, 0), "order 0"),
        (([0], 0, 1), "vocabulary size 0"),
        (([0, 2], 2, 1), "0 to 2"),
        (([-1], 2, 1), "-1"),
        (([0], 2, 2, "laplace"), "laplace"),
    ],
)
def test_what_is_no_model_is_refused(arguments: Any, words: str) -> None:
    ids, *rest = arguments
    with pytest.raises(ValueError, match=words):
        NgramModel(np.array(ids), *rest)


def test_ids_outside_of_the_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match="0 to 2"):
        NgramModel(np.array([0, 1]), 2).surprisals(np.array([0, 2]))


# The steps of a sampler ----------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 7])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_stepping_gives_the_surprisals(smoothing: Any, order: int) -> None:
    model = NgramModel(IDS[:TRAIN], VOCABULARY.size, order, smoothing)
    lanes = np.stack([IDS[TRAIN : TRAIN + 200], IDS[:200]]).astype(np.int64)
    expected = np.stack([model.surprisals(lane, 1) for lane in lanes])
    state = model.initial_state(2)
    for t in range(199):
        logits, state = model.step(lanes[:, t], state)
        assert logits.shape == (2, VOCABULARY.size)
        assert state.shape == (2, order - 1)
        np.testing.assert_allclose(
            -logits[[0, 1], lanes[:, t + 1]], expected[:, t], rtol=1e-12, atol=1e-12
        )


def test_how_much_is_scored_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = NgramModel(IDS[:TRAIN], VOCABULARY.size, 5)
    whole = model.surprisals(IDS)
    for chunk in (1, 3, 1000):
        monkeypatch.setattr(ngram, "CHUNK", chunk)
        assert np.array_equal(model.surprisals(IDS[:3500]), whole[:3500])
        assert np.array_equal(model.surprisals(IDS, 8999, 9500), whole[8999:9500])


def test_it_can_be_sampled() -> None:
    model = NgramModel(np.array([0, 1, 2] * 5), 3, 2, "none")
    cursor = prime(model, np.array([[0], [1]]))
    drawn = zip(range(7), sample(model, cursor, Choice(), Draws(1, [0, 1])), strict=False)
    assert [ids.tolist() for _, ids in drawn] == [[(i + 1) % 3, (i + 2) % 3] for i in range(7)]
    model = NgramModel(IDS, VOCABULARY.size, 5)
    lanes = 4000
    prompt = VOCABULARY.encode("the s").astype(np.int64)
    cursor = prime(model, np.tile(prompt, (lanes, 1)))
    first = next(sample(model, cursor, Choice(), Draws(1, range(lanes))))
    (expected,) = model.probabilities(prompt[None, -4:])
    frequencies = np.bincount(first, minlength=VOCABULARY.size) / lanes
    assert expected.max() > 0.2
    assert np.abs(frequencies - expected).max() < 5 * math.sqrt(0.25 / lanes)


# Scores of splits ----------------------------------------------------------------------------


def test_the_text_before_a_split_is_its_context(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    corpus = load_corpus(find_sources([str(tmp_path / "text.txt")]))
    model = NgramModel(IDS[:TRAIN], VOCABULARY.size, 5)
    evaluation = score_unbroken(model, corpus, "validation", "a text")
    nats = model.surprisals(IDS, TRAIN)
    expected = from_definition(IDS[:TRAIN].tolist(), VOCABULARY.size, 5, "kneser-ney")
    first = expected(IDS[TRAIN - 4 : TRAIN].tolist(), int(IDS[TRAIN]))
    assert nats[0] == pytest.approx(-math.log(first), rel=1e-12)
    assert evaluation.nats_per_character == pytest.approx(nats.mean())
    assert evaluation.bits == pytest.approx(nats.mean() / math.log(2))
    byte_count = len(TEXT[TRAIN:].encode())
    assert byte_count > 1000
    assert evaluation.bits_per_byte == pytest.approx(nats.sum() / math.log(2) / byte_count)
    assert (evaluation.count, evaluation.split) == (1000, "validation")
    assert (evaluation.protocol, evaluation.step, evaluation.text) == ("unbroken", None, "a text")
    with pytest.raises(DataError, match="no 'test' split"):
        score_unbroken(model, corpus, "test")


def test_a_split_with_nothing_before_it_begins_with_ln_v(tmp_path: Path) -> None:
    for name, text in (("text.txt", TEXT[:TRAIN]), ("other.txt", TEXT[TRAIN:])):
        (tmp_path / name).write_text(text, "utf-8")
    main, other = (find_sources([str(tmp_path / name)]) for name in ("text.txt", "other.txt"))
    corpus = load_corpus(main, other)
    model = NgramModel(IDS[:TRAIN], VOCABULARY.size, 5)
    nats = [math.log(VOCABULARY.size), *model.surprisals(IDS[TRAIN:], 1)]
    assert score_unbroken(model, corpus, "validation").nats == pytest.approx(np.mean(nats))
    one = corpus_of_text("e", VOCABULARY)
    assert score_unbroken(model, one, "text").nats == pytest.approx(math.log(VOCABULARY.size))


@pytest.mark.shared_data
def test_known_scores_on_tiny_shakespeare(shared_data: Path) -> None:
    corpus = load_corpus(find_sources([str(shared_data / "tinyshakespeare.txt")]))
    train = corpus.ids[: corpus.splits["train"].stop]
    for order, expected in ((1, 3.347), (2, 2.484), (4, 1.719), (7, 1.516)):
        model = NgramModel(train, corpus.vocabulary.size, order)
        score = score_unbroken(model, corpus, "validation")
        assert score.nats_per_character == pytest.approx(expected, abs=0.002)
