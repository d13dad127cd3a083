"""Check a checkpoint by its header alone, before its data is read.

A checkpoint may come from somebody who is not trusted. Its metadata must have the right types, and
its tensors the names, types and shapes that its own configuration and vocabularies imply. Nothing
is allocated for the model, and a language model that numpy can run is checked without importing
torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from charrnn.config.merge import config_from_data
from charrnn.config.schema import Config
from charrnn.data.vocabulary import TokenVocabulary, Vocabularies, Vocabulary, read_vocabularies
from charrnn.errors import CheckpointError, ConfigError
from charrnn.registry import CELLS, TASKS, not_installed, resolve, traits_of
from charrnn.runs.checkpoint import Layout

Shapes = dict[str, tuple[int, ...]]
Count = Annotated[int, Field(ge=0, lt=2**62)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

MOST_ROWS, ROW = 2_000, 7  # of the training steps of a run (`session.history`)
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
            raise ValueError("it has no loss")
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
    rows: Annotated[
        list[Annotated[list[Finite], Field(min_length=ROW, max_length=ROW)]],
        Field(max_length=MOST_ROWS),
    ] = []


class _Corpus(_Part):
    name: str
    described: str
    sha256: Digest
    key: Digest
    most_frequent: Count = 0
    label_counts: list[Count] = []
    line_ends: bool | None = None
    licence: str = ""
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
    weights_only: bool = False
    score: _Score | None = None


def loss_in(record: Mapping[str, Any]) -> tuple[float, str] | None:
    """Return the loss in a record and its unit, from a key such as `nats_per_character`."""
    for key, value in record.items():
        if key.startswith("nats_per_") and isinstance(value, float):
            return value, key.removeprefix("nats_per_")
    return None


def usable_best(data: Any) -> dict[str, Any]:
    """Return the content of a best.json; nothing if a value has the wrong type."""
    try:
        _BestFile.model_validate(data)
    except ValidationError:
        return {}
    return dict(data)


def check_layout(metadata: Mapping[str, Any], layout: Layout) -> None:
    """Refuse metadata and tensors that do not belong to a model that can be built.

    Raises CheckpointError.
    """
    parts = _check_metadata(metadata)
    _check_installed(metadata["config"])
    try:
        config = config_from_data(metadata["config"], "its config")
        vocabularies = read_vocabularies(metadata.get("vocabulary"))
        expected = expected_tensors(config, vocabularies)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    _check_corpus(parts.corpus, vocabularies)
    averaged = config.training.average > 0 and not parts.weights_only
    _check_shapes(layout, expected, averaged)
    if parts.weights_only:
        _check_only_weights(layout)
    else:
        _check_complete_state(layout, expected, MOMENTS[config.training.optimizer])
    _check_complete_weights(layout, expected, averaged)


def _check_metadata(metadata: Mapping[str, Any]) -> _Metadata:
    """Refuse metadata of the wrong types."""
    try:
        return _Metadata.model_validate(dict(metadata))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"its {place} is not usable: {first['msg'].lower()}") from error


def _check_installed(config: Mapping[str, Any]) -> None:
    """Refuse a cell or a task that no installed package provides."""
    model = config.get("model")
    cell = model.get("cell") if isinstance(model, Mapping) else None
    for kind, name, table in (("task", config.get("task"), TASKS), ("cell", cell, CELLS)):
        if isinstance(name, str) and name not in table:
            raise CheckpointError(not_installed(kind, name))


def _check_corpus(corpus: _Corpus, vocabularies: Vocabularies) -> None:
    """Check that the most frequent character and the label counts fit the vocabularies."""
    if corpus.most_frequent >= min(v.size for v in vocabularies.values()):
        raise CheckpointError("its most frequent character is not in its vocabulary")
    if counts := corpus.label_counts:
        labels = vocabularies.get("label")
        if labels is None or len(counts) != labels.size or not any(counts):
            raise CheckpointError("its label counts do not fit its labels")


def _check_shapes(layout: Layout, expected: Expected, averaged: bool) -> None:
    """Refuse a tensor of another name, shape or type than expected."""
    for name, (dtype, shape) in layout.items():
        if dtype not in ("F32", "F64") or not _is_expected(name, shape, expected, averaged):
            raise CheckpointError(
                f"the tensor {name} ({dtype} {list(shape)}) is not one that its config implies"
            )


def _is_expected(name: str, shape: tuple[int, ...], expected: Expected, averaged: bool) -> bool:
    kind, _, rest = name.partition("/")
    if kind == "model" or (kind == "average" and averaged):
        return expected.weights.get(rest) == shape
    if kind == "optimizer":
        weight = rest.rpartition("/")[0]
        return weight in expected.weights and shape in ((), expected.weights[weight])
    if kind == "carry" and re.fullmatch(r"\d{1,3}", rest):
        return int(rest) < len(expected.carry) and shape == expected.carry[int(rest)]
    return name == "interval_nats" and shape == ()


def _check_complete_state(layout: Layout, expected: Expected, moments: set[str]) -> None:
    """Refuse an incomplete state of the optimizer, an incomplete carried state, or a missing loss.

    Before its first step an optimizer has no moments; after it, every trained weight has all of
    them (`moments`).
    """
    kept: dict[str, set[str]] = {name: set() for name in expected.trained}
    for name in layout:
        if name.startswith("optimizer/"):
            weight, _, kind = name.removeprefix("optimizer/").rpartition("/")
            kept.setdefault(weight, set()).add(kind)
    whole = all(kinds == moments for kinds in kept.values()) or not any(kept.values())
    carried = sum(name.startswith("carry/") for name in layout)
    if not whole or carried not in (0, len(expected.carry)) or "interval_nats" not in layout:
        raise CheckpointError("the optimizer's state, the carried state or the loss is incomplete")


def _check_only_weights(layout: Layout) -> None:
    """Refuse any tensor that is not a weight of the model."""
    for name in layout:
        if not name.startswith("model/"):
            raise CheckpointError(f"it should hold weights alone, and has the tensor {name}")


def _check_complete_weights(layout: Layout, expected: Expected, averaged: bool) -> None:
    """Refuse a model, or the average of its weights, with a missing tensor."""
    for kind in ["model", "average"] if averaged else ["model"]:
        for name in expected.weights:
            if f"{kind}/{name}" not in layout:
                raise CheckpointError(
                    f"the tensor {kind}/{name} that its config implies is missing"
                )


class Expected(NamedTuple):
    """The tensors that belong in a checkpoint."""

    weights: Shapes
    """The shapes of the network's weights by name."""
    trained: frozenset[str]
    """The names of the weights with a state in the optimizer; tied weights have one name."""
    carry: Sequence[tuple[int, ...]]
    """The shapes of the leaves of the carried state."""


