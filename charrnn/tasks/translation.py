"""The task translation: one text turned into another (many to many, not aligned).

An encoder reads the source; a decoder writes the target symbol by symbol, and looks back at the
source by attention.
"""

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
from charrnn.data.formats import Pair
from charrnn.data.pairs import read_pairs
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
from charrnn.evaluation.score import key_unit, never
from charrnn.inference.beam import Hypothesis, beam_search
from charrnn.inference.text import text_of_ids
from charrnn.inference.torch_stepper import TorchStepper
from charrnn.nn.attention import Attention
from charrnn.nn.models import EncoderDecoder
from charrnn.runs.checkpoint import Checkpoint
from charrnn.tasks.data import Texts, cleaning_of
from charrnn.tasks.examples import (
    AT_A_TIME,
    ExampleData,
    Judged,
    TaskOnExamples,
    between_ends,
    ends_of,
    few_enough,
    in_order,
    load,
    not_too_long,
    outputs,
    refuse_empty,
    trained_network,
)
from charrnn.tasks.task import Alignment, Prediction
from charrnn.training.build import build_dropouts, build_lookup, build_stack
from charrnn.training.memory import FLOATS_A_CELL, FLOATS_A_LOGIT
from charrnn.training.text_windows import NOT_SCORED

DECODED = 200  # examples decoded during training, since decoding takes one step per symbol


class TranslationExample(NamedTuple):
    """A source and a target as ids."""

    source: Ids
    inputs: Ids  # <s> and the target: read by the decoder
    labels: Ids  # the target and </s>: predicted
    pair: Pair


class TranslationBatch(NamedTuple):
    """N pairs side by side, sources padded to S symbols and targets to T."""

    sources: Tensor  # (N, S), 0 past the end
    lengths: Tensor  # (N,), of the sources
    inputs: Tensor  # (N, T), 0 past the end
    labels: Tensor  # (N, T), NOT_SCORED past the end
    scored: int  # the number of labels


Pairs: TypeAlias = ExampleData[TranslationExample]


def read(config: Config, texts: Texts, vocabulary: Any = None) -> Pairs:
    """Read the pairs that a configuration names, as ids.

    If `vocabulary` (plain data) is None, the vocabularies are made from the training split; symbols
    that they lack become `<unk>`. Raises DataError.
    """
    loaded = load(config, texts, read_pairs)
    if vocabulary is not None:
        vocabularies: Vocabularies = read_vocabularies(vocabulary)
    else:
        data = config.data
        make = partial(
            vocabulary_of,
            data.vocabulary,
            minimum_count=data.minimum_count,
            cleaning=cleaning_of(config),
        )
        train = loaded.splits["train"]
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
        for name, pairs in loaded.splits.items()
    }
    splits = not_too_long(config, loaded, splits, Translation.length, per_pair=FLOATS_A_CELL)
    log = loaded.log
    return ExampleData(
        splits, vocabularies, loaded.sha256, notes=tuple(log.notes), settings=log.settings
    )


def _both(vocabularies: Vocabularies) -> tuple[Vocabulary, Vocabulary]:
    """Return the vocabularies of sources and of targets (with `<s>` and `</s>`).

    Raises ConfigError for any others.
    """
    if set(vocabularies) == {"source", "target"}:
        source, target = vocabularies["source"], vocabularies["target"]
        if not isinstance(source, TokenVocabulary) and not isinstance(target, TokenVocabulary):
            ends_of(target)
            return source, target
    raise ConfigError(
        "a translator has vocabularies of sources and of targets; use a translator's checkpoint"
    )


def example_of(source: Ids, ids: Ids, target: Vocabulary, pair: Pair) -> TranslationExample:
    """Return a pair as ids, its target with a start and an end."""
    return TranslationExample(source, *between_ends(ids, target), pair)


