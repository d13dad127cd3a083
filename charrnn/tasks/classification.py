"""The task classification: the class of a text, from its characters or its words (many to one).

The network has an embedding, recurrent layers, one vector pooled from their outputs, and a linear
layer with one logit for each class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from charrnn.config.resolved import ResolvedConfig
from charrnn.config.schema import Config
from charrnn.data.batching import pad
from charrnn.data.vocabulary import Vocabularies, Vocabulary
from charrnn.evaluation.metrics import accuracy, confused, confusion, macro_f1
from charrnn.nn.dropout import NO_DROPOUT, Dropouts
from charrnn.nn.layers import Bidirectional, Stack
from charrnn.nn.sequences import real_steps
from charrnn.nn.state import State, leaves
from charrnn.runs.checkpoint import Checkpoint
from charrnn.tasks.examples import (
    Judged,
    TaskOnExamples,
    in_order,
    outputs,
    refuse_empty,
    trained_network,
)
from charrnn.tasks.labelled import (
    UNKNOWN_CLASS,
    LabelledExample,
    LabelledTexts,
    describe,
    text_and_label,
)
from charrnn.tasks.task import Prediction
from charrnn.training.build import build_dropouts, build_embedding, build_stack

Pooling = Literal["last", "mean", "max"]


class ClassificationBatch(NamedTuple):
    """N texts side by side, padded to T symbols."""

    ids: Tensor  # (N, T), 0 past a text's end
    lengths: Tensor  # (N,)
    labels: Tensor  # (N,)


class Classifier(nn.Module):
    """Logits (N, C) of the classes of N texts, given as ids (N, T) with `lengths` (N,).

    Recurrent layers run over the embedded text. `pooling` makes one vector of their outputs: the
    last one (with two directions, the last one of each), their mean, or their maximum over the
    text.
    """

    def __init__(
        self,
        embedding: nn.Module,
        stack: Stack,
        head: nn.Module,
        pooling: Pooling,
        dropouts: Dropouts = NO_DROPOUT,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.stack = stack
        self.head = head
        self.pooling: Pooling = pooling
        self.dropouts = dropouts

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        vectors = self.dropouts.on_input(self.embedding(ids), self.training)
        outputs, state = self.stack(vectors, self.stack.initial_state(len(ids)), lengths)
        if self.pooling == "mean":
            pooled = outputs.sum(1) / lengths[:, None]
        elif self.pooling == "max":
            real = real_steps(lengths, outputs)[:, :, None]
            pooled = outputs.where(real, outputs.new_full((), -math.inf)).amax(1)
        else:
            pooled = last_outputs(self.stack, state)
        logits: Tensor = self.head(self.dropouts.on_output(pooled, self.training))
        return logits


def build_classifier(config: ResolvedConfig, text: Vocabulary, classes: int) -> Classifier:
    """Make the network that a resolved configuration describes. Raises ConfigError."""
    model = config.model
    embedding, width = build_embedding(model, text)
    stack = build_stack(model, width, model.bidirectional)
    return Classifier(
        embedding,
        stack,
        nn.Linear(stack.output_size, classes),
        model.pooling,
        build_dropouts(model),
    )


def last_outputs(stack: Stack, state: State) -> Tensor:
    """Return the last output (N, output_size) of a stack; two directions each have their own.

    The last output of a layer is its hidden state, the first leaf of its state. With skip
    connections the outputs of all layers are read, else only the last layer's.
    """
    layers = [*zip(stack.layers, state, strict=True)]
    read = layers if stack.skip_connections else layers[-1:]
    ends: list[State] = []
    for layer, layer_state in read:
        ends += layer_state if isinstance(layer, Bidirectional) else [layer_state]
    return torch.cat([next(leaves(end)) for end in ends], -1)


class Classification(TaskOnExamples[LabelledExample, ClassificationBatch]):
    """Learn the classes of texts; scored by surprisal, accuracy and macro-F1."""

    unit = "label"

    def __init__(self, config: ResolvedConfig, data: LabelledTexts, about: dict[str, Any]) -> None:
        _, self.label = text_and_label(data.vocabularies)
        self.weights: Tensor | None = None
        if config.training.class_weights == "balanced" and "train" in data.splits:
            labels = [example.label for example in data.splits["train"]]
            weights = balanced_weights(labels, self.label.size)
            self.weights = torch.from_numpy(weights).to(torch.device(config.device))
        super().__init__(config, data, about)
        self.guess = math.log(self.label.size)

    @staticmethod
    def build(config: ResolvedConfig, vocabularies: Vocabularies) -> Classifier:
        """Make the classifier of a configuration. Raises ConfigError."""
        text, label = text_and_label(vocabularies)
        return build_classifier(config, text, label.size)

    @staticmethod
    def defaults(config: Config, data: LabelledTexts) -> dict[str, Any]:
        """Return settings that suit about ten thousand short texts."""
        words = data.vocabularies["text"].kind == "word"
        return {
            "training.epochs": 12.0,
            "training.learning_rate": 2e-3,
            "model.hidden_size": 128,
            "model.embedding_size": 128 if words else 64,
            "model.dropout": 0.3,
            "model.input_dropout": 0.3 if words else 0.1,
            "model.output_dropout": 0.3,
        }

    describe = staticmethod(describe)

    @staticmethod
    def length(example: LabelledExample) -> int:
        """Return the number of symbols."""
        return len(example.ids)

    @staticmethod
    def collate(examples: Sequence[LabelledExample], device: torch.device) -> ClassificationBatch:
        """Put texts side by side, padded to the longest."""
        ids, lengths = pad([example.ids for example in examples])
        labels = np.array([example.label for example in examples])
        return ClassificationBatch(
            *(torch.from_numpy(part).to(device) for part in (ids, lengths, labels))
        )

    def cost(self, model: Any, batch: ClassificationBatch) -> tuple[Tensor, int]:
        """Return the summed surprisal of the right classes, weighted, and the number of texts."""
        logits = model(batch.ids, batch.lengths).float()
        total = functional.cross_entropy(logits, batch.labels, self.weights, reduction="sum")
        return total, len(logits)

    def judge(
        self, model: nn.Module, examples: Sequence[LabelledExample], stop: Callable[[], bool]
    ) -> Judged:
        """Measure surprisal of the right class, accuracy and macro-F1.

        A text of a class that the model does not have counts as wrong; it has no surprisal.
        """
        gold = np.array([example.label for example in examples])
        logs = np.stack(in_order(self.outputs(model, examples, log_probabilities, stop=stop)))
        predicted = logs.argmax(1)
        known = gold != UNKNOWN_CLASS
        size = self.label.size + 1  # All unknown classes together are one more.
        share = accuracy(predicted, gold)
        f1 = macro_f1(confusion(predicted, np.where(known, gold, size - 1), size))
        assert share.value is not None
        assert f1 is not None
        nats = -logs[known, gold[known]].sum()
        unknown = int((~known).sum())
        part = f", {unknown:,} of unknown classes count as wrong" if unknown else ""
        metrics = {"accuracy": share.value, "macro_f1": f1}
        table = confused(
            self.label.decode(predicted), [e.gold for e in examples], self.label.symbols
        )
        return Judged(float(nats), int(known.sum()), metrics, part, table)

    def judge_each(
        self, model: nn.Module, examples: Sequence[LabelledExample]
    ) -> Iterator[dict[str, Any]]:
        """Yield the right and the predicted class of each text, and the right one's surprisal."""
        each = in_order(self.outputs(model, examples, log_probabilities))
        for example, logs in zip(examples, each, strict=True):
            best = int(logs.argmax())
            (label,) = self.label.decode([best])
            yield {
                "file": example.file,
                "line": example.line,
                "text": example.text,
                "label": example.gold,
                "predicted": label,
                "probability": math.exp(logs[best]),
                "nats": float(-logs[example.label]) if example.label != UNKNOWN_CLASS else None,
            }

    def sample(self, length: int) -> str:
        """Show the first texts of validation, each with its most probable class."""
        examples = self.shown()
        lines = []
        logs = in_order(self.outputs(self.model, examples, log_probabilities))
        for example, log in zip(examples, logs, strict=True):
            best = int(log.argmax())
            (label,) = self.label.decode([best])
            lines.append(f"{example.text[:length]} -> {label} ({math.exp(log[best]):.0%})")
        return "\n".join(lines)

    @staticmethod
    def predictor(checkpoint: Checkpoint, device: str) -> ClassPredictor:
        """Make the classifier of a checkpoint."""
        return ClassPredictor(checkpoint, device)


