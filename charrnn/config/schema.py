"""Experiments as typed, strict YAML: the schema, overrides, and where each value came from.

Every key has a default; `auto` is decided by `planning` from the text and the machine, and a run's
own `config.yaml` holds no `auto` any more.
"""

from __future__ import annotations

import difflib
import importlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from charrnn.errors import ConfigError
from charrnn.registry import CELLS, Shapes, one_of

Auto = Literal["auto"]


class TaskEntry(NamedTuple):
    """Where in this package the parts of a task stand."""

    read: str
    """What reads its data: a configuration, the texts it names and a vocabulary or none."""
    layout: str
    """What must stand in its checkpoints: a configuration and the vocabularies."""
    experiment: str
    """What a session runs (`tasks.task.Experiment`)."""
    writer: str | None = None
    """What writes for `charrnn sample`, in the way of `trained.TrainedModel`, if it writes."""
    ignores: tuple[str, ...] = ()
    """The keys that say nothing to it, and are refused where they are set."""


OF_A_TEXT = (
    "data.unknown",
    "data.reset_state_at_documents",
    "model.tie_embeddings",
    "training.carry_state",
    "training.random_windows",
    "training.reset_probability",
    "evaluation.lanes",
    "evaluation.warmup",
    "evaluation.characters",
    "evaluation.window",
)
OF_EXAMPLES = ("data.form", "data.split_by")
OF_WHOLE_INPUTS = ("model.bidirectional", "model.pooling")
OF_COMPOSED_WORDS = ("model.character_embedding_size", "model.character_hidden_size")


TASKS = {
    "language_model": TaskEntry(
        "tasks.data.read_corpus",
        "runs.checkpoint_check.language_model_layout",
        "tasks.language_model.LanguageModelling",
        "inference.trained_model.TrainedModel",
        (*OF_EXAMPLES, *OF_WHOLE_INPUTS, "model.attention"),
    ),
    "classification": TaskEntry(
        "tasks.labelled.read",
        "tasks.task.built_layout",
        "tasks.classification.Classification",
        ignores=(*OF_A_TEXT, "model.embedding_dropout", "model.attention"),
    ),
    "generation": TaskEntry(
        "tasks.generation.read",
        "tasks.task.built_layout",
        "tasks.generation.Generation",
        "tasks.generation.Generator",
        (*OF_A_TEXT, *OF_WHOLE_INPUTS, *OF_COMPOSED_WORDS, "model.attention"),
    ),
    "tagging": TaskEntry(
        "tasks.tagging.read",
        "tasks.task.built_layout",
        "tasks.tagging.Tagging",
        ignores=(
            *OF_A_TEXT,
            "data.form",
            "data.vocabulary",
            "model.pooling",
            "model.embedding_dropout",
            "model.attention",
        ),
    ),
    "translation": TaskEntry(
        "tasks.translation.read",
        "tasks.task.built_layout",
        "tasks.translation.Translation",
        ignores=(
            *OF_A_TEXT,
            *OF_COMPOSED_WORDS,
            "data.form",
            "model.pooling",
            "model.embedding_dropout",
        ),
    ),
}


def resolve(place: str) -> Any:
    """What stands in this package under a dotted name."""
    module, _, name = place.rpartition(".")
    return getattr(importlib.import_module(f"charrnn.{module}"), name)


if TYPE_CHECKING:
    TaskName: TypeAlias = str
    CellName: TypeAlias = str
else:
    TaskName = Literal[tuple(TASKS)]
    CellName = Literal[tuple(CELLS)]
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


