"""Choose rates of dynamic evaluation and a temperature on the beginning of a split.

Only the first half of validation is used, so the choice cannot flatter the score of the second
half; an `Evaluation` has the scores of both halves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch.nn import functional

from charrnn.baselines.ngram import NgramModel
from charrnn.config.schema import Config
from charrnn.data.corpus import Corpus, Span
from charrnn.errors import DivergedError
from charrnn.evaluation.dynamic import Rates
from charrnn.evaluation.score import span_of
from charrnn.evaluation.score_network import Reading, predictions, start_adapting, surprisals
from charrnn.nn.models import LanguageModel
from charrnn.runs.checkpoint import Arrays

# Longer n-grams gain nothing if they keep counting (docs/experiments/dynamic-evaluation.md).
NGRAM_ORDER = 9
CHOOSING = 30_000  # the largest number of symbols that are scored for a choice
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
DECAYS = (0.0, 1e-3, 3e-3, 1e-2, 3e-2)
TYPICAL_DECAY = 3e-3  # the decay while the learning rate is chosen
TEMPERATURES = tuple(round(0.8 + 0.02 * i, 2) for i in range(21))


@dataclass(frozen=True)
class WantedReading:
    """How a text is to be scored (`Reading`); None stands for a value to be chosen.

    `learning` and `decay` are rates of dynamic evaluation, used only with `dynamic`; `mix` mixes in
    n-grams of the training split.
    """

    dynamic: bool = False
    learning: float | None = None
    decay: float | None = None
    temperature: float | None = 1.0
    mix: bool = False

    @property
    def is_open(self) -> bool:
        """Whether a value is still to be chosen."""
        rates = self.dynamic and None in (self.learning, self.decay)
        return rates or self.temperature is None

    @property
    def needs_corpus(self) -> bool:
        """Whether the text that the model was trained on is needed."""
        return self.is_open or self.mix

    def settled(
        self, model: LanguageModel, config: Config, corpus: Corpus | None, moments: Arrays
    ) -> Reading:
        """Return the reading with every value chosen, on the first half of validation.

        `corpus` may be None if the reading does not need it. Raises the errors of
        `choose_reading`.
        """
        rates = Rates.of(self.learning, self.decay) if self.dynamic else None
        reading = Reading(1.0 if self.temperature is None else self.temperature, rates)
        if not self.needs_corpus:
            return reading
        assert corpus is not None
        if self.mix:
            reading = replace(reading, ngrams=training_ngrams(corpus, NGRAM_ORDER))
        if not self.is_open:
            return reading
        return choose_reading(
            model, config, corpus, "validation", reading, moments,
            choose_learning=self.learning is None, choose_decay=self.decay is None,
            choose_temperature=self.temperature is None,
        )  # fmt: skip


def training_ngrams(corpus: Corpus, order: int) -> NgramModel:
    """Count the n-grams of a corpus's training split."""
    train = corpus.splits["train"]
    return NgramModel(corpus.ids[train.start : train.stop], corpus.vocabulary.size, order)


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
    """Choose the numbers of `reading` that score the beginning of a split best.

    The learning rate is chosen first, then the decay, then the temperature, from a few values each;
    numbers that are already set stay. n-grams play no part in the choice. Raises ConfigError
    for a model that carries no state.
    """
    split_span = span_of(corpus, split)
    length = max(1, min(len(split_span) // 2, CHOOSING))
    span = Span(split_span.start, split_span.start + length, split_span.has_context)

    def cost(rates: Rates) -> float:
        """The nats of the span with these rates; infinite if the model diverges."""
        tried = Reading(reading.temperature, rates)
        try:
            pieces = surprisals(model, config, corpus, span, tried, moments)
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
        temperature = _best_temperature(model, config, corpus, span, rates, moments)
    return Reading(temperature, rates, reading.ngrams)


def _best_temperature(
    model: LanguageModel,
    config: Config,
    corpus: Corpus,
    span: Span,
    rates: Rates | None,
    moments: Arrays | None,
) -> float:
    """Return the best of `TEMPERATURES`, all scored in one pass over the same logits."""
    costs = dict.fromkeys(TEMPERATURES, 0.0)
    adapting = start_adapting(model, config, moments, rates)
    for logits, targets in predictions(model, config, corpus, span, adapting):
        for value in TEMPERATURES:
            costs[value] += float(
                functional.cross_entropy(logits / value, targets, reduction="sum")
            )
    return min(costs, key=lambda value: costs[value])


def _first_valley(choices: Sequence[Rates], cost: Callable[[Rates], float]) -> Rates:
    """Try the choices in order; return the last one before the cost stops falling."""
    best, least = choices[0], math.inf
    for choice in choices:
        if (value := cost(choice)) >= least:
            break
        best, least = choice, value
    return best
