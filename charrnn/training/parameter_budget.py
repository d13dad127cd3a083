"""Choose the hidden width from a number of parameters, so that cells can be compared fairly.

Runs that differ in `model.cell` alone differ in size as well: an LSTM has four times the weights of
a vanilla cell of the same width. `model.parameters` sets the size instead, as a number or as
another run's number, and `plan_within_budget` finds the width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from charrnn.config.merge import config_from_data, flatten, with_values
from charrnn.config.schema import Config
from charrnn.data.vocabulary import Vocabularies, read_vocabularies
from charrnn.errors import CheckpointError, ConfigError
from charrnn.runs.checkpoint_check import expected_tensors
from charrnn.runs.directory import find_checkpoint

Planned = TypeVar("Planned", bound=Config)

WIDEST = 65536

# Settings that planning measures or derives from the width. They do not change the parameters.
WITHOUT_PARAMETERS: dict[str, Any] = {
    "model.dropout": 0.0,
    "model.input_dropout": 0.0,
    "model.output_dropout": 0.0,
    "precision": "float32",
    "processes": 1,
}


def count_parameters(config: Config, vocabularies: Vocabularies) -> int:
    """Count the trained parameters of the network of a resolved configuration, without building it
    in memory; a matrix that two layers share counts once. Raises ConfigError."""
    expected = expected_tensors(config, vocabularies)
    return sum(math.prod(expected.weights[name]) for name in expected.trained)


def count_parameters_of_run(name: str, warn: Callable[[str], None]) -> int:
    """Count the trained parameters of a run, given as in `charrnn info RUN`. Raises ConfigError."""
    try:
        checkpoint = find_checkpoint(name, warn)
    except CheckpointError as error:
        raise ConfigError(
            f"model.parameters = {name!r} is neither a number, such as 500k, nor a run: {error}"
        ) from error
    config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
    return count_parameters(config, read_vocabularies(checkpoint.metadata["vocabulary"]))


def plan_within_budget(
    plan: Callable[[Config], Planned], config: Config, vocabulary_data: Mapping[str, Any]
) -> Planned:
    """Plan a configuration with the largest hidden width that `model.parameters` allows.

    `plan` decides every other `auto`. The planned configuration has that width, the same in all
    layers, and no `model.parameters`, so that it repeats the run. Without `model.parameters` this
    is `plan(config)`. Raises ConfigError if a width of 1 is still too large, and for the name of a
    run (`count_parameters_of_run` replaces it by a number).
    """
    budget = config.model.parameters
    if budget is None:
        return plan(config)
    if isinstance(budget, str):
        raise ConfigError(f"model.parameters = {budget!r} is not a number, such as 500k; set one")
    vocabularies = read_vocabularies(vocabulary_data)
    values = flatten(config.model_dump())
    fixed = {key: value for key, value in WITHOUT_PARAMETERS.items() if values[key] == "auto"}

    def of_width(width: int) -> dict[str, Any]:
        return {"model.parameters": None, "model.hidden_size": width}

    def count(width: int) -> int:
        planned = plan(with_values(config, fixed | of_width(width)))
        return count_parameters(planned, vocabularies)

    if (least := count(1)) > budget:
        raise ConfigError(
            f"model.parameters = {budget:,} is too small: with a hidden width of 1, this model has "
            f"{least:,} parameters; raise it, or lower model.embedding_size"
        )
    narrow, wide = 1, 2  # `narrow` fits the budget; `wide` does not, or is too wide to be allowed.
    while wide <= WIDEST and count(wide) <= budget:
        narrow, wide = wide, 2 * wide
    while wide - narrow > 1:
        middle = (narrow + wide) // 2
        if count(middle) <= budget:
            narrow = middle
        else:
            wide = middle
    return plan(with_values(config, of_width(narrow)))