class Translation(TaskOnExamples[TranslationExample, TranslationBatch]):
    """Learn to translate; scored by surprisal, exact matches and BLEU."""

    noun = "pairs"

    def __init__(self, config: ResolvedConfig, data: Pairs, about: dict[str, Any]) -> None:
        super().__init__(config, data, about)
        self.target = _both(data.vocabularies)[1]
        self.unit = unit_of(self.target)
        self.guess = math.log(self.target.size)

    @staticmethod
    def build(config: ResolvedConfig, vocabularies: Vocabularies) -> EncoderDecoder:
        """Make the encoder and the decoder of a configuration. Raises ConfigError."""
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
        """Return settings that suit about ten thousand short pairs."""
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
        """Say how many pairs and symbols there are."""
        source, target = _both(data.vocabularies)
        count = sum(len(part) for part in data.splits.values())
        first = f"{count:,} pairs of {source.size:,} and {target.size:,} symbols"
        return "\n".join([first, *data.notes])

    @staticmethod
    def output_bytes(data: Pairs, longest: int) -> int:
        """Return the memory of a symbol's logits and of its row of the alignment, in bytes."""
        _, target = _both(data.vocabularies)
        return 4 * (FLOATS_A_LOGIT * target.size + FLOATS_A_CELL * longest // 4)

    @staticmethod
    def length(example: TranslationExample) -> int:
        """Return the number of symbols of source and target, the target's end included."""
        return len(example.source) + len(example.labels)

    @staticmethod
    def collate(examples: Sequence[TranslationExample], device: torch.device) -> TranslationBatch:
        """Put pairs side by side, sources and targets padded to the longest."""
        sources, lengths = pad([example.source for example in examples])
        inputs, counts = pad([example.inputs for example in examples])
        labels, _ = pad([example.labels for example in examples], NOT_SCORED)
        parts = [torch.from_numpy(part).to(device) for part in (sources, lengths, inputs, labels)]
        return TranslationBatch(parts[0], parts[1], parts[2], parts[3], int(counts.sum()))

    @staticmethod
    def cost(model: Any, batch: TranslationBatch) -> tuple[Tensor, int]:
        """Return the summed surprisal of the targets, ends included, and the number of symbols."""
        logits = model(batch.sources, batch.lengths, batch.inputs).float()
        nats = functional.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), ignore_index=NOT_SCORED, reduction="sum"
        )
        return nats, batch.scored

    def judge(
        self, model: nn.Module, examples: Sequence[TranslationExample], stop: Callable[[], bool]
    ) -> Judged:
        """Measure the surprisal of the targets, and the greedy translations of all sources.

        The translations are scored by the share of exact matches, and by BLEU over words between
        white space.
        """
        return self._judged(model, examples, examples, stop)

    def glance(
        self, model: nn.Module, examples: Sequence[TranslationExample], stop: Callable[[], bool]
    ) -> Judged:
        """Measure like `judge`, but translate only `DECODED` evenly spread sources.

        Translating takes one step for each symbol, and so takes much longer than the surprisal.
        """
        some = examples[:: math.ceil(len(examples) / DECODED)]
        return self._judged(model, examples, some, stop)

    def final_seconds(self) -> float:
        """Return an upper bound: the time of the last estimate, scaled to translating all pairs."""
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
        for _, (total, count) in self.outputs(model, examples, self.cost, at_a_time, stop):
            nats, labels = nats + float(total), labels + count
        written = self._translations(model, translated, stop)
        wanted = [example.pair.target for example in translated]
        share = exact_match(written, wanted).value
        assert share is not None
        score = bleu([text.split() for text in written], [[text.split()] for text in wanted]).score
        part = ""
        if len(translated) < len(examples):
            part = f", {len(translated):,} of {len(examples):,} translated"
        return Judged(nats, labels, {"exact_match": share, "bleu": score}, part)

    def _translations(
        self, model: nn.Module, examples: Sequence[TranslationExample], stop: Callable[[], bool]
    ) -> list[str]:
        """Translate each source greedily."""
        search = partial(decode, target=self.target)
        searched = in_order(self.outputs(model, examples, search, stop=stop))
        return [text_of(self.target, hypotheses[0]) for hypotheses in searched]

    def judge_each(
        self, model: nn.Module, examples: Sequence[TranslationExample]
    ) -> Iterator[dict[str, Any]]:
        """Yield the greedy translation of each source, and the surprisal of its target."""
        costs = in_order(
            (rows, [cost]) for rows, cost in self.outputs(model, examples, self.cost, at_a_time=1)
        )
        written = self._translations(model, examples, never)
        for example, text, (nats, count) in zip(examples, written, costs, strict=True):
            pair = example.pair
            yield {
                "file": pair.file,
                "line": pair.line,
                "text": pair.source,
                "target": pair.target,
                "translation": text,
                "exact_match": text == pair.target,
                f"{key_unit(self.unit)}s": count,
                "nats": float(nats),
            }

    def sample(self, length: int) -> str:
        """Show the first sources of validation, each with its greedy translation."""
        examples = self.shown()
        written = self._translations(self.model, examples, never)
        pairs = zip(examples, written, strict=True)
        return "\n".join(f"{e.pair.source[:length]} -> {text[:length]}" for e, text in pairs)

    @staticmethod
    def predictor(checkpoint: Checkpoint, device: str) -> Translator:
        """Make the translator of a checkpoint."""
        return Translator(checkpoint, device)


