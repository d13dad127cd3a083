"""The task language_model: predict the next character, byte or word of a text."""

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
from charrnn.evaluation.score import Evaluation, never
from charrnn.evaluation.score_network import score_split
from charrnn.inference.trained_model import TrainedModel
from charrnn.nn.models import LanguageModel
from charrnn.runs.checkpoint import Arrays, Checkpoint
from charrnn.runs.checkpoint_check import only_text
from charrnn.tasks.task import Predictor
from charrnn.training.build import adopt_weights, build_model, build_objective, load_arrays, placed
from charrnn.training.planning import plan
from charrnn.training.trainer import evaluate

PROBE = 2048  # symbols of an unbroken pass that are timed to plan the final one


class LanguageModelling:
    """Learn to predict the next symbol of a corpus."""

    use = "sample"
    fewest_to_choose_by = 200  # symbols in validation (a round number)

    def __init__(self, config: ResolvedConfig, corpus: Corpus, about: dict[str, Any]) -> None:
        self.config = config
        self.corpus = corpus
        self.about = about
        self.unit, self.noun = corpus.unit, f"{corpus.unit}s"
        self.guess = math.log(corpus.vocabulary.size)
        self.model = placed(self.build(config, {"text": corpus.vocabulary}), config)
        self.objective = build_objective(config, corpus)
        self.per_step = (
            f"{config.training.batch_size} lanes x {config.training.window} {self.unit}s"
        )

    @staticmethod
    def build(config: ResolvedConfig, vocabularies: Vocabularies) -> LanguageModel:
        """Make the network of a configuration. Raises ConfigError."""
        return build_model(config, only_text(vocabularies))

    @staticmethod
    def predictor(checkpoint: Checkpoint, device: str) -> Predictor:
        """Raise ConfigError: a language model writes texts and does not predict."""
        raise ConfigError(
            f"{checkpoint.path} is a language model, which writes texts and scores them; use "
            f"charrnn sample, or charrnn eval"
        )

    @classmethod
    def score(cls, checkpoint: Checkpoint, config: Config, data: Corpus, split: str) -> Evaluation:
        """Score a split by one unbroken pass."""
        model = TrainedModel.from_checkpoint(checkpoint, config.device)
        return model.evaluate_split(data, split)

    @staticmethod
    def plan(config: Config, data: Corpus, device: torch.device) -> ResolvedConfig:
        """Fill in `auto` settings from the text's length, its vocabulary and the machine."""
        return plan(config, len(data.splits["train"]), data.vocabulary.size, device)

    @staticmethod
    def facts(data: Corpus) -> dict[str, Any]:
        """Return the most frequent symbol: a text starts after it if there is no newline."""
        span = data.splits["train"]
        head = data.ids[span.start : min(span.stop, span.start + (1 << 24))]
        return {"most_frequent": int(np.bincount(head).argmax())}

    @staticmethod
    def describe(data: Corpus) -> str:
        """Say how long the text is, how a separator divides it, and how large its vocabulary is."""
        count = data.documents
        parts = (
            f" in {count:,} document{'s' * (count != 1)}" if data.vocabulary.end is not None else ""
        )
        return f"{len(data.ids):,} {data.unit}s{parts}, {data.vocabulary.size:,} symbols"

    def adopt_weights(self, source: TrainedModel) -> tuple[list[str], list[str]]:
        """Start from another language model; rows of the same symbols are matched.

        Returns the symbols added and dropped. Raises ConfigError for models with vocabularies of
        different kinds, or with other weights of different shapes.
        """
        mine, theirs = self.corpus.vocabulary, source.vocabulary
        if mine.kind != theirs.kind:
            raise ConfigError(
                f"the model to start from has a {theirs.kind} vocabulary, this run a {mine.kind} "
                f"one; use data.vocabulary = {theirs.kind}"
            )
        adopt_weights(self.model, source.model, mine.symbols, theirs.symbols, self.config.model)
        old, new = set(theirs.symbols), set(mine.symbols)
        added = [str(s) for s in mine.symbols if s not in old]
        dropped = [str(s) for s in theirs.symbols if s not in new]
        return added, dropped

    def estimate(self, step: int) -> Evaluation:
        """Score lanes that are spread over the validation split, each after a warm-up."""
        evaluation = self.config.evaluation
        span = self.corpus.splits["validation"]
        lanes = int(evaluation.lanes)
        most = max(1, int(evaluation.characters) // lanes)
        batches = self.objective.in_lanes(span, lanes, evaluation.warmup, most)
        score = evaluate(self.model, self.objective, batches)
        protocol = f"{lanes} lane{'s' * (lanes > 1)}, warm-up {evaluation.warmup}"
        if score.scored < len(span):
            protocol += f", {score.scored} of {len(span)} {self.unit}s"
        if not self.config.training.carry_state:
            protocol = f"windows of {self.objective.window} from the zero state"
        return Evaluation("validation", score.mean, score.scored, protocol, self.unit, step=step)

    def final_seconds(self) -> float:
        """Estimate the seconds of an unbroken pass over validation from its beginning."""
        span = self.corpus.splits["validation"]
        size = min(PROBE, len(span))
        beginning = type(span)(span.start, span.start + size, span.has_context)
        seconds = math.inf
        for _ in range(2):
            start = time.perf_counter()
            batches = self.objective.unbroken(beginning, self.config.evaluation.window)
            evaluate(self.model, self.objective, batches)
            seconds = min(seconds, time.perf_counter() - start)
        return seconds * len(span) / size

    def final(
        self,
        weights: Arrays,
        stop: Callable[[], bool] = never,
        split: str = "validation",
        **about: Any,
    ) -> Evaluation:
        """Score a split by one unbroken pass."""
        model = load_arrays(copy.deepcopy(self.model), weights)
        return score_split(model, self.config, self.corpus, split, stop, **about)

    def sample(self, length: int) -> str:
        """Write text with the model's current weights."""
        return self.trained().sample_text(length=length, seed=self.config.training.seed)

    def trained(self) -> TrainedModel:
        """Return the model with its current weights."""
        state = self.model.state_dict()
        weights = {name: value.detach().cpu().numpy() for name, value in state.items()}
        return TrainedModel(weights, self.corpus.vocabulary, self.config, self.about)
