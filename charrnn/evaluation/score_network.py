"""Score texts with a network by the unbroken protocol.

A `Reading` holds the options of a score: dynamic evaluation (the network learns from each segment
after it was scored), n-grams that count as they read and are mixed in, and a temperature.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
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
from charrnn.evaluation.mixture import NgramMixture
from charrnn.evaluation.score import (
    UNBROKEN,
    Evaluation,
    evaluation_of_surprisals,
    never,
    span_of,
    until,
)
from charrnn.nn.models import LanguageModel
from charrnn.nn.state import State, detach
from charrnn.runs.checkpoint import Arrays
from charrnn.training.text_windows import NOT_SCORED, TextWindows
from charrnn.training.trainer import full_precision


@dataclass(frozen=True)
class Reading:
    """The options of a score: a temperature, dynamic evaluation, and n-grams to mix in.

    `temperature` divides the logits; `rates` are the rates of dynamic evaluation; `ngrams` is
    mixed in and keeps counting as it reads.

    >>> Reading(temperature=0.9, rates=Rates(0.01, 0.001)).protocol()
    'unbroken, dynamic (rate 0.01, decay 0.001, segments of 20), temperature 0.9'
    """

    temperature: float = 1.0
    rates: Rates | None = None
    ngrams: NgramModel | None = None

    def protocol(self, base: str = UNBROKEN) -> str:
        """Describe the options in words, after the name of the protocol, `base`."""
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
    stop: Callable[[], bool] = never,
    reading: Reading = PLAIN,
    moments: Arrays | None = None,
    **about: Any,
) -> Evaluation:
    """Score a split of a corpus; `about` are further fields of the `Evaluation`.

    `moments` are second moments of the gradient, for dynamic evaluation.

    Raises KeyboardInterrupt once `stop()` is true, DataError for a split that does not exist,
    ConfigError for dynamic evaluation of a model that carries no state, and DivergedError for
    predictions that are not finite.
    """
    span = span_of(corpus, split)
    pieces = until(stop, surprisals(model, config, corpus, span, reading, moments))
    base = UNBROKEN
    if not config.training.carry_state:
        base = f"windows of {config.training.window} from the zero state"
    return evaluation_of_surprisals(
        np.concatenate(list(pieces)),
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
    """Yield -ln P in nats of the symbols of a span, in order, one block after another.

    With nothing before the span, the first symbol costs ln V. Raises DivergedError for a surprisal
    that is not finite.
    """
    if not span.has_context:
        yield np.full(1, math.log(corpus.vocabulary.size))
    mixture = _mixture(reading.ngrams, corpus, span) if reading.ngrams else None
    adapting = start_adapting(model, config, moments, reading.rates)
    for logits, targets in predictions(model, config, corpus, span, adapting):
        logs = torch.log_softmax(logits.double() / reading.temperature, dim=-1)
        if mixture is None:
            nats = -logs.gather(1, targets[:, None])[:, 0].cpu().numpy()
        else:
            nats = mixture.surprisals(logs.exp().cpu().numpy(), targets.tolist())
        if not np.isfinite(nats).all():
            remedy = "use another checkpoint, or a temperature of 1"
            if reading.rates:
                remedy = "use a lower learning rate of dynamic evaluation"
            raise DivergedError(f"the model's predictions are not finite; {remedy}")
        yield nats


def _mixture(ngrams: NgramModel, corpus: Corpus, span: Span) -> NgramMixture:
    """Mix in n-grams, which keep counting from the start of the span.

    If no text comes before the span, they start after its first symbol, which is not predicted.
    """
    before = corpus.ids[max(0, span.start - ngrams.order) : span.start]
    counting = AdaptiveNgramModel(ngrams, before if span.has_context else before[:0])
    if not span.has_context:
        counting.read(int(corpus.ids[span.start]))
    return NgramMixture(counting)


def predictions(
    model: LanguageModel,
    config: Config,
    corpus: Corpus,
    span: Span,
    adapting: Adapting[LanguageModel] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits (T, V) and the symbols (T,) that followed, in reading order.

    With `adapting`, its model computes the logits, and learns from each segment after the segment
    was yielded.
    """
    objective, window = _windows(model, config, corpus), config.evaluation.window
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


def start_adapting(
    model: LanguageModel, config: Config, moments: Arrays | None, rates: Rates | None
) -> Adapting[LanguageModel] | None:
    """Return a copy of the model that can learn while it reads, or None without `rates`.

    Raises ConfigError for a model that carries no state from window to window.
    """
    if rates is None:
        return None
    if not config.training.carry_state:
        raise ConfigError(
            "dynamic evaluation needs a carried state; use a model that was trained with "
            "training.carry_state=true"
        )
    return Adapting(model, moments or {}, rates)


def adapt(
    model: LanguageModel, config: Config, corpus: Corpus, split: str, moments: Arrays, rates: Rates
) -> LanguageModel:
    """Return a copy of the model that has read a split by dynamic evaluation.

    Raises ConfigError for a model that carries no state, DivergedError if its weights became
    infinite.
    """
    adapting = start_adapting(model, config, moments, rates)
    assert adapting is not None
    for _ in predictions(model, config, corpus, span_of(corpus, split), adapting):
        pass
    if not all(bool(weight.isfinite().all()) for weight in adapting.model.parameters()):
        raise DivergedError(
            "the model diverged while it learned from the text; use a lower learning rate of "
            "dynamic evaluation"
        )
    return adapting.model


def _windows(model: LanguageModel, config: Config, corpus: Corpus) -> TextWindows:
    """Cut a corpus into windows of one lane, on the model's device."""
    window = config.training.window
    return TextWindows(
        corpus,
        batch_size=1,
        window=window if isinstance(window, int) else 1,
        carry_state=config.training.carry_state,
        reset_state_at_documents=config.data.reset_state_at_documents,
        device=next(model.parameters()).device,
    )
