"""The task tagging: a tag for each word of a sentence (many to many, aligned).

The vector of a word is looked up, composed from its characters, or both; recurrent layers read the
sentence, and a linear layer gives each word one logit for each tag.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from charrnn.config.merge import config_from_data
from charrnn.config.resolved import ResolvedConfig
from charrnn.config.schema import Config
from charrnn.data.batching import pad
from charrnn.data.example_splits import Examples
from charrnn.data.formats import Tagged
from charrnn.data.layout import listed
from charrnn.data.spelling import characters_of, spell
from charrnn.data.tagged import UNTAGGED, read_tagged
from charrnn.data.vocabulary import (
    SPECIALS,
    UNKNOWN,
    CharacterVocabulary,
    Ids,
    TokenVocabulary,
    Vocabularies,
    read_vocabularies,
    shortened,
)
from charrnn.errors import ConfigError, DataError
from charrnn.evaluation.metrics import are_span_tags, by_span, confused
from charrnn.nn.dropout import NO_DROPOUT, Dropouts
from charrnn.nn.layers import Stack
from charrnn.nn.word_vectors import WordVectors
from charrnn.runs.checkpoint import Checkpoint
from charrnn.tasks.data import Texts
from charrnn.tasks.examples import (
    ExampleData,
    Judged,
    TaskOnExamples,
    in_order,
    load,
    outputs,
    refuse_empty,
    trained_network,
)
from charrnn.tasks.task import Prediction
from charrnn.training.build import build_dropouts, build_stack, build_words
from charrnn.training.text_windows import NOT_SCORED

SHOWN_TAGS = 20
UNKNOWN_TAG = -1
"""The tag of a word whose tag does not occur in training."""


class Word(NamedTuple):
    """A word as ids."""

    text: str
    id: int
    characters: Ids
    seen: bool  # whether it occurs in training in this spelling
    chance: float  # probability that it is replaced by <unk> in training


class TaggingExample(NamedTuple):
    """A sentence and its tags: as ids (or `UNKNOWN_TAG`, `NOT_SCORED`), and as in the file.

    `file` and `line` say where it comes from.
    """

    words: tuple[Word, ...]
    tags: NDArray[np.int64]
    gold: tuple[str, ...] = ()
    file: str = ""
    line: int = 0


class TaggingBatch(NamedTuple):
    """N sentences side by side, padded to T words, and their W distinct words."""

    words: Tensor  # (N, T) places among the distinct words, 0 past a sentence's end
    lengths: Tensor  # (N,)
    tags: Tensor  # (N, T), NOT_SCORED past a sentence's end
    ids: Tensor  # (W,)
    characters: Tensor  # (W, L), 0 past a word's end
    spelled: Tensor  # (W,) the number of characters
    chances: Tensor  # (W,) probabilities of <unk> in place of a word in training


TaggedSentences: TypeAlias = ExampleData[TaggingExample]


def read(config: Config, texts: Texts, vocabulary: Any = None) -> TaggedSentences:
    """Read the tagged sentences that a configuration names, as ids.

    If `vocabulary` (plain data) is None, the vocabularies are made from the training split. Raises
    DataError, also for a tag that does not occur in training.
    """
    loaded = load(config, texts, read_tagged)
    train = loaded.splits.get("train", [])
    training = [word for example in train for word in example.words]
    if vocabulary is not None:
        vocabularies: Vocabularies = read_vocabularies(vocabulary)
    else:
        vocabularies = {
            "word": TokenVocabulary.of(
                map(lookup_key(config), training), config.data.minimum_count, [UNKNOWN]
            ),
            "character": characters_of(set(training)),
            "tag": TokenVocabulary.of(
                tag for example in train for tag in example.tags if tag != UNTAGGED
            ),
        }
    parts = parts_of(vocabularies)
    lexicon = Lexicon(parts, lookup_key(config), training)
    numbers = {tag: number for number, tag in enumerate(parts.tag.symbols)} | {UNTAGGED: NOT_SCORED}
    splits = {
        name: [
            TaggingExample(
                lexicon.words(e.words),
                np.array([numbers.get(tag, UNKNOWN_TAG) for tag in e.tags], np.int64),
                *e[1:4],
            )
            for e in examples
        ]
        for name, examples in loaded.splits.items()
    }
    _check_tags(loaded, parts.tag)
    return ExampleData(
        splits,
        vocabularies,
        loaded.sha256,
        notes=tuple(loaded.log.notes),
        settings=loaded.log.settings,
    )


def _check_tags(loaded: Examples[Tagged], tag: TokenVocabulary) -> None:
    """Note the tags that training lacks.

    Raises DataError if the model was trained on other tags and its training split has such a tag,
    and if a split has no tag of training.
    """
    known = {*tag.symbols, UNTAGGED}
    for name, sentences in loaded.splits.items():
        missing: dict[str, list[tuple[str, int]]] = {}
        for sentence in sentences:
            if not known.issuperset(sentence.tags):
                for each, line in zip(sentence.tags, sentence.lines, strict=True):
                    if each not in known:
                        missing.setdefault(each, []).append((sentence.file, line))
        if not missing:
            continue
        first, places = next(iter(missing.items()))
        where = f"{shortened(first)} ({places[0][0]}, line {places[0][1]:,})"
        if name == "train":
            raise DataError(
                f"the model has no tag {where}; mend it, or write _ for a word without a tag"
            )
        if not any(known.intersection(s.tags) - {UNTAGGED} for s in sentences):
            raise DataError(
                f"no word of {name} has a tag of training, such as {tag.symbols[0]}; its first tag "
                f"is {where}; choose another column in data.tag_column"
            )
        count, words = len(missing), sum(map(len, missing.values()))
        others = f" and {count - 1:,} more" if count > 1 else ""
        tags, counted = f"tag{'s' * (count > 1)}", f"word{'s' * (words > 1)}"
        loaded.log.notes.append(
            f"{count:,} {tags} of {words:,} {counted} in {name} only, each counts as wrong: "
            f"{where}{others}"
        )


class Parts(NamedTuple):
    """The vocabularies of a tagger."""

    word: TokenVocabulary
    character: CharacterVocabulary
    tag: TokenVocabulary


def parts_of(vocabularies: Vocabularies) -> Parts:
    """Return the vocabularies of a tagger by name. Raises ConfigError for any others."""
    word, character, tag = map(vocabularies.get, Parts._fields)
    if (
        len(vocabularies) == len(Parts._fields)
        and isinstance(word, TokenVocabulary)
        and word.specials == (UNKNOWN,)
        and isinstance(character, CharacterVocabulary)
        and character.specials == SPECIALS
        and isinstance(tag, TokenVocabulary)
    ):
        return Parts(word, character, tag)
    raise ConfigError(
        "a tagger has vocabularies of words, characters and tags; use a tagger's checkpoint"
    )


def lookup_key(config: Config) -> Callable[[str], str]:
    """Return the function from a word to the spelling under which it is looked up.

    A model that also reads the word's characters, with their case, looks it up in lower case, so
    that `Interested` has the vector of `interested`. Any other model looks it up unchanged.
    """
    return str if config.model.words in ("lookup", ["lookup"]) else str.lower


class Lexicon:
    """Turns tokens into `Word`s; `training` are the tokens of the training split, if it is read.

    A rare word is sometimes replaced by `<unk>` in training, so that `<unk>` gets a vector.
    """

    def __init__(
        self, parts: Parts, key: Callable[[str], str], training: Collection[str] = ()
    ) -> None:
        self._parts, self._key = parts, key
        self._seen = frozenset(training)
        self._counts = Counter(map(key, training))
        self._words: dict[str, Word] = {}

    def words(self, tokens: Sequence[str]) -> tuple[Word, ...]:
        """Return the `Word` of each token."""
        for token in tokens:
            if token not in self._words:
                self._words[token] = self._word(token)
        return tuple(self._words[token] for token in tokens)

    def _word(self, token: str) -> Word:
        key = self._key(token)
        return Word(
            token,
            int(self._parts.word.encode([key])[0]),
            spell(token, self._parts.character),
            token in self._seen,
            # a / (a + count) with a = 1; Kiperwasser and Goldberg 2016 take a = 0.25.
            1 / (1 + self._counts[key]),
        )


class Tagger(nn.Module):
    """Logits (N, T, C) of the tags of each word, from recurrent layers over the words' vectors."""

    def __init__(
        self,
        words: WordVectors,
        stack: Stack,
        head: nn.Module,
        dropouts: Dropouts = NO_DROPOUT,
    ) -> None:
        super().__init__()
        self.words = words
        self.stack = stack
        self.head = head
        self.dropouts = dropouts

    def forward(self, batch: TaggingBatch) -> Tensor:
        distinct = self.words(batch.ids, batch.characters, batch.spelled, batch.chances)
        vectors = functional.embedding(batch.words, distinct)
        vectors = self.dropouts.on_input(vectors, self.training)
        outputs, _ = self.stack(vectors, self.stack.initial_state(len(vectors)), batch.lengths)
        outputs = self.dropouts.on_output(outputs, self.training)
        logits: Tensor = self.head(outputs)
        return logits


