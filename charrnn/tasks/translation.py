"""One text turned into another (many to many, not aligned), by an encoder and a decoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.config.resolved import ResolvedConfig
from charrnn.config.schema import Config
from charrnn.data.batching import pad
from charrnn.data.formats import Pair, read_pairs
from charrnn.data.vocabulary import (
    END,
    START,
    Ids,
    TokenVocabulary,
    Vocabularies,
    Vocabulary,
    read_vocabularies,
    unit_of,
    vocabulary_of,
)
from charrnn.errors import ConfigError
from charrnn.evaluation.metrics import bleu, exact_match
from charrnn.inference.beam import Hypothesis, beam_search
from charrnn.inference.torch_stepper import TorchStepper
from charrnn.nn.attention import Attention
from charrnn.nn.models import EncoderDecoder
from charrnn.runs.checkpoint import Checkpoint
from charrnn.tasks.data import Texts
from charrnn.tasks.examples import (
    AT_A_TIME,
    ExampleData,
    Judged,
    TaskOnExamples,
    between_ends,
    ends_of,
    few_enough,
    load,
    outputs,
    refuse_empty,
    trained_network,
)
from charrnn.tasks.task import Alignment, Prediction
from charrnn.training.build import build_dropouts, build_lookup, build_stack
from charrnn.training.text_windows import NOT_SCORED

SHOWN = 3  # examples in a sample
DECODED = 200  # examples of validation during training; decoding takes one step a symbol


class TranslationExample(NamedTuple):
    """A source and a target as ids, the target as a decoder reads it and as it writes it."""

    source: Ids
    inputs: Ids  # with the start
    labels: Ids  # with the end
    pair: Pair


class TranslationBatch(NamedTuple):
    """Pairs side by side."""

    sources: Tensor  # (N, S), 0 past the end
    lengths: Tensor  # (N,), of the sources
    inputs: Tensor  # (N, T), the target after its start, 0 past the end
    labels: Tensor  # (N, T), the target before its end, NOT_SCORED past it
    scored: int  # labels


Pairs: TypeAlias = ExampleData[TranslationExample]


def read(config: Config, texts: Texts, vocabulary: Any = None) -> Pairs:
    """The pairs that a configuration names, in given vocabularies or in their own, which are made
    of the training split: what it lacks is `<unk>`. Raises DataError."""
    found = load(config, texts, read_pairs)
    if vocabulary is not None:
        vocabularies: Vocabularies = read_vocabularies(vocabulary)
    else:
        data = config.data
        make = partial(vocabulary_of, data.vocabulary, minimum_count=data.minimum_count)
        train = found.splits["train"]
        vocabularies = {
            "source": make([pair.source for pair in train]),
            "target": make([pair.target for pair in train], ends=[START, END]),
        }
    source, target = _both(vocabularies)
    splits = {
        name: [
            example_of(source.encode(pair.source), target.encode(pair.target), target, pair)
            for pair in pairs
        ]
        for name, pairs in found.splits.items()
    }
    return ExampleData(splits, vocabularies, found.sha256)


def _both(vocabularies: Vocabularies) -> tuple[Vocabulary, Vocabulary]:
    """Of the sources and of the targets, the latter with `<s>` and `</s>`. Raises ConfigError."""
    if set(vocabularies) == {"source", "target"}:
        source, target = vocabularies["source"], vocabularies["target"]
        if not isinstance(source, TokenVocabulary) and not isinstance(target, TokenVocabulary):
            ends_of(target)
            return source, target
    raise ConfigError("a translation has a vocabulary of its sources and one of its targets")


def example_of(source: Ids, ids: Ids, target: Vocabulary, pair: Pair) -> TranslationExample:
    """A pair as ids, its target with a start and an end."""
    return TranslationExample(source, *between_ends(ids, target), pair)


class Translation(TaskOnExamples[TranslationExample, TranslationBatch]):
    """Sources and their targets."""

    noun = "pairs"

    def __init__(self, config: ResolvedConfig, data: Pairs, about: dict[str, Any]) -> None:
        super().__init__(config, data, about)
        self.target = _both(data.vocabularies)[1]
        self.unit = unit_of(self.target)
        self.guess = math.log(self.target.size)

    @staticmethod
    def build(config: ResolvedConfig, vocabularies: Vocabularies) -> EncoderDecoder:
        """Encoder, decoder, what is between them, and head."""
        model = config.model
        source, target = _both(vocabularies)
        read, read_width = build_lookup(model, source.size)
        written, written_width = build_lookup(model, target.size)
        encoder = build_stack(model, read_width, model.bidirectional)
        decoder = build_stack(model, written_width, False)
        attention = None
        if model.attention != "none":
            try:
                attention = Attention(model.attention, decoder.output_size, encoder.output_size)
            except ValueError as error:
                raise ConfigError(f"model.attention: {error}") from error
        return EncoderDecoder(
            read,
            encoder,
            written,
            decoder,
            nn.Linear(decoder.output_size, target.size),
            attention,
            build_dropouts(model),
        )

    @staticmethod
    def defaults(config: Config, data: Pairs) -> dict[str, Any]:
        """What suits some ten thousand short pairs."""
        words = data.vocabularies["target"].kind == "word"
        return {
            "training.epochs": 20.0,
            "training.batch_size": min(64, len(data.splits["train"])),
            "training.learning_rate": 3e-3,
            "model.hidden_size": 256,
            "model.embedding_size": 128 if words else 64,
            "model.dropout": 0.3,
            "model.input_dropout": 0.3 if words else 0.1,
            "model.output_dropout": 0.3,
        }

    @staticmethod
    def describe(data: Pairs) -> str:
        """How many pairs and symbols."""
        source, target = _both(data.vocabularies)
        count = sum(len(part) for part in data.splits.values())
        return f"{count:,} pairs of {source.size:,} and {target.size:,} symbols"

    @staticmethod
    def length(example: TranslationExample) -> int:
        """Symbols of both."""
        return len(example.source) + len(example.labels)

    @staticmethod
    def collate(examples: Sequence[TranslationExample], device: torch.device) -> TranslationBatch:
        """Pairs side by side, sources and targets padded to the longest."""
        sources, lengths = pad([example.source for example in examples])
        inputs, counts = pad([example.inputs for example in examples])
        labels, _ = pad([example.labels for example in examples], NOT_SCORED)
        parts = [torch.from_numpy(part).to(device) for part in (sources, lengths, inputs, labels)]
        return TranslationBatch(parts[0], parts[1], parts[2], parts[3], int(counts.sum()))

    @staticmethod
    def cost(model: Any, batch: TranslationBatch) -> tuple[Tensor, int]:
        """The summed surprisal of the targets' symbols, their ends included."""
        logits = model(batch.sources, batch.lengths, batch.inputs).float()
        nats = functional.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), ignore_index=NOT_SCORED, reduction="sum"
        )
        return nats, batch.scored

    def judge(
        self, model: nn.Module, examples: Sequence[TranslationExample], stop: Callable[[], bool]
    ) -> Judged:
        """Surprisal of the targets; how many greedy translations are right to the last symbol;
        their BLEU over words between white space, each with its one target."""
        return self._judged(model, examples, examples, stop)

    def glance(
        self, model: nn.Module, examples: Sequence[TranslationExample], stop: Callable[[], bool]
    ) -> Judged:
        """The surprisal of all, the translations of some that lie evenly among them."""
        some = examples[:: math.ceil(len(examples) / DECODED)]
        return self._judged(model, examples, some, stop)

    def final_seconds(self) -> float:
        """At most so much more than the last estimate as there is more to translate."""
        return super().final_seconds() * math.ceil(len(self.data.splits["validation"]) / DECODED)

    def _judged(
        self,
        model: nn.Module,
        examples: Sequence[TranslationExample],
        translated: Sequence[TranslationExample],
        stop: Callable[[], bool],
    ) -> Judged:
        nats, labels = 0.0, 0
        longest = max(len(example.labels) for example in examples)
        width = self.target.size
        attention = cast(EncoderDecoder, model).attention
        if attention is not None and attention.score == "additive":
            width = max(width, max(len(e.source) for e in examples) * len(attention.weight))
        at_a_time = few_enough(longest * width)
        for _, (total, count) in self.outputs(model, examples, self.cost, at_a_time):
            nats, labels = nats + float(total), labels + count
            if stop():
                raise KeyboardInterrupt
        written = self._translations(model, translated, stop)
        wanted = [example.pair.target for example in translated]
        share = exact_match(written, wanted).value
        assert share is not None
        score = bleu([text.split() for text in written], [[text.split()] for text in wanted]).score
        part = len(translated) < len(examples)
        of = f", {len(translated):,} of {len(examples):,} translated" if part else ""
        return Judged(nats, labels, {"exact_match": share, "bleu": score}, of)

    def _translations(
        self, model: nn.Module, examples: Sequence[TranslationExample], stop: Callable[[], bool]
    ) -> list[str]:
        """Greedy."""
        written = [""] * len(examples)
        for rows, found in self.outputs(model, examples, partial(decode, target=self.target)):
            for row, hypotheses in zip(rows, found, strict=True):
                written[row] = text_of(self.target, hypotheses[0])
            if stop():
                raise KeyboardInterrupt
        return written

    def sample(self, length: int) -> str:
        """The first few sources of validation, each with its greedy translation."""
        examples = self.data.splits["validation"][:SHOWN]
        written = self._translations(self.model, examples, lambda: False)
        pairs = zip(examples, written, strict=True)
        return "\n".join(f"{e.pair.source[:length]} -> {text[:length]}" for e, text in pairs)

    @staticmethod
    def predictor(checkpoint: Checkpoint, device: str) -> Translator:
        """The encoder and decoder of a checkpoint."""
        return Translator(checkpoint, device)


