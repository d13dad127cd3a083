"""Texts of a class (one to many): a language model of short texts that is given a label."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from charrnn.config.resolved import ResolvedConfig
from charrnn.config.schema import Config
from charrnn.data.batching import pad
from charrnn.data.vocabulary import (
    END,
    START,
    Ids,
    Unknown,
    Vocabularies,
    name_characters,
    shortened,
    unit_of,
)
from charrnn.errors import CheckpointError, ConfigError, DataError
from charrnn.inference.sampler import Choice, Cursor, Draws, prime
from charrnn.inference.text import generate_texts
from charrnn.inference.torch_stepper import TorchStepper
from charrnn.nn.dropout import NO_DROPOUT, Dropouts
from charrnn.nn.layers import Stack
from charrnn.nn.models import LanguageModel
from charrnn.nn.state import State
from charrnn.runs.checkpoint import Checkpoint
from charrnn.tasks.data import Texts
from charrnn.tasks.examples import (
    ExampleData,
    Judged,
    TaskOnExamples,
    between_ends,
    ends_of,
    few_enough,
    trained_network,
)
from charrnn.tasks.labelled import describe, text_and_label
from charrnn.tasks.labelled import read as read_texts
from charrnn.tasks.task import Predictor
from charrnn.training.build import build_dropouts, build_lookup, build_stack
from charrnn.training.text_windows import NOT_SCORED

SHOWN = 3  # labels in a sample, and texts of each


class GenerationExample(NamedTuple):
    """A text and its class, as ids: what is read, and what is to be said of it."""

    inputs: Ids  # <s> and the text
    targets: Ids  # the text and </s>
    label: int


class GenerationBatch(NamedTuple):
    """Texts side by side."""

    inputs: Tensor  # (N, T), 0 past a text's end
    targets: Tensor  # (N, T), NOT_SCORED past it
    labels: Tensor  # (N,)
    scored: int  # how many targets are asked


def read(config: Config, texts: Texts, vocabulary: Any = None) -> ExampleData[GenerationExample]:
    """Labelled texts with their beginnings and ends, as `labelled.read` has them."""
    data = read_texts(config, texts, vocabulary, [START, END])
    text, _ = text_and_label(data.vocabularies)
    splits = {
        name: [GenerationExample(*between_ends(e.ids, text), e.label) for e in examples]
        for name, examples in data.splits.items()
    }
    return ExampleData(splits, data.vocabularies, data.sha256)


class ConditionedState(NamedTuple):
    """Which label each lane is of, and the state of the layers."""

    label: Tensor  # (N,)
    layers: State


class ConditionedLanguageModel(LanguageModel):
    """P(text | label): a language model that reads the label's vector beside each symbol's.

    The label of a lane is a leaf of its state, where `step` and `forward` find it.
    """

    def __init__(
        self,
        embedding: nn.Module,
        label_embedding: nn.Module,
        stack: Stack,
        head: nn.Module,
        dropouts: Dropouts = NO_DROPOUT,
    ) -> None:
        super().__init__(embedding, stack, head, dropouts)
        self.label_embedding = label_embedding

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Ids (N, T) and a state give logits (N, T, V) and the state after the last id."""
        label, before = cast(ConditionedState, state)
        vectors = self.label_embedding(label)[:, None].expand(-1, ids.shape[1], -1)
        outputs, after = self.stack(torch.cat([self._embed(ids), vectors], -1), before)
        return self._read_out(outputs), ConditionedState(label, after)

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """One id a lane, (N,), gives logits (N, V) and the next state."""
        label, before = cast(ConditionedState, state)
        vectors = torch.cat([self._embed(token), self.label_embedding(label)], -1)
        output, after = self.stack.step(vectors, before)
        return self._read_out(output), ConditionedState(label, after)

    def initial_state(self, batch_size: int) -> ConditionedState:
        """The zero state of the layers, of label 0."""
        label = next(self.parameters()).new_zeros(batch_size, dtype=torch.long)
        return ConditionedState(label, self.stack.initial_state(batch_size))


