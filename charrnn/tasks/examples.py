"""The base of tasks on examples: each example is read whole, and no state is carried on.

`TaskOnExamples` plans, trains, scores and describes; a task adds its network, its batches, its loss
and its measures. The functions below it compute over examples and open trained networks.
"""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from charrnn.config.merge import config_from_data, with_values
from charrnn.config.resolved import ResolvedConfig, resolved
from charrnn.config.schema import Config
from charrnn.data.batching import by_length
from charrnn.data.example_splits import Examples, load_examples
from charrnn.data.formats import Labelled, Pair, Reading, Tagged
from charrnn.data.layout import listed
from charrnn.data.vocabulary import END, START, Ids, Vocabularies, Vocabulary, read_vocabularies
from charrnn.errors import ConfigError, DataError
from charrnn.evaluation.metrics import Confusion, Spans
from charrnn.evaluation.score import Evaluation, never, until
from charrnn.inference.trained_model import TrainedModel, model_weights
from charrnn.runs.checkpoint import Arrays, Checkpoint
from charrnn.tasks.data import Texts
from charrnn.training.build import load_arrays, placed
from charrnn.training.example_batches import ExampleBatches
from charrnn.training.hardware import choose_device
from charrnn.training.memory import batch_memory, longest_example, symbol_bytes
from charrnn.training.objective import Batch
from charrnn.training.planning import DEFAULT_TIME, plan
from charrnn.training.text_windows import MOST_LOGITS
from charrnn.training.trainer import full_precision

Example = TypeVar("Example")
Read = TypeVar("Read", Labelled, Tagged, Pair)
Result = TypeVar("Result")

NOT_CACHED = "0" * 64
SHOWN = 3  # examples in a sample
AT_A_TIME = 256  # examples at a time in scoring
MOST_SCORED = 1 << 18  # symbols at a time in scoring, padding included
BUDGETS = ("training.max_time", "training.epochs", "training.steps")


@dataclass(frozen=True)
class ExampleData(Generic[Example]):
    """Examples as ids, by split, and their vocabularies by name; they are not cached.

    `notes` say how the files were read, and `settings` are values of the configuration that follow
    from the files and the memory.
    """

    splits: dict[str, list[Example]]
    vocabularies: Vocabularies
    sha256: str
    key: str = NOT_CACHED
    notes: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def vocabulary_data(self) -> dict[str, Any]:
        """The vocabularies as plain data, by name."""
        return {name: vocabulary.to_data() for name, vocabulary in self.vocabularies.items()}


def load(
    config: Config, texts: Texts, read: Callable[..., list[Read]], **options: Any
) -> Examples[Read]:
    """Read the examples that a configuration names, and split them. Raises DataError."""
    data = config.data
    return load_examples(
        partial(read, **options),
        texts.get("sources"),
        texts.get("validation"),
        texts.get("test"),
        how=Reading(**{one.name: getattr(data, one.name) for one in fields(Reading)}),
        fractions=data.split,
        by=data.split_by,
    )


def not_too_long(
    config: Config,
    loaded: Examples[Read],
    splits: Mapping[str, list[Example]],
    length: Callable[[Example], int],
    cut: Callable[[Example, int], Example] | None = None,
    per_pair: int = 0,
) -> dict[str, list[Example]]:
    """Cut examples that are longer than `data.maximum_length`, or without `cut` leave them out.

    `splits` has the same examples as `loaded`, as ids. A note says which ones are too long. If the
    bound is `auto`, it is the length that fits into memory (`training.memory.longest_example`).
    Raises DataError if nothing is left of a split.
    """
    most = config.data.maximum_length
    if most == "auto":
        most = longest_example(config.model, choose_device(config.device), per_pair)
        loaded.log.settings["data.maximum_length"] = most
    if most is None:
        return dict(splits)
    short: dict[str, list[Example]] = {}
    for name in splits:
        examples: list[Example] = splits[name]
        long = {i for i, example in enumerate(examples) if length(example) > most}
        short[name] = [*examples]
        if long:
            rows = [(loaded.splits[name][i], length(examples[i])) for i in sorted(long)]
            shown = [f"{row.file}, line {row.line:,} ({size:,})" for row, size in rows]
            verb = "cut there" if cut else "left out"
            loaded.log.notes.append(
                f"{len(long):,} of {name} longer than {most:,} symbols (data.maximum_length), "
                f"{verb}: {listed(shown, 3)}"
            )
            shortened = [cut(e, most) if cut and i in long else e for i, e in enumerate(examples)]
            short[name] = [e for i, e in enumerate(shortened) if cut or i not in long]
        if not short[name]:
            raise DataError(
                f"all examples of {name} are longer than {most:,} symbols; raise "
                f"data.maximum_length"
            )
    return short


class Judged(NamedTuple):
    """The measures of a model.

    They are a summed loss in nats, the number of labels in the sum, and the task's further
    measures. `part` says in words which examples were measured, if not all. A task with classes
    also counts each pair of a right and a predicted class, and measures spans if its classes mark
    them.
    """

    nats: float
    labels: int
    metrics: Mapping[str, float]
    part: str = ""
    confusion: Confusion | None = None
    spans: Spans | None = None


