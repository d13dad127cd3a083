"""What experiments on examples share, each of which is read whole."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from charrnn.config.merge import config_from_data, with_values
from charrnn.config.resolved import ResolvedConfig, resolved
from charrnn.config.schema import Config
from charrnn.data.batching import by_length
from charrnn.data.formats import Examples, Labelled, Pair, Tagged, load_examples
from charrnn.data.vocabulary import END, START, Ids, Vocabularies, Vocabulary, read_vocabularies
from charrnn.errors import ConfigError, DataError
from charrnn.evaluation.score import Evaluation
from charrnn.inference.trained_model import TrainedModel, model_weights
from charrnn.runs.checkpoint import Arrays, Checkpoint
from charrnn.tasks.data import Texts
from charrnn.training.build import load_arrays, placed
from charrnn.training.example_batches import ExampleBatches
from charrnn.training.objective import Batch
from charrnn.training.planning import DEFAULT_TIME, plan
from charrnn.training.text_windows import MOST_LOGITS
from charrnn.training.trainer import full_precision

Example = TypeVar("Example")
Read = TypeVar("Read", Labelled, Tagged, Pair)
Result = TypeVar("Result")

NOT_CACHED = "0" * 64
AT_A_TIME = 256  # examples in scoring


def few_enough(numbers: int) -> int:
    """How many examples to compute at a time, of which each takes at most so many numbers."""
    return max(1, min(AT_A_TIME, MOST_LOGITS // numbers))


@dataclass(frozen=True)
class ExampleData(Generic[Example]):
    """Examples as ids, by split, and the vocabularies of what they consist of; not in the cache."""

    splits: dict[str, list[Example]]
    vocabularies: Vocabularies
    sha256: str
    key: str = NOT_CACHED

    @property
    def vocabulary_data(self) -> dict[str, Any]:
        """Each vocabulary by its name."""
        return {name: vocabulary.to_data() for name, vocabulary in self.vocabularies.items()}


def load(
    config: Config, texts: Texts, read: Callable[..., list[Read]], **options: Any
) -> Examples[Read]:
    """The examples that a configuration names, read and split as it says. Raises DataError."""
    data = config.data
    return load_examples(
        partial(read, encoding=data.encoding, errors=data.errors, **options),
        texts["sources"],
        texts.get("validation"),
        texts.get("test"),
        fractions=data.split,
        by=data.split_by,
    )


def ends_of(vocabulary: Vocabulary) -> tuple[int, int]:
    """The ids of its `<s>` and `</s>`. Raises ConfigError where it has none."""
    if vocabulary.start is None or vocabulary.end is None:
        raise ConfigError(f"the vocabulary of what is to be written lacks {START} or {END}")
    return vocabulary.start, vocabulary.end


def between_ends(ids: Ids, vocabulary: Vocabulary) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A text as it is read, after its start, and as it is written, before its end; (T + 1,)
    each."""
    start, end = ends_of(vocabulary)
    ids = ids.astype(np.int64)
    return np.insert(ids, 0, start), np.append(ids, end)


def refuse_empty(sizes: Iterable[int], what: str) -> None:
    """Raise DataError for the first of the texts given that has nothing of `what` in it."""
    for number, size in enumerate(sizes, 1):
        if not size:
            raise DataError(f"text {number:,} is empty; give texts with {what} in them")


class Judged(NamedTuple):
    """A summed loss in nats, over how many labels it is summed, and what else is natural, `of`
    which examples where it is not all of them."""

    nats: float
    labels: int
    metrics: Mapping[str, float]
    of: str = ""


