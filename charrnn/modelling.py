"""What a session needs of each kind of experiment: how it is judged, and what it makes.

To train on something else is one more class here, or in a file of its own, and one line in
`EXPERIMENTS`.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

from charrnn.checkpoint import Arrays
from charrnn.config import Config
from charrnn.corpus import Corpus
from charrnn.evaluation import Evaluation
from charrnn.experiment import build_model, build_task, load_arrays
from charrnn.scoring import score_split
from charrnn.trained import TrainedModel
from charrnn.trainer import evaluate

PROBE = 2048  # characters of an unbroken score that are timed to plan the final one


class Experiment(Protocol):
    """What a session needs of an experiment beside its training.

    A loss is nats per `unit`; `guess` is what guessing costs. `model` is trained on `task`.
    """

    unit: str
    guess: float
    model: Any
    task: Any

    def estimate(self, step: int) -> Evaluation:
        """Validation, scored quickly with the model as it is."""
        ...

    def final_seconds(self) -> float:
        """How long `final` will take."""
        ...

    def final(self, weights: Arrays, stop: Callable[[], bool], **about: Any) -> Evaluation:
        """Validation, scored whole by these weights. Raises KeyboardInterrupt once `stop` says
        so."""
        ...

    def sample(self, length: int) -> str:
        """What the model as it is makes of it, to be looked at; the same draws every time."""
        ...

    def vocabulary_data(self) -> Any:
        """Plain data of the vocabulary, for the checkpoint."""
        ...


class LanguageModelling:
    """Next-character prediction on a corpus."""

    unit = "character"

    def __init__(self, config: Config, corpus: Corpus, about: dict[str, Any]) -> None:
        self.config = config
        self.corpus = corpus
        self.about = about
        self.guess = math.log(corpus.vocabulary.size)
        self.model = build_model(config, corpus.vocabulary.size)
        self.task = build_task(config, corpus)

    def estimate(self, step: int) -> Evaluation:
        """The cheap fixed protocol used during training: lanes, each after a warm-up."""
        evaluation = self.config.evaluation
        span = self.corpus.splits["validation"]
        most = max(1, evaluation.characters // evaluation.lanes)
        batches = self.task.in_lanes(span, evaluation.lanes, evaluation.warmup, most)
        score = evaluate(self.model, self.task, batches)
        protocol = f"{evaluation.lanes} lanes, warm-up {evaluation.warmup}"
        if score.scored < len(span):
            protocol += f", {score.scored} of {len(span)} characters"
        if not self.config.training.carry_state:
            protocol = f"windows of {self.task.window} from the zero state"
        return Evaluation("validation", score.mean, score.scored, protocol, step=step)

    def final_seconds(self) -> float:
        """Seconds an unbroken pass over validation will take, from a short stretch of it."""
        span = self.corpus.splits["validation"]
        size = min(PROBE, len(span))
        stretch = type(span)(span.start, span.start + size, span.has_context)
        seconds = math.inf
        for _ in range(2):
            start = time.perf_counter()
            batches = self.task.unbroken(stretch, self.config.evaluation.window)
            evaluate(self.model, self.task, batches)
            seconds = min(seconds, time.perf_counter() - start)
        return seconds * len(span) / size

    def final(self, weights: Arrays, stop: Callable[[], bool], **about: Any) -> Evaluation:
        """The unbroken score."""
        model = load_arrays(copy.deepcopy(self.model), weights)
        return score_split(model, self.config, self.corpus, "validation", stop, **about)

    def sample(self, length: int) -> str:
        """Text."""
        return self.trained().sample_text(length=length, seed=self.config.training.seed)

    def trained(self) -> TrainedModel:
        """The model as it is now."""
        state = self.model.state_dict()
        weights = {name: value.detach().cpu().numpy() for name, value in state.items()}
        return TrainedModel(weights, self.corpus.vocabulary, self.config, self.about)

    def vocabulary_data(self) -> Any:
        """Of the corpus."""
        return self.corpus.vocabulary.to_data()


EXPERIMENTS: dict[str, Callable[[Config, Any, dict[str, Any]], Experiment]] = {
    "language_model": LanguageModelling,
}