def decode(
    model: Any, batch: TranslationBatch, target: Vocabulary, beam: int = 1
) -> list[list[Hypothesis]]:
    """Search for up to `beam` translations of each source, at most 3 S + 50 symbols, best first."""
    state = model.read(batch.sources, batch.lengths)
    limits = (3 * batch.lengths + 50).tolist()
    start, end = ends_of(target)
    return beam_search(TorchStepper(model, state), state, start, end, limits, beam)


def text_of(target: Vocabulary, hypothesis: Hypothesis) -> str:
    """Return the text of a hypothesis on one line; bytes that are not a character become U+FFFD."""
    return text_of_ids(target, hypothesis.ids).replace("\n", " ")


def shown(symbol: str | int) -> str:
    """Return a symbol as a picture shows it; bytes outside of ASCII become numbers.

    >>> shown("a"), shown(97), shown(200)
    ('a', 'a', '0xc8')
    """
    if isinstance(symbol, str):
        return symbol
    return chr(symbol) if symbol < 128 else f"{symbol:#04x}"


class Translator:
    """A trained translator for any texts; `beam` is the width of its search."""

    beam = 1

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        network, vocabularies = trained_network(Translation, checkpoint, device)
        self.model = cast(EncoderDecoder, network).eval()
        self.source, self.target = _both(vocabularies)
        self._path = checkpoint.path
        self._collate = partial(Translation.collate, device=torch.device(device))

    def predict(self, texts: Sequence[str]) -> Iterator[Prediction]:
        """Yield the translation of each text; records have its surprisal, and with a beam the
        runners-up.

        Raises DataError for a text without characters.
        """
        for text, hypotheses in zip(texts, self._search(texts), strict=True):
            best, *others = [
                {"translation": text_of(self.target, h), "nats": -h.log_probability}
                for h in hypotheses
            ]
            record = {"text": text, **best}
            if self.beam > 1:
                record["others"] = others
            yield Prediction(str(record["translation"]), record)

    def align(self, text: str) -> Alignment:
        """Return the alignment of the best translation, its end included, with the source.

        Raises ConfigError for a model without attention.
        """
        if self.model.attention is None:
            raise ConfigError(
                f"{self._path} was trained without attention; train with model.attention=general"
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
        search = partial(decode, target=self.target, beam=self.beam)
        at_a_time = max(1, AT_A_TIME // self.beam)
        return in_order(
            outputs(self.model, examples, self._collate, Translation.length, search, at_a_time)
        )