class TaskOnExamples(ABC, Generic[Example, Batch]):
    """The parts of a task on examples (`tasks.task.Task`) that all such tasks share.

    `unit` names one label of the loss, `noun` the examples; `guess` is the loss of a uniform guess
    in nats. A subclass implements the abstract methods, and `sample` and `predictor` of `Task`.
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
        self.side_by_side = partial(self.collate, device=torch.device(config.device))
        self.per_step = f"{config.training.batch_size} {self.noun}"
        self._seconds = 0.0

    @cached_property
    def objective(self) -> ExampleBatches[Example, Batch]:
        """The batches of the training split, and their loss."""
        return ExampleBatches(
            self.data.splits["train"],
            self.side_by_side,
            self.cost,
            self.length,
            batch_size=self.config.training.batch_size,
            most_symbols=self.config.training.batch_symbols,
            seed=self.config.training.seed,
        )

    # Every task has its own ----------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def build(config: ResolvedConfig, vocabularies: Vocabularies) -> nn.Module:
        """Make the network that a resolved configuration describes. Raises ConfigError."""

    @staticmethod
    @abstractmethod
    def defaults(config: Config, data: ExampleData[Any]) -> dict[str, Any]:
        """Return values, by dotted key, for keys that are `auto`."""

    @staticmethod
    @abstractmethod
    def collate(examples: Sequence[Example], device: torch.device) -> Batch:
        """Put examples side by side in one batch."""

    @abstractmethod
    def cost(self, model: Any, batch: Batch) -> tuple[Tensor, int]:
        """Return the summed loss of a batch in nats, and the number of labels in the sum."""

    @staticmethod
    @abstractmethod
    def length(example: Example) -> int:
        """Return the length of an example; those of similar length share a batch."""

    @abstractmethod
    def judge(
        self, model: nn.Module, examples: Sequence[Example], stop: Callable[[], bool]
    ) -> Judged:
        """Measure a model on examples. Raises KeyboardInterrupt once `stop()` is true."""

    def glance(
        self, model: nn.Module, examples: Sequence[Example], stop: Callable[[], bool]
    ) -> Judged:
        """Measure a model during training, in a quicker way than `judge` if there is one."""
        return self.judge(model, examples, stop)

    def judge_each(self, model: nn.Module, examples: Sequence[Example]) -> Iterator[dict[str, Any]]:
        """Yield the measures of each example, in order, as plain data; `nats` is its surprisal.

        Raises ConfigError for a task that does not measure single examples.
        """
        raise ConfigError(f"{type(self).__name__} has no score for each example; score a split")

    # The same for all tasks ----------------------------------------------------------------------

    @classmethod
    def score(
        cls, checkpoint: Checkpoint, config: Config, data: ExampleData[Any], split: str
    ) -> Evaluation:
        """Score all examples of a split with a checkpoint's weights."""
        metadata = checkpoint.metadata
        return cls(resolved(config), data, metadata).final(
            model_weights(checkpoint.tensors),
            split=split,
            step=metadata["progress"]["step"],
            text=metadata["corpus"]["described"],
        )

    @classmethod
    def score_each(
        cls, checkpoint: Checkpoint, config: Config, data: ExampleData[Any], split: str
    ) -> Iterator[dict[str, Any]]:
        """Score each example of a split with a checkpoint's weights."""
        task = cls(resolved(config), data, checkpoint.metadata)
        model = load_arrays(task.model, model_weights(checkpoint.tensors))
        return task.judge_each(model, data.splits[split])

    @classmethod
    def plan(cls, config: Config, data: ExampleData[Any], device: torch.device) -> ResolvedConfig:
        """Fill in `auto` settings: from `defaults`, then from the data and the machine."""
        config = with_values(config, data.settings)
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
        symbols = sum(cls.length(example) for example in train)
        size = max(vocabulary.size for vocabulary in data.vocabularies.values())
        planned_config = plan(with_values(config, open_keys), symbols, size, device)
        if config.training.batch_symbols != "auto":
            return planned_config
        bytes_of_one = symbol_bytes(planned_config.model) + cls.output_bytes(data, longest)
        most = max(longest, batch_memory(device) // bytes_of_one)
        return with_values(planned_config, {"training.batch_symbols": most})

    @staticmethod
    def output_bytes(data: ExampleData[Any], longest: int) -> int:
        """Return the memory that a symbol takes in training in addition to the layers, in bytes."""
        return 0

    @staticmethod
    def facts(data: Any) -> dict[str, Any]:
        """Return nothing: a checkpoint needs no other facts about the data."""
        return {}

    def adopt_weights(self, source: TrainedModel) -> tuple[list[str], list[str]]:
        """Raise ConfigError: only a language model starts from another model."""
        raise ConfigError(
            "only a language model can start from another model; leave out the model to start from"
        )

    def shown(self) -> list[Example]:
        """Return the examples of a sample: the first of validation, else of training."""
        splits = self.data.splits
        return list(splits.get("validation", splits["train"])[:SHOWN])

    def estimate(self, step: int) -> Evaluation:
        """Measure the model with its current weights on all of validation."""
        began = time.perf_counter()
        judged = self.glance(self.model, self.data.splits["validation"], never)
        result = self._evaluation("validation", judged, step=step)
        self._seconds = time.perf_counter() - began
        return result

    def final_seconds(self) -> float:
        """Return the seconds of the last estimate; `final` will take as long."""
        return self._seconds

    def final(
        self,
        weights: Arrays,
        stop: Callable[[], bool] = never,
        split: str = "validation",
        **about: Any,
    ) -> Evaluation:
        """Score all examples of a split with these weights."""
        model = load_arrays(copy.deepcopy(self.model), weights)
        judged = self.judge(model, self.data.splits[split], stop)
        return self._evaluation(split, judged, **about)

    def _evaluation(self, split: str, judged: Judged, **about: Any) -> Evaluation:
        return Evaluation(
            split,
            judged.nats / judged.labels,
            judged.labels,
            f"all {self.noun} once{judged.part}",
            self.unit,
            metrics=judged.metrics,
            confusion=judged.confusion,
            spans=judged.spans,
            text_sha256=self.data.sha256,
            **about,
        )

    def outputs(
        self,
        model: nn.Module,
        examples: Sequence[Example],
        compute: Callable[[Any, Batch], Result],
        at_a_time: int = AT_A_TIME,
        stop: Callable[[], bool] = never,
    ) -> Iterator[tuple[list[int], Result]]:
        """Yield the result of `compute` for a model and each batch, with the indices in the batch.

        Raises KeyboardInterrupt once `stop()` is true.
        """
        return until(
            stop, outputs(model, examples, self.side_by_side, self.length, compute, at_a_time)
        )


def outputs(
    model: nn.Module,
    examples: Sequence[Example],
    collate: Callable[[Sequence[Example]], Batch],
    length: Callable[[Example], int],
    compute: Callable[[Any, Batch], Result],
    at_a_time: int = AT_A_TIME,
) -> Iterator[tuple[list[int], Result]]:
    """Yield the result of `compute` for a model and each batch, with the indices in the batch.

    The shortest examples come first. The model is in evaluation mode, without gradients.
    """
    was_training = model.training
    model.eval()
    with torch.inference_mode(), full_precision():
        for rows in by_length(list(map(length, examples)), at_a_time, MOST_SCORED):
            yield rows.tolist(), compute(model, collate([examples[i] for i in rows]))
    model.train(was_training)


def in_order(parts: Iterable[tuple[list[int], Iterable[Result]]]) -> list[Result]:
    """Put the results of batches, as `outputs` yields them, in the order of the examples.

    >>> in_order([([2, 0], "ca"), ([1], "b")])
    ['a', 'b', 'c']
    """
    by_row = {
        row: result for rows, results in parts for row, result in zip(rows, results, strict=True)
    }
    return [by_row[row] for row in sorted(by_row)]


def few_enough(numbers: int) -> int:
    """Return how many examples to compute at a time, if each takes at most `numbers` values."""
    return max(1, min(AT_A_TIME, MOST_LOGITS // numbers))


def trained_network(
    kind: type[TaskOnExamples[Any, Any]], checkpoint: Checkpoint, device: str
) -> tuple[nn.Module, Vocabularies]:
    """Make the network of a checkpoint, on a device; return it with its vocabularies."""
    config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
    vocabularies = read_vocabularies(checkpoint.metadata["vocabulary"])
    settings = resolved(with_values(config, {"device": device}))
    network = placed(kind.build(settings, vocabularies), settings)
    return load_arrays(network, model_weights(checkpoint.tensors)), vocabularies


def ends_of(vocabulary: Vocabulary) -> tuple[int, int]:
    """Return the ids of `<s>` and `</s>`. Raises ConfigError for a vocabulary without them."""
    if vocabulary.start is None or vocabulary.end is None:
        raise ConfigError(
            f"the vocabulary of the texts to write lacks {START} or {END}; use another checkpoint"
        )
    return vocabulary.start, vocabulary.end


def between_ends(ids: Ids, vocabulary: Vocabulary) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a text (T,) as a decoder reads it, after `<s>`, and as it writes it, before `</s>`.

    Both have T + 1 symbols: the second text is the first one shifted by one symbol.
    """
    start, end = ends_of(vocabulary)
    ids = ids.astype(np.int64)
    return np.insert(ids, 0, start), np.append(ids, end)


def refuse_empty(sizes: Iterable[int], what: str) -> None:
    """Raise DataError naming the first text with no `what` in it; `sizes` are their lengths."""
    for number, size in enumerate(sizes, 1):
        if not size:
            raise DataError(f"text {number:,} is empty; give texts with {what} in them")


def _value(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)