class Generation(TaskOnExamples[GenerationExample, GenerationBatch]):
    """Texts, given their classes."""

    unit = "character"
    use = "sample"

    def __init__(
        self, config: ResolvedConfig, data: ExampleData[GenerationExample], about: dict[str, Any]
    ) -> None:
        super().__init__(config, data, about)
        text, self.label = text_and_label(data.vocabularies)
        self.unit = unit_of(text)
        self.guess = math.log(text.size)

    @staticmethod
    def build(config: ResolvedConfig, vocabularies: Vocabularies) -> ConditionedLanguageModel:
        """Embeddings, layers and head. Raises ConfigError."""
        model = config.model
        text, label = text_and_label(vocabularies)
        ends_of(text)
        embedding, width = build_lookup(model, text.size)
        label_embedding, label_width = build_lookup(model, label.size)
        stack = build_stack(model, width + label_width, bidirectional=False)
        return ConditionedLanguageModel(
            embedding,
            label_embedding,
            stack,
            nn.Linear(stack.output_size, text.size),
            build_dropouts(model),
        )

    @staticmethod
    def defaults(config: Config, data: ExampleData[GenerationExample]) -> dict[str, Any]:
        """What suits some ten thousand short texts."""
        return {
            "training.epochs": 20.0,
            "training.learning_rate": 2e-3,
            "model.hidden_size": 128,
            "model.embedding_size": 32,
            "model.dropout": 0.3,
            "model.input_dropout": 0.1,
            "model.output_dropout": 0.3,
        }

    describe = staticmethod(describe)

    @staticmethod
    def facts(data: ExampleData[GenerationExample]) -> dict[str, Any]:
        """How many texts of each label there are to learn from, by which labels are drawn."""
        labels = [example.label for example in data.splits["train"]]
        return {
            "label_counts": np.bincount(labels, minlength=data.vocabularies["label"].size).tolist()
        }

    @staticmethod
    def length(example: GenerationExample) -> int:
        """Symbols and the end."""
        return len(example.targets)

    @staticmethod
    def collate(examples: Sequence[GenerationExample], device: torch.device) -> GenerationBatch:
        """Texts side by side, padded to the longest."""
        inputs, lengths = pad([example.inputs for example in examples])
        targets, _ = pad([example.targets for example in examples], NOT_SCORED)
        labels = np.array([example.label for example in examples])
        there = [torch.from_numpy(part).to(device) for part in (inputs, targets, labels)]
        return GenerationBatch(there[0], there[1], there[2], int(lengths.sum()))

    @staticmethod
    def cost(model: Any, batch: GenerationBatch) -> tuple[Tensor, int]:
        """The summed surprisal of each symbol, and of the end, after those before it."""
        return surprisals(model, batch).sum(), batch.scored

    def judge(
        self, model: nn.Module, examples: Sequence[GenerationExample], stop: Callable[[], bool]
    ) -> Judged:
        """Likewise, as many texts at a time as have few enough logits."""
        text, _ = text_and_label(self.data.vocabularies)
        nats, longest = 0.0, max(map(self.length, examples))
        at_a_time = few_enough(longest * text.size)
        for _, each in self.outputs(model, examples, surprisals, at_a_time):
            nats += float(each.double().sum())
            if stop():
                raise KeyboardInterrupt
        return Judged(nats, sum(map(self.length, examples)), {})

    def sample(self, length: int) -> str:
        """A few texts of each of the most frequent labels."""
        names = self.label.symbols[:SHOWN]
        labels = [name for name in names for _ in range(SHOWN)]
        writer = Generator(self.model, self.data.vocabularies, {"corpus": self.facts(self.data)})
        draws = Draws(self.config.training.seed, range(len(labels)))
        texts = iter(writer.write(labels, length, Choice(), draws))
        return "\n".join(f"{name}: {', '.join(itertools.islice(texts, SHOWN))}" for name in names)

    @staticmethod
    def predictor(checkpoint: Checkpoint, device: str) -> Predictor:
        """Raises ConfigError: this model writes."""
        raise ConfigError(
            f"{checkpoint.path} writes texts of a class and says nothing of a text; use charrnn "
            f"sample, or train with --task classification"
        )


