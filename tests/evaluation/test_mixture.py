"""N-grams that keep counting as they read, and the mixture that learns its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from charrnn.baselines.ngram import AdaptiveNgramModel, NgramModel
from charrnn.data.corpus import corpus_of_text
from charrnn.evaluation.mixture import LEAST, RATE, Mixer
from charrnn.evaluation.score_network import Reading, surprisals
from tests.tiny import TEXT, drive, start, tiny_config, tiny_corpus

V = 5


def drawn(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, V, count) ** 2 % V


@pytest.mark.parametrize("order", [1, 2, 3, 6])
@pytest.mark.parametrize("first", [0, 1, 40, 300])
def test_counting_on_is_counting_both_texts(order: int, first: int) -> None:
    ids, more = drawn(first), drawn(120, 2)
    adaptive = AdaptiveNgramModel(NgramModel(ids, V, order), ids)
    discounts = NgramModel(ids, V, order).discounts
    for at, symbol in enumerate(more):
        if at % 20 == 0:
            whole = NgramModel(np.concatenate([ids, more[:at]]), V, order)
            whole.discounts = []
            keys, counts = whole._count(np.concatenate([ids, more[:at]]).astype(np.int64))
            fixed = iter(discounts)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("charrnn.baselines.ngram._discounts", lambda _, f=fixed: next(f))
                whole._levels = [
                    whole._level(keys[k], counts[k], len(keys[k - 1]) if k else 1)
                    for k in range(order)
                ]
            history = np.concatenate([np.full(order, -1), ids, more[:at]])
            state = history[len(history) - (order - 1) :][None]
            np.testing.assert_allclose(
                adaptive.probabilities(), whole.probabilities(state)[0], rtol=1e-12
            )
        assert adaptive.probabilities().sum() == pytest.approx(1, abs=1e-12)
        adaptive.read(int(symbol))


def test_only_kneser_ney_counts_on() -> None:
    with pytest.raises(ValueError, match="only a model with Kneser-Ney smoothing"):
        AdaptiveNgramModel(NgramModel(drawn(30), V, 3, "witten-bell"))


def test_mixing_is_the_normalised_product_and_learning_its_gradient() -> None:
    random = np.random.default_rng(3)
    mixer = Mixer(np.array([0.7, 0.2, 0.1]))
    weights = np.array([0.7, 0.2, 0.1])

    def loss(w: np.ndarray, rows: np.ndarray, symbol: int) -> float:
        product = np.prod(np.maximum(rows, LEAST) ** w[:, None], axis=0)
        return float(-np.log(product[symbol] / product.sum()))

    for _ in range(5):
        rows, symbol = random.dirichlet(np.ones(V), 3), int(random.integers(V))
        logs = mixer.mix(rows)
        assert np.exp(logs).sum() == pytest.approx(1, abs=1e-12)
        assert -logs[symbol] == pytest.approx(loss(weights, rows, symbol), rel=1e-12)
        mixer.learn(symbol)
        small = 1e-6
        gradient = np.array(
            [
                (loss(weights + d, rows, symbol) - loss(weights - d, rows, symbol)) / (2 * small)
                for d in np.eye(3) * small
            ]
        )
        weights = weights - RATE * gradient
        np.testing.assert_allclose(mixer.weights, weights, rtol=1e-7)


def test_a_predictor_that_rules_a_symbol_out_does_no_harm_for_ever() -> None:
    mixer = Mixer(np.array([0.5, 0.5]))
    logs = mixer.mix(np.array([[1.0, 0.0], [0.5, 0.5]]))
    mixer.learn(1)
    assert np.isfinite(logs).all()
    assert np.isfinite(mixer.weights).all()


def test_every_character_is_scored_before_it_is_learned_from(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    session = start(tmp_path / "run", tiny_config(), corpus)
    drive(session)
    model = session.experiment.trained()
    train = corpus.splits["train"]
    ngrams = NgramModel(corpus.ids[: train.stop], corpus.vocabulary.size, 4)
    reading = Reading(ngrams=ngrams)

    def nats(text: str) -> np.ndarray:
        of_text = corpus_of_text(text, corpus.vocabulary)
        span = of_text.splits["text"]
        return np.concatenate(
            list(surprisals(model.model, model.config, of_text, span, reading, model.moments))
        )

    whole = nats(TEXT)
    np.testing.assert_array_equal(nats(TEXT[:90] + TEXT[:90:-1])[:90], whole[:90])
    mixed = model.evaluate_split(corpus, "validation", reading=reading)
    alone = model.evaluate_split(corpus, "validation")
    assert mixed.nats_per_character < alone.nats_per_character
    assert mixed.protocol == "unbroken, mixed with n-grams of order 4"
