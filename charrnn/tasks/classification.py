"""Which class a text is of (many to one), from its characters or its words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.config.resolved import ResolvedConfig
from charrnn.config.schema import Config
from charrnn.data.batching import pad
from charrnn.data.vocabulary import Vocabularies, Vocabulary
from charrnn.evaluation.metrics import accuracy, confusion, macro_f1
from charrnn.nn.dropout import NO_DROPOUT, Dropouts
from charrnn.nn.layers import Bidirectional, Stack
from charrnn.nn.sequences import real_steps
from charrnn.nn.state import State, leaves
from charrnn.runs.checkpoint import Checkpoint
from charrnn.tasks.examples import (
    Judged,
    TaskOnExamples,
    outputs,
    refuse_empty,
    trained_network,
)
from charrnn.tasks.labelled import LabelledExample, LabelledTexts, describe, text_and_label
from charrnn.tasks.task import Prediction
from charrnn.training.build import build_dropouts, build_embedding, build_stack

Pooling = Literal["last", "mean", "max"]
SHOWN = 3  # examples in a sample


class ClassificationBatch(NamedTuple):
    """Texts side by side."""

    ids: Tensor  # (N, T), 0 past a text's end
    lengths: Tensor  # (N,)
    labels: Tensor  # (N,)


class Classifier(nn.Module):
    """One logit a class for each text, read from the outputs of recurrent layers.

    The layers run over the embedded text, (N, T) ids of `lengths` (N,); `pooling` makes one vector
    of their outputs: the last one (in each direction the one that was computed last), or their
    mean or their maximum over the text.
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
            read = outputs.sum(1) / lengths[:, None]
        elif self.pooling == "max":
            real = real_steps(lengths, outputs)[:, :, None]
            read = outputs.where(real, outputs.new_full((), -math.inf)).amax(1)
        else:
            read = last_outputs(self.stack, state)
        logits: Tensor = self.head(self.dropouts.on_output(read, self.training))
        return logits


def build_classifier(config: ResolvedConfig, text: Vocabulary, classes: int) -> Classifier:
    """The network that a resolved configuration describes, over texts of a vocabulary. Raises
    ConfigError."""
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
    """What the layers that are read of a stack put out last, (N, output_size): each direction of a
    bidirectional one. It is the hidden state, the first of a state's leaves."""
    read = [*zip(stack.layers, state, strict=True)][0 if stack.skip_connections else -1 :]
    ends = [
        end for layer, of in read for end in (of if isinstance(layer, Bidirectional) else (of,))
    ]
    return torch.cat([next(leaves(end)) for end in ends], -1)


class Classification(TaskOnExamples[LabelledExample, ClassificationBatch]):
    """Texts and their classes."""

    unit = "label"

    def __init__(self, config: ResolvedConfig, data: LabelledTexts, about: dict[str, Any]) -> None:
        super().__init__(config, data, about)
        _, self.label = text_and_label(data.vocabularies)
        self.guess = math.log(self.label.size)

    @staticmethod
    def build(config: ResolvedConfig, vocabularies: Vocabularies) -> Classifier:
        """Embedding, layers and head."""
        text, label = text_and_label(vocabularies)
        return build_classifier(config, text, label.size)

    @staticmethod
    def defaults(config: Config, data: LabelledTexts) -> dict[str, Any]:
        """What suits some ten thousand short texts."""
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
        """Symbols."""
        return len(example.ids)

    @staticmethod
    def collate(examples: Sequence[LabelledExample], device: torch.device) -> ClassificationBatch:
        """Texts side by side, padded to the longest."""
        ids, lengths = pad([example.ids for example in examples])
        labels = np.array([example.label for example in examples])
        return ClassificationBatch(
            *(torch.from_numpy(part).to(device) for part in (ids, lengths, labels))
        )

    @staticmethod
    def cost(model: Any, batch: ClassificationBatch) -> tuple[Tensor, int]:
        """The summed cross-entropy of the right classes."""
        logits = model(batch.ids, batch.lengths)
        return functional.cross_entropy(logits.float(), batch.labels, reduction="sum"), len(logits)

    def judge(
        self, model: nn.Module, examples: Sequence[LabelledExample], stop: Callable[[], bool]
    ) -> Judged:
        """Surprisal of the right class, accuracy and macro-F1."""
        gold = np.array([example.label for example in examples])
        logs = np.zeros((len(examples), self.label.size))
        for rows, part in self.outputs(model, examples, log_probabilities):
            logs[rows] = part
            if stop():
                raise KeyboardInterrupt
        predicted = logs.argmax(1)
        share, f1 = accuracy(predicted, gold), macro_f1(confusion(predicted, gold, self.label.size))
        assert share.value is not None
        assert f1 is not None
        nats = -logs[np.arange(len(gold)), gold].sum()
        return Judged(float(nats), len(gold), {"accuracy": share.value, "macro_f1": f1})

    def sample(self, length: int) -> str:
        """The first few texts of validation, each with the class that the model gives it."""
        examples = self.data.splits["validation"][:SHOWN]
        lines = [""] * len(examples)
        for rows, logs in self.outputs(self.model, examples, log_probabilities):
            for row, log in zip(rows, logs, strict=True):
                best, text = int(log.argmax()), examples[row].text[:length]
                (label,) = self.label.decode([best])
                lines[row] = f"{text} -> {label} ({math.exp(log[best]):.0%})"
        return "\n".join(lines)

    @staticmethod
    def predictor(checkpoint: Checkpoint, device: str) -> ClassPredictor:
        """The classifier of a checkpoint."""
        return ClassPredictor(checkpoint, device)


def log_probabilities(model: Any, batch: ClassificationBatch) -> Any:
    """Of the classes, (N, C)."""
    logits = model(batch.ids, batch.lengths)
    return torch.log_softmax(logits.double(), -1).cpu().numpy()


class ClassPredictor:
    """A trained classifier, for texts from outside."""

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self.model, vocabularies = trained_network(Classification, checkpoint, device)
        self.text, self.label = text_and_label(vocabularies)
        self._collate = partial(Classification.collate, device=torch.device(device))

    def predict(self, texts: Sequence[str]) -> Iterator[Prediction]:
        """The class of each text with its probability; in the record those of all classes.

        Raises DataError for a text of which the vocabulary leaves nothing.
        """
        examples = [LabelledExample(self.text.encode(text), 0, text) for text in texts]
        refuse_empty((len(example.ids) for example in examples), "characters")
        logs = np.zeros((len(examples), self.label.size))
        for rows, part in outputs(
            self.model, examples, self._collate, Classification.length, log_probabilities
        ):
            logs[rows] = part
        for text, log in zip(texts, logs, strict=True):
            order = np.argsort(-log, kind="stable")
            names = self.label.decode(order)
            chances = {name: math.exp(log[i]) for name, i in zip(names, order, strict=True)}
            record = {"text": text, "label": names[0], "probabilities": chances}
            yield Prediction(f"{names[0]}\t{chances[names[0]]:.4f}\t{text}", record)
