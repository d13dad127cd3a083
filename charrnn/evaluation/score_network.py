"""A network's scores of texts: the unbroken protocol, also while it learns from what it reads, and
mixed with n-grams that count as they read."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from charrnn.baselines.ngram import AdaptiveNgramModel, NgramModel
from charrnn.config.schema import Config
from charrnn.data.corpus import Corpus, Span
from charrnn.errors import ConfigError, DivergedError
from charrnn.evaluation.dynamic import Adapting, Rates
from charrnn.evaluation.mixture import Mixer
from charrnn.evaluation.score import UNBROKEN, Evaluation, evaluation_of_surprisals, span_of
from charrnn.nn.models import LanguageModel
from charrnn.nn.state import State, detach
from charrnn.runs.checkpoint import Arrays
from charrnn.training.text_windows import NOT_SCORED, TextWindows
from charrnn.training.trainer import full_precision

# Order of the n-grams that keep counting; longer ones gain nothing
# (docs/experiments/dynamic-evaluation.md).
NGRAM_ORDER = 9
CHOOSING = 30_000  # characters of a first half on which rates are chosen
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
DECAYS = (0.0, 1e-3, 3e-3, 1e-2, 3e-2)
TYPICAL_DECAY = 3e-3  # while the learning rate is chosen
TEMPERATURES = tuple(round(0.8 + 0.02 * i, 2) for i in range(21))


@dataclass(frozen=True)
class Reading:
    """How a text is read while it is scored.

    `temperature` divides the logits; `rates` are those of dynamic evaluation; `ngrams` counts as
    it reads and is mixed in.
    """

    temperature: float = 1.0
    rates: Rates | None = None
    ngrams: NgramModel | None = None

    def protocol(self, base: str = UNBROKEN) -> str:
        """How it is read, in words, where `base` says how without any of this."""
        parts = [base]
        parts += [f"dynamic ({self.rates})"] if self.rates else []
        parts += [f"mixed with n-grams of order {self.ngrams.order}"] if self.ngrams else []
        parts += [f"temperature {self.temperature:g}"] if self.temperature != 1 else []
        return ", ".join(parts)


PLAIN = Reading()


def score_split(
    model: LanguageModel,
    config: Config,
    corpus: Corpus,
    split: str,
    stop: Callable[[], bool],
    reading: Reading = PLAIN,
    moments: Arrays | None = None,
    **about: Any,
) -> Evaluation:
    """The score of a split by one unbroken pass; `about` is what else the score is to say.

    Raises KeyboardInterrupt once `stop` says so, DataError where there is no such split,
    ConfigError where `reading` needs a carried state that there is not, DivergedError where the
    model's predictions are not finite.
    """
    span = span_of(corpus, split)
    pieces = []
    for piece in surprisals(model, config, corpus, span, reading, moments):
        pieces.append(piece)
        if stop():
            raise KeyboardInterrupt
    base = UNBROKEN
    if not config.training.carry_state:
        base = f"windows of {config.training.window} from the zero state"
    return evaluation_of_surprisals(
        np.concatenate(pieces),
        split,
        reading.protocol(base),
        unit=corpus.unit,
        byte_count=corpus.byte_count(span),
        text_sha256=corpus.sha256,
        **{"unknown": corpus.unknown_count(span), **about},
    )


def surprisals(
    model: LanguageModel,
    config: Config,
    corpus: Corpus,
    span: Span,
    reading: Reading = PLAIN,
    moments: Arrays | None = None,
) -> Iterator[NDArray[np.float64]]:
    """-ln P in nats of the characters of a stretch, in reading order, some at a time.

    Raises DivergedError where one is not finite.
    """
    mixed = None
    if not span.has_context:
        yield np.full(1, math.log(corpus.vocabulary.size))
    if reading.ngrams is not None:
        before = corpus.ids[max(0, span.start - reading.ngrams.order) : span.start]
        counting = AdaptiveNgramModel(reading.ngrams, before if span.has_context else before[:0])
        mixed = _Mixed(counting)
        if not span.has_context:
            counting.read(int(corpus.ids[span.start]))
    adapting = _adapting(model, config, moments, reading.rates)
    for logits, targets in read(model, config, corpus, span, adapting):
        logs = torch.log_softmax(logits.double() / reading.temperature, dim=-1)
        if mixed is None:
            nats = -logs.gather(1, targets[:, None])[:, 0].cpu().numpy()
        else:
            nats = mixed(logs.exp().cpu().numpy(), targets.tolist())
        if not np.isfinite(nats).all():
            remedy = (
                "a lower --dynamic-rate"
                if reading.rates
                else "another checkpoint, or --temperature 1"
            )
            raise DivergedError(f"the model's predictions are not finite; use {remedy}")
        yield nats


def read(
    model: LanguageModel,
    config: Config,
    corpus: Corpus,
    span: Span,
    adapting: Adapting[LanguageModel] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (t, V) and what came then (t,), in reading order. With `adapting`, it is its model,
    which learns from each segment after its logits are given."""
    objective, window = _objective(model, config, corpus), config.evaluation.window
    if adapting is not None:
        model, window = adapting.model, adapting.rates.segment
    model.eval()
    carry: State | None = None
    for batch in objective.unbroken(span, window):
        grad = torch.inference_mode() if adapting is None else contextlib.nullcontext()
        with grad, full_precision():
            logits, carry = objective.logits(model, batch, carry)
            scored = batch.targets != NOT_SCORED
            logits, targets = logits[scored].float(), batch.targets[scored]
            if adapting is not None:
                carry = detach(carry)
        yield logits.detach(), targets
        if adapting is not None and len(targets):
            adapting.learn(functional.cross_entropy(logits, targets, reduction="sum"))


