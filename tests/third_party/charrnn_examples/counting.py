"""Tell a count from a text (many to one)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from charrnn.config.schema import Config
from charrnn.data.vocabulary import Vocabularies, read_vocabularies
from charrnn.errors import DataError
from charrnn.runs.checkpoint import Checkpoint
from charrnn.tasks.classification import (
    Classification,
    ClassificationBatch,
    Classifier,
    build_classifier,
)
from charrnn.tasks.data import Texts
from charrnn.tasks.examples import ExampleData, Judged, TaskOnExamples, trained_network
from charrnn.tasks.labelled import LabelledExample, load_labelled, text_vocabulary
from charrnn.tasks.task import Prediction


class Counting(TaskOnExamples[LabelledExample, ClassificationBatch]):
    r"""Predict a count k from a text, whose rate r the network reads from it.

    The count has a Poisson distribution, so that its surprisal in nats is

    .. math:: -\ln P(k) = r - k \ln r + \ln k!
    """

    unit = "text"
    traits = ("examples", "classes", "one class", "both directions", "composed words", "vocabulary")
    length = staticmethod(Classification.length)
    collate = staticmethod(Classification.collate)

    def __init__(
        self, config: Config, data: ExampleData[LabelledExample], about: dict[str, Any]
    ) -> None:
        super().__init__(config, data, about)
        counts = torch.tensor([float(example.label) for example in data.splits["train"]])
        self.guess = float(surprisals(counts.mean().log(), counts).mean())

    @staticmethod
    def read(config: Config, texts: Texts, vocabulary: Any = None) -> ExampleData[LabelledExample]:
        """Read rows of text, tab and a whole number. Raises DataError."""
        rows = load_labelled(config, texts)
        for row in (row for part in rows.splits.values() for row in part):
            if not (row.label.isascii() and row.label.isdecimal() and len(row.label) < 10):
                raise DataError(
                    f"{row.file}, line {row.line:,}: {row.label[:40]!r} is not a count; "
                    f"write a whole number below 10^9"
                )
        known = read_vocabularies(vocabulary)["text"] if vocabulary else None
        text: Any = known or text_vocabulary(config, rows)
        splits = {
            name: [LabelledExample(text.encode(row.text), int(row.label), row.text) for row in part]
            for name, part in rows.splits.items()
        }
        return ExampleData(splits, {"text": text}, rows.sha256)

    @staticmethod
    def build(config: Config, vocabularies: Vocabularies) -> Classifier:
        """Build a classifier with one output, the logarithm of the rate."""
        text: Any = vocabularies["text"]
        return build_classifier(config, text, 1)

    @staticmethod
    def defaults(config: Config, data: ExampleData[LabelledExample]) -> dict[str, Any]:
        """Choose what is still `auto`."""
        return {"training.epochs": 12.0, "training.learning_rate": 2e-3, "model.hidden_size": 64}

    @staticmethod
    def describe(data: ExampleData[LabelledExample]) -> str:
        """Say how many texts there are."""
        return f"{sum(map(len, data.splits.values())):,} texts"

    @staticmethod
    def cost(model: Any, batch: ClassificationBatch) -> tuple[Tensor, int]:
        """Sum the surprisals of a batch's counts."""
        return surprisals(log_rates(model, batch), batch.labels).sum(), len(batch.labels)

    def judge(
        self, model: nn.Module, examples: Sequence[LabelledExample], stop: Callable[[], bool]
    ) -> Judged:
        """Score a model on examples. Raises KeyboardInterrupt once `stop()` is true."""
        nats = error = 0.0
        for rows, logs in self.outputs(model, examples, log_rates):
            counts = torch.tensor([examples[i].label for i in rows], device=logs.device)
            nats += float(surprisals(logs, counts).sum())
            error += float((logs.exp() - counts).abs().sum())
            if stop():
                raise KeyboardInterrupt
        return Judged(nats, len(examples), {"mean_absolute_error": error / len(examples)})

    def sample(self, length: int) -> str:
        """Show the first text of validation with its rate."""
        first = self.data.splits["validation"][:1]
        (_, logs), *_ = self.outputs(self.model, first, log_rates)
        return f"{first[0].text[:length]} -> {float(logs.exp()):.2f}"

    @staticmethod
    def predictor(checkpoint: Checkpoint, device: str) -> "CountPredictor":
        """Load the network of a checkpoint for `charrnn predict`."""
        return CountPredictor(checkpoint, device)


def log_rates(model: Any, batch: ClassificationBatch) -> Tensor:
    """Compute ln r for each text of a batch, (N,)."""
    rates: Tensor = model(batch.ids, batch.lengths)[:, 0]
    return rates.float()


def surprisals(log_rates: Tensor, counts: Tensor) -> Tensor:
    """Compute -ln P(k) for each pair of a rate and a count, in nats."""
    return log_rates.exp() - counts * log_rates + torch.lgamma(counts + 1.0)


class CountPredictor:
    """A trained network that tells counts from texts."""

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self.model, vocabularies = trained_network(Counting, checkpoint, device)
        self.text: Any = vocabularies["text"]
        self.device = torch.device(device)

    def predict(self, texts: Sequence[str]) -> Iterator[Prediction]:
        """Predict the rate of each text. Raises DataError for an empty one."""
        if not all(texts):
            raise DataError("a text is empty; give texts with characters in them")
        examples = [LabelledExample(self.text.encode(text), 0, text) for text in texts]
        with torch.inference_mode():
            rates = log_rates(self.model.eval(), Counting.collate(examples, self.device)).exp()
        for text, rate in zip(texts, rates.tolist(), strict=True):
            yield Prediction(f"{rate:.2f}\t{text}", {"text": text, "rate": rate})
