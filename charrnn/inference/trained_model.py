"""A trained model with its vocabulary: sample from it, score texts with it, or step it by hand.

Nothing here imports torch before it is needed: sampling on a CPU does without.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from charrnn.errors import CheckpointError, DataError
from charrnn.inference.numpy_stepper import NumpyModel
from charrnn.inference.sampler import Choice, Cursor, Draws, Stepper, prime
from charrnn.inference.text import generate_text, starting_id
from charrnn.nn.state import leaves, map_state, replace_leaves
from charrnn.registry import writer_of_task
from charrnn.runs.checkpoint import Arrays, Checkpoint, Layout, load_checkpoint, save_checkpoint
from charrnn.runs.directory import find_checkpoint

if TYPE_CHECKING:
    from charrnn.data.corpus import Corpus
    from charrnn.evaluation.dynamic import Rates
    from charrnn.evaluation.score import Evaluation
    from charrnn.evaluation.score_network import Reading
    from charrnn.nn.models import LanguageModel


def model_weights(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A checkpoint's weights under the names that they have in the model, averaged if they are.

    Raises CheckpointError where they are not all finite.
    """
    weights: dict[str, NDArray[Any]] = {}
    for prefix in ("model/", "average/"):
        weights |= {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
    if not all(np.isfinite(value).all() for value in weights.values()):
        raise CheckpointError(
            "the weights of the checkpoint are not all finite numbers; use another"
        )
    return weights


def check_language_model(config: Config, path: Path) -> None:
    """Raise CheckpointError where a checkpoint is of another task."""
    if config.task != "language_model":
        use = "sample" if writer_of_task(config.task) else "predict"
        raise CheckpointError(
            f"{path} is no language model but was trained for {config.task}; use charrnn {use}"
        )


def writer_of(checkpoint: Checkpoint) -> Any:
    """The class whose `from_checkpoint` makes what writes texts of a checkpoint, as `TrainedModel`.

    Raises CheckpointError for a model that writes none.
    """
    config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
    writer = writer_of_task(config.task)
    if writer is None:
        raise CheckpointError(
            f"{checkpoint.path} writes nothing: it was trained for {config.task}; use charrnn "
            f"predict"
        )
    return writer


def second_moments(tensors: Mapping[str, NDArray[Any]]) -> Arrays:
    """Of the gradient, by the names of the weights, as Adam and RMSprop keep them."""
    found: Arrays = {}
    for name, value in tensors.items():
        of, _, kind = name.removeprefix("optimizer/").rpartition("/")
        if name.startswith("optimizer/") and kind in {"exp_avg_sq", "square_avg"}:
            found[of] = value
    return found


class TrainedModel:
    """A network, its vocabulary and its configuration. `charrnn.load` makes one.

    It is a stepper in the sampler's sense: `initial_state(batch)` and `step(token, state)`.
    `options` are those of `charrnn sample` that not all that write can take, `end` the id at which
    a text ends by itself.
    """

    options: ClassVar = frozenset({"--adapt-to", "--interactive", "--load-state", "--save-state"})
    end: ClassVar = None

    def __init__(
        self,
        weights: Mapping[str, NDArray[Any]],
        vocabulary: Vocabulary,
        config: Config,
        metadata: dict[str, Any],
        device: str = "cpu",
        moments: Arrays | None = None,
    ) -> None:
        self.weights = weights
        self.moments = moments or {}  # Second moments of the gradient, for dynamic evaluation.
        self.vocabulary = vocabulary
        self.config = config
        self.metadata = metadata
        self.device = device

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, device: str = "cpu") -> TrainedModel:
        """The model of a checkpoint that `check_layout` has passed, on `device`."""
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
        """The same model with the weights that `network` has now."""
        weights = {n: v.detach().cpu().numpy() for n, v in network.state_dict().items()}
        return TrainedModel(weights, self.vocabulary, self.config, self.metadata, self.device)

    @cached_property
    def _stepper(self) -> Stepper:
        model = self.config.model
        kind = (model.cell, model.activation)
        plain = not (model.layer_norm or model.zoneout or model.zoneout_cell)
        if self.device == "cpu" and plain and NumpyModel.fits(self.weights, *kind):
            return NumpyModel(self._looked_up(), *kind, model.skip_connections)
        from charrnn.inference.torch_stepper import TorchStepper

        return TorchStepper(self.model)

    def _looked_up(self) -> Mapping[str, NDArray[Any]]:
        """The weights with one vector a symbol, where those of words are composed."""
        if self.config.model.word_parts == ["lookup"]:
            return self.weights
        import torch

        with torch.inference_mode():
            table = self.model.embedding.table().numpy()  # type: ignore[operator]
        others = {n: v for n, v in self.weights.items() if not n.startswith("embedding.")}
        return others | {"embedding.weight": table}

    def word_vector(self, word: str) -> NDArray[np.float32]:
        """The vector of a word that the network reads, (size,): composed from its characters, if
        the model composes words, whether or not training had it; else that of its id, or of
        `<unk>`.

        A space before it is part of a word within a line: " be", not "be". Raises DataError for
        what is no one word, and where the vocabulary is not of words.
        """
        if self.vocabulary.kind != "word" or split_words(word) != [word]:
            raise DataError(f"{shortened(word)} is no word of a {self.vocabulary.kind} vocabulary")
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

    @property
    def training_step(self) -> int | None:
        """The training step the weights are from."""
        step = self.metadata.get("progress", {}).get("step")
        return int(step) if step is not None else None

    # Stepping ----------------------------------------------------------------------------------

    def initial_state(self, batch_size: int = 1) -> Any:
        """The zero state for `batch_size` lanes."""
        return self._stepper.initial_state(batch_size)

    def step(self, token: NDArray[np.int64], state: Any) -> tuple[NDArray[np.float32], Any]:
        """One character a lane: ids (N,) and a state give logits (N, V) and the next state.

        On a CPU numpy computes it, on the same weights, where it knows the cell.
        """
        return self._stepper.step(token, state)

    # Sampling ----------------------------------------------------------------------------------

    def begin(self, prompt: str = "", samples: int = 1, unknown: Unknown = "error") -> Cursor:
        """Read a prompt into `samples` lanes.

        Without one, sampling starts after a newline, or after the most frequent character of the
        training text where the vocabulary has no newline. Raises DataError for characters that
        the vocabulary lacks, unless `unknown` is `skip`.
        """
        ids = self.vocabulary.encode(prompt, unknown)
        if len(ids) == 0:
            ids = np.array([self.starting_id()])
        return prime(self, np.tile(ids.astype(np.int64), (samples, 1)))

    def starting_id(self) -> int:
        """What sampling starts after where there is no prompt."""
        most_frequent = int(self.metadata.get("corpus", {}).get("most_frequent", 0))
        return starting_id(self.vocabulary, most_frequent)

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
        """Text, piece by piece as it is made (the prompt is not repeated).

        `length` counts the vocabulary's symbols. Without a seed one is chosen.
        """
        cursor = self.begin(prompt, 1, unknown)
        choice = Choice(temperature, top_k, top_p, min_p)
        draws = Draws(secrets.randbits(32) if seed is None else seed, [0])
        yield from generate_text(self, self.vocabulary, cursor, choice, draws, length)

    def sample_text(self, length: int = 500, prompt: str = "", **options: Any) -> str:
        """`sample`, in one string."""
        return "".join(self.sample(length, prompt, **options))

    def save_cursor(self, path: Path, cursor: Cursor, seed: int, streams: Sequence[int]) -> None:
        """Save where a generation stands: hidden state, last character, position of the draws."""
        tensors: Arrays = {
            f"state/{i}": leaf if isinstance(leaf, np.ndarray) else leaf.cpu().numpy()
            for i, leaf in enumerate(leaves(cursor.state))
        }
        tensors["token"] = cursor.token
        metadata = {
            "cursor": {"position": cursor.position, "seed": seed, "samples": list(streams)},
            "model": self._identity(),
        }
        save_checkpoint(path, tensors, metadata)

    def load_cursor(self, path: Path) -> tuple[Cursor, int, list[int]]:
        """What `save_cursor` saved: cursor, seed and sample indices.

        Raises CheckpointError where it belongs to a model of another shape or vocabulary.
        """

        def check(metadata: Mapping[str, Any], layout: Layout) -> None:
            about = metadata.get("cursor")
            if not isinstance(about, dict) or metadata.get("model") != self._identity():
                raise CheckpointError("it is no state of a model of this shape and vocabulary")
            counts = [about.get("seed"), about.get("position"), *about["samples"]]
            lanes = len(about["samples"])
            shapes = [("F32", (lanes, *shape)) for shape in metadata["model"]["state"]]
            expected = {f"state/{i}": shape for i, shape in enumerate(shapes)}
            if layout != expected | {"token": ("I64", (lanes,))} or not all(
                isinstance(n, int) and 0 <= n < 2**64 for n in counts
            ):
                raise CheckpointError("its samples are not its state's")

        stored = load_checkpoint(path, check)
        about, token = stored.metadata["cursor"], stored.tensors["token"]
        if token.min(initial=0) < 0 or token.max(initial=0) >= self.vocabulary.size:
            raise CheckpointError(f"{path} is no state of this model: a character is not in it")
        zero = self.initial_state(len(token))
        arrays: Any = [stored.tensors[f"state/{i}"] for i, _ in enumerate(leaves(zero))]
        state = replace_leaves(zero, iter(arrays))
        return Cursor(token, state, about["position"]), about["seed"], about["samples"]

    def _identity(self) -> dict[str, Any]:
        leaf_shapes: list[Any] = []
        map_state(lambda leaf: leaf_shapes.append(list(leaf.shape[1:])), self.initial_state(1))
        return {"state": leaf_shapes, "vocabulary": self.vocabulary.to_data()}

    # Scoring -----------------------------------------------------------------------------------

    def evaluate(
        self, text: str, unknown: Unknown = "error", reading: Reading | None = None
    ) -> Evaluation:
        """The score of a text: one unbroken pass from the zero state, every character once.

        With `unknown="skip"`, characters that the vocabulary lacks are neither fed nor scored;
        `reading` has dynamic evaluation and the like (`scoring.Reading`). Raises DataError for
        unknown characters otherwise, and for an empty text.
        """
        from charrnn.data.corpus import corpus_of_text

        corpus = corpus_of_text(text, self.vocabulary, unknown)
        if not len(corpus.ids):
            raise DataError("there is nothing to score: the text has no characters")
        skipped = sum(self.vocabulary.unknown_characters(text).values())
        return self.evaluate_split(corpus, "text", unknown_characters=skipped, reading=reading)

    def evaluate_split(
        self,
        corpus: Corpus,
        split: str,
        stop: Callable[[], bool] = lambda: False,
        unknown_characters: int = 0,
        reading: Reading | None = None,
    ) -> Evaluation:
        """The score of a split of a corpus, by the same protocol.

        Raises KeyboardInterrupt once `stop` says so.
        """
        from charrnn.evaluation.score_network import Reading, score_split

        return score_split(
            self.model,
            self.config,
            corpus,
            split,
            stop,
            reading or Reading(),
            self.moments,
            step=self.training_step,
            **({"unknown": unknown_characters} if unknown_characters else {}),
            text=self.metadata.get("corpus", {}).get("described") if corpus.key else None,
        )

    def adapted_to(self, text: str, rates: Rates, unknown: Unknown = "error") -> TrainedModel:
        """This model after it has read a text by dynamic evaluation. Raises DataError."""
        from charrnn.data.corpus import corpus_of_text
        from charrnn.evaluation.score_network import adapt

        corpus = corpus_of_text(text, self.vocabulary, unknown)
        if not len(corpus.ids):
            raise DataError("there is nothing to learn from: the text has no characters")
        network = adapt(self.model, self.config, corpus, "text", self.moments, rates)
        return self.with_weights(network)

    def surprisals(
        self, text: str, unknown: Unknown = "error", reading: Reading | None = None
    ) -> Iterator[tuple[str, float]]:
        """Each character of a text with its surprisal, -ln P in nats, in reading order."""
        from charrnn.data.corpus import corpus_of_text

        return self.surprisals_of(corpus_of_text(text, self.vocabulary, unknown), "text", reading)

    def surprisals_of(
        self, corpus: Corpus, split: str, reading: Reading | None = None
    ) -> Iterator[tuple[str, float]]:
        """The same for a split of a corpus."""
        from charrnn.evaluation.score import span_of
        from charrnn.evaluation.score_network import Reading, surprisals

        span = span_of(corpus, split)
        if not len(span):
            return
        at = span.start
        pieces = surprisals(
            self.model, self.config, corpus, span, reading or Reading(), self.moments
        )
        for piece in pieces:
            ids = corpus.ids[at : at + len(piece)]
            at += len(piece)
            for symbol, nats in zip(ids, piece, strict=True):
                yield self.vocabulary.decode([int(symbol)]), float(nats)


def load(name: str | os.PathLike[str], device: str = "cpu") -> TrainedModel:
    """The best model of a run (by path or by name under runs/), or that of a checkpoint file.

    Raises CheckpointError for what is missing, damaged or no checkpoint.
    """
    return TrainedModel.from_checkpoint(
        find_checkpoint(os.fspath(name), warn=lambda _: None), device
    )
