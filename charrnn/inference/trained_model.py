"""A trained model with its vocabulary: step it, sample from it, score texts with it.

`TrainedModel` holds weights, vocabulary and configuration, and takes steps. `inference.text`
writes with it, `inference.saved_state` saves its states, and `evaluation.score_network` scores
texts with it and adapts it. torch is imported only when it is needed, so sampling on a CPU does not
import it.
"""

from __future__ import annotations

import copy
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from charrnn.config.merge import config_from_data
from charrnn.config.schema import Config
from charrnn.data.spelling import spell, word_characters
from charrnn.data.vocabulary import (
    Unknown,
    Vocabulary,
    WordVocabulary,
    read_vocabulary,
    shortened,
    split_words,
)
from charrnn.errors import CheckpointError, ConfigError, DataError
from charrnn.inference.numpy_stepper import NumpyModel
from charrnn.inference.sampler import Choice, Cursor, Draws, Stepper, prime
from charrnn.inference.text import generate_text, has_line_ends, starting_id
from charrnn.registry import writer_of_task
from charrnn.runs.checkpoint import Arrays, Checkpoint
from charrnn.runs.directory import find_checkpoint

if TYPE_CHECKING:
    from charrnn.data.corpus import Corpus
    from charrnn.evaluation.dynamic import Rates
    from charrnn.evaluation.score import Evaluation
    from charrnn.evaluation.score_network import Reading
    from charrnn.nn.models import LanguageModel


def load(name: str | os.PathLike[str], device: str = "cpu") -> TrainedModel:
    """Load the best model of a run, given by path or by name under runs/, or a checkpoint file.

    Raises CheckpointError for a run or file that is missing, damaged or not a checkpoint.

    ::

        model = charrnn.load("runs/book-1")
        print(model.sample_text(200, "Once ", temperature=0.7, seed=1))
        print(model.evaluate("To be, or not to be").nats_per_character)
    """
    checkpoint = find_checkpoint(os.fspath(name), warn=lambda _: None)
    return TrainedModel.from_checkpoint(checkpoint, device)


