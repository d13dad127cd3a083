"""The keys of the configuration: their types, defaults and meaning, and the tasks they belong to.

Every key has a default. Planning (`charrnn.training.planning`) replaces `auto` by a value that
suits the text and the hardware, so that the `config.yaml` of a run contains no `auto`.
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
    """A name in a table of the registry, checked like a `Literal` of the table's names.

    The names are listed only for a message or a JSON schema, because that searches all installed
    packages.
    """

    table: Table[Any]

    def check(self, name: str) -> str:
        """Return the name. Raises pydantic's literal_error if the table lacks it."""
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
    """Convert `90`, `90s`, `2m` or `1h30m` to seconds; return `auto` and numbers unchanged.

    Raises ValueError for any other text.

    >>> parse_duration("1h30m")
    5400.0
    """
    if not isinstance(value, str) or value == "auto":
        return value
    match = _DURATION.fullmatch(value.strip())
    if match is None or not any(match.groups()):
        raise ValueError(f"{value!r} is not a duration; write 90s, 2m or 1h30m")
    hours, minutes, seconds = (float(group or 0) for group in match.groups())
    return hours * 3600 + minutes * 60 + seconds


_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kKmM])", re.ASCII)


def parse_count(value: Any) -> Any:
    """Convert `500k` or `1.5M` to an integer; return anything else unchanged.

    >>> parse_count("1.5M")
    1500000
    """
    match = _COUNT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    return round(float(match[1]) * {"k": 10**3, "m": 10**6}[match[2].lower()])


def as_list(value: Any) -> Any:
    """Return a list of one string for a string, and anything else unchanged."""
    return [value] if isinstance(value, str) else value


Probability = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Width = Annotated[int, Field(gt=0, le=65536)]
Seconds = Annotated[PositiveFloat, BeforeValidator(parse_duration)]
RunName = Annotated[str, Field(min_length=1)]
Words = Literal["lookup", "recurrent", "convolving"]
LoggerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
Column = PositiveInt | Annotated[str, Field(min_length=1)]


TRAITS = {
    "running text": "reads one long text in windows, with the state carried from one to the next",
    "examples": "reads separate examples, each as a whole",
    "classes": "reads texts that are labelled with a class",
    "pairs": "reads pairs of texts",
    "tags": "reads sentences with a tag for each word",
    "one class": "predicts one class for a whole text",
    "both directions": "has the whole input at once, and may read it from both ends",
    "composed words": "may compose the vectors of words from their characters",
    "vocabulary": "reads characters, bytes or words, as `data.vocabulary` says",
    "embedding dropout": "may drop whole symbols from its input",
    "separated texts": "reads texts that a separator divides within a file",
    "attention": "has a decoder that may attend to the source",
}
"""Traits of tasks: a key may need one of them. A task lists its traits in its registry entry."""


Level = Literal["everyday", "research", "protocol"]
LEVELS: dict[Level, str] = {
    "everyday": "for every run",
    "research": "for experiments on the model and on how it learns",
    "protocol": "how a run is measured and repeated; scores are comparable where these agree",
}
"""How often a user needs a key; keys are listed in this order."""


class Key(NamedTuple):
    """The tasks that use a key and how often a user needs it, for `Annotated[type, Key(...)]`."""

    needs: str | None = None
    """The trait that a task must have to use this key (one of `TRAITS`); None for every task."""
    level: Level = "everyday"
    """How often a user needs the key (one of `LEVELS`)."""


RESEARCH = Key(level="research")
PROTOCOL = Key(level="protocol")