def surprisals(model: Any, batch: GenerationBatch) -> Tensor:
    """-ln P of each target given the label and what stands before it, (N, T) in nats, 0 in the
    padding."""
    state = model.initial_state(len(batch.labels))._replace(label=batch.labels)
    logits, _ = model(batch.inputs, state)
    return functional.cross_entropy(
        logits.transpose(1, 2).float(), batch.targets, ignore_index=NOT_SCORED, reduction="none"
    )


class Generator:
    """A trained model that writes texts of a class: a stepper in the sampler's sense, which never
    takes `<unk>` or `<s>` for a symbol to write."""

    options: ClassVar = frozenset({"--label"})

    def __init__(self, model: Any, vocabularies: Vocabularies, metadata: dict[str, Any]) -> None:
        self.vocabulary, self.label = text_and_label(vocabularies)
        self._start, self.end = ends_of(self.vocabulary)
        self.training_step = metadata.get("progress", {}).get("step")
        self._counts = metadata["corpus"]["label_counts"]
        unknown = getattr(self.vocabulary, "unknown", None)
        self._unwritten = [i for i in (unknown, self._start) if i is not None]
        self._stepper = TorchStepper(model)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, device: str = "cpu") -> Generator:
        """The model of a checkpoint that `check_layout` has passed, on `device`."""
        if not checkpoint.metadata["corpus"].get("label_counts"):
            raise CheckpointError(f"{checkpoint.path} does not say how frequent its classes are")
        network, vocabularies = trained_network(Generation, checkpoint, device)
        return cls(network, vocabularies, checkpoint.metadata)

    def initial_state(self, batch_size: int) -> State:
        """The zero state for `batch_size` lanes, of the most frequent label."""
        return self._stepper.initial_state(batch_size)

    def step(self, token: NDArray[np.int64], state: State) -> tuple[NDArray[np.float32], State]:
        """One symbol a lane: ids (N,) and a state give logits (N, V) and the next state."""
        logits, state = self._stepper.step(token, state)
        logits[:, self._unwritten] = -math.inf
        return logits, state

    def labels(self, draws: Draws, label: str | None = None) -> list[str]:
        """A label a sample: the given one, or drawn at training frequency, by what is at position
        0. Raises DataError for one that the model does not know."""
        known = self.label.symbols
        if label is None:
            with np.errstate(divide="ignore"):
                logits = np.log(np.array(self._counts, np.float64))
            at = draws.at(0)
            return self.label.decode(Choice()(logits[None].repeat(len(at), 0), at))
        if label not in known:
            close = difflib.get_close_matches(label, known, 3, 0.5) or known[:5]
            raise DataError(
                f"the model knows no class {shortened(label)}; give one of its {len(known):,}, as "
                f"{', '.join(map(shortened, close))}"
            )
        return [label] * len(draws.samples)

    def begin(
        self, prompt: str, samples: int, unknown: Unknown = "error", labels: Sequence[str] = ()
    ) -> Cursor:
        """Read `<s>` and a prompt into `samples` lanes of given labels.

        Raises DataError for characters that the vocabulary lacks, unless `unknown` is `skip`.
        """
        if unknown == "error" and (missing := self.vocabulary.unknown_characters(prompt)):
            raise DataError(
                f"the model's vocabulary lacks {name_characters(missing)}; leave them out with "
                f"--unknown skip"
            )
        state = cast(ConditionedState, self._stepper.initial_state(samples))
        state = state._replace(label=self.label.encode(labels).astype(np.int64))  # type: ignore[arg-type]
        ids = between_ends(self.vocabulary.encode(prompt, unknown), self.vocabulary)[0]
        lanes = np.tile(ids, (samples, 1))
        # Position 0 is that of the label.
        return prime(self, lanes[:, 1:], Cursor(lanes[:, 0], state, position=1))

    def write(self, labels: Sequence[str], length: int, choice: Choice, draws: Draws) -> list[str]:
        """A text of each label, of at most `length` symbols."""
        cursor = self.begin("", len(labels), labels=labels)
        return generate_texts(self, self.vocabulary, cursor, choice, draws, length, end=self.end)