def model_weights(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return a checkpoint's weights by their names in the model; the averages, if it has any.

    Raises CheckpointError if they are not all finite.
    """
    weights: dict[str, NDArray[Any]] = {}
    for prefix in ("model/", "average/"):
        weights |= {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
    if not all(np.isfinite(value).all() for value in weights.values()):
        raise CheckpointError(
            "the weights of the checkpoint are not all finite numbers; use another checkpoint"
        )
    return weights


def second_moments(tensors: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return the second moments of the gradient, kept by Adam and RMSprop, by weight name."""
    moments: Arrays = {}
    for name, value in tensors.items():
        weight, _, kind = name.removeprefix("optimizer/").rpartition("/")
        if name.startswith("optimizer/") and kind in {"exp_avg_sq", "square_avg"}:
            moments[weight] = value
    return moments


def check_language_model(config: Config, path: Path) -> None:
    """Raise CheckpointError for a checkpoint of another task than language modelling."""
    if config.task != "language_model":
        use = "sample" if writer_of_task(config.task) else "predict"
        raise CheckpointError(
            f"{path} was trained for {config.task} and is not a language model; use charrnn {use}"
        )


def writer_of(checkpoint: Checkpoint) -> Any:
    """Return the class (a `text.Writer`) for a checkpoint with a model that writes text.

    Its `from_checkpoint` makes the model. Raises CheckpointError if its task writes no text.
    """
    config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
    writer = writer_of_task(config.task)
    if writer is None:
        raise CheckpointError(
            f"{checkpoint.path} was trained for {config.task} and cannot write text; use charrnn "
            f"predict"
        )
    return writer


class TrainedModel:
    """A language model with its vocabulary and configuration; `charrnn.load` makes one.

    It is a `Stepper` of the sampler, with `initial_state(batch)` and `step(token, state)`.
    `abilities` are the optional features of `charrnn sample` that it supports.

    A model of characters that has `<unk>` never writes it, unless `writes_unknown` is set.

    `moments` are second moments of the gradient by weight name, for dynamic evaluation.
    """

    abilities: ClassVar = frozenset(
        {"adapt", "converse", "save_state", "load_state", "clamp", "write_unknown"}
    )

    def __init__(
        self,
        weights: Mapping[str, NDArray[Any]],
        vocabulary: Vocabulary,
        config: Config,
        metadata: dict[str, Any],
        device: str = "cpu",
        moments: Arrays | None = None,
    ) -> None:
        self.clamps: dict[int, dict[int, float]] = {}
        self.weights = weights
        self.moments = moments or {}
        self.vocabulary = vocabulary
        self.config = config
        self.metadata = metadata
        self.device = device
        self.writes_unknown = False

    @property
    def end(self) -> int | None:
        """The id at which a text ends by itself; None if texts do not end."""
        return self.vocabulary.end

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, device: str = "cpu") -> TrainedModel:
        """Make the model of a checkpoint that `check_layout` has accepted, on `device`.

        Raises CheckpointError for a checkpoint of another task.
        """
        config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
        check_language_model(config, checkpoint.path)
        vocabulary = read_vocabulary(checkpoint.metadata["vocabulary"])
        return cls(
            model_weights(checkpoint.tensors),
            vocabulary,
            config,
            checkpoint.metadata,
            device,
            second_moments(checkpoint.tensors),
        )

    @cached_property
    def model(self) -> LanguageModel:
        """The network in torch, on the device."""
        from charrnn.config.merge import with_values
        from charrnn.config.resolved import resolved
        from charrnn.training.build import build_model, load_arrays, placed

        config = resolved(with_values(self.config, {"device": self.device}))
        network = placed(build_model(config, self.vocabulary), config)
        return load_arrays(network, self.weights).eval()

    def with_weights(self, network: LanguageModel) -> TrainedModel:
        """Return the same model with the weights that `network` has now."""
        weights = {n: v.detach().cpu().numpy() for n, v in network.state_dict().items()}
        return TrainedModel(weights, self.vocabulary, self.config, self.metadata, self.device)

    @property
    def training_step(self) -> int | None:
        """The training step of the weights."""
        step = self.metadata.get("progress", {}).get("step")
        return int(step) if step is not None else None

    @property
    def first(self) -> int:
        """The id after which a text without a prompt starts."""
        if self.end is not None:
            return self.end
        most_frequent = int(self.metadata.get("corpus", {}).get("most_frequent", 0))
        return starting_id(self.vocabulary, most_frequent)

    @property
    def has_lines(self) -> bool:
        """Whether a text may have several lines."""
        return has_line_ends(self.vocabulary)

    def initial_state(self, batch_size: int = 1) -> Any:
        """Return the zero state for `batch_size` lanes."""
        return self._stepper.initial_state(batch_size)

    def step(self, token: NDArray[np.int64], state: Any) -> tuple[NDArray[np.float32], Any]:
        """Read one symbol per lane: ids (N,) and a state give logits (N, V) and the next state.

        On a CPU, numpy computes the cells of `numpy_stepper`; torch computes all others.
        """
        logits, state = self._stepper.step(token, state)
        if self.unwritten is not None and not self.writes_unknown:
            logits[:, self.unwritten] = -np.inf
        return logits, state

    @cached_property
    def unwritten(self) -> int | None:
        """The id of the `<unk>` of characters, which stands for no text that could be written."""
        vocabulary = self.vocabulary
        return vocabulary.unknown if vocabulary.kind == "character" else None

    @cached_property
    def _stepper(self) -> Stepper:
        model = self.config.model
        kind = (model.cell, model.activation)
        plain = not (model.layer_norm or model.zoneout or model.zoneout_cell)
        if self.device == "cpu" and plain and NumpyModel.fits(self.weights, *kind):
            return NumpyModel(self.looked_up(), *kind, model.skip_connections, self.clamps)
        from charrnn.inference.torch_stepper import TorchStepper

        if not self.clamps:
            return TorchStepper(self.model)
        from charrnn.nn.clamped import Clamped

        network: Any = copy.deepcopy(self.model)
        layers = network.stack.layers
        for i, units in self.clamps.items():
            layers[i] = Clamped(layers[i], units).to(self.device)
        return TorchStepper(network)

    def clamped(self, clamps: Mapping[int, Mapping[int, float]]) -> TrainedModel:
        """Return this model with units held at values in every step: {layer: {unit: value}}.

        Layers and units are counted from 0, as in the names of the weights. A unit is one of the
        layer's outputs, which are also its hidden state. Clamping affects sampling, not scores.
        Raises ConfigError for a layer or a unit that the model does not have.

        ::

            happier = model.clamped({1: {137: 1.0}})
        """
        widths = self.config.model.widths
        for layer, units in clamps.items():
            if not 0 <= layer < len(widths):
                raise ConfigError(
                    f"the model has no layer {layer}; its layers are 0 to {len(widths) - 1}"
                )
            for unit in units:
                if not 0 <= unit < widths[layer]:
                    raise ConfigError(
                        f"layer {layer} has no unit {unit}; its units are 0 to {widths[layer] - 1}"
                    )
        model = copy.copy(self)
        model.__dict__.pop("_stepper", None)
        model.clamps = {layer: dict(units) for layer, units in clamps.items()}
        return model

    def looked_up(self) -> Mapping[str, NDArray[Any]]:
        """Return the weights with a table of one vector per symbol in place of composed words."""
        if self.config.model.word_parts == ["lookup"]:
            return self.weights
        import torch

        with torch.inference_mode():
            table = self.model.embedding.table().numpy()  # type: ignore[operator]
        others = {n: v for n, v in self.weights.items() if not n.startswith("embedding.")}
        return others | {"embedding.weight": table}

    def word_vector(self, word: str) -> NDArray[np.float32]:
        """Return the vector (size,) of a word that the network reads.

        A model that composes words from their characters has a vector for every word; any other
        model has the vector of the word's id, or of `<unk>`. Within a line, a word includes the
        space before it: give " be", not "be". Raises DataError for anything but one word, and for a
        vocabulary that is not of words.
        """
        if self.vocabulary.kind != "word" or split_words(word) != [word]:
            raise DataError(
                f"{shortened(word)} is not a single word, or the {self.vocabulary.kind} vocabulary "
                "has no words; give one word to a model of words"
            )
        import torch

        number, embedding = int(self.vocabulary.encode(word)[0]), self.model.embedding
        with torch.inference_mode():
            if isinstance(self.vocabulary, WordVocabulary) and self.config.model.word_parts != [
                "lookup"
            ]:
                spelling = spell(word, word_characters(self.vocabulary)).astype(np.int64)
                vector: Any = embedding.vector_of(number, torch.from_numpy(spelling))  # type: ignore[operator]
            else:
                vector = embedding(torch.tensor(number, device=self.device))
        values: NDArray[np.float32] = vector.cpu().numpy()
        return values

    # Write (`inference.text`) ------------------------------------------------------------------

    def begin(
        self,
        prompt: str = "",
        samples: int = 1,
        unknown: Unknown = "error",
        labels: Sequence[str] = (),
    ) -> Cursor:
        """Read a prompt into `samples` lanes; a language model ignores `labels`.

        Without a prompt, a text starts after a newline, or after the most frequent character of the
        training text if the vocabulary has no newline; if texts have an end, it starts after an
        end. Raises DataError for characters that the vocabulary lacks, unless `unknown` is "skip".
        """
        ids = self.vocabulary.encode(prompt, unknown).astype(np.int64)
        if self.end is not None or len(ids) == 0:
            ids = np.insert(ids, 0, self.first)
        return prime(self, np.tile(ids, (samples, 1)))

    def labels(self, draws: Draws, label: str | None = None) -> list[str]:
        """Return nothing: a language model has no classes."""
        return []

    def sample(
        self,
        length: int = 500,
        prompt: str = "",
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        unknown: Unknown = "error",
    ) -> Iterator[str]:
        """Yield text piece by piece, as it is chosen; the prompt is not repeated.

        `length` counts symbols of the vocabulary; if texts have an end, the text may end before. If
        `seed` is None, a random one is used. The other arguments are those of `sampler.Choice`.
        Raises DataError for unknown characters in the prompt.

        ::

            for piece in model.sample(200, "Once ", temperature=0.7):
                print(piece, end="")
        """
        cursor = self.begin(prompt, 1, unknown)
        choice = Choice(temperature, top_k, top_p, min_p)
        draws = Draws(secrets.randbits(32) if seed is None else seed, [0])
        yield from generate_text(self, self.vocabulary, cursor, choice, draws, length, self.end)

    def sample_text(self, length: int = 500, prompt: str = "", **options: Any) -> str:
        """Return the pieces of `sample` as one string."""
        return "".join(self.sample(length, prompt, **options))

    # Score and adapt (`evaluation.score_network`) ----------------------------------------------

    def evaluate(
        self, text: str, unknown: Unknown = "error", reading: Reading | None = None
    ) -> Evaluation:
        """Score a text: one unbroken pass from the zero state, every symbol once.

        With `unknown="skip"`, characters that the vocabulary lacks are neither read nor scored;
        `reading` has further options, such as dynamic evaluation (`score_network.Reading`).
        Raises DataError for an empty text and, unless they are skipped, for unknown characters.

        ::

            score = model.evaluate("To be, or not to be")
            score.nats_per_character, score.bits_per_byte
        """
        corpus = self._corpus(text, unknown, "there is nothing to score")
        skipped = sum(self.vocabulary.unknown_characters(text).values())
        return self.evaluate_split(corpus, "text", reading, unknown_characters=skipped)

    def evaluate_split(
        self,
        corpus: Corpus,
        split: str,
        reading: Reading | None = None,
        unknown_characters: int = 0,
    ) -> Evaluation:
        """Score a split of a corpus by the same protocol. Raises DataError."""
        from charrnn.evaluation.score_network import Reading, score_split

        about: dict[str, Any] = {"unknown": unknown_characters} if unknown_characters else {}
        return score_split(
            self.model,
            self.config,
            corpus,
            split,
            reading=reading or Reading(),
            moments=self.moments,
            step=self.training_step,
            **about,
            text=self.metadata.get("corpus", {}).get("described") if corpus.key else None,
        )

    def surprisals(
        self, text: str, unknown: Unknown = "error", reading: Reading | None = None
    ) -> Iterator[tuple[str, float]]:
        """Yield each symbol of a text with its surprisal, -ln P in nats, in reading order."""
        from charrnn.data.corpus import corpus_of_text

        corpus = corpus_of_text(text, self.vocabulary, unknown, self.config.data.separator)
        return self.surprisals_of(corpus, "text", reading)

    def surprisals_of(
        self, corpus: Corpus, split: str, reading: Reading | None = None
    ) -> Iterator[tuple[str, float]]:
        """Yield each symbol of a split with its surprisal, as `surprisals` does."""
        from charrnn.evaluation.score import span_of
        from charrnn.evaluation.score_network import Reading, surprisals

        span = span_of(corpus, split)
        if not len(span):
            return
        pieces = surprisals(
            self.model, self.config, corpus, span, reading or Reading(), self.moments
        )
        position = span.start
        for piece in pieces:
            ids = corpus.ids[position : position + len(piece)]
            position += len(piece)
            for symbol, nats in zip(ids, piece, strict=True):
                yield self.vocabulary.decode([int(symbol)]), float(nats)

    def adapted_to(self, text: str, rates: Rates, unknown: Unknown = "error") -> TrainedModel:
        """Return this model after it has read a text by dynamic evaluation.

        Raises DataError for an empty text or unknown characters, DivergedError for rates that are
        too high.
        """
        from charrnn.evaluation.score_network import adapt

        corpus = self._corpus(text, unknown, "there is nothing to learn from")
        return self.with_weights(
            adapt(self.model, self.config, corpus, "text", self.moments, rates)
        )

    def _corpus(self, text: str, unknown: Unknown, nothing: str) -> Corpus:
        """Make a corpus of a text. Raises DataError, beginning with `nothing`, if it is empty."""
        from charrnn.data.corpus import corpus_of_text

        corpus = corpus_of_text(text, self.vocabulary, unknown, self.config.data.separator)
        if not len(corpus.ids):
            raise DataError(f"{nothing}: the text has no characters")
        return corpus