class Section(BaseModel):
    """A part of the configuration: unknown keys and wrong types are errors."""

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
    split_by: Literal["hash", "position"] = "hash"
    """What decides on the split of an example: its text's SHA-256, or its place."""
    form: Literal["detect", "files", "folders", "rows"] = "detect"
    """How labelled texts are laid out: a file a class, a folder a class, or rows of text, tab and
    class; or what of these they look like."""
    vocabulary: Literal["character", "byte", "word"] = "character"
    """One symbol a Unicode character, one a byte, or one a word."""
    minimum_count: PositiveInt = 1
    """Words that occur less often are one symbol, `<unk>`."""
    encoding: str = "utf-8"
    """How the text is encoded (not used by a byte vocabulary)."""
    errors: str = "strict"
    """What to do with bytes that are not in that encoding: strict, replace, ignore, ..."""
    unknown: Literal["error", "skip"] = "error"
    """Characters that a vocabulary taken from another run lacks: an error, or left out."""
    reset_state_at_documents: bool = False
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
    character_embedding_size: Width = 32
    """Width of the embedding of a word's characters."""
    character_hidden_size: Width = 64
    """Hidden width of each direction over a word's characters; half the number of filters."""
    tie_embeddings: bool = False
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
    embedding_dropout: Probability = 0.0
    """Take away whole symbols for a window."""
    weight_dropout: Probability = 0.0
    """Dropout on the recurrent matrices, one draw a window (AWD-LSTM)."""
    zoneout: Probability = 0.0
    """How often a unit of the hidden state keeps its old value in training."""
    zoneout_cell: Probability = 0.0
    """Likewise of the cell state of an lstm or mlstm."""
    layer_norm: bool = False
    """Layer normalisation inside the cell (vanilla, lstm and gru)."""
    bidirectional: bool = True
    """Read a whole input from both ends, where it is there as a whole: not in a language model."""
    pooling: Literal["last", "mean", "max"] = "max"
    """What of an input's outputs a class is read from: the last (of each direction), or their mean
    or maximum over time."""
    attention: Literal["none", "additive", "dot", "general"] = "general"
    """How a translation's decoder scores what it reads of the source (Bahdanau et al. 2015; Luong
    et al. 2015); with none, it has the encoder's final state and nothing else."""

    @model_validator(mode="after")
    def _the_cell_has_what_is_asked_of_it(self) -> ModelConfig:
        if self.layer_norm and not CELLS[self.cell].normed:
            raise ValueError(
                f"there is no {self.cell} with layer normalisation; set layer_norm to false, "
                f"or use {one_of(name for name, cell in CELLS.items() if cell.normed)}"
            )
        if self.weight_dropout and "weight_hh" not in self.cell_shapes(1, 1):
            raise ValueError(
                f"weight_dropout falls on the matrix from hidden to hidden state, which a "
                f"{self.cell} does not have; set it to 0, or use another cell"
            )
        return self

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

    def cell_shapes(self, inputs: int, hidden: int) -> Shapes:
        """The names and shapes of the weights of one layer's cell, by its widths."""
        entry = CELLS[self.cell]
        options = {name: getattr(self, name) for name in entry.options}
        norms = entry.norms if self.layer_norm else {}
        return entry.shapes(inputs, hidden, options) | {
            norm: (multiple * hidden,) for norm, multiple in norms.items()
        }

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
    window: PositiveInt | Auto = "auto"
    """Characters a lane between two steps: how far gradients reach back (truncated BPTT)."""
    carry_state: bool = True
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
    random_windows: bool = False
    """Draw each window's length and where an epoch's lanes begin, the rate scaled with the length
    (AWD-LSTM)."""
    reset_probability: Probability = 0.0
    """How often a lane's state is reset to zero at the start of a window."""
    clip: PositiveFloat = 1.0
    """Bound on the global norm of the gradient."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """Seeds the starting weights and dropout."""


class EvaluationConfig(Section):
    """How progress is measured."""

    every: PositiveInt | Auto = "auto"
    """Steps between evaluations."""
    lanes: PositiveInt = 64
    """Lanes of the estimate made during training."""
    warmup: Annotated[int, Field(ge=0)] = 1000
    """Characters each lane of the estimate first reads."""
    characters: PositiveInt = 262_144
    """At most so many characters are scored by the estimate."""
    window: PositiveInt = 1000
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


MAX_YAML = 1_000_000  # characters; with the next two, any text is read or refused in a second
MAX_NODES = 10_000
MAX_DEPTH = 20


class _Loader(yaml.SafeLoader):
    """YAML with one meaning a text: 1e-3 is a number, `no` a word, no aliases, no key twice."""

    # The resolvers are shared through the class; ours must not change PyYAML's own.
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012

    depth = nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self.depth += 1
        self.nodes += 1
        problem = (
            "aliases are not used here" if isinstance(event, yaml.AliasEvent)
            else "this is nested too deep" if self.depth > MAX_DEPTH
            else f"there are more than {MAX_NODES:,} values" if self.nodes > MAX_NODES
            else None
        )  # fmt: skip
        if problem:
            raise yaml.MarkedYAMLError(None, None, problem, event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            # PyYAML's constructors, for a tag like !!bool on a value that is none.
            shown = str(node.value)[:30]
            raise yaml.MarkedYAMLError(
                None, None, f"{shown!r} is no {node.tag.rsplit(':', 1)[-1]}", node.start_mark
            ) from error
        if isinstance(value, float) and not math.isfinite(value):
            shown = f"{str(node.value)[:30]!r} is no number that fits"
            raise yaml.MarkedYAMLError(None, None, shown, node.start_mark)
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.MarkedYAMLError(None, None, "this is no mapping", node.start_mark)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(None, None, "a key must be a word", key.start_mark)
            if key.value in seen:
                problem = f"the key {key.value!r} stands here a second time"
                raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader`, or another reader of YAML, would not take for a text."""

    def represent_str(self, text: str) -> Any:
        # In plain style PyYAML breaks lines at U+0085 and its like, and loses them.
        style = None if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_str)

