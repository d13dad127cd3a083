"""A network's scores of texts: the unbroken protocol, and each character's surprisal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from charrnn.config import Config
from charrnn.corpus import Corpus
from charrnn.evaluation import UNBROKEN, Evaluation, evaluation_of, span_of
from charrnn.models import LanguageModel
from charrnn.tasks.language_model import NOT_SCORED, Batch, LanguageModelTask
from charrnn.trainer import evaluate, full_precision


def score_split(
    model: LanguageModel,
    config: Config,
    corpus: Corpus,
    split: str,
    stop: Callable[[], bool],
    **about: Any,
) -> Evaluation:
    """The score of a split by one unbroken pass; `about` is what `evaluation_of` is to name.

    Raises KeyboardInterrupt once `stop` says so, DataError where there is no such split.
    """
    span, task = span_of(corpus, split), _task(model, config, corpus)

    def batches() -> Iterator[Batch]:
        for batch in task.unbroken(span, config.evaluation.window):
            if stop():
                raise KeyboardInterrupt
            yield batch

    score = evaluate(model, task, batches())
    protocol = UNBROKEN
    if not config.training.carry_state:
        protocol = f"windows of {config.training.window} from the zero state"
    return evaluation_of(
        *score,
        split,
        protocol,
        byte_count=corpus.byte_count(span),
        text_sha256=corpus.sha256,
        **about,
    )


def surprisals(
    model: LanguageModel, config: Config, corpus: Corpus, split: str
) -> Iterator[tuple[str, float]]:
    """Each character of a split with its surprisal, -ln P in nats, in reading order."""
    span, task = span_of(corpus, split), _task(model, config, corpus)
    vocabulary = corpus.vocabulary
    if len(span) and not span.has_context:
        first = int(corpus.ids[span.start])
        yield vocabulary.decode([first]), math.log(vocabulary.size)
    carry = None
    for batch in task.unbroken(span, config.evaluation.window):
        with torch.inference_mode(), full_precision():
            each, carry = task.surprisals(model, batch, carry)
            scored = batch.targets != NOT_SCORED
            targets, nats = batch.targets[scored].tolist(), each[scored].tolist()
        for target, surprisal in zip(targets, nats, strict=True):
            yield vocabulary.decode([target]), surprisal


def _task(model: LanguageModel, config: Config, corpus: Corpus) -> LanguageModelTask:
    window = config.training.window
    return LanguageModelTask(
        corpus,
        batch_size=1,
        window=window if isinstance(window, int) else 1,
        carry_state=config.training.carry_state,
        reset_state_at_documents=config.data.reset_state_at_documents,
        device=next(model.parameters()).device,
    )
