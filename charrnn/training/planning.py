"""Fill in `auto` settings from the text and the hardware.

`plan` decides every `auto` of a configuration except the values that need a measured speed:
`charrnn.training.budget` turns a wall-clock budget into steps once the speed is known. Each group
of constants names the pages of docs/experiments that it comes from; those for a GPU were not
measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch

from charrnn.config.merge import flatten, with_values
from charrnn.config.resolved import ResolvedConfig, resolved
from charrnn.config.schema import Config, ModelConfig, TrainingConfig
from charrnn.nn.fast.threads import use_threads
from charrnn.training import lane_processes
from charrnn.training.build import matrix_weights
from charrnn.training.hardware import choose_precision, choose_processes, measure_speed

# The budget if none was chosen: ten-minutes.md has the scores that it reaches.
DEFAULT_TIME = 600.0  # seconds

# More passes over a text than these make a model worse: short-texts.md, for up to 150,000
# characters. At a million, 26 passes still helped (dropout-and-passes.md), and 50 is a guess. A
# tiny text is read more often, because no model learns in fewer steps than FEWEST_STEPS.
PASSES_OF_A_MILLION = 50
PASSES_EXPONENT = 0.2
FEWEST_STEPS = 400

# A run with a time budget ends after this many evaluations without improvement (a round number).
# From one evaluation to the next, the steps grow by a quarter, so the best step then lies in the
# first half of the run.
PATIENCE = 5

# Lanes and windows: defaults-for-a-short-run.md (batch 32; a window of 64 beat one of 128) and
# defaults-on-other-texts.md (twice the lanes are worse). A GPU needs more work per step to be busy.
# On a short text, fewer lanes give more steps before the text is known by heart: short-texts.md.
LONGEST_WINDOW = 64
LONGEST_WINDOW_ON_GPU = 128
SHORTEST_WINDOW = 8
MOST_LANES = 32
MOST_LANES_ON_GPU = 64
LANES_A_ROOT_CHARACTER = 1 / 16  # more in runs shorter than HALF_A_MINUTE, which make few passes
HALF_A_MINUTE = 30.0  # seconds
WINDOWS_A_LANE = 8  # the fewest windows in a lane, if the user chose a long window

# Width: defaults-for-a-short-run.md (192 for two minutes, 256 for ten). A wide model learns a short
# text by heart, so the width also grows with the text: with the fourth root of its length if
# dropout is high (short-texts.md), and with the square root on long texts (dropout-and-passes.md).
WIDTH_IN_TWO_MINUTES = 192
TIME_EXPONENT = 0.2
WIDTH_A_ROOT_SECOND = 27  # the tighter bound if the time is under half a minute: short-texts.md
GPU_WIDTH_FACTOR = 2
WIDTH_A_ROOT_CHARACTER = 0.4
WIDTH_A_FOURTH_ROOT_CHARACTER = 13
NARROWEST, WIDEST = 64, 1024
WIDTH_STEP = 32  # widths are multiples of it, which suits vector units

# Embedding: defaults-for-a-short-run.md used 64 for 65 symbols. Its scale: embedding-scale.md.
NARROWEST_EMBEDDING, WIDEST_EMBEDDING = 16, 64
WORD_SCALE = 0.1

# Dropout: defaults-for-a-short-run.md (0.1 at 8 passes over the text, 0.3 at 32). It grows faster
# if the layers have more weights than the text has characters, and the part above 0.3 is applied to
# the input as well: short-texts.md.
PASSES_WITHOUT_DROPOUT = 4
DROPOUT_A_DOUBLING = 0.1
DROPOUT_A_DOUBLING_OF_WEIGHTS = 0.03
MOST_DROPOUT = 0.5
DROPOUT_WITHOUT_INPUT_DROPOUT = 0.3
OPERATIONS_A_WEIGHT = 6  # per character: a multiplication and an addition, in the forward pass and
# twice in the backward pass
LANES_OF_OVERHEAD = 8  # lanes: a step takes as long as if it had 8 more (short-texts.md)
START_UP = 3.0  # seconds until the first step (a round number)

# Learning rate: defaults-for-a-short-run.md (4e-3 at width 256, 7e-3 at 192, a quarter for the
# vanilla cell). The rates of the other optimizers are the usual first choices.
RATES = {"adam": 4e-3, "adamw": 4e-3, "rmsprop": 1e-3, "sgd": 1.0}
WIDTH_OF_RATES = 256
MOST_FOR_NARROW = 2.0
VANILLA_DIVISOR = 4

WEIGHT_DECAY = {"adamw": 0.1}  # weight-decay.md


def plan(
    config: Config, characters: int, vocabulary_size: int, device: torch.device
) -> ResolvedConfig:
    """Decide every `auto` of a configuration except `evaluation.every` and `checkpoints.every`.

    `characters` is the length of the training split and `vocabulary_size` its number of symbols.
    The rules are smooth in the size of the text and in the time. Settings that are not `auto` are
    kept, so planning a planned configuration changes nothing. Raises ConfigError if a precision or
    a number of processes was chosen that the device does not have.

    >>> planned = plan(Config(), 1_000_000, vocabulary_size=65, device=torch.device("cpu"))
    >>> planned.training.batch_size, planned.training.window, planned.model.hidden_size
    (32, 64, 256)
    """
    model, training = config.model, config.training
    max_time = _max_time(training)
    window = _window(training, characters, device)
    lanes = _lanes(training, characters, window, max_time, device)
    steps_per_epoch = math.ceil(max(1, (characters - 1) // lanes) / window)
    epochs = _epochs(training, characters, steps_per_epoch)
    hidden_size = _hidden_size(model, characters, max_time, device)
    widths = hidden_size if isinstance(hidden_size, list) else [hidden_size] * model.layers
    output_width = sum(widths) if model.skip_connections else widths[-1]
    threads, processes = _threads_and_processes(config, lanes, device)
    lanes_times_width = lanes // processes * max(widths)

    choices: dict[str, Any] = {
        "threads": threads,
        "processes": processes,
        "precision": choose_precision(config.precision, device, model.cell, lanes_times_width),
        "training.max_time": max_time,
        "training.epochs": epochs,
        "training.window": window,
        "training.batch_size": lanes,
        "training.patience": None if max_time is None else PATIENCE,
        "training.learning_rate": _learning_rate(training.optimizer, model.cell, max(widths)),
        "training.weight_decay": WEIGHT_DECAY.get(training.optimizer, 0.0),
        "model.hidden_size": hidden_size,
        "model.embedding_size": output_width if model.tie_embeddings
        else max(NARROWEST_EMBEDDING, min(WIDEST_EMBEDDING, vocabulary_size)),
        "model.embedding_scale": WORD_SCALE if config.data.vocabulary == "word" else 1.0,
        "model.words": "lookup",
    }  # fmt: skip
    if "auto" in (model.dropout, model.output_dropout, model.input_dropout):
        weights = _weights(model, widths)
        operations = OPERATIONS_A_WEIGHT * (weights + output_width * vocabulary_size) * characters
        with use_threads(threads):  # those that the run will have
            in_time = _passes_in(max_time, operations, lanes, device) if max_time else math.inf
        passes = min(
            in_time,
            epochs or math.inf,
            training.steps / steps_per_epoch if training.steps else math.inf,
        )
        dropout = _dropout(passes, weights / characters)
        choices["model.dropout"] = choices["model.output_dropout"] = dropout
        choices["model.input_dropout"] = max(0.0, round(dropout - DROPOUT_WITHOUT_INPUT_DROPOUT, 2))
    settings = flatten(config.model_dump())
    undecided = {key: value for key, value in choices.items() if settings[key] == "auto"}
    return resolved(with_values(config, undecided | {"device": str(device)}))


def _threads_and_processes(config: Config, lanes: int, device: torch.device) -> tuple[int, int]:
    """Choose the threads of a process, and the processes that share the lanes.

    Where lanes can be shared (on Linux) but are too few, one thread computes: two that sleep while
    they wait for each other are slower (docs/experiments/busy-machine.md).
    """
    threads = torch.get_num_threads() if config.threads == "auto" else config.threads
    processes = choose_processes(config.processes, device, lanes, threads)
    both_auto = config.processes == config.threads == "auto"
    if processes == 1 and both_auto and device.type == "cpu" and lane_processes.available():
        return 1, 1
    return threads, processes


def _budget_is_chosen(training: TrainingConfig) -> bool:
    """Whether the user set any of the three budgets."""
    budgets = (training.steps, training.epochs, training.max_time)
    return any(budget not in (None, "auto") for budget in budgets)


def _max_time(training: TrainingConfig) -> float | None:
    """Seconds for the whole command: ten minutes if no budget was chosen."""
    if training.max_time != "auto":
        return training.max_time
    return None if _budget_is_chosen(training) else DEFAULT_TIME


def _epochs(training: TrainingConfig, characters: int, steps_per_epoch: int) -> float | None:
    """Passes over the text until it would be learned by heart; None if the budget is in steps."""
    if training.epochs != "auto":
        return training.epochs
    if training.steps is not None:
        return None
    most = PASSES_OF_A_MILLION * math.pow(characters / 1e6, PASSES_EXPONENT)
    return float(max(1, round(max(most, FEWEST_STEPS / steps_per_epoch))))


def _window(training: TrainingConfig, characters: int, device: torch.device) -> int:
    """Characters between two updates, fewer on a short text."""
    if training.window != "auto":
        return training.window
    longest = LONGEST_WINDOW if device.type == "cpu" else LONGEST_WINDOW_ON_GPU
    return max(SHORTEST_WINDOW, min(longest, characters // 8))


def _lanes(
    training: TrainingConfig,
    characters: int,
    window: int,
    max_time: float | None,
    device: torch.device,
) -> int:
    """Number of lanes: a power of two that grows with the square root of the text's length."""
    if training.batch_size != "auto":
        return training.batch_size
    most = MOST_LANES if device.type == "cpu" else MOST_LANES_ON_GPU
    possible = max(1, min(most, characters / (WINDOWS_A_LANE * window)))
    hurry = max(1, HALF_A_MINUTE / (max_time or DEFAULT_TIME))
    by_text = max(1, LANES_A_ROOT_CHARACTER * math.sqrt(characters * hurry))
    return 1 << min(int(math.log2(possible)), round(math.log2(by_text)))