class TaskOnExamples(ABC, Generic[Example, Batch]):
    """A model of examples; `unit` is what a loss is of one of, `noun` what an example is called.

    A kind of experiment on examples says how a model is built, how examples become a batch, what a
    batch costs and how a model is judged; training, checkpoints and the rest are here.
    """

    unit: str
    use = "predict"
    writer: ClassVar[Any] = None
    noun: ClassVar[str] = "texts"
    guess: float

    def __init__(
        self, config: ResolvedConfig, data: ExampleData[Example], about: dict[str, Any]
    ) -> None:
        self.config = config
        self.data = data
        self.about = about
        self.model = placed(self.build(config, data.vocabularies), config)
        batch_size = config.training.batch_size
        self.side_by_side = partial(self.collate, device=torch.device(config.device))
        self.objective: ExampleBatches[Example, Batch] = ExampleBatches(
            data.splits["train"],
            self.side_by_side,
            self.cost,
            self.length,
            batch_size=batch_size,
            seed=config.training.seed,
        )
        self.per_step = f"{batch_size} {self.noun}"
        self._seconds = 0.0

    # What a kind of experiment says of itself ----------------------------------------------------

    @staticmethod
    @abstractmethod
    def build(config: ResolvedConfig, vocabularies: Vocabularies) -> nn.Module:
        """The network that a resolved configuration describes. Raises ConfigError."""

    @staticmethod
    @abstractmethod
    def defaults(config: Config, data: ExampleData[Any]) -> dict[str, Any]:
        """By dotted key, the values of what is still `auto`."""

    @staticmethod
    @abstractmethod
    def collate(examples: Sequence[Example], device: torch.device) -> Batch:
        """Examples side by side."""

    @staticmethod
    @abstractmethod
    def cost(model: Any, batch: Batch) -> tuple[Tensor, int]:
        """The summed loss of a batch in nats, and over how many labels."""

    @staticmethod
    @abstractmethod
    def length(example: Example) -> int:
        """By which examples are alike."""

    @abstractmethod
    def judge(
        self, model: nn.Module, examples: Sequence[Example], stop: Callable[[], bool]
    ) -> Judged:
        """How good a model is on examples. Raises KeyboardInterrupt once `stop` says so."""

    def glance(
        self, model: nn.Module, examples: Sequence[Example], stop: Callable[[], bool]
    ) -> Judged:
        """The same, quickly, during training."""
        return self.judge(model, examples, stop)

    # What is the same for all --------------------------------------------------------------------

    @classmethod
    def score(
        cls, checkpoint: Checkpoint, config: Config, data: ExampleData[Any], split: str
    ) -> Evaluation:
        """All of a split."""
        metadata = checkpoint.metadata
        return cls(resolved(config), data, metadata).final(
            model_weights(checkpoint.tensors),
            split=split,
            step=metadata["progress"]["step"],
            text=metadata["corpus"]["described"],
        )

    @classmethod
    def plan(cls, config: Config, data: ExampleData[Any], device: torch.device) -> ResolvedConfig:
        """`auto` values from `defaults`, and the rest from the machine."""
        train = data.splits["train"]
        longest = max(cls.length(example) for example in train)
        planned: dict[str, Any] = {
            "training.window": longest,
            "training.batch_size": min(32, len(train)),
        }
        planned |= cls.defaults(config, data)
        training = config.training
        budgets = (training.steps, training.epochs, training.max_time)
        if all(budget in (None, "auto") for budget in budgets):
            planned.setdefault("training.max_time", DEFAULT_TIME)
        else:
            planned = {k: v for k, v in planned.items() if k not in BUDGETS}
        open_keys = {k: v for k, v in planned.items() if _value(config, k) == "auto"}
        characters = sum(cls.length(example) for example in train)
        size = max(vocabulary.size for vocabulary in data.vocabularies.values())
        return plan(with_values(config, open_keys), characters, size, device)

    @staticmethod
    def facts(data: Any) -> dict[str, Any]:
        """Nothing more."""
        return {}

    def adopt_weights(self, source: TrainedModel) -> tuple[list[str], list[str]]:
        """Raises ConfigError: only a language model starts from another model."""
        raise ConfigError(f"--from is for language models; leave it out for a {self.config.task}")

    def estimate(self, step: int) -> Evaluation:
        """All of validation."""
        began = time.perf_counter()
        judged = self.glance(self.model, self.data.splits["validation"], lambda: False)
        result = self._evaluation("validation", judged, step=step)
        self._seconds = time.perf_counter() - began
        return result

    def final_seconds(self) -> float:
        """As long as the last estimate."""
        return self._seconds

    def final(
        self,
        weights: Arrays,
        stop: Callable[[], bool] = lambda: False,
        split: str = "validation",
        **about: Any,
    ) -> Evaluation:
        """All of a split."""
        model = load_arrays(copy.deepcopy(self.model), weights)
        judged = self.judge(model, self.data.splits[split], stop)
        return self._evaluation(split, judged, **about)

    def _evaluation(self, split: str, judged: Judged, **about: Any) -> Evaluation:
        return Evaluation(
            split,
            judged.nats / judged.labels,
            judged.labels,
            f"all {self.noun} once{judged.of}",
            self.unit,
            metrics=judged.metrics,
            text_sha256=self.data.sha256,
            **about,
        )

    def outputs(
        self,
        model: nn.Module,
        examples: Sequence[Example],
        compute: Callable[[Any, Batch], Result],
        at_a_time: int = AT_A_TIME,
    ) -> Iterator[tuple[list[int], Result]]:
        """What `compute` makes of a model and each batch, with the numbers of its examples."""
        return outputs(model, examples, self.side_by_side, self.length, compute, at_a_time)


BUDGETS = ("training.max_time", "training.epochs", "training.steps")


def _value(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def outputs(
    model: nn.Module,
    examples: Sequence[Example],
    collate: Callable[[Sequence[Example]], Batch],
    length: Callable[[Example], int],
    compute: Callable[[Any, Batch], Result],
    at_a_time: int = AT_A_TIME,
) -> Iterator[tuple[list[int], Result]]:
    """What `compute` makes of a model and each batch of examples, in evaluation mode and without
    gradients, the shortest first, with the numbers of the batch's examples."""
    was_training = model.training
    model.eval()
    with torch.inference_mode(), full_precision():
        for rows in by_length([length(example) for example in examples], at_a_time):
            yield rows.tolist(), compute(model, collate([examples[i] for i in rows]))
    model.train(was_training)


def trained_network(
    kind: type[TaskOnExamples[Any, Any]], checkpoint: Checkpoint, device: str
) -> tuple[nn.Module, Vocabularies]:
    """The network of a checkpoint, on a device, and its vocabularies."""
    config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
    vocabularies = read_vocabularies(checkpoint.metadata["vocabulary"])
    settings = resolved(with_values(config, {"device": device}))
    network = placed(kind.build(settings, vocabularies), settings)
    return load_arrays(network, model_weights(checkpoint.tensors)), vocabularies