def decode(
    model: Any, batch: TranslationBatch, target: Vocabulary, beam: int = 1
) -> list[list[Hypothesis]]:
    """The best translations of each source, of at most three symbols for one of its own and 50."""
    state = model.read(batch.sources, batch.lengths)
    limits = (3 * batch.lengths + 50).tolist()
    start, end = ends_of(target)
    return beam_search(TorchStepper(model, state), state, start, end, limits, beam)


def text_of(target: Vocabulary, hypothesis: Hypothesis) -> str:
    """What a decoder wrote, on one line; bytes that are no character are U+FFFD."""
    stream = target.stream()
    return ("".join(map(stream.feed, hypothesis.ids)) + stream.finish()).replace("\n", " ")


def shown(symbol: str | int) -> str:
    """A symbol on a picture; of a byte that is no ASCII its number."""
    if isinstance(symbol, str):
        return symbol
    return chr(symbol) if symbol < 128 else f"{symbol:#04x}"


class Translator:
    """A trained encoder and decoder, for texts from outside."""

    beam = 1

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        network, vocabularies = trained_network(Translation, checkpoint, device)
        self.model = cast(EncoderDecoder, network).eval()
        self.source, self.target = _both(vocabularies)
        self._path = checkpoint.path
        self._collate = partial(Translation.collate, device=torch.device(device))

    def predict(self, texts: Sequence[str]) -> Iterator[Prediction]:
        """The translation of each text; in the record its surprisal, and with a beam the others
        that were found.

        Raises DataError for a text of which the vocabulary leaves nothing.
        """
        found = self._search(texts)
        for text, hypotheses in zip(texts, found, strict=True):
            all_of_them = [
                {"translation": text_of(self.target, h), "nats": -h.log_probability}
                for h in hypotheses
            ]
            record = {"text": text, **all_of_them[0]}
            if self.beam > 1:
                record["others"] = all_of_them[1:]
            yield Prediction(str(record["translation"]), record)

    def align(self, text: str) -> Alignment:
        """Where the decoder looked when it wrote the best translation and its end.

        Raises ConfigError for a model without attention.
        """
        if self.model.attention is None:
            raise ConfigError(
                f"{self._path} has no attention to show; train with --set model.attention=general"
            )
        ((best, *_),) = self._search([text])
        source, ids = self.source.encode(text), np.array(best.ids, np.int64)
        batch = self._collate([example_of(source, ids, self.target, Pair(text, "", "", 0))])
        with torch.inference_mode():
            weights = self.model.alignment(batch.sources, batch.lengths, batch.inputs)[0]
        written = [*best.ids, *([ends_of(self.target)[1]] if best.ended else [])]
        return Alignment(
            weights[: len(written)].double().cpu().numpy(),
            [shown(self.source.symbols[i]) for i in source],
            [shown(self.target.symbols[i]) for i in written],
        )

    def _search(self, texts: Sequence[str]) -> list[list[Hypothesis]]:
        examples = [
            example_of(self.source.encode(text), np.zeros(0), self.target, Pair(text, "", "", 0))
            for text in texts
        ]
        refuse_empty((len(example.source) for example in examples), "characters")
        found: list[list[Hypothesis]] = [[] for _ in examples]
        search = partial(decode, target=self.target, beam=self.beam)
        at_a_time = max(1, AT_A_TIME // self.beam)
        for rows, part in outputs(
            self.model, examples, self._collate, Translation.length, search, at_a_time
        ):
            for row, hypotheses in zip(rows, part, strict=True):
                found[row] = hypotheses
        return found
