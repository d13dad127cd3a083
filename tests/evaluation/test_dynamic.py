"""Dynamic evaluation: its rule, that nothing is learned before it is scored, and how rates are
chosen."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from charrnn.data.corpus import corpus_of_text
from charrnn.errors import ConfigError, DivergedError
from charrnn.evaluation.choose_reading import DECAYS, RATES, choose_reading
from charrnn.evaluation.dynamic import EPSILON, Adapting, Rates
from charrnn.evaluation.score_network import Reading, surprisals
from charrnn.inference.trained_model import TrainedModel, second_moments
from tests.tiny import TEXT, drive, start, tiny_config, tiny_corpus


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(training__steps=60, model__dropout=0.0)
    session = start(folder / "run", config, tiny_corpus(folder))
    drive(session)
    return TrainedModel.from_checkpoint(session.run.load(60))


def test_a_step_is_the_rule() -> None:
    torch.manual_seed(1)
    layer = nn.Linear(3, 2).double()
    moments = {"weight": np.random.default_rng(1).random((2, 3)), "bias": np.array([0.0, 4.0])}
    rates = Rates(0.1, 0.7)
    adapting = Adapting(layer, moments, rates)
    trained = {n: p.detach().numpy().copy() for n, p in layer.named_parameters()}
    now = {n: v.copy() for n, v in trained.items()}
    roots = {n: np.sqrt(v) for n, v in moments.items()}
    mean = sum(v.sum() for v in roots.values()) / 8
    for seed in range(3):
        torch.manual_seed(seed)
        x = torch.randn(4, 3, dtype=torch.float64)
        # d/dW sum((x W + b)^2) = 2 x^T (x W + b)
        out = x.numpy() @ now["weight"].T + now["bias"]
        gradient = {"weight": 2 * out.T @ x.numpy(), "bias": 2 * out.sum(0)}
        adapting.learn((adapting.model(x) ** 2).sum())
        for name, value in list(now.items()):
            s = roots[name] / mean
            back = np.minimum(1, rates.decay * s) * (trained[name] - value)
            now[name] = value - rates.learning * gradient[name] / (s + EPSILON) + back
    for name, parameter in adapting.model.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), now[name], rtol=1e-10)
    for name, parameter in layer.named_parameters():
        np.testing.assert_array_equal(parameter.detach().numpy(), trained[name])


def test_moments_come_from_the_optimizer(trained: TrainedModel) -> None:
    assert set(trained.moments) == {n for n, _ in trained.model.named_parameters()}
    kept = {"optimizer/a/exp_avg_sq": 1, "optimizer/b/square_avg": 2, "optimizer/a/exp_avg": 3,
            "model/a": 4}  # fmt: skip
    assert second_moments(kept) == {"a": 1, "b": 2}  # type: ignore[arg-type]


PLAIN = Reading()


def nats(model: TrainedModel, text: str, reading: Reading = PLAIN) -> np.ndarray:
    corpus = corpus_of_text(text, model.vocabulary)
    pieces = surprisals(
        model.model, model.config, corpus, corpus.splits["text"], reading, model.moments
    )
    return np.concatenate(list(pieces))


def test_every_segment_is_scored_before_it_is_learned_from(trained: TrainedModel) -> None:
    before = copy.deepcopy(trained.model.state_dict())
    rates = Rates(0.03, 0.001, segment=7)
    static, dynamic = nats(trained, TEXT), nats(trained, TEXT, Reading(rates=rates))
    # The first character, which has no context, and the first segment.
    np.testing.assert_allclose(dynamic[:8], static[:8], rtol=1e-6)
    assert not np.allclose(dynamic[8:20], static[8:20], rtol=1e-4)
    for name, value in before.items():
        assert torch.equal(trained.model.state_dict()[name], value)
    # Later text does not change earlier scores.
    other = TEXT[:100] + TEXT[:100:-1]
    np.testing.assert_array_equal(nats(trained, other, Reading(rates=rates))[:100], dynamic[:100])


def test_it_learns_what_repeats(trained: TrainedModel) -> None:
    text = (TEXT[5:14] + TEXT[40:44]) * 30
    static = trained.evaluate(text)
    dynamic = trained.evaluate(text, reading=Reading(rates=Rates(0.1, 0.0, 5)))
    assert dynamic.nats_per_character < static.nats_per_character - 0.3
    assert dynamic.protocol == "unbroken, dynamic (rate 0.1, decay 0, segments of 5)"
    assert static.protocol == "unbroken"


def test_a_rate_of_almost_nothing_changes_almost_nothing(trained: TrainedModel) -> None:
    slow = Reading(rates=Rates(1e-9, 0.0))
    np.testing.assert_allclose(nats(trained, TEXT, slow), nats(trained, TEXT), rtol=1e-4)


def test_temperature_divides_the_logits(trained: TrainedModel) -> None:
    corpus = corpus_of_text(TEXT, trained.vocabulary)
    ids = torch.from_numpy(corpus.ids.astype(np.int64))[None]
    with torch.no_grad():
        logits, _ = trained.model.eval()(ids[:, :-1], trained.model.initial_state(1))
    scaled = torch.log_softmax(logits[0].double() / 0.5, 1)
    expected = -scaled.gather(1, ids[0, 1:, None])[:, 0].numpy()
    found = nats(trained, TEXT, Reading(temperature=0.5))
    np.testing.assert_allclose(found[1:], expected, rtol=1e-5, atol=1e-6)
    assert found[0] == pytest.approx(math.log(trained.vocabulary.size))


def test_halves_are_the_means_of_the_halves(trained: TrainedModel) -> None:
    result, each, half = trained.evaluate(TEXT), nats(trained, TEXT), len(TEXT) // 2
    assert result.halves == pytest.approx((each[:half].mean(), each[half:].mean()))
    assert result.nats_per_character == pytest.approx(each.mean())
    assert trained.evaluate(TEXT[:1]).halves is None


def test_rates_and_temperature_are_chosen_on_the_first_half_alone(trained: TrainedModel) -> None:
    def chosen(text: str, **what: bool) -> Reading:
        corpus = corpus_of_text(text, trained.vocabulary)
        return choose_reading(
            trained.model, trained.config, corpus, "text", Reading(rates=Rates(1.0, 1.0, 6)),
            trained.moments, **what,
        )  # fmt: skip

    both = {"choose_learning": True, "choose_decay": True, "choose_temperature": True}
    reading = chosen(TEXT, **both)
    assert reading.rates is not None
    assert reading.rates.learning in RATES
    assert reading.rates.decay in DECAYS
    assert reading.rates.segment == 6
    half = TEXT[: len(TEXT) // 2]
    assert chosen(half + TEXT[0] * len(half), **both) == reading
    costs = {
        decay: nats(trained, half, Reading(rates=Rates(reading.rates.learning, decay, 6))).sum()
        for decay in DECAYS
    }
    assert costs[reading.rates.decay] == pytest.approx(min(costs.values()))
    kept = chosen(TEXT, choose_temperature=True)
    assert kept.rates == Rates(1.0, 1.0, 6)
    for one in ("choose_learning", "choose_decay"):
        rates = chosen(TEXT, **{one: True}).rates
        assert rates is not None
        assert (rates.learning == 1.0) == (one == "choose_decay")
        assert (rates.decay == 1.0) == (one == "choose_learning")


def test_a_model_without_carried_state_cannot(tmp_path: Path) -> None:
    session = start(tmp_path / "run", tiny_config(training__carry_state=False),
                    tiny_corpus(tmp_path))  # fmt: skip
    model: Any = session.experiment.trained()
    with pytest.raises(ConfigError, match="dynamic evaluation needs a carried state"):
        model.evaluate(TEXT, reading=Reading(rates=Rates(0.01, 0.0)))
    assert model.evaluate(TEXT, reading=Reading(temperature=0.9)).protocol == (
        "windows of 8 from the zero state, temperature 0.9"
    )


def test_a_rate_at_which_learning_diverges_is_not_chosen(
    trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = corpus_of_text(TEXT, trained.vocabulary)
    monkeypatch.setattr("charrnn.evaluation.choose_reading.RATES", (1e-3, 1e38))
    reading = choose_reading(
        trained.model, trained.config, corpus, "text", Reading(rates=Rates(1.0, 0.0, 6)),
        trained.moments, choose_learning=True,
    )  # fmt: skip
    assert reading.rates == Rates(1e-3, 0.0, 6)
    with pytest.raises(DivergedError, match="use a lower learning rate of dynamic evaluation"):
        trained.evaluate(TEXT, reading=Reading(rates=Rates(1e38, 0.0, 6)))


def test_an_adapted_model_knows_what_it_read(trained: TrainedModel) -> None:
    text = (TEXT[5:14] + TEXT[40:44]) * 60
    adapted = trained.adapted_to(text, Rates(0.1, 0.0))
    assert adapted.evaluate(text[-60:]).nats_per_character < (
        trained.evaluate(text[-60:]).nats_per_character - 0.5
    )
