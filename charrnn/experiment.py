"""From a configuration to its pieces: network, task and optimizer.

This is where configuration ends: everything below takes plain values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import nn

from charrnn.config import Config, ModelConfig
from charrnn.corpus import Corpus
from charrnn.errors import ConfigError
from charrnn.layers import Recurrent, Stack
from charrnn.models import LanguageModel, embedding_of, language_model, recurrent_stack
from charrnn.registry import CELLS
from charrnn.tasks.language_model import LanguageModelTask

Network = TypeVar("Network", bound=nn.Module)


def build_model(config: Config, vocabulary_size: int) -> LanguageModel:
    """The network a resolved configuration describes, on its device. Raises ConfigError."""
    model = config.model
    embedding = model.embedding_size
    try:
        network = language_model(
            vocabulary_size,
            embedding_size=embedding if isinstance(embedding, int) else None,
            input_dropout=float(model.input_dropout),
            output_dropout=float(model.output_dropout),
            embedding_dropout=model.embedding_dropout,
            tie_embeddings=model.tie_embeddings,
            **_layers(model),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return placed(network, config)


def build_stack(model: ModelConfig, input_size: int, bidirectional: bool) -> Stack:
    """The recurrent layers that a resolved configuration describes. Raises ConfigError."""
    return recurrent_stack(input_size, bidirectional=bidirectional, **_layers(model))


def build_embedding(model: ModelConfig, vocabulary_size: int) -> tuple[nn.Module, int]:
    """What takes ids to vectors, and their width."""
    size = model.embedding_size
    width = size if isinstance(size, int) else None
    return embedding_of(vocabulary_size, width), width or vocabulary_size


def _layers(model: ModelConfig) -> dict[str, Any]:
    """A configuration's options of `recurrent_stack`."""
    numbers = [model.embedding_size, model.dropout, model.input_dropout, model.output_dropout]
    if "auto" in numbers:
        raise ConfigError("the config still has 'auto' values; charrnn train resolves them")
    return {
        "cell": model.cell,
        "hidden_sizes": model.widths,
        "activation": model.activation,
        "forget_bias": model.forget_bias,
        "recurrence_depth": model.recurrence_depth,
        "transform_bias": model.transform_bias,
        "dropout": float(model.dropout),
        "weight_dropout": model.weight_dropout,
        "zoneout": [model.zoneout, model.zoneout_cell][: CELLS[model.cell].states],
        "locked_dropout": model.locked_dropout,
        "layer_norm": model.layer_norm,
        "skip_connections": model.skip_connections,
    }


def placed(network: Network, config: Config) -> Network:
    """The network on the configuration's device, its weights laid out as that wants them."""
    network.to(torch.device("cpu" if config.device == "auto" else config.device))
    for module in network.modules():
        if isinstance(module, Recurrent):
            module.compact()
    return network


def load_arrays(model: Network, weights: Mapping[str, NDArray[Any]]) -> Network:
    """Copy weights by name into a model and return it. Raises RuntimeError where they differ."""
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model


def adopt_weights(
    model: LanguageModel,
    source: LanguageModel,
    symbols: Sequence[str | int],
    source_symbols: Sequence[str | int],
    config: ModelConfig,
) -> None:
    """Copy another model's weights, matching symbols by identity.

    Embedding rows, output rows and output biases of common symbols are carried over; new symbols
    keep their fresh ones. With one-hot inputs the columns of the first layer's matrices over its
    input, which `config` knows, are matched instead.
    Raises ConfigError where the shapes differ in anything but the vocabulary.
    """
    place = {symbol: i for i, symbol in enumerate(source_symbols)}
    common = [(i, place[s]) for i, s in enumerate(symbols) if s in place]
    to = torch.tensor([i for i, _ in common], dtype=torch.long)
    of = torch.tensor([j for _, j in common], dtype=torch.long)
    theirs = source.state_dict()
    over_input = {
        f"stack.layers.0.cell.{name}"
        for name, shape in config.cell_shapes(0, 1).items()
        if 0 in shape
    }
    with torch.no_grad():
        for name, mine in model.state_dict().items():
            given = theirs.get(name)
            by_row = name.startswith(("embedding.", "head."))
            by_column = name in over_input and not any(n.startswith("embedding.") for n in theirs)
            if given is not None and by_row and mine.shape[1:] == given.shape[1:]:
                mine[to.to(mine.device)] = given.to(mine.device)[of.to(mine.device)]
            elif given is not None and by_column and mine.shape[0] == given.shape[0]:
                mine[:, to.to(mine.device)] = given.to(mine.device)[:, of.to(mine.device)]
            elif given is not None and mine.shape == given.shape:
                mine.copy_(given)
            else:
                raise ConfigError(
                    f"--from does not fit: {name} is {tuple(mine.shape)} here and "
                    f"{tuple(given.shape) if given is not None else 'missing'} there; "
                    f"use the same model options"
                )


def build_task(config: Config, corpus: Corpus) -> LanguageModelTask:
    """The task a resolved configuration describes, over a corpus. Raises ConfigError."""
    training = config.training
    if training.batch_size == "auto" or training.window == "auto":
        raise ConfigError("the config still has 'auto' values; charrnn train resolves them")
    return LanguageModelTask(
        corpus,
        batch_size=training.batch_size,
        window=training.window,
        carry_state=training.carry_state,
        random_windows=training.random_windows,
        reset_probability=training.reset_probability,
        seed=training.seed,
        reset_state_at_documents=config.data.reset_state_at_documents,
        device=config.device,
    )


def build_optimizer(config: Config, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a configuration; weight decay falls on matrices only."""
    training = config.training
    parameters = list(model.parameters())
    decay = training.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    rate = training.learning_rate
    assert not isinstance(rate, str)
    # On a GPU the rate is a tensor, so that a captured step can be given another one.
    on_gpu = parameters[0].device.type == "cuda"
    given = torch.tensor(rate, device=parameters[0].device) if on_gpu else rate
    match training.optimizer:
        case "adam":
            return torch.optim.Adam(
                groups, given, betas=training.betas, fused=True, capturable=on_gpu
            )
        case "adamw":
            return torch.optim.AdamW(
                groups, given, betas=training.betas, fused=True, capturable=on_gpu
            )
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=rate, alpha=training.betas[1])
        case "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=training.momentum)
