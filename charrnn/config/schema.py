"""Experiments as typed, strict YAML: the schema, overrides, and where each value came from.

Every key has a default; `auto` is decided by `planning` from the text and the machine, and a run's
own `config.yaml` holds no `auto` any more.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from charrnn.errors import ConfigError
from charrnn.registry import CELLS, LAYER_NORM_CELLS, TASKS, Table, one_of, traits_of

Auto = Literal["auto"]


@dataclass(frozen=True)
class NameIn:
    """A name in a table of the registry, judged and described as a `Literal` of its names.

    The names are listed only for a message or a JSON schema, because that asks all packages.
    """

    table: Table[Any]

    def check(self, name: str) -> str:
        """Return the name. Raises pydantic's literal_error where the table lacks it."""
        if name not in self.table:
            expected = one_of(map(repr, self.table))
            raise PydanticKnownError("literal_error", {"expected": expected})
        return name

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(str))

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "enum": [*self.table]}


TaskName = Annotated[str, NameIn(TASKS)]
CellName = Annotated[str, NameIn(CELLS)]
_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", re.ASCII
)


def parse_duration(value: Any) -> Any:
    """Seconds from `90`, `90s`, `2m`, `1h30m`; what is no text is left for the schema to judge."""
    if not isinstance(value, str) or value == "auto":
        return value
    match = _DURATION.fullmatch(value.strip())
    if match is None or not any(match.groups()):
        raise ValueError(f"{value!r} is no duration; write 90s, 2m or 1h30m")
    hours, minutes, seconds = (float(group or 0) for group in match.groups())
    return hours * 3600 + minutes * 60 + seconds


Probability = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Width = Annotated[int, Field(gt=0, le=65536)]
Seconds = Annotated[PositiveFloat, BeforeValidator(parse_duration)]
Words = Literal["lookup", "recurrent", "convolving"]


TRAITS = {
    "running text": "reads one long text in windows, with the state carried from one to the next",
    "examples": "reads separate examples, each as a whole",
    "classes": "reads texts that are labelled with a class",
    "one class": "predicts one class for a whole text",
    "both directions": "has the whole input at once, and may read it from both ends",
    "composed words": "may compose the vectors of words from their characters",
    "vocabulary": "reads characters, bytes or words, as `data.vocabulary` says",
    "embedding dropout": "may drop whole symbols from what it reads",
    "attention": "has a decoder that may attend to the source",
}
"""The traits of tasks that keys of the configuration name. A task lists its own in its registry
entry."""


class Key(NamedTuple):
    """The tasks and the readers for whom a key is meant, beside its type."""

    needs: str | None = None
    """The trait that a task must have to use this key (one of `TRAITS`); None for every task."""


class Section(BaseModel):
    """A part of the configuration; an unknown key or a value of another type is an error."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class DataConfig(Section):
    """What is read."""

    sources: list[str] = []
    """Files, folders, patterns, URLs, `-` or named corpora; none means the built-in corpus."""
    validation: list[str] = []
    """Separate texts for validation; then `split` does not apply."""
    test: list[str] = []
    """Separate texts for testing."""
    split: Annotated[list[Probability], Field(min_length=2, max_length=3)] = [0.9, 0.1]
    """Fractions for training, validation and, if three, testing: of a text by position, of
    examples by `split_by`."""
    split_by: Annotated[Literal["hash", "position"], Key(needs="examples")] = "hash"
    """What decides on the split of an example: its text's SHA-256, or its place."""
    form: Annotated[Literal["detect", "files", "folders", "rows"], Key(needs="classes")] = "detect"
    """How labelled texts are laid out: a file a class, a folder a class, or rows of text, tab and
    class; or what of these they look like."""
    vocabulary: Annotated[Literal["character", "byte", "word"], Key(needs="vocabulary")] = (
        "character"
    )
    """One symbol a Unicode character, one a byte, or one a word."""
    minimum_count: PositiveInt = 1
    """Words that occur less often are one symbol, `<unk>`."""
    encoding: str = "utf-8"
    """How the text is encoded (not used by a byte vocabulary)."""
    errors: str = "strict"
    """What to do with bytes that are not in that encoding: strict, replace, ignore, ..."""
    unknown: Annotated[Literal["error", "skip"], Key(needs="running text")] = "error"
    """Characters that a vocabulary taken from another run lacks: an error, or left out."""
    reset_state_at_documents: Annotated[bool, Key(needs="running text")] = False
    """Zero the hidden state where each file begins."""

    @field_validator("split")
    @classmethod
    def _fractions_sum_to_one(cls, split: list[float]) -> list[float]:
        if abs(sum(split) - 1) > 1e-9 or min(split) <= 0:
            raise ValueError(f"the fractions of split must be positive and sum to 1, not {split}")
        return split

    @model_validator(mode="after")
    def _one_test_set(self) -> DataConfig:
        if self.test and len(self.split) == 3:
            raise ValueError("give either separate test files or a third fraction in split")
        return self


