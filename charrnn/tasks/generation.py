"""The task generation: write texts of a given class, or texts without classes (one to many).

A language model of short texts reads the label's vector with the vector of each symbol. Texts
without a class all have the label `NO_CLASS`.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from charrnn.config.resolved import ResolvedConfig
from charrnn.config.schema import Config
from charrnn.data.batching import pad
from charrnn.data.formats import NO_CLASS
from charrnn.data.vocabulary import (
    Ids,
    Unknown,
    Vocabularies,
    name_characters,
    shortened,
    unit_of,
)
from charrnn.errors import CheckpointError, ConfigError, DataError
from charrnn.evaluation.novelty import novelty_of_texts
from charrnn.evaluation.score import key_unit
from charrnn.inference.sampler import Choice, Cursor, Draws, prime
from charrnn.inference.text import generate_texts, has_line_ends, text_of_ids
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
    in_order,
    trained_network,
)
from charrnn.tasks.labelled import LabelledExample, describe, text_and_label
from charrnn.tasks.labelled import read as read_texts
from charrnn.tasks.task import Predictor
from charrnn.training.build import build_dropouts, build_lookup, build_stack
from charrnn.training.memory import FLOATS_A_LOGIT
from charrnn.training.text_windows import NOT_SCORED

SHOWN = 3  # a sample shows so many labels, and so many texts of each
FEWEST_EPOCHS = 20
FEWEST_STEPS = 250  # if 20 epochs of few texts have fewer; 450 would learn them by heart
WRITTEN = 1000  # texts to compare with those of training, if they are short
MOST_WRITTEN = 1 << 18  # symbols in all of these texts
LONGEST_WRITTEN = 1 << 13  # symbols in one of them


class GenerationExample(NamedTuple):
    """A text and its class, as ids, and the labelled text that they stand for."""

    inputs: Ids  # <s> and the text: read
    targets: Ids  # the text and </s>: predicted
    label: int
    labelled: LabelledExample | None = None


class GenerationBatch(NamedTuple):
    """N texts side by side, padded to T symbols."""

    inputs: Tensor  # (N, T), 0 past a text's end
    targets: Tensor  # (N, T), NOT_SCORED past a text's end
    labels: Tensor  # (N,)
    scored: int  # the number of targets


def read(config: Config, texts: Texts, vocabulary: Any = None) -> ExampleData[GenerationExample]:
    """Read texts, with or without a class, as `labelled.read` does: between `<s>` and `</s>`."""
    data = read_texts(config, texts, vocabulary, writes=True)
    text, _ = text_and_label(data.vocabularies)
    splits = {
        name: [GenerationExample(*between_ends(e.ids, text), e.label, e) for e in examples]
        for name, examples in data.splits.items()
    }
    return ExampleData(
        splits, data.vocabularies, data.sha256, notes=data.notes, settings=data.settings
    )


class ConditionedState(NamedTuple):
    """The label of each lane, and the state of the layers."""

    label: Tensor  # (N,)
    layers: State


class ConditionedLanguageModel(LanguageModel):
    """P(text | label): a language model that reads the label's vector with each symbol's vector.

    The label of a lane is a leaf of its state, so that it reaches `step` and `forward` like any
    state.
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
        """Map ids (N, T) and a state to logits (N, T, V) and the state after the last id."""
        label, before = cast(ConditionedState, state)
        vectors = self.label_embedding(label)[:, None].expand(-1, ids.shape[1], -1)
        outputs, after = self.stack(torch.cat([self._embed(ids), vectors], -1), before)
        return self._read_out(outputs), ConditionedState(label, after)

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """Map one id a lane, (N,), and a state to logits (N, V) and the next state."""
        label, before = cast(ConditionedState, state)
        vectors = torch.cat([self._embed(token), self.label_embedding(label)], -1)
        output, after = self.stack.step(vectors, before)
        return self._read_out(output), ConditionedState(label, after)

    def initial_state(self, batch_size: int) -> ConditionedState:
        """Return the zero state of the layers, with label 0 in each lane."""
        label = next(self.parameters()).new_zeros(batch_size, dtype=torch.long)
        return ConditionedState(label, self.stack.initial_state(batch_size))