class Tagging(TaskOnExamples[TaggingExample, TaggingBatch]):
    """Learn the tags of words in sentences.

    Scored by surprisal and accuracy, on all words and on those that training lacks.
    """

    unit = "token"
    noun = "sentences"

    def __init__(
        self, config: ResolvedConfig, data: TaggedSentences, about: dict[str, Any]
    ) -> None:
        super().__init__(config, data, about)
        self.tag = parts_of(data.vocabularies).tag
        self.guess = math.log(self.tag.size)

    @staticmethod
    def build(config: ResolvedConfig, vocabularies: Vocabularies) -> Tagger:
        """Make the tagger of a configuration. Raises ConfigError."""
        model = config.model
        parts = parts_of(vocabularies)
        words = build_words(model, parts.word.size, parts.character.size)
        stack = build_stack(model, words.size, model.bidirectional)
        return Tagger(
            words,
            stack,
            nn.Linear(stack.output_size, parts.tag.size),
            build_dropouts(model),
        )

    @staticmethod
    def defaults(config: Config, data: TaggedSentences) -> dict[str, Any]:
        """Return settings that suit about ten thousand sentences."""
        return {
            "training.epochs": 5.0,
            "training.batch_size": min(16, len(data.splits["train"])),
            "training.learning_rate": 2e-3,
            "model.words": ["lookup", "recurrent"],
            "model.hidden_size": 128,
            "model.embedding_size": 96,
            "model.embedding_scale": 0.1,
            "model.dropout": 0.4,
            "model.input_dropout": 0.3,
            "model.output_dropout": 0.4,
        }

    @staticmethod
    def describe(data: TaggedSentences) -> str:
        """Say how many sentences, words and tags there are; then name the tags, with their counts.

        Further lines are the notes on how the files were read.
        """
        parts = parts_of(data.vocabularies)
        sentences = [example for split in data.splits.values() for example in split]
        count = sum(len(sentence.words) for sentence in sentences)
        first = (
            f"{len(sentences):,} sentences of {count:,} words, {parts.word.size:,} of them known, "
            f"{parts.tag.size:,} tags"
        )
        tags = Counter(tag for sentence in sentences for tag in sentence.gold if tag != UNTAGGED)
        shown = [f"{tag} {times:,}" for tag, times in tags.most_common()]
        return "\n".join([first, f"tags: {listed(shown, SHOWN_TAGS)}", *data.notes])

    @staticmethod
    def length(example: TaggingExample) -> int:
        """Return the number of words."""
        return len(example.words)

    @staticmethod
    def collate(examples: Sequence[TaggingExample], device: torch.device) -> TaggingBatch:
        """Put sentences side by side, padded to the longest, with each word spelled once."""
        distinct = {word.text: word for example in examples for word in example.words}
        places = {text: place for place, text in enumerate(distinct)}
        words, lengths = pad([np.array([places[w.text] for w in e.words]) for e in examples])
        tags, _ = pad([example.tags for example in examples], NOT_SCORED)
        characters, spelled = pad([word.characters for word in distinct.values()])
        ids = np.array([word.id for word in distinct.values()])
        chances = np.array([word.chance for word in distinct.values()], np.float32)
        parts = (words, lengths, tags, ids, characters, spelled, chances)
        return TaggingBatch(*(torch.from_numpy(part).to(device) for part in parts))

    @staticmethod
    def cost(model: Any, batch: TaggingBatch) -> tuple[Tensor, int]:
        """Return the summed surprisal of the right tags, and the number of words with one."""
        logits = model(batch).flatten(0, 1).float()
        nats = functional.cross_entropy(
            logits, batch.tags.flatten(), ignore_index=NOT_SCORED, reduction="sum"
        )
        return nats, int((batch.tags != NOT_SCORED).sum())

    def judge(
        self, model: nn.Module, examples: Sequence[TaggingExample], stop: Callable[[], bool]
    ) -> Judged:
        """Measure surprisal of the right tag, accuracy on all words and on unseen ones, and spans.

        Words without a tag are left out. A tag that training lacks counts as wrong; it has no
        surprisal.
        """
        nats, known = 0.0, 0
        tags: list[tuple[list[str], Sequence[str]]] = []
        scored: list[tuple[str, str, bool]] = []
        for rows, sentences in self.outputs(model, examples, log_probabilities, stop=stop):
            for row, logs in zip(rows, sentences, strict=True):
                example = examples[row]
                nats += tag_nats(logs, example.tags)
                known += int((example.tags >= 0).sum())
                guess = self.tag.decode(logs.argmax(1))
                tags.append((guess, example.gold))
                words = zip(guess, example.gold, example.words, strict=True)
                scored += [(g, tag, word.seen) for g, tag, word in words if tag != UNTAGGED]
        predicted, gold, seen = zip(*scored, strict=True)
        right = np.array([g == tag for g, tag in zip(predicted, gold, strict=True)])
        metrics = {"accuracy": float(right.mean())}
        if "train" in self.data.splits and not all(seen):
            new = ~np.array(seen)
            metrics |= {"accuracy_unseen": float(right[new].mean()), "unseen": int(new.sum())}
        part = ""
        if known < len(scored):
            part = f", {len(scored) - known:,} of tags that training lacks count as wrong"
        spans = None
        if are_span_tags(self.tag.symbols):
            pairs = [_scored_tags(guess, right_tags) for guess, right_tags in tags]
            spans = by_span([pair[0] for pair in pairs], [pair[1] for pair in pairs])
            metrics |= {f"span_{name}": value for name, value in spans.all.shares().items()}
        return Judged(
            nats, known, metrics, part, confused(predicted, gold, self.tag.symbols), spans
        )

    def judge_each(
        self, model: nn.Module, examples: Sequence[TaggingExample]
    ) -> Iterator[dict[str, Any]]:
        """Yield the right and the predicted tags of each sentence, and the right ones' surprisal.

        `nats` is a sum over the tags that the model has.
        """
        each = in_order(self.outputs(model, examples, log_probabilities))
        for example, logs in zip(examples, each, strict=True):
            predicted = self.tag.decode(logs.argmax(1))
            scored = [
                guess == tag
                for guess, tag in zip(predicted, example.gold, strict=True)
                if tag != UNTAGGED
            ]
            yield {
                "file": example.file,
                "line": example.line,
                "tokens": [word.text for word in example.words],
                "tags": [*example.gold],
                "predicted": predicted,
                "right": sum(scored),
                "scored": len(scored),
                "nats": tag_nats(logs, example.tags),
            }

    def sample(self, length: int) -> str:
        """Show the first sentences of validation with their most probable tags."""
        examples = self.shown()
        lines = []
        sentences = in_order(self.outputs(self.model, examples, log_probabilities))
        for example, logs in zip(examples, sentences, strict=True):
            words = [word.text for word in example.words]
            lines.append(tagged(words, self.tag.decode(logs.argmax(1)))[:length])
        return "\n".join(lines)

    @staticmethod
    def predictor(checkpoint: Checkpoint, device: str) -> TagPredictor:
        """Make the tagger of a checkpoint."""
        return TagPredictor(checkpoint, device)