for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9][0-9_]{0,30}$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("null", r"^(?:~|null|Null|NULL|)$", "~nN\0"),
):
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}",
            re.compile(_pattern),
            [*_first, ""] if _tag == "null" else list(_first),
        )


# PyYAML's own takes 010 for octal.
_Loader.add_constructor(
    "tag:yaml.org,2002:int",
    lambda loader, node: int(loader.construct_scalar(node)),  # type: ignore[arg-type]
)


def parse_yaml(text: str, name: str) -> Any:
    """Plain data from YAML. Raises ConfigError with the line and column of what is wrong."""
    if len(text) > MAX_YAML:
        raise ConfigError(f"{name}: {len(text):,} characters are more than a config can be")
    try:
        return yaml.load(text, _Loader)  # noqa: S506 -- a SafeLoader, made stricter
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError(f"{where}: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise ConfigError(
            f"{name}:{line}:{column}: the character U+{error.character:04X} is not allowed in YAML"
        ) from error


def read_config_file(path: Path) -> dict[str, Any]:
    """The values a config file sets. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            text = file.read(4 * MAX_YAML + 1).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"cannot read the config {path}: {reason}") from error
    data = parse_yaml(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a config is a mapping of sections, not {type(data).__name__}")
    return data


Layer = tuple[str, Mapping[str, Any]]
"""Where values come from ("default", a file, a flag), and the values by dotted key."""


def build_config(layers: Sequence[Layer]) -> tuple[Config, dict[str, str]]:
    """The configuration from layers, later ones winning, and the source of each dotted key.

    Raises ConfigError naming the key, the value, where it came from and what is allowed.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, layer in layers:
        for key, value in layer.items():
            if value is None and key in Config.model_fields:
                continue  # A section whose keys are all commented out.
            _check_key(key, source)
            values[key] = value
            sources[key] = source
    try:
        config = Config.model_validate(nest(values))
    except ValidationError as error:
        raise ConfigError(_explain(error, sources)) from error
    given, usual = flatten(config.model_dump()), flatten(Config().model_dump())
    for key in TASKS[config.task].ignores:
        if given[key] != usual[key]:
            where = f"{sources[key]}: " if key in sources else ""
            shown = f"{where}{key} = {given[key]!r}"
            raise ConfigError(f"{shown} says nothing to the task {config.task}; leave it out")
    return config, {key: sources.get(key, "default") for key in given}


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with some dotted keys replaced. Raises ConfigError."""
    return build_config([("config", flatten(config.model_dump())), ("plan", values)])[0]


def config_from_data(data: Any, name: str) -> Config:
    """A configuration from plain nested data, as a checkpoint holds it. Raises ConfigError."""
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: a config is a mapping of sections, not {type(data).__name__}")
    return build_config([(name, flatten(data))])[0]


def file_layer(path: Path) -> Layer:
    """A config file as a layer."""
    return str(path), flatten(read_config_file(path))


def environment_layers(environment: Mapping[str, str]) -> list[Layer]:
    """`CHARRNN_TRAINING__LEARNING_RATE=3e-4` sets `training.learning_rate`."""
    known = {key.replace(".", "__").upper(): key for key in all_keys()}
    layers: list[Layer] = []
    for variable, value in sorted(environment.items()):
        name = variable.removeprefix("CHARRNN_")
        if name != variable and name not in {"CACHE_DIR"}:
            key = known.get(name, name.replace("__", ".").lower())
            layers.append((variable, {key: parse_yaml(value, variable)}))
    return layers


def override_layers(overrides: Sequence[str]) -> list[Layer]:
    """`--set training.learning_rate=3e-4`. Raises ConfigError for one without `=`."""
    layers: list[Layer] = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override!r} has no value; write --set {override}=VALUE")
        layers.append((f"--set {override}", {key.strip(): parse_yaml(value, f"--set {key}")}))
    return layers


def all_keys() -> list[str]:
    """Every dotted key of the schema."""
    return list(flatten(Config().model_dump()))


def describe_keys() -> Iterator[tuple[str, str]]:
    """Every dotted key with its one-line description."""
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            for inner, inner_field in section.model_fields.items():
                yield f"{name}.{inner}", " ".join((inner_field.description or "").split())
        else:
            yield name, " ".join((field.description or "").split())


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys; an empty section counts as nothing."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys to nested mappings."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return nested


def dump_yaml(config: Config) -> str:
    """The configuration as YAML that reads back as the same configuration."""
    data = json.loads(config.model_dump_json())
    text: str = yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    return text


def _check_key(key: str, source: str) -> None:
    keys = all_keys()
    if key in keys:
        return
    sections = {known.split(".")[0] for known in keys if "." in known}
    if key in sections:
        raise ConfigError(f"{source}: {key!r} is a section; set one of its keys, as {key}.KEY")
    by_tail = [known for known in keys if known.split(".")[-1] == key.rsplit(".", maxsplit=1)[-1]]
    by_tail.sort(key=lambda known: -difflib.SequenceMatcher(None, key, known).ratio())
    close = by_tail or difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    if not close:
        tails = {known.split(".")[-1]: known for known in keys}
        close = [
            tails[t] for t in difflib.get_close_matches(key.rsplit(".", maxsplit=1)[-1], tails, n=1)
        ]
    hint = f"did you mean {close[0]}?" if close else "charrnn config defaults lists all keys"
    raise ConfigError(f"{source}: unknown key {key!r}; {hint}")


def _explain(error: ValidationError, sources: Mapping[str, str]) -> str:
    keys = all_keys()
    first = error.errors(include_url=False)[0]
    names = [str(part) for part in first["loc"]]
    key = next(
        (".".join(names[:n]) for n in (2, 1) if ".".join(names[:n]) in keys), ".".join(names[:1])
    )
    related = [
        e
        for e in error.errors(include_url=False)
        if e["loc"][: len(key.split("."))] == first["loc"][: len(key.split("."))]
    ]
    messages = dict.fromkeys(e["msg"].removeprefix("Value error, ") for e in related)
    problem = "; or ".join(message[0].lower() + message[1:] for message in messages)
    value = first["input"]
    shown = "" if isinstance(value, (dict, Section)) else f" = {str(value)[:60]!r}"
    hint = ""
    expected = first.get("ctx", {}).get("expected")
    if isinstance(value, str) and isinstance(expected, str):
        close = difflib.get_close_matches(
            value, re.findall(r"'([^']*)'", expected), n=1, cutoff=0.5
        )
        hint = f"; did you mean {close[0]}?" if close else ""
    where = sources.get(key)
    return f"{where + ': ' if where else ''}{key}{shown}: {problem}{hint}"