class ModelConfig(Section):
    """The network."""

    cell: CellName = "lstm"
    """The recurrent cell; rhn is the recurrent highway network, mlstm the multiplicative LSTM;
    mingru and minlstm compute all steps of a window at once."""
    activation: Literal["tanh", "relu"] = "tanh"
    """The vanilla cell's nonlinearity."""
    layers: Annotated[int, Field(gt=0, le=64)] = 2
    """How many layers, where `hidden_size` is one number."""
    hidden_size: Width | Annotated[list[Width], Field(min_length=1, max_length=64)] | Auto = "auto"
    """Hidden width of each layer, or a list with one width a layer."""
    embedding_size: Width | Literal["one_hot"] | Auto = "auto"
    """Width of a symbol's vector, or of a word's as far as it is looked up or composed in one way;
    or one_hot vectors."""
    embedding_scale: PositiveFloat | Auto = "auto"
    """How large vectors that are looked up start (standard deviation). auto is 1 for characters and
    bytes, each of which is read often enough to leave it behind, and 0.1 for words."""
    words: Words | Annotated[list[Words], Field(min_length=1)] | Auto = "auto"
    """What a word's vector is: one of its own (lookup), or composed from its characters by an LSTM
    in both directions (recurrent) or by convolutions (convolving), `embedding_size` wide; or a list
    of these, side by side. auto is lookup, and in tagging lookup and recurrent."""
    character_embedding_size: Annotated[Width, Key(needs="composed words")] = 32
    """Width of the embedding of a word's characters."""
    character_hidden_size: Annotated[Width, Key(needs="composed words")] = 64
    """Hidden width of each direction over a word's characters; half the number of filters."""
    tie_embeddings: Annotated[bool, Key(needs="running text")] = False
    """Use the embedding's matrix as the output layer's (the widths must be equal)."""
    skip_connections: bool = True
    """Let the output layer read every layer, not only the last."""
    forget_bias: float = 1.0
    """Starting value of the forget gate's bias in an lstm, mlstm or minlstm."""
    recurrence_depth: Annotated[int, Field(gt=0, le=64)] = 5
    """Highway layers in a time step of an rhn."""
    transform_bias: float = -2.0
    """Starting value of the transform gates' biases in an rhn."""
    dropout: Probability | Auto = "auto"
    """Dropout between layers."""
    input_dropout: Probability | Auto = "auto"
    """Dropout on the embeddings."""
    output_dropout: Probability | Auto = "auto"
    """Dropout on what the output layer reads."""
    locked_dropout: bool = False
    """Draw these three once for a whole window (variational dropout)."""
    embedding_dropout: Annotated[Probability, Key(needs="embedding dropout")] = 0.0
    """Take away whole symbols for a window."""
    weight_dropout: Probability = 0.0
    """Dropout on the recurrent matrices, one draw a window (AWD-LSTM)."""
    zoneout: Probability = 0.0
    """How often a unit of the hidden state keeps its old value in training."""
    zoneout_cell: Probability = 0.0
    """Likewise of the cell state of an lstm or mlstm."""
    layer_norm: bool = False
    """Layer normalisation inside the cell (vanilla, lstm and gru)."""
    bidirectional: Annotated[bool, Key(needs="both directions")] = True
    """Read a whole input from both ends, where it is there as a whole: not in a language model."""
    pooling: Annotated[Literal["last", "mean", "max"], Key(needs="one class")] = "max"
    """What of an input's outputs a class is read from: the last (of each direction), or their mean
    or maximum over time."""
    attention: Annotated[Literal["none", "additive", "dot", "general"], Key(needs="attention")] = (
        "general"
    )
    """How a translation's decoder scores what it reads of the source (Bahdanau et al. 2015; Luong
    et al. 2015); with none, it has the encoder's final state and nothing else."""

    @model_validator(mode="after")
    def _the_cell_has_what_is_asked_of_it(self) -> ModelConfig:
        if self.layer_norm and self.cell not in LAYER_NORM_CELLS:
            raise ValueError(
                f"there is no {self.cell} with layer normalisation; set layer_norm to false, "
                f"or use {one_of(LAYER_NORM_CELLS)}"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _count_listed_layers(cls, values: Any) -> Any:
        """Set `layers` to the length of a list of widths; runs of before left it at its default."""
        if not isinstance(values, dict) or type(values.get("layers", 1)) is not int:
            return values
        widths = values.get("hidden_size")
        if not isinstance(widths, list) or not 0 < len(widths) <= 64:
            return values
        return values | {"layers": len(widths)}

    @field_validator("words")
    @classmethod
    def _each_kind_of_word_once(cls, words: str | list[str]) -> str | list[str]:
        if isinstance(words, list) and len(set(words)) < len(words):
            raise ValueError("give each of lookup, recurrent and convolving at most once")
        return words

    @property
    def word_parts(self) -> list[str]:
        """What a word's vector is made of: a lookup, where that is still `auto`."""
        words = "lookup" if self.words == "auto" else self.words
        return [*words] if isinstance(words, list) else [words]

    @property
    def fused(self) -> bool:
        """Whether a kernel or a scan computes the layers, not the cell step by step."""
        return CELLS[self.cell].fused and not (self.layer_norm or self.zoneout or self.zoneout_cell)

    @property
    def widths(self) -> list[int]:
        """One hidden width a layer. Raises ConfigError while the width is still `auto`."""
        if isinstance(self.hidden_size, list):
            return self.hidden_size
        if self.hidden_size == "auto":
            raise ConfigError("model.hidden_size is still 'auto'; give it a number")
        return [self.hidden_size] * self.layers


class TrainingConfig(Section):
    """How the network learns."""

    steps: PositiveInt | None = None
    """Budget: optimizer steps. Of several budgets the first to be reached ends the run."""
    epochs: PositiveFloat | Auto | None = "auto"
    """Budget: passes over the training text."""
    max_time: Seconds | Auto | None = "auto"
    """Budget: wall-clock time of the whole command, as 90s, 10m or 1h30m."""
    batch_size: PositiveInt | Auto = "auto"
    """Lanes read side by side."""
    window: Annotated[PositiveInt | Auto, Key(needs="running text")] = "auto"
    """Characters a lane between two steps: how far gradients reach back (truncated BPTT)."""
    carry_state: Annotated[bool, Key(needs="running text")] = True
    """Carry the hidden state from window to window; without, every window starts from zero."""
    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = "adamw"
    """The update rule."""
    learning_rate: PositiveFloat | Auto = "auto"
    """The highest learning rate of the schedule."""
    schedule: Literal["constant", "linear", "cosine", "plateau"] = "cosine"
    """How the rate falls after warm-up: not at all, linearly or by a cosine to zero, or by
    `plateau_factor` whenever validation has not improved for `plateau_patience` evaluations."""
    warmup_steps: Annotated[int, Field(ge=10)] = 100
    """Steps over which the rate rises from zero; a wall-clock budget measures the speed in them."""
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """What drop-on-plateau multiplies the rate by."""
    plateau_patience: PositiveInt = 2
    """Evaluations without improvement before drop-on-plateau acts."""
    patience: PositiveInt | None = None
    """Stop after this many evaluations without improvement."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of sgd."""
    betas: Annotated[tuple[Probability, Probability], Field(strict=False)] = (0.9, 0.99)
    """Decay rates of Adam's two moments; rmsprop uses the second."""
    weight_decay: Annotated[float, Field(ge=0)] | Auto = "auto"
    """Decay of weight matrices towards zero; biases are left alone. auto is 0.1 for adamw, whose
    decay is decoupled from the gradient, and 0 for the others."""
    average: Probability = 0.0
    """Decay of a moving average of the weights, which is what is evaluated and sampled; 0 for none.
    It grows from 0.1 to this as training goes on."""
    random_windows: Annotated[bool, Key(needs="running text")] = False
    """Draw each window's length and where an epoch's lanes begin, the rate scaled with the length
    (AWD-LSTM)."""
    reset_probability: Annotated[Probability, Key(needs="running text")] = 0.0
    """How often a lane's state is reset to zero at the start of a window."""
    clip: PositiveFloat = 1.0
    """Bound on the global norm of the gradient."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """Seeds the starting weights and dropout."""


class EvaluationConfig(Section):
    """How progress is measured."""

    every: PositiveInt | Auto = "auto"
    """Steps between evaluations."""
    lanes: Annotated[PositiveInt, Key(needs="running text")] = 64
    """Lanes of the estimate made during training."""
    warmup: Annotated[int, Field(ge=0), Key(needs="running text")] = 1000
    """Characters each lane of the estimate first reads."""
    characters: Annotated[PositiveInt, Key(needs="running text")] = 262_144
    """At most so many characters are scored by the estimate."""
    window: Annotated[PositiveInt, Key(needs="running text")] = 1000
    """Characters computed at a time in an unbroken score; does not change the score."""
    sample_length: Annotated[int, Field(ge=0)] = 160
    """Characters of sample text at each evaluation."""


class CheckpointConfig(Section):
    """What is kept on disk."""

    every: PositiveInt | Auto = "auto"
    """Steps between checkpoints; auto saves at each evaluation."""
    keep_last: PositiveInt = 2
    """How many of the latest checkpoints to keep beside the best."""


class Config(Section):
    """A whole experiment."""

    task: TaskName = "language_model"
    """What is learned: to go on with a text, to say which class a text is of, to write texts of a
    class, to tag the words of a sentence, or to turn one text into another."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the products in a training step; weights, state, optimizer and scores are float32. auto is
    bfloat16 where the device computes with it and the model is large enough to gain."""
    threads: PositiveInt | Auto = "auto"
    """CPU threads for torch."""
    processes: Annotated[int, Field(gt=0, le=128)] | Auto = "auto"
    """Processes that share the lanes of a training step on a CPU, one thread each (Linux)."""
    graph: bool = True
    """On a GPU, capture a training step as one CUDA graph."""
    deterministic: bool = False
    """On a GPU, use only operations whose results repeat bit for bit."""
    tensorboard: bool = False
    """Also write TensorBoard events (needs the extra `tensorboard`)."""


@functools.cache
def fields() -> dict[str, FieldInfo]:
    """Every dotted key of the configuration with its pydantic field, in the order of the schema."""
    by_key: dict[str, FieldInfo] = {}
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            by_key |= {f"{name}.{key}": inside for key, inside in section.model_fields.items()}
        else:
            by_key[name] = field
    return by_key


def key_of(field: FieldInfo) -> Key:
    """The `Key` that a field is annotated with, or that of an everyday key of every task."""
    return next((mark for mark in field.metadata if isinstance(mark, Key)), Key())


def unused_keys(task: str) -> frozenset[str]:
    """The dotted keys that a registered task does not use, as its traits say."""
    traits = {None, *traits_of(task)}
    return frozenset(key for key, field in fields().items() if key_of(field).needs not in traits)