def tagged(words: Sequence[str], tags: Sequence[str]) -> str:
    """Write words and tags as `word/TAG word/TAG`.

    >>> tagged(["old", "man"], ["ADJ", "NOUN"])
    'old/ADJ man/NOUN'
    """
    return " ".join(f"{word}/{tag}" for word, tag in zip(words, tags, strict=True))


def tag_nats(logs: NDArray[np.float64], tags: NDArray[np.int64]) -> float:
    """Sum the surprisal in nats of the known `tags` (T,), given log-probabilities (T, C)."""
    known = np.flatnonzero(tags >= 0)
    return -float(logs[known, tags[known]].sum())


def _scored_tags(guess: Sequence[str], gold: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the tags of a sentence; a word without a tag gets O, outside of spans."""
    is_scored = [tag != UNTAGGED for tag in gold]
    first, second = (
        [tag if kept else "O" for tag, kept in zip(tags, is_scored, strict=True)]
        for tags in (guess, gold)
    )
    return first, second


def log_probabilities(model: Any, batch: TaggingBatch) -> list[NDArray[np.float64]]:
    """Return the log-probabilities of the tags, (T, C) in nats for each sentence."""
    logs = torch.log_softmax(model(batch).double(), -1).cpu().numpy()
    return [part[:length] for part, length in zip(logs, batch.lengths.tolist(), strict=True)]


class TagPredictor:
    """A trained tagger for any texts, which it splits into words at white space."""

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self.model, vocabularies = trained_network(Tagging, checkpoint, device)
        config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
        self.parts = parts_of(vocabularies)
        self._lexicon = Lexicon(self.parts, lookup_key(config))
        self._collate = partial(Tagging.collate, device=torch.device(device))

    def predict(self, texts: Sequence[str]) -> Iterator[Prediction]:
        """Yield the words of each text with their tags; records also have the probabilities.

        Raises DataError for a text without words.
        """
        for text, made in zip(texts, self.predict_words([t.split() for t in texts]), strict=True):
            yield made._replace(record=made.record | {"text": text})

    def predict_words(self, sentences: Sequence[Sequence[str]]) -> Iterator[Prediction]:
        """Yield the tags of sentences, whose words may have spaces in them.

        Raises DataError for a sentence without words.
        """
        nothing = np.zeros(0, np.int64)
        examples = [TaggingExample(self._lexicon.words(words), nothing) for words in sentences]
        refuse_empty((len(example.words) for example in examples), "words")
        each = in_order(
            outputs(self.model, examples, self._collate, Tagging.length, log_probabilities)
        )
        for words, logs in zip(sentences, each, strict=True):
            tags = self.parts.tag.decode(logs.argmax(1))
            record = {
                "text": " ".join(words),
                "tokens": [*words],
                "tags": tags,
                "probabilities": np.exp(logs.max(1)).tolist(),
            }
            yield Prediction(tagged(words, tags), record)