def expected_tensors(config: Config, vocabularies: Vocabularies) -> Expected:
    """List the tensors that belong in a checkpoint, from its configuration and vocabularies.

    The shapes of a language model that numpy can run are written out below, so that sampling need
    not import torch. Any other network is built on torch's meta device, where tensors have shapes
    and no memory. Raises ConfigError.
    """
    shapes = TASKS[config.task].shapes
    known: Expected | None = resolve(shapes)(config, vocabularies) if shapes else None
    return known or _built_tensors(config, vocabularies)


def _built_tensors(config: Config, vocabularies: Vocabularies) -> Expected:
    """List the tensors of the network, built without allocating its weights. Raises ConfigError."""
    import torch

    from charrnn.config.resolved import resolved
    from charrnn.nn.state import leaves

    task = resolve(TASKS[config.task].task)
    carries = "running text" in traits_of(config.task)
    try:
        with torch.device("meta"):
            network = task.build(resolved(config), vocabularies)
            state = network.initial_state(1) if carries else ()
    except RuntimeError as error:
        raise ConfigError(f"its network cannot be built: {error}") from error
    return Expected(
        {name: tuple(value.shape) for name, value in network.state_dict().items()},
        frozenset(name for name, _ in network.named_parameters()),
        [(_lanes(config), *leaf.shape[1:]) for leaf in leaves(state)] if carries else [],
    )


def _lanes(config: Config) -> int:
    """The number of lanes of a carried state. Raises ConfigError while it is `auto`."""
    if config.training.batch_size == "auto":
        raise ConfigError("training.batch_size is still 'auto'; give it a number")
    return config.training.batch_size


NUMPY_CELLS = {"vanilla": (1, 1), "lstm": (4, 2), "gru": (3, 1)}
"""The cells that numpy can run (`charrnn.inference.numpy_stepper`): their number of gates and of
tensors in their state."""


def numpy_tensors(config: Config, vocabularies: Vocabularies) -> Expected | None:
    """List the tensors of a language model that numpy can run; return None for any other.

    Raises ConfigError if the configuration still has `auto` widths.
    """
    model, size = config.model, only_text(vocabularies).size
    if model.cell not in NUMPY_CELLS or model.layer_norm or model.word_parts != ["lookup"]:
        return None
    if model.embedding_size == "auto":
        raise ConfigError("model.embedding_size is still 'auto'; give it a number")
    gates, parts = NUMPY_CELLS[model.cell]
    width = size if isinstance(model.embedding_size, str) else model.embedding_size
    shapes: Shapes = {}
    if model.embedding_size != "one_hot":
        shapes["embedding.weight"] = (size, width)
    for i, hidden in enumerate(model.widths):
        cell = f"stack.layers.{i}.cell"
        shapes[f"{cell}.weight_ih"] = (gates * hidden, width)
        shapes[f"{cell}.weight_hh"] = (gates * hidden, hidden)
        shapes[f"{cell}.bias_ih"] = shapes[f"{cell}.bias_hh"] = (gates * hidden,)
        width = hidden
    outputs = sum(model.widths) if model.skip_connections else model.widths[-1]
    shapes |= {"head.weight": (size, outputs), "head.bias": (size,)}
    tied = {"head.weight"} if model.tie_embeddings else set()
    carry = [(_lanes(config), width) for width in model.widths for _ in range(parts)]
    return Expected(shapes, frozenset(shapes.keys() - tied), carry)


def only_text(vocabularies: Vocabularies) -> Vocabulary:
    """The one vocabulary of a language model. Raises ConfigError if there are others."""
    if list(vocabularies) != ["text"]:
        raise ConfigError(f"a language model has one vocabulary, not {', '.join(vocabularies)}")
    text = vocabularies["text"]
    assert not isinstance(text, TokenVocabulary)
    return text