class Generation(TaskOnExamples[GenerationExample, GenerationBatch]):
    """Learn to write texts; scored by surprisal, and by how new the written texts are."""

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
        """Make the network of a configuration. Raises ConfigError."""
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
        """Return settings that suit about ten thousand short texts; fewer are read more times."""
        examples = len(data.splits["train"])
        size = config.training.batch_size
        steps = math.ceil(examples / min(examples, 32 if size == "auto" else size))
        return {
            "training.epochs": float(max(FEWEST_EPOCHS, math.ceil(FEWEST_STEPS / steps))),
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
        """Return how often each label occurs in training; sampling draws it as often.

        `line_ends` says whether a text of the training split has a line end.
        """
        text, label = text_and_label(data.vocabularies)
        labels = [example.label for example in data.splits["train"]]
        line_end = text.encode("\n")[0] if has_line_ends(text) else None
        return {
            "label_counts": np.bincount(labels, minlength=label.size).tolist(),
            "line_ends": any((e.inputs == line_end).any() for e in data.splits["train"])
            if line_end is not None
            else False,
        }

    @staticmethod
    def length(example: GenerationExample) -> int:
        """Return the number of symbols, the end included."""
        return len(example.targets)

    @staticmethod
    def collate(examples: Sequence[GenerationExample], device: torch.device) -> GenerationBatch:
        """Put texts side by side, padded to the longest."""
        inputs, lengths = pad([example.inputs for example in examples])
        targets, _ = pad([example.targets for example in examples], NOT_SCORED)
        labels = np.array([example.label for example in examples])
        parts = [torch.from_numpy(part).to(device) for part in (inputs, targets, labels)]
        return GenerationBatch(parts[0], parts[1], parts[2], int(lengths.sum()))

    @staticmethod
    def cost(model: Any, batch: GenerationBatch) -> tuple[Tensor, int]:
        """Return the summed surprisal of the targets, and their number."""
        return surprisals(model, batch).sum(), batch.scored

    def judge(
        self, model: nn.Module, examples: Sequence[GenerationExample], stop: Callable[[], bool]
    ) -> Judged:
        """Measure the surprisal, and compare texts that the model writes with those of training.

        The measures are the share of written texts that are new, the share that repeat an earlier
        one, and their mean length divided by that of the training texts, if there are any.
        """
        judged = self.glance(model, examples, stop)
        if "train" not in self.data.splits:
            return judged
        new, repeated, length_ratio = novelty_of_texts(self._written(model), self._texts)
        return judged._replace(
            metrics={"new": new, "repeated": repeated, "length_ratio": length_ratio}
        )

    def glance(
        self, model: nn.Module, examples: Sequence[GenerationExample], stop: Callable[[], bool]
    ) -> Judged:
        """Measure the surprisal, in batches whose logits fit into memory."""
        text, _ = text_and_label(self.data.vocabularies)
        nats, longest = 0.0, max(map(self.length, examples))
        at_a_time = few_enough(longest * text.size)
        for _, each in self.outputs(model, examples, surprisals, at_a_time, stop):
            nats += float(each.double().sum())
        return Judged(nats, sum(map(self.length, examples)), {})

    def judge_each(
        self, model: nn.Module, examples: Sequence[GenerationExample]
    ) -> Iterator[dict[str, Any]]:
        """Yield the surprisal of each text, its end included."""
        text, _ = text_and_label(self.data.vocabularies)
        at_a_time = few_enough(max(map(self.length, examples)) * text.size)
        each: list[Tensor] = in_order(self.outputs(model, examples, surprisals, at_a_time))
        for example, nats in zip(examples, each, strict=True):
            labelled = example.labelled
            assert labelled is not None
            yield {
                "file": labelled.file,
                "line": labelled.line,
                "text": labelled.text,
                "label": labelled.gold,
                f"{key_unit(self.unit)}s": len(example.targets),
                "nats": float(nats.double().sum()),
            }

    @cached_property
    def _texts(self) -> list[str]:
        """The texts of training, as the model would write them."""
        vocabulary, _ = text_and_label(self.data.vocabularies)
        return [text_of_ids(vocabulary, e.targets[:-1].tolist()) for e in self.data.splits["train"]]

    def _written(self, model: nn.Module) -> list[str]:
        """Write texts with the labels of training, up to twice as long as its longest text."""
        longest = min(2 * self.objective.longest, LONGEST_WRITTEN)
        count = max(1, min(WRITTEN, MOST_WRITTEN // longest))
        was_training = model.training
        model.eval()
        writer = Generator(model, self.data.vocabularies, {"corpus": self.facts(self.data)})
        draws = Draws(self.config.training.seed, range(count))
        texts = list(writer.write(writer.labels(draws), longest, Choice(), draws))
        model.train(was_training)
        return texts

    def sample(self, length: int) -> str:
        """Write a few texts of each of the most frequent labels."""
        names = self.label.symbols[:SHOWN]
        labels = [name for name in names for _ in range(SHOWN)]
        writer = Generator(self.model, self.data.vocabularies, {"corpus": self.facts(self.data)})
        draws = Draws(self.config.training.seed, range(len(labels)))
        texts = iter(writer.write(labels, length, Choice(), draws))
        lines = [(name, ", ".join(itertools.islice(texts, SHOWN))) for name in names]
        return "\n".join(line if name == NO_CLASS else f"{name}: {line}" for name, line in lines)

    @staticmethod
    def output_bytes(data: ExampleData[Any], longest: int) -> int:
        """Return the memory of a symbol's logits, in bytes."""
        return 4 * FLOATS_A_LOGIT * text_and_label(data.vocabularies)[0].size

    @staticmethod
    def predictor(checkpoint: Checkpoint, device: str) -> Predictor:
        """Raise ConfigError: this model writes texts and does not predict."""
        raise ConfigError(
            f"{checkpoint.path} writes texts of a class and cannot tell the class of a text; use "
            f"charrnn sample, or train a model of the task classification"
        )


def surprisals(model: Any, batch: GenerationBatch) -> Tensor:
    """Return -ln P (N, T) of each target, given label and earlier symbols; 0 in the padding."""
    state = model.initial_state(len(batch.labels))._replace(label=batch.labels)
    logits, _ = model(batch.inputs, state)
    return functional.cross_entropy(
        logits.transpose(1, 2).float(), batch.targets, ignore_index=NOT_SCORED, reduction="none"
    )


class Generator:
    """A trained model that writes texts, of a class if it has classes (`inference.text.Writer`).

    It never writes `<unk>` or `<s>`.
    """

    abilities: ClassVar = frozenset({"label"})

    def __init__(self, model: Any, vocabularies: Vocabularies, metadata: dict[str, Any]) -> None:
        self.vocabulary, self.label = text_and_label(vocabularies)
        self._start, self.end = ends_of(self.vocabulary)
        self.training_step = metadata.get("progress", {}).get("step")
        self._counts = metadata["corpus"]["label_counts"]
        # Older checkpoints do not say whether their texts had line ends.
        known = metadata["corpus"].get("line_ends")
        self.has_lines = has_line_ends(self.vocabulary) if known is None else bool(known)
        unknown = getattr(self.vocabulary, "unknown", None)
        self._unwritten = [i for i in (unknown, self._start) if i is not None]
        self._stepper = TorchStepper(model)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, device: str = "cpu") -> Generator:
        """Make the model of a checkpoint that `check_layout` has accepted, on `device`.

        Raises CheckpointError for a checkpoint without the labels' frequencies.
        """
        if not checkpoint.metadata["corpus"].get("label_counts"):
            raise CheckpointError(
                f"{checkpoint.path} does not record how frequent its classes are; use another "
                "checkpoint"
            )
        network, vocabularies = trained_network(Generation, checkpoint, device)
        return cls(network, vocabularies, checkpoint.metadata)

    def initial_state(self, batch_size: int) -> State:
        """Return the zero state for `batch_size` lanes, of the most frequent label."""
        return self._stepper.initial_state(batch_size)

    def step(self, token: NDArray[np.int64], state: State) -> tuple[NDArray[np.float32], State]:
        """Map one id a lane, (N,), and a state to logits (N, V) and the next state."""
        logits, state = self._stepper.step(token, state)
        logits[:, self._unwritten] = -math.inf
        return logits, state

    def labels(self, draws: Draws, label: str | None = None) -> list[str]:
        """Return a label for each sample: `label`, or one drawn at its frequency in training.

        The draw uses position 0. The list is empty for a model without classes. Raises DataError
        for a label that the model does not have.
        """
        known = self.label.symbols
        if known == (NO_CLASS,):
            if label is not None:
                raise DataError("the model writes texts without a class; leave the class out")
            return []
        if label is None:
            with np.errstate(divide="ignore"):
                logits = np.log(np.array(self._counts, np.float64))
            uniforms = draws.at(0)
            return self.label.decode(Choice()(logits[None].repeat(len(uniforms), 0), uniforms))
        if label not in known:
            close = difflib.get_close_matches(label, known, 3, 0.5) or known[:5]
            raise DataError(
                f"the model has no class {shortened(label)}; choose one of its "
                f"{len(known):,}, such as {', '.join(map(shortened, close))}"
            )
        return [label] * len(draws.samples)

    def begin(
        self,
        prompt: str = "",
        samples: int = 1,
        unknown: Unknown = "error",
        labels: Sequence[str] = (),
    ) -> Cursor:
        """Read `<s>` and a prompt into `samples` lanes, one for each of the `labels`, if any.

        Raises DataError for characters that the vocabulary lacks, unless `unknown` is `skip`.
        """
        if unknown == "error" and (missing := self.vocabulary.unknown_characters(prompt)):
            raise DataError(
                f"the model's vocabulary lacks {name_characters(missing)}; set data.unknown to "
                f"skip to leave them out"
            )
        state = cast(ConditionedState, self._stepper.initial_state(samples))
        numbers = self.label.encode(labels or [self.label.symbols[0]] * samples)
        state = state._replace(label=numbers.astype(np.int64))  # type: ignore[arg-type]
        ids = between_ends(self.vocabulary.encode(prompt, unknown), self.vocabulary)[0]
        lanes = np.tile(ids, (samples, 1))
        # Position 0 of the draws chose the label.
        return prime(self, lanes[:, 1:], Cursor(lanes[:, 0], state, position=1))

    def write(self, labels: Sequence[str], length: int, choice: Choice, draws: Draws) -> list[str]:
        """Write at most `length` symbols for each sample in `draws`, with its label if any."""
        cursor = self.begin("", len(draws.samples), labels=labels)
        return generate_texts(self, self.vocabulary, cursor, choice, draws, length, end=self.end)