def _hidden_size(
    model: ModelConfig, characters: int, max_time: float | None, device: torch.device
) -> int | list[int]:
    """Width of the layers: the smallest of the bounds from the text and from the time."""
    if model.hidden_size != "auto":
        return model.hidden_size
    by_text = max(
        WIDTH_A_ROOT_CHARACTER * math.sqrt(characters),
        WIDTH_A_FOURTH_ROOT_CHARACTER * math.pow(characters, 0.25),
    )
    seconds = max_time or DEFAULT_TIME
    by_time = min(
        WIDTH_IN_TWO_MINUTES * math.pow(seconds / 120, TIME_EXPONENT),
        WIDTH_A_ROOT_SECOND * math.sqrt(seconds),
    )
    by_time *= 1 if device.type == "cpu" else GPU_WIDTH_FACTOR
    return WIDTH_STEP * round(max(NARROWEST, min(by_text, by_time, WIDEST)) / WIDTH_STEP)


def _learning_rate(optimizer: str, cell: str, width: int) -> float:
    """The highest rate of the schedule, inversely proportional to the width."""
    rate = RATES[optimizer] * min(MOST_FOR_NARROW, WIDTH_OF_RATES / width)
    return rate / VANILLA_DIVISOR if cell == "vanilla" else rate


def _weights(model: ModelConfig, widths: Sequence[int]) -> int:
    """Count the weights in the matrices of the layers."""
    pairs = itertools.pairwise([WIDEST_EMBEDDING, *widths])
    return sum(matrix_weights(model, inputs, width) for inputs, width in pairs)


def _passes_in(seconds: float, operations: int, lanes: int, device: torch.device) -> float:
    """Estimate how often the text is read in `seconds`, at the speed of a matrix product."""
    overhead = (1 + LANES_OF_OVERHEAD / lanes) / (1 + LANES_OF_OVERHEAD / MOST_LANES)
    share = (seconds - START_UP) / (HALF_A_MINUTE - START_UP)  # the used part of a short time
    training = seconds * min(1.0, max(0.1, share))
    return training * measure_speed(device) / operations / max(1.0, overhead)


def _dropout(passes: float, weights_a_character: float) -> float:
    """Dropout in steps of 0.05: 0 up to 4 passes, then 0.1 more each time the passes double.

    If there are more weights than characters, these steps are 0.03 larger for each doubling of the
    weights.
    """
    a_doubling = DROPOUT_A_DOUBLING
    a_doubling += DROPOUT_A_DOUBLING_OF_WEIGHTS * max(0.0, math.log2(weights_a_character))
    dropout = a_doubling * math.log2(passes / PASSES_WITHOUT_DROPOUT)
    return round(min(MOST_DROPOUT, max(0.0, dropout)) * 20) / 20