def _adapting(
    model: LanguageModel, config: Config, moments: Arrays | None, rates: Rates | None
) -> Adapting[LanguageModel] | None:
    if rates is None:
        return None
    if not config.training.carry_state:
        raise ConfigError(
            "a model without carried state cannot learn from what it reads; "
            "train one with training.carry_state=true"
        )
    return Adapting(model, moments or {}, rates)


def adapt(
    model: LanguageModel, config: Config, corpus: Corpus, split: str, moments: Arrays, rates: Rates
) -> LanguageModel:
    """A copy of the model that has read a split by dynamic evaluation.

    Raises ConfigError where the model carries no state, DivergedError where its weights became
    infinite.
    """
    adapting = _adapting(model, config, moments, rates)
    assert adapting is not None
    for _ in read(model, config, corpus, span_of(corpus, split), adapting):
        pass
    if not all(bool(weight.isfinite().all()) for weight in adapting.model.parameters()):
        raise DivergedError("the model diverged while it learned; use a lower --dynamic-rate")
    return adapting.model


class _Mixed:
    """The network's predictions and those of n-grams that count, mixed online."""

    def __init__(self, counting: AdaptiveNgramModel) -> None:
        self._counting = counting
        self._mixer = Mixer(np.array([0.7, 0.3]))

    def __call__(self, rows: NDArray[np.float64], symbols: Sequence[int]) -> NDArray[np.float64]:
        """Surprisals (t,) of `symbols`, for which the network gave `rows` (t, V)."""
        nats = np.empty(len(symbols))
        for i, (row, symbol) in enumerate(zip(rows, symbols, strict=True)):
            logs = self._mixer.mix(np.stack([row, self._counting.probabilities()]))
            nats[i] = -logs[symbol]
            self._mixer.learn(symbol)
            self._counting.read(symbol)
        return nats


def choose_reading(
    model: LanguageModel,
    config: Config,
    corpus: Corpus,
    split: str,
    reading: Reading,
    moments: Arrays | None = None,
    *,
    choose_learning: bool = False,
    choose_decay: bool = False,
    choose_temperature: bool = False,
) -> Reading:
    """The `reading` with that learning rate and decay of dynamic evaluation, and that temperature,
    that score the beginning of a split's first half best, of those that are to be chosen.

    First the learning rate, then the decay, then the temperature, each among a few values.
    """
    whole = span_of(corpus, split)
    length = min(len(whole) // 2, CHOOSING)
    span = Span(whole.start, whole.start + max(1, length), whole.has_context)

    def cost(rates: Rates) -> float:
        pieces = surprisals(
            model, config, corpus, span, Reading(reading.temperature, rates), moments
        )
        try:
            return sum(float(nats.sum()) for nats in pieces)
        except DivergedError:
            return math.inf

    rates = reading.rates
    if rates is not None and choose_learning:
        decay = TYPICAL_DECAY if choose_decay else rates.decay
        rates = _first_valley([Rates(x, decay, rates.segment) for x in RATES], cost)
    if rates is not None and choose_decay:
        rates = min((Rates(rates.learning, x, rates.segment) for x in DECAYS), key=cost)
    temperature = reading.temperature
    if choose_temperature:
        costs = dict.fromkeys(TEMPERATURES, 0.0)
        adapting = _adapting(model, config, moments, rates)
        for logits, targets in read(model, config, corpus, span, adapting):
            for value in TEMPERATURES:
                nats = functional.cross_entropy(logits / value, targets, reduction="sum")
                costs[value] += float(nats)
        temperature = min(costs, key=lambda value: costs[value])
    return Reading(temperature, rates, reading.ngrams)


def _first_valley(choices: Sequence[Rates], cost: Callable[[Rates], float]) -> Rates:
    """The choice before which and after which it costs more, going up from the first."""
    best, least = choices[0], math.inf
    for choice in choices:
        if (value := cost(choice)) >= least:
            break
        best, least = choice, value
    return best


def _objective(model: LanguageModel, config: Config, corpus: Corpus) -> TextWindows:
    window = config.training.window
    return TextWindows(
        corpus,
        batch_size=1,
        window=window if isinstance(window, int) else 1,
        carry_state=config.training.carry_state,
        reset_state_at_documents=config.data.reset_state_at_documents,
        device=next(model.parameters()).device,
    )
