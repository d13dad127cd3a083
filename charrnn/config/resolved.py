"""A configuration without `auto`, from which training and networks are built."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from charrnn.config.merge import flatten, with_values
from charrnn.config.schema import (
    Config,
    DataConfig,
    ModelConfig,
    PositiveFloat,
    PositiveInt,
    Probability,
    Seconds,
    TrainingConfig,
    Width,
    Words,
)
from charrnn.errors import ConfigError

# Keys that older checkpoints lack, or that only a task on examples decides. They matter only for
# initial weights or for further training, not for a trained model.
UNIMPORTANT_ONCE_TRAINED = {
    "data.split_by": "hash",
    "data.maximum_length": None,
    "training.batch_symbols": None,
    "model.embedding_scale": 1.0,
    "model.words": "lookup",
    "device": "cpu",
    "precision": "float32",
    "threads": 1,
    "processes": 1,
    "training.patience": None,
}
# The session decides these once it has the data and knows how many steps there will be.
DECIDED_LATER = {
    "evaluation.every",
    "evaluation.first",
    "evaluation.lanes",
    "evaluation.characters",
    "evaluation.best",
    "checkpoints.every",
}


class ResolvedData(DataConfig):
    """The section `data` with every `auto` decided."""

    split_by: Literal["stratified", "hash", "position"]
    maximum_length: PositiveInt | None


class ResolvedModel(ModelConfig):
    """The section `model` with every `auto` decided."""

    hidden_size: Width | Annotated[list[Width], Field(min_length=1, max_length=64)]
    embedding_size: Width | Literal["one_hot"]
    embedding_scale: PositiveFloat
    words: Words | Annotated[list[Words], Field(min_length=1)]
    dropout: Probability
    input_dropout: Probability
    output_dropout: Probability


class ResolvedTraining(TrainingConfig):
    """The section `training` with every `auto` decided."""

    epochs: PositiveFloat | None
    max_time: Seconds | None
    patience: PositiveInt | None
    batch_size: PositiveInt
    batch_symbols: PositiveInt | None
    window: PositiveInt
    learning_rate: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0)]


class ResolvedConfig(Config):
    """A configuration with every `auto` decided except when to evaluate and to save.

    It has the keys of `Config` and writes the same YAML. `charrnn.training.planning` makes one from
    the text and the hardware; `resolved` makes one from the configuration of a checkpoint.
    """

    data: ResolvedData
    model: ResolvedModel
    training: ResolvedTraining
    device: Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$")]
    precision: Literal["float32", "bfloat16"]
    threads: PositiveInt
    processes: Annotated[int, Field(gt=0, le=128)]


def resolved(config: Config) -> ResolvedConfig:
    """Check that a configuration has no `auto` left, and return it with plain types.

    Keys without effect on a trained model may still be `auto`, as in a checkpoint that is older
    than the key; they are filled in. Raises ConfigError that names the keys left open.
    """
    values = flatten(config.model_dump())
    auto = [key for key, value in values.items() if value == "auto" and key not in DECIDED_LATER]
    missing = [key for key in auto if key not in UNIMPORTANT_ONCE_TRAINED]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: still 'auto', which is decided only when training starts; "
            f"give it a value"
        )
    filled = with_values(config, {key: UNIMPORTANT_ONCE_TRAINED[key] for key in auto})
    return ResolvedConfig.model_validate(filled.model_dump())