class Section(BaseModel):
    """A part of the configuration; an unknown key or a value of another type is an error."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class DataConfig(Section):
    """The texts and how they are read."""

    sources: list[str] = []
    """Files, folders, patterns, URLs, named corpora or `-` (standard input); none means the
    built-in corpus."""
    validation: list[str] = []
    """Separate texts for validation; `split` then does not apply."""
    test: list[str] = []
    """Separate texts for testing."""
    split: Annotated[list[Fraction], Field(min_length=1, max_length=3)] = [0.9, 0.1]
    """Fractions for training, validation and optionally testing; [1] trains on everything. A text
    is split by position, examples by `split_by`."""
    split_by: Annotated[
        Literal["auto", "stratified", "hash", "position"], Key("examples", "protocol")
    ] = "auto"
    """How examples are assigned to splits: by the SHA-256 of their text (hash); the same with equal
    shares of each class (stratified); or by their position. auto is stratified for texts with a
    class, else hash."""
    form: Annotated[Literal["detect", "files", "folders", "rows", "lines"], Key("classes")] = (
        "detect"
    )
    """Layout of labelled texts: one file for each class, one folder for each class, rows of a
    table, or lines without a class (to write texts). `detect` chooses by looking at the files."""
    reading: Annotated[Literal["recognise", "plain"], Key("examples", "protocol")] = "recognise"
    """How files are read: `recognise` finds tables, headers, columns and folders of splits;
    `plain` reads each row as text, tab and class, or as source, tab and target."""
    text_column: Annotated[
        Column | Annotated[list[Column], Field(min_length=1)] | None, Key("classes")
    ] = None
    """The column of a table that holds the text, by its name or its number from 1, or a list of
    columns to join; if not set, it is recognised by names and content."""
    label_column: Annotated[Column | None, Key("classes")] = None
    """The column of a table that holds the class."""
    source_column: Annotated[Column | None, Key("pairs")] = None
    """The column of a table that holds the source. For two files such as a.en and a.fr: the suffix
    of the source file, such as en."""
    target_column: Annotated[Column | None, Key("pairs")] = None
    """The column of a table that holds the target."""
    tag_column: Annotated[Column | None, Key("tags")] = None
    """The column of the tags: a name (upos, xpos, ner, last) or a number from 1. Without it, UPOS
    of CoNLL-U, or XPOS if that is empty; and the last column of other files."""
    bad_rows: Annotated[Literal["error", "skip"], Key("examples")] = "error"
    """What to do with rows that are not examples: list them and stop, or skip them and say which
    they are."""
    maximum_length: Annotated[PositiveInt | Auto | None, Key("examples")] = "auto"
    """The most symbols in an example. For classification a longer text is cut; for other tasks it
    is left out. auto is as many as fit into memory, and at most 16,384."""
    vocabulary: Annotated[Literal["character", "byte", "word"], Key("vocabulary")] = "character"
    """The symbols that the model reads: Unicode characters, bytes or words."""
    minimum_count: PositiveInt = 1
    """Replace characters or words that occur less often than this by the one symbol `<unk>`."""
    separator: Annotated[Annotated[str, Field(min_length=1)] | None, Key("separated texts")] = None
    """A line that divides a file into texts with an end of their own, such as `<|endoftext|>` or
    `---`; `blank` stands for a blank line. A language model then learns where a text ends."""
    newlines: Literal["join", "keep"] = "join"
    """Read every kind of line end (CR LF, CR, LF) as a line feed (join), or keep them as they are.
    A byte vocabulary keeps every byte."""
    normalize: Literal["nfc", "none"] = "nfc"
    """Compose letters and accents (Unicode's form NFC), or leave them as they are. A byte
    vocabulary keeps every byte."""
    encoding: str = "utf-8"
    """Encoding of the texts; a byte vocabulary does not use it. A byte order mark of UTF-16 or
    UTF-32 wins over utf-8."""
    errors: str = "strict"
    """How to treat bytes that the encoding cannot decode: strict (an error), replace, ignore,
    ..."""
    unknown: Annotated[Literal["error", "skip"], Key("running text")] = "error"
    """How to treat characters that a vocabulary taken from another run lacks: an error, or skip."""
    reset_state_at_documents: Annotated[bool, Key("running text", "research")] = False
    """Reset the hidden state to zero where each document begins: a file, or a part of one."""

    order: Annotated[Literal["natural", "path"], PROTOCOL] = "natural"
    """Order of the files of a folder, an archive or a pattern: natural (`Chapter 2` before `Chapter
    10`), or by the code points of their paths."""
    kinds: Annotated[Literal["content", "name"], PROTOCOL] = "content"
    """How files are recognised: `content` recognises compressed files, archives, pictures and
    documents by their first bytes; `name` recognises only compressed files, by their names, and
    reads all others as they are."""

    @field_validator("split")
    @classmethod
    def _fractions_sum_to_one(cls, split: list[float]) -> list[float]:
        if abs(sum(split) - 1) > 1e-9:
            raise ValueError(f"the fractions of split must be positive and sum to 1, not {split}")
        return split

    @model_validator(mode="after")
    def _one_test_set(self) -> DataConfig:
        if self.test and len(self.split) == 3:
            raise ValueError(
                "data.test and a third fraction in data.split exclude each other; leave one out"
            )
        return self


class ModelConfig(Section):
    """The network."""

    cell: CellName = "lstm"
    """The recurrent cell. rhn is the recurrent highway network, mlstm the multiplicative LSTM;
    mingru and minlstm compute all steps of a window in parallel."""
    activation: Annotated[Literal["tanh", "relu"], RESEARCH] = "tanh"
    """The vanilla cell's nonlinearity."""
    layers: Annotated[int, Field(gt=0, le=64)] = 2
    """Number of layers; a list in `hidden_size` sets it as well."""
    hidden_size: Width | Annotated[list[Width], Field(min_length=1, max_length=64)] | Auto = "auto"
    """Hidden width of every layer, or a list with a width for each layer."""
    parameters: Annotated[PositiveInt | RunName | None, BeforeValidator(parse_count)] = None
    """Choose `hidden_size` for at most this many parameters, such as 500k or 1.5M; or RUN, for at
    most as many as another run has."""
    embedding_size: Width | Literal["one_hot"] | Auto = "auto"
    """Width of a symbol's embedding, or one_hot. With several entries in `words`, each of them has
    this width."""
    embedding_scale: Annotated[PositiveFloat | Auto, RESEARCH] = "auto"
    """Standard deviation of the initial embeddings. auto is 1 for characters and bytes, and 0.1 for
    words, which occur too rarely to move far from a large start."""
    words: Words | Annotated[list[Words], Field(min_length=1)] | Auto = "auto"
    """How a word's vector is computed: looked up in a table (lookup), or composed from the word's
    characters by a bidirectional LSTM (recurrent) or by convolutions (convolving); or a list of
    these, concatenated. auto is lookup, and for tagging lookup and recurrent."""
    character_embedding_size: Annotated[Width, Key("composed words", "research")] = 32
    """Embedding width of the characters of a word."""
    character_hidden_size: Annotated[Width, Key("composed words", "research")] = 64
    """Hidden width of each direction of the LSTM over a word's characters; the convolutions have
    twice as many filters."""
    tie_embeddings: Annotated[bool, Key("running text", "research")] = False
    """Share the matrix of the embedding with the output layer; their widths must be equal."""
    skip_connections: Annotated[bool, RESEARCH] = True
    """Connect every layer to the output layer, not only the last one."""
    forget_bias: Annotated[float, RESEARCH] = 1.0
    """Initial bias of the forget gate of an lstm, mlstm or minlstm."""
    recurrence_depth: Annotated[int, Field(gt=0, le=64), RESEARCH] = 5
    """Number of highway layers in one time step of an rhn."""
    transform_bias: Annotated[float, RESEARCH] = -2.0
    """Initial bias of the transform gates of an rhn."""
    dropout: Probability | Auto = "auto"
    """Dropout between layers."""
    input_dropout: Probability | Auto = "auto"
    """Dropout on the embeddings."""
    output_dropout: Probability | Auto = "auto"
    """Dropout on the input of the output layer."""
    locked_dropout: Annotated[bool, RESEARCH] = False
    """Draw one mask for a whole window for the three kinds of dropout above (variational
    dropout)."""
    embedding_dropout: Annotated[Probability, Key("embedding dropout", "research")] = 0.0
    """Probability of dropping a symbol of the vocabulary everywhere in a window."""
    weight_dropout: Annotated[Probability, RESEARCH] = 0.0
    """Dropout on the hidden-to-hidden matrices, with one mask for a window (AWD-LSTM)."""
    zoneout: Annotated[Probability, RESEARCH] = 0.0
    """Probability that a unit of the hidden state keeps its previous value in training."""
    zoneout_cell: Annotated[Probability, RESEARCH] = 0.0
    """Probability that a unit of the cell state of an lstm or mlstm keeps its previous value."""
    layer_norm: Annotated[bool, RESEARCH] = False
    """Layer normalisation inside the cell (vanilla, lstm and gru)."""
    bidirectional: Annotated[bool, Key("both directions")] = True
    """Read the input from both ends."""
    pooling: Annotated[Literal["last", "mean", "max"], Key("one class")] = "max"
    """How a text's outputs become one vector for the class: the last output of each direction, or
    the mean or maximum over time."""
    attention: Annotated[Literal["none", "additive", "dot", "general"], Key("attention")] = (
        "general"
    )
    """How the decoder scores the positions of the source: additive (Bahdanau et al. 2015), dot or
    general (Luong et al. 2015). With none, it only starts from the encoder's final state."""

    @model_validator(mode="after")
    def _cell_supports_options(self) -> ModelConfig:
        if self.layer_norm and self.cell not in LAYER_NORM_CELLS:
            raise ValueError(
                f"a {self.cell} has no layer normalisation; set model.layer_norm to false, or "
                f"model.cell to {one_of(LAYER_NORM_CELLS)}"
            )
        return self

    @model_validator(mode="after")
    def _one_size(self) -> ModelConfig:
        if self.parameters is not None and self.hidden_size != "auto":
            raise ValueError(
                "model.parameters decides the width; leave out model.hidden_size, or "
                "model.parameters"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _count_listed_layers(cls, values: Any) -> Any:
        """Set `layers` to the length of a list of widths; earlier versions left it at its
        default."""
        if not isinstance(values, dict) or type(values.get("layers", 1)) is not int:
            return values
        widths = values.get("hidden_size")
        if not isinstance(widths, list) or not 0 < len(widths) <= 64:
            return values
        return values | {"layers": len(widths)}

    @field_validator("words")
    @classmethod
    def _no_kind_of_vector_twice(cls, words: str | list[str]) -> str | list[str]:
        if isinstance(words, list) and len(set(words)) < len(words):
            raise ValueError("list each of lookup, recurrent and convolving at most once")
        return words

    @property
    def word_parts(self) -> list[str]:
        """The kinds of vector that a word's vector is concatenated from; lookup for `auto`."""
        words = "lookup" if self.words == "auto" else self.words
        return [*words] if isinstance(words, list) else [words]

    @property
    def fused(self) -> bool:
        """Whether a kernel or a parallel scan computes a layer, instead of the cell step by
        step."""
        return CELLS[self.cell].fused and not (self.layer_norm or self.zoneout or self.zoneout_cell)

    @property
    def widths(self) -> list[int]:
        """The hidden width of each layer. Raises ConfigError while it is still `auto`."""
        if isinstance(self.hidden_size, list):
            return self.hidden_size
        if self.hidden_size == "auto":
            raise ConfigError("model.hidden_size is still 'auto'; set it to a number")
        return [self.hidden_size] * self.layers


CHANGEABLE = (
    "training.steps",
    "training.learning_rate",
    "training.schedule",
    "training.plateau_factor",
    "training.plateau_patience",
    "training.patience",
    "training.clip",
    "evaluation.first",
    "evaluation.every",
    "checkpoints.every",
)
"""The keys that may change while a run is under way; `training.earlier` records their values."""


class TrainingConfig(Section):
    """How the network learns."""

    steps: PositiveInt | None = None
    """Budget: optimizer steps. The budget that is reached first ends the run."""
    epochs: PositiveFloat | Auto | None = "auto"
    """Budget: passes over the training text. auto is as many as improve the model (25 for 30 KB,
    50 for 1 MB), or none if `steps` is set."""
    max_time: Seconds | Auto | None = "auto"
    """Budget: wall-clock time of the whole command, as 90s, 10m or 1h30m."""
    batch_size: PositiveInt | Auto = "auto"
    """Number of lanes (stretches of the text read in parallel), or of examples, in a step."""
    batch_symbols: Annotated[PositiveInt | Auto | None, Key("examples", "research")] = "auto"
    """The most symbols in a step, padding included; long examples come in smaller batches. auto is
    as many as fit into memory."""
    class_weights: Annotated[Literal["none", "balanced"], Key("one class")] = "none"
    """Weight examples by their class, so that all classes count the same in total (balanced)."""
    window: Annotated[PositiveInt | Auto, Key("running text")] = "auto"
    """Number of characters that each lane reads in a step; gradients reach back as far (truncated
    BPTT)."""
    carry_state: Annotated[bool, Key("running text", "research")] = True
    """Carry the hidden state from one window to the next; otherwise every window starts from
    zero."""
    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = "adamw"
    """The update rule."""
    learning_rate: PositiveFloat | Auto = "auto"
    """The highest learning rate of the schedule."""
    schedule: Literal["constant", "linear", "cosine", "plateau"] = "cosine"
    """How the rate changes after warm-up: constant keeps it, linear and cosine lower it to zero,
    plateau multiplies it by `plateau_factor` when validation has not improved for
    `plateau_patience` evaluations."""
    warmup_steps: Annotated[int, Field(ge=10), RESEARCH] = 100
    """Steps in which the rate rises from zero; with `max_time`, they also measure the speed."""
    plateau_factor: Annotated[float, Field(gt=0, lt=1), RESEARCH] = 0.5
    """Factor of the rate for the schedule plateau."""
    plateau_patience: Annotated[PositiveInt, RESEARCH] = 2
    """Evaluations without improvement before the schedule plateau lowers the rate."""
    patience: PositiveInt | Auto | None = "auto"
    """Stop after this many evaluations without improvement. auto is 5 with a time budget,
    and none with a budget in steps or epochs."""
    momentum: Annotated[float, Field(ge=0, lt=1), RESEARCH] = 0.9
    """Momentum of sgd."""
    betas: Annotated[tuple[Probability, Probability], Field(strict=False), RESEARCH] = (0.9, 0.99)
    """Decay rates of Adam's two moments; rmsprop uses the second."""
    weight_decay: Annotated[float, Field(ge=0)] | Auto = "auto"
    """Decay of weight matrices (not biases) towards zero. auto is 0.1 for adamw, where the decay is
    decoupled from the gradient, and 0 for the others."""
    average: Annotated[Probability, RESEARCH] = 0.0
    """Decay of a moving average of the weights, which is then evaluated and sampled in their place;
    0 for none. The decay rises from 0.1 to this value during training."""
    random_windows: Annotated[bool, Key("running text", "research")] = False
    """Draw the length of each window and the start of each epoch at random, and scale the rate with
    the length (AWD-LSTM)."""
    reset_probability: Annotated[Probability, Key("running text", "research")] = 0.0
    """Probability of resetting a lane's state to zero at the start of a window."""
    clip: PositiveFloat = 1.0
    """Upper bound of the global norm of the gradient."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """Seed of all that is random in training: initial weights, dropout, the order of examples."""
    earlier: Annotated[list[dict[str, Any]], PROTOCOL] = []
    """Settings that held until a step of this run, as {until: STEP, KEY: VALUE}: written when a run
    gets another budget or rate, so that its config.yaml repeats it."""

    @field_validator("earlier")
    @classmethod
    def _entries_are_ordered(cls, earlier: list[dict[str, Any]]) -> list[dict[str, Any]]:
        last = 0
        for entry in earlier:
            until = entry.get("until")
            if type(until) is not int or until <= last:
                raise ValueError("each entry of earlier needs `until`, a step, in ascending order")
            if unknown := entry.keys() - {*CHANGEABLE, "until", "resumed", "text"}:
                raise ValueError(f"{sorted(unknown)[0]!r} cannot change while a run is under way")
            last = until
        return earlier


class EvaluationConfig(Section):
    """How progress is measured."""

    every: PositiveInt | Auto = "auto"
    """Steps between evaluations; auto spends a small share of the time on them, and is at most four
    minutes."""
    first: PositiveInt | Auto = "auto"
    """Steps between the first evaluations; the distance then grows to a quarter of the steps taken,
    up to `every`. auto is two passes over a short text, or `every` if that is set."""
    lanes: Annotated[PositiveInt | Auto, Key("running text", "protocol")] = "auto"
    """Number of lanes of the estimate during training. auto is 64, or fewer, so that each lane
    scores at least as many characters as it reads before (`warmup`), and evaluations are short."""
    warmup: Annotated[int, Field(ge=0), Key("running text", "protocol")] = 1000
    """Characters that each lane reads before the estimate starts to count."""
    characters: Annotated[PositiveInt | Auto, Key("running text", "protocol")] = "auto"
    """Upper bound of the characters scored by the estimate. auto is 262,144, or fewer with a time
    budget, so that all evaluations together take about a tenth of the time."""
    window: Annotated[PositiveInt, Key("running text", "protocol")] = 1000
    """Characters computed at a time in the final score; it does not change the score."""
    best: Literal["auto", "validation", "last"] = "auto"
    """Which checkpoint counts as the best: the one with the lowest validation loss, or the last.
    auto is the last if the validation split is too short to choose by."""
    sample_length: Annotated[int, Field(ge=0)] = 160
    """Characters of sample text at each evaluation."""


class CheckpointConfig(Section):
    """The checkpoints that are kept on disk."""

    every: PositiveInt | Auto = "auto"
    """Steps between checkpoints, apart from those at evaluations; auto is at most four minutes."""
    keep_last: PositiveInt = 2
    """Number of latest checkpoints to keep besides the best one."""


class Config(Section):
    """The configuration of a run."""

    task: TaskName = "language_model"
    """The task: continue a text (language_model), predict the class of a text (classification),
    write texts of a class (generation), tag the words of a sentence (tagging), or turn one text
    into another (translation)."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """The device to train on: auto, cpu, cuda, cuda:N or mps."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the matrix products in a training step; everything else is float32. auto is
    bfloat16 if the device supports it and the model is large enough to gain from it."""
    threads: PositiveInt | Auto = "auto"
    """Number of CPU threads for torch. auto is 1 if auto chose one process on a CPU."""
    processes: Annotated[int, Field(gt=0, le=128)] | Auto = "auto"
    """Number of processes that share the lanes of a training step on a CPU, with one thread each
    (Linux)."""
    graph: Annotated[bool, RESEARCH] = True
    """Capture a training step on a GPU as one CUDA graph."""
    deterministic: Annotated[bool, PROTOCOL] = False
    """Use only operations with repeatable results on a GPU, bit for bit."""
    logging: Annotated[list[LoggerName], BeforeValidator(as_list)] = []
    """Programs that the evaluations and training steps are also published to; each needs the extra
    of its name."""


@functools.cache
def fields() -> dict[str, FieldInfo]:
    """Map every dotted key of the configuration to its pydantic field, in the order of the
    schema."""
    by_key: dict[str, FieldInfo] = {}
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            by_key |= {f"{name}.{key}": inside for key, inside in section.model_fields.items()}
        else:
            by_key[name] = field
    return by_key


def key_of(field: FieldInfo) -> Key:
    """Return the `Key` that a field is annotated with; without one, `Key()`."""
    return next((mark for mark in field.metadata if isinstance(mark, Key)), Key())


def unused_keys(task: str) -> frozenset[str]:
    """Return the dotted keys that need a trait which a task does not have."""
    traits = {None, *traits_of(task)}
    return frozenset(key for key, field in fields().items() if key_of(field).needs not in traits)


def tasks_with(key: str) -> list[str]:
    """Return the tasks that use a dotted key; an empty list stands for all of them."""
    needs = key_of(fields()[key]).needs
    return [] if needs is None else [name for name in TASKS if needs in traits_of(name)]
