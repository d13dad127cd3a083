"""What a user did not choose, chosen from the text and the machine.

`plan` replaces every `auto` of a configuration except those that need a measured speed;
`steps_in_time` turns a wall-clock budget into a number of steps once the speed is known.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch

from charrnn.config.merge import with_values
from charrnn.config.schema import Config
from charrnn.training.build import matrix_weights
from charrnn.training.hardware import choose_precision, choose_processes, measure_speed

DEFAULT_TIME = 600.0


def plan(config: Config, characters: int, vocabulary_size: int, device: torch.device) -> Config:
    """The configuration with its `auto` values decided, except `evaluation.every`,
    `checkpoints.every` and a step count that depends on a wall-clock budget.

    `characters` is the length of the training split. The rules are smooth in the size of the
    text and in the time there is; see docs/experiments for the runs behind them.
    """
    model, training = config.model, config.training
    values: dict[str, Any] = {
        "device": str(device),
    }
    threads = torch.get_num_threads() if config.threads == "auto" else config.threads
    values["threads"] = threads

    chosen = [
        b for b in (training.steps, training.epochs, training.max_time) if b not in (None, "auto")
    ]
    max_time, epochs = training.max_time, training.epochs
    if max_time == "auto":
        max_time = None if chosen else DEFAULT_TIME
    on_cpu = device.type == "cpu"

    if isinstance(training.window, int):
        window = training.window
    else:
        window = max(8, min(64 if on_cpu else 128, characters // 8))
    if isinstance(training.batch_size, int):
        batch_size = training.batch_size
    else:
        # As many lanes as leave each at least eight windows long, up to what the device fills.
        most = 32 if on_cpu else 64
        batch_size = 2 ** int(math.log2(max(1, min(most, characters / (8 * window)))))

    steps_per_epoch = math.ceil(max(1, (characters - 1) // batch_size) / window)
    if epochs == "auto":
        epochs = None if chosen else float(max(50, math.ceil(2000 / steps_per_epoch)))

    hidden = model.hidden_size
    if hidden == "auto":
        by_text = 0.4 * math.sqrt(characters)
        by_time = 192 * ((max_time or DEFAULT_TIME) / 120) ** 0.2 * (1 if on_cpu else 2)
        hidden = 32 * round(max(64, min(by_text, by_time, 1024)) / 32)
    widths = hidden if isinstance(hidden, list) else [hidden] * model.layers
    output_width = sum(widths) if model.skip_connections else widths[-1]
    values["processes"] = choose_processes(config.processes, device, batch_size, threads)
    work = batch_size // values["processes"] * max(widths)
    values["precision"] = choose_precision(config.precision, device, model.cell, work)
    embedding = model.embedding_size
    if embedding == "auto":
        embedding = output_width if model.tie_embeddings else max(16, min(64, vocabulary_size))

    scale = model.embedding_scale
    if scale == "auto":
        scale = 0.1 if config.data.vocabulary == "word" else 1.0

    # How often the text will be read decides how much there is to protect it from: 6 operations
    # a weight and character, at about the speed of the product that was measured.
    weights = output_width * vocabulary_size
    for inputs, width in itertools.pairwise([64, *widths]):
        weights += matrix_weights(model, inputs, width)
    passes = min(
        max_time * measure_speed(device) / (6 * weights) / characters if max_time else math.inf,
        epochs if isinstance(epochs, float) else math.inf,
        training.steps / steps_per_epoch if training.steps else math.inf,
    )
    dropout = min(0.5, max(0.0, 0.1 * math.log2(passes / 4)))
    dropout = round(dropout * 20) / 20

    rate = training.learning_rate
    if isinstance(rate, str):
        rate = {"adam": 4e-3, "adamw": 4e-3, "rmsprop": 1e-3, "sgd": 1.0}[training.optimizer]
        rate *= min(2.0, 256 / max(widths)) / (4 if model.cell == "vanilla" else 1)
    decay = training.weight_decay
    if decay == "auto":
        decay = 0.1 if training.optimizer == "adamw" else 0.0
    values |= {
        "training.max_time": max_time,
        "training.epochs": epochs,
        "training.window": window,
        "training.batch_size": batch_size,
        "training.learning_rate": rate,
        "training.weight_decay": decay,
        "model.hidden_size": hidden,
        "model.embedding_size": embedding,
        "model.embedding_scale": scale,
        "model.words": "lookup" if model.words == "auto" else model.words,
    }
    for name, amount in (("dropout", dropout), ("input_dropout", 0.0), ("output_dropout", dropout)):
        if getattr(model, name) == "auto":
            values[f"model.{name}"] = amount
    return with_values(config, values)
