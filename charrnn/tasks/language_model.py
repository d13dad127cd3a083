"""Next-character or next-word prediction on a text: trained, judged and sampled."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from charrnn.config.resolved import ResolvedConfig
from charrnn.config.schema import Config
from charrnn.data.corpus import Corpus
from charrnn.data.vocabulary import Vocabularies
from charrnn.errors import ConfigError
from charrnn.evaluation.score import Evaluation
from charrnn.evaluation.score_network import score_split
from charrnn.inference.trained_model import TrainedModel
from charrnn.nn.models import LanguageModel
from charrnn.runs.checkpoint import Arrays, Checkpoint
from charrnn.runs.checkpoint_check import only_text
from charrnn.tasks.task import Predictor
from charrnn.training.build import adopt_weights, build_model, build_objective, load_arrays, placed
from charrnn.training.planning import plan
from charrnn.training.trainer import evaluate

PROBE = 2048  # characters of an unbroken score that are timed to plan the final one


class LanguageModelling:
    """Prediction of what comes next in a corpus."""

    use = "sample"

    def __init__(self, config: ResolvedConfig, corpus: Corpus, about: dict[str, Any]) -> None:
        self.config = config
        self.corpus = corpus
        self.about = about
        self.unit = corpus.unit
        self.guess = math.log(corpus.vocabulary.size)
        self.model = placed(self.build(config, {"text": corpus.vocabulary}), config)
        self.objective = build_objective(config, corpus)
        self.per_step = (
            f"{config.training.batch_size} lanes x {config.training.window} {self.unit}s"
        )

    @staticmethod
    def build(config: ResolvedConfig, vocabularies: Vocabularies) -> LanguageModel:
        """Embedding, stack and head."""
        return build_model(config, only_text(vocabularies))

    @staticmethod
    def predictor(checkpoint: Checkpoint, device: str) -> Predictor:
        """Raises ConfigError: a language model writes."""
        raise ConfigError(
            f"{checkpoint.path} is a language model, which says nothing of a text but how "
            f"surprising it is; use charrnn sample, or charrnn eval"
        )

    @classmethod
    def score(cls, checkpoint: Checkpoint, config: Config, data: Corpus, split: str) -> Evaluation:
        """The unbroken score."""
        model = TrainedModel.from_checkpoint(checkpoint, config.device)
        return model.evaluate_split(data, split)

    @staticmethod
    def plan(config: Config, data: Corpus, device: torch.device) -> ResolvedConfig:
        """From the length of the text, its vocabulary and the machine."""
        return plan(config, len(data.splits["train"]), data.vocabulary.size, device)

    @staticmethod
    def facts(data: Corpus) -> dict[str, Any]:
        """The most frequent symbol, after which sampling starts where there is no newline."""
        span = data.splits["train"]
        head = data.ids[span.start : min(span.stop, span.start + (1 << 24))]
        return {"most_frequent": int(np.bincount(head).argmax())}

    @staticmethod
    def describe(data: Corpus) -> str:
        """Its length and vocabulary."""
        unit = "byte" if data.vocabulary.kind == "byte" else data.unit
        return f"{len(data.ids):,} {unit}s, {data.vocabulary.size:,} symbols"

    def adopt_weights(self, source: TrainedModel) -> tuple[list[str], list[str]]:
        """Start from another language model: symbols are matched by identity, the rest as it is.

        Returns the symbols that were added and those that were dropped. Raises ConfigError where
        the models differ in shape beyond the vocabulary.
        """
        mine, theirs = self.corpus.vocabulary, source.vocabulary
        if mine.kind != theirs.kind:
            raise ConfigError(
                f"--from has a {theirs.kind} vocabulary, this run a {mine.kind} one; "
                f"use --vocabulary {theirs.kind}"
            )
        adopt_weights(self.model, source.model, mine.symbols, theirs.symbols, self.config.model)
        old, new = set(theirs.symbols), set(mine.symbols)
        added = [str(s) for s in mine.symbols if s not in old]
        dropped = [str(s) for s in theirs.symbols if s not in new]
        return added, dropped

    def estimate(self, step: int) -> Evaluation:
        """The cheap fixed protocol used during training: lanes, each after a warm-up."""
        evaluation = self.config.evaluation
        span = self.corpus.splits["validation"]
        most = max(1, evaluation.characters // evaluation.lanes)
        batches = self.objective.in_lanes(span, evaluation.lanes, evaluation.warmup, most)
        score = evaluate(self.model, self.objective, batches)
        protocol = f"{evaluation.lanes} lanes, warm-up {evaluation.warmup}"
        if score.scored < len(span):
            protocol += f", {score.scored} of {len(span)} {self.unit}s"
        if not self.config.training.carry_state:
            protocol = f"windows of {self.objective.window} from the zero state"
        return Evaluation("validation", score.mean, score.scored, protocol, self.unit, step=step)

    def final_seconds(self) -> float:
        """Seconds an unbroken pass over validation will take, from a short stretch of it."""
        span = self.corpus.splits["validation"]
        size = min(PROBE, len(span))
        stretch = type(span)(span.start, span.start + size, span.has_context)
        seconds = math.inf
        for _ in range(2):
            start = time.perf_counter()
            batches = self.objective.unbroken(stretch, self.config.evaluation.window)
            evaluate(self.model, self.objective, batches)
            seconds = min(seconds, time.perf_counter() - start)
        return seconds * len(span) / size

    def final(
        self,
        weights: Arrays,
        stop: Callable[[], bool] = lambda: False,
        split: str = "validation",
        **about: Any,
    ) -> Evaluation:
        """The unbroken score."""
        model = load_arrays(copy.deepcopy(self.model), weights)
        return score_split(model, self.config, self.corpus, split, stop, **about)

    def sample(self, length: int) -> str:
        """Text."""
        return self.trained().sample_text(length=length, seed=self.config.training.seed)

    def trained(self) -> TrainedModel:
        """The model as it is now."""
        state = self.model.state_dict()
        weights = {name: value.detach().cpu().numpy() for name, value in state.items()}
        return TrainedModel(weights, self.corpus.vocabulary, self.config, self.about)