def balanced_weights(labels: Sequence[int], classes: int) -> NDArray[np.float32]:
    """Return a weight for each class, so that all classes that occur count the same in total.

    The mean over the examples is 1.

    >>> balanced_weights([0, 0, 0, 1], 2).tolist()
    [0.6666666865348816, 2.0]
    """
    counts = np.bincount(labels, minlength=classes)
    share = len(labels) / np.count_nonzero(counts)
    return (share / np.maximum(counts, 1)).astype(np.float32)


def log_probabilities(model: Any, batch: ClassificationBatch) -> Any:
    """Return the log-probabilities of the classes, (N, C) in nats."""
    logits = model(batch.ids, batch.lengths)
    return torch.log_softmax(logits.double(), -1).cpu().numpy()


class ClassPredictor:
    """A trained classifier for any texts."""

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self.model, vocabularies = trained_network(Classification, checkpoint, device)
        self.text, self.label = text_and_label(vocabularies)
        self._collate = partial(Classification.collate, device=torch.device(device))

    def predict(self, texts: Sequence[str]) -> Iterator[Prediction]:
        """Yield the class of each text with its probability; records have all probabilities.

        Raises DataError for a text without characters.
        """
        examples = [LabelledExample(self.text.encode(text), 0, text) for text in texts]
        refuse_empty((len(example.ids) for example in examples), "characters")
        logs = in_order(
            outputs(self.model, examples, self._collate, Classification.length, log_probabilities)
        )
        for text, log in zip(texts, logs, strict=True):
            order = np.argsort(-log, kind="stable")
            names = self.label.decode(order)
            chances = {name: math.exp(log[i]) for name, i in zip(names, order, strict=True)}
            record = {"text": text, "label": names[0], "probabilities": chances}
            yield Prediction(f"{names[0]}\t{chances[names[0]]:.4f}\t{text}", record)
