"""What must stand in a model's checkpoint, judged from its header alone.

A checkpoint may come from a stranger: before its data is read (and, of a language model that
composes no words, before torch is imported), its metadata must be of the right types and its
tensors of the shapes that its own configuration and vocabulary imply.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from charrnn.config.merge import config_from_data
from charrnn.config.schema import Config
from charrnn.data.vocabulary import Vocabularies, read_vocabularies
from charrnn.errors import CheckpointError, ConfigError
from charrnn.registry import CELLS, TASKS, Shapes, resolve
from charrnn.runs.checkpoint import Layout

Count = Annotated[int, Field(ge=0, lt=2**62)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

MOMENTS = {
    "adam": {"step", "exp_avg", "exp_avg_sq"},
    "adamw": {"step", "exp_avg", "exp_avg_sq"},
    "rmsprop": {"step", "square_avg"},
    "sgd": {"momentum_buffer"},
}


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Progress(_Part):
    step: Count
    epoch: Count
    batch: Count
    learning_rate_factor: Annotated[Finite, Field(gt=0)]
    interval_characters: Count


class _Best(_Part):
    model_config = ConfigDict(strict=True, extra="allow")

    step: Count
    protocol: str

    @model_validator(mode="after")
    def _has_a_loss(self) -> _Best:
        if loss_in(self.model_extra or {}) is None:
            raise ValueError("it says no loss")
        if any(
            isinstance(x, float) and not math.isfinite(x) for x in (self.model_extra or {}).values()
        ):
            raise ValueError("a number is not finite")
        return self


class _Score(_Best):
    step: Count | None  # type: ignore[assignment]
    split: str


class _BestFile(_Best):
    score: _Score | None


class _Session(_Part):
    best: _Best | None
    without_improvement: Count
    since_drop: Count
    score_at_end: bool
    trained_seconds: Annotated[Finite, Field(ge=0)]
    trained_characters: Count


class _Corpus(_Part):
    name: str
    described: str
    sha256: Digest
    key: Digest
    most_frequent: Count = 0
    label_counts: list[Count] = []
    splits: dict[Literal["train", "validation", "test"], Count]


class _Environment(_Part):
    python: str
    platform: str
    processor: str
    packages: dict[str, str]
    device: str
    threads: Count


class _Metadata(_Part):
    progress: _Progress
    session: _Session
    corpus: _Corpus
    environment: _Environment


def loss_in(record: Mapping[str, Any]) -> tuple[float, str] | None:
    """The loss that a record has, and its unit: of `nats_per_character` and its kin."""
    for key, value in record.items():
        if key.startswith("nats_per_") and isinstance(value, float):
            return value, key.removeprefix("nats_per_")
    return None


def usable_best(data: Any) -> dict[str, Any]:
    """What a best.json holds, or nothing where it is not of the right types."""
    try:
        _BestFile.model_validate(data)
    except ValidationError:
        return {}
    return dict(data)


def check_layout(metadata: Mapping[str, Any], layout: Layout) -> None:
    """Raise CheckpointError where metadata or tensors are not those of a model we can build."""
    try:
        parts = _Metadata.model_validate(dict(metadata))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"its {place} is not usable: {first['msg'].lower()}") from error
    try:
        config = config_from_data(metadata.get("config"), "its config")
        vocabularies = read_vocabularies(metadata.get("vocabulary"))
        expected, carry = resolve(TASKS[config.task].layout)(config, vocabularies)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if parts.corpus.most_frequent >= min(v.size for v in vocabularies.values()):
        raise CheckpointError("its most frequent character is not in its vocabulary")
    if counts := parts.corpus.label_counts:
        labels = vocabularies.get("label")
        if labels is None or len(counts) != labels.size or not any(counts):
            raise CheckpointError("its label counts are not those of its labels")
    found = {name: shape for name, (_, shape) in layout.items()}
    for name, (dtype, shape) in layout.items():
        kind, _, rest = name.partition("/")
        of = rest.rpartition("/")[0]
        if kind == "model" or (kind == "average" and config.training.average):
            fits = expected.get(rest) == shape
        elif kind == "optimizer":
            fits = of in expected and shape in ((), expected[of])
        elif kind == "carry" and re.fullmatch(r"\d{1,3}", rest):
            fits = int(rest) < len(carry) and shape == carry[int(rest)]
        else:
            fits = name == "interval_nats" and shape == ()
        if not fits or dtype not in ("F32", "F64"):
            raise CheckpointError(
                f"the tensor {name} ({dtype} {list(shape)}) is not one that its config implies"
            )
    shared = {"head.weight"} if config.model.tie_embeddings else set()
    moments: dict[str, set[str]] = {name: set() for name in expected if name not in shared}
    for name in layout:
        if name.startswith("optimizer/"):
            of, _, kind = name.removeprefix("optimizer/").rpartition("/")
            moments.setdefault(of, set()).add(kind)
    carried = sum(name.startswith("carry/") for name in layout)
    if (
        any(kinds not in (set(), MOMENTS[config.training.optimizer]) for kinds in moments.values())
        or len({frozenset(kinds) for kinds in moments.values()}) > 1
        or carried not in (0, len(carry))
        or "interval_nats" not in layout
    ):
        raise CheckpointError("the optimizer's state, the carried state or the loss is incomplete")
    kinds = ["model", "average"] if config.training.average else ["model"]
    needed = [f"{kind}/{name}" for kind in kinds for name in expected]
    if missing := [name for name in needed if name not in found]:
        raise CheckpointError(f"the tensor {missing[0]} that its config implies is missing")


class Expected(NamedTuple):
    """The shapes of a model's weights by name, and of the leaves of the carried state."""

    weights: Shapes
    carry: list[tuple[Any, ...]]


def language_model_layout(config: Config, vocabularies: Vocabularies) -> Expected:
    """What must stand in the checkpoint of a language model. Raises ConfigError."""
    if list(vocabularies) != ["text"]:
        raise ConfigError(f"a language model has one vocabulary, not {', '.join(vocabularies)}")
    carry = [
        (config.training.batch_size, width)
        for width in config.model.widths
        for _ in range(CELLS[config.model.cell].states)
    ]
    if config.model.word_parts != ["lookup"]:
        built = resolve("tasks.task.built_layout")(config, vocabularies)
        return Expected(built.weights, carry)
    return Expected(model_shapes(config, vocabularies["text"].size), carry)


def model_shapes(config: Config, vocabulary_size: int) -> Shapes:
    """The names and shapes of a model's weights, without making any.

    Raises ConfigError where the configuration still has `auto` widths.
    """
    model = config.model
    if model.embedding_size == "auto":
        raise ConfigError("model.embedding_size is still 'auto'; give it a number")
    one_hot = model.embedding_size == "one_hot"
    width = vocabulary_size if isinstance(model.embedding_size, str) else model.embedding_size
    shapes: Shapes = {} if one_hot else {"embedding.weight": (vocabulary_size, width)}
    for i, hidden in enumerate(model.widths):
        for name, shape in model.cell_shapes(width, hidden).items():
            shapes[f"stack.layers.{i}.cell.{name}"] = shape
        width = hidden
    outputs = sum(model.widths) if model.skip_connections else model.widths[-1]
    shapes["head.weight"] = (vocabulary_size, outputs)
    shapes["head.bias"] = (vocabulary_size,)
    return shapes
