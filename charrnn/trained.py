"""A trained model with its vocabulary: sample from it, score texts with it, or step it by hand."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from charrnn.checkpoint import Arrays, Checkpoint, Layout, load_checkpoint, save_checkpoint
from charrnn.config import Config, config_from_data
from charrnn.corpus import Corpus, Span, corpus_of_text
from charrnn.errors import CheckpointError, ConfigError, DataError
from charrnn.experiment import build_model
from charrnn.models import LanguageModel
from charrnn.runs import SCHEMA, find_checkpoint
from charrnn.sampler import Choice, Cursor, Draws, prime, sample
from charrnn.state import leaves, map_state, replace_leaves
from charrnn.tasks.language_model import NOT_SCORED, Batch, LanguageModelTask
from charrnn.trainer import Score, evaluate, full_precision
from charrnn.vocabulary import Unknown, Vocabulary, read_vocabulary

UNBROKEN = "unbroken"


@dataclass(frozen=True)
class Evaluation:
    """A score with all that is needed to compare it: on what, and by which protocol."""

    split: str
    nats_per_character: float
    bits_per_character: float
    bits_per_byte: float | None
    characters: int
    unknown_characters: int
    step: int | None
    protocol: str
    text: str | None
    text_sha256: str | None
    schema: int = SCHEMA


def evaluation_of(
    score: Score,
    split: str,
    protocol: str,
    step: int | None,
    byte_count: int | None = None,
    unknown_characters: int = 0,
    text: str | None = None,
    text_sha256: str | None = None,
) -> Evaluation:
    """Name a summed loss."""
    bits = score.nats / math.log(2)
    return Evaluation(
        split=split,
        nats_per_character=score.nats_per_character,
        bits_per_character=bits / score.characters,
        bits_per_byte=bits / byte_count if byte_count else None,
        characters=score.characters,
        unknown_characters=unknown_characters,
        step=step,
        protocol=protocol,
        text=text,
        text_sha256=text_sha256,
    )


def load_weights(
    model: LanguageModel,
    source: LanguageModel,
    symbols: Sequence[str] | Sequence[int],
    source_symbols: Sequence[str] | Sequence[int],
) -> None:
    """Copy another model's weights, matching symbols by identity.

    Embedding rows, output rows and output biases of common symbols are carried over; new symbols
    keep their fresh ones. With one-hot inputs the first layer's columns are matched instead.
    Raises ConfigError where the shapes differ in anything but the vocabulary.
    """
    place = {symbol: i for i, symbol in enumerate(source_symbols)}
    common = [(i, place[s]) for i, s in enumerate(symbols) if s in place]
    to = torch.tensor([i for i, _ in common], dtype=torch.long)
    of = torch.tensor([j for _, j in common], dtype=torch.long)
    theirs = source.state_dict()
    with torch.no_grad():
        for name, mine in model.state_dict().items():
            given = theirs.get(name)
            by_row = name.startswith(("embedding.", "head."))
            by_column = name == "stack.layers.0.cell.weight_ih" and not any(
                n.startswith("embedding.") for n in theirs
            )
            if given is not None and by_row and mine.shape[1:] == given.shape[1:]:
                mine[to.to(mine.device)] = given.to(mine.device)[of.to(mine.device)]
            elif given is not None and by_column and mine.shape[0] == given.shape[0]:
                mine[:, to.to(mine.device)] = given.to(mine.device)[:, of.to(mine.device)]
            elif given is not None and mine.shape == given.shape:
                mine.copy_(given)
            else:
                raise ConfigError(
                    f"--from does not fit: {name} is {tuple(mine.shape)} here and "
                    f"{tuple(given.shape) if given is not None else 'missing'} there; "
                    f"use the same model options"
                )


class TrainedModel:
    """A network, its vocabulary and its configuration. `charrnn.load` makes one.

    It is a stepper in the sampler's sense: `initial_state(batch)` and `step(token, state)`.
    """

    def __init__(
        self,
        model: LanguageModel,
        vocabulary: Vocabulary,
        config: Config,
        metadata: dict[str, Any],
    ) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.config = config
        self.metadata = metadata
        self.device = next(model.parameters()).device

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, device: str = "cpu") -> TrainedModel:
        """The model of a checkpoint on `device`. Raises CheckpointError where it does not fit."""
        metadata = checkpoint.metadata
        try:
            stored = dict(metadata["config"]) | {"device": device}
            config = config_from_data(stored, str(checkpoint.path))
            vocabulary = read_vocabulary(metadata["vocabulary"])
            model = build_model(config, vocabulary.size)
            load_model_tensors(model, checkpoint.tensors)
        except (ConfigError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint.path} does not fit its own config: {error}"
            ) from error
        return cls(model.eval(), vocabulary, config, metadata)

    @property
    def training_step(self) -> int | None:
        """The training step the weights are from."""
        step = self.metadata.get("progress", {}).get("step")
        return int(step) if step is not None else None

    # Stepping ----------------------------------------------------------------------------------

    def initial_state(self, batch_size: int = 1) -> Any:
        """The zero state for `batch_size` lanes."""
        return self.model.initial_state(batch_size)

    def step(self, token: NDArray[np.int64], state: Any) -> tuple[NDArray[np.float32], Any]:
        """One character a lane: ids (N,) and a state give logits (N, V) and the next state."""
        was_training = self.model.training
        if was_training:
            self.model.eval()
        with torch.inference_mode():
            ids = torch.as_tensor(np.asarray(token, np.int64), device=self.device)
            logits, state = self.model.step(ids, state)
        if was_training:
            self.model.train()
        return logits.float().cpu().numpy(), state

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
        if not self.vocabulary.unknown_characters("\n"):
            return int(self.vocabulary.encode("\n")[0])
        return int(self.metadata.get("corpus", {}).get("most_frequent", 0))

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
        stream = self.vocabulary.stream()
        for _, ids in zip(range(length), sample(self, cursor, choice, draws), strict=False):
            if text := stream.feed(int(ids[0])):
                yield text
        if rest := stream.finish():
            yield rest

    def sample_text(self, length: int = 500, prompt: str = "", **options: Any) -> str:
        """`sample`, in one string."""
        return "".join(self.sample(length, prompt, **options))

    def save_cursor(self, path: Path, cursor: Cursor, seed: int, streams: Sequence[int]) -> None:
        """Save where a generation stands: hidden state, last character, position of the draws."""
        tensors: Arrays = {
            f"state/{i}": x.cpu().numpy() for i, x in enumerate(leaves(cursor.state))
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
        zero = self.model.initial_state(len(token))
        values = [
            torch.from_numpy(stored.tensors[f"state/{i}"]).to(self.device)
            for i, _ in enumerate(leaves(zero))
        ]
        state = replace_leaves(zero, iter(values))
        return Cursor(token, state, about["position"]), about["seed"], about["samples"]

    def _identity(self) -> dict[str, Any]:
        leaf_shapes: list[Any] = []
        map_state(lambda leaf: leaf_shapes.append(list(leaf.shape[1:])), self.initial_state(1))
        return {"state": leaf_shapes, "vocabulary": self.vocabulary.to_data()}

    # Scoring -----------------------------------------------------------------------------------

    def evaluate(self, text: str, unknown: Unknown = "error") -> Evaluation:
        """The score of a text: one unbroken pass from the zero state, every character once.

        With `unknown="skip"`, characters that the vocabulary lacks are neither fed nor scored.
        Raises DataError for unknown characters otherwise, and for an empty text.
        """
        corpus = corpus_of_text(text, self.vocabulary, unknown)
        skipped = sum(self.vocabulary.unknown_characters(text).values())
        if not len(corpus.ids):
            raise DataError("there is nothing to score: the text has no characters")
        return self._evaluate(corpus, "text", self.training_step, skipped, lambda: False)

    def evaluate_split(
        self,
        corpus: Corpus,
        split: str,
        step: int | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Evaluation:
        """The score of a split of a corpus, by the same protocol.

        Raises KeyboardInterrupt once `stop` says so.
        """
        step = self.training_step if step is None else step
        return self._evaluate(corpus, split, step, 0, stop)

    def surprisals(self, text: str, unknown: Unknown = "error") -> Iterator[tuple[str, float]]:
        """Each character of a text with its surprisal, -ln P in nats, in reading order."""
        return self.surprisals_of(corpus_of_text(text, self.vocabulary, unknown), "text")

    def surprisals_of(self, corpus: Corpus, split: str) -> Iterator[tuple[str, float]]:
        """The same for a split of a corpus."""
        span = self._span(corpus, split)
        if len(span) and not span.has_context:
            first = int(corpus.ids[span.start])
            yield self.vocabulary.decode([first]), math.log(self.vocabulary.size)
        task, carry = self._scoring_task(corpus), None
        for batch in task.unbroken(span, self.config.evaluation.window):
            with torch.inference_mode(), full_precision():
                each, carry = task.surprisals(self.model, batch, carry)
                scored = batch.targets != NOT_SCORED
                targets, nats = batch.targets[scored].tolist(), each[scored].tolist()
            for target, surprisal in zip(targets, nats, strict=True):
                yield self.vocabulary.decode([target]), surprisal

    def _evaluate(
        self,
        corpus: Corpus,
        split: str,
        step: int | None,
        skipped: int,
        stop: Callable[[], bool],
    ) -> Evaluation:
        span = self._span(corpus, split)
        task = self._scoring_task(corpus)

        def batches() -> Iterator[Batch]:
            for batch in task.unbroken(span, self.config.evaluation.window):
                if stop():
                    raise KeyboardInterrupt
                yield batch

        score = evaluate(self.model, task, batches())
        window = self.config.training.window
        protocol = UNBROKEN
        if not self.config.training.carry_state:
            protocol = f"windows of {window} from the zero state"
        size = corpus.byte_count(span)
        text = self.metadata.get("corpus", {}).get("described") if corpus.key else None
        return evaluation_of(score, split, protocol, step, size, skipped, text, corpus.sha256)

    def _span(self, corpus: Corpus, split: str) -> Span:
        if split not in corpus.splits:
            have = ", ".join(corpus.splits)
            raise DataError(f"the corpus has no {split!r} split; it has {have}")
        return corpus.splits[split]

    def _scoring_task(self, corpus: Corpus) -> LanguageModelTask:
        window = self.config.training.window
        return LanguageModelTask(
            corpus,
            batch_size=1,
            window=window if isinstance(window, int) else 1,
            carry_state=self.config.training.carry_state,
            reset_state_at_documents=self.config.data.reset_state_at_documents,
            device=self.device,
        )


def load_model_tensors(model: LanguageModel, tensors: Arrays) -> None:
    """Copy a checkpoint's weights into a model. Raises RuntimeError where shapes differ."""
    state = {
        name.removeprefix("model/"): torch.from_numpy(value)
        for name, value in tensors.items()
        if name.startswith("model/")
    }
    model.load_state_dict(state)


def load(name: str | Path, device: str = "cpu") -> TrainedModel:
    """The best model of a run (by path or by name under runs/), or that of a checkpoint file.

    Raises CheckpointError for what is missing, damaged or no checkpoint.
    """
    return TrainedModel.from_checkpoint(find_checkpoint(str(name), warn=lambda _: None), device)
