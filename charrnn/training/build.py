"""From a configuration to its pieces: network, objective and optimizer.

This is where configuration ends: everything below takes plain values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from charrnn.config.resolved import ResolvedConfig, ResolvedModel
from charrnn.config.schema import ModelConfig
from charrnn.data.corpus import Corpus
from charrnn.data.spelling import characters_of, spellings, word_characters
from charrnn.data.vocabulary import UNKNOWN, Vocabulary, WordVocabulary
from charrnn.errors import ConfigError
from charrnn.nn.dropout import Dropouts
from charrnn.nn.layers import Recurrent, Stack
from charrnn.nn.models import (
    LanguageModel,
    embedding_of,
    language_model,
    make_cell,
    recurrent_stack,
)
from charrnn.nn.word_vectors import (
    ConvolvingComposer,
    RecurrentComposer,
    SpelledEmbedding,
    WordVectors,
)
from charrnn.training.text_windows import TextWindows

Network = TypeVar("Network", bound=nn.Module)


def build_model(config: ResolvedConfig, vocabulary: Vocabulary) -> LanguageModel:
    """The network a resolved configuration describes. Raises ConfigError."""
    model = config.model
    size = model.embedding_size
    embedding, width = None, size if isinstance(size, int) else None
    if model.word_parts != ["lookup"]:
        embedding, width = build_embedding(model, vocabulary)
    try:
        return language_model(
            vocabulary.size,
            embedding=embedding,
            embedding_size=width,
            embedding_scale=model.embedding_scale,
            tie_embeddings=model.tie_embeddings,
            **_layers(model),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def build_stack(model: ResolvedModel, input_size: int, bidirectional: bool) -> Stack:
    """Build the recurrent layers that a resolved configuration describes. Raises ConfigError."""
    try:
        return recurrent_stack(input_size, bidirectional=bidirectional, **_layers(model))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def matrix_weights(model: ModelConfig, input_size: int, hidden_size: int) -> int:
    """Count the weights in the matrices of one layer's cell. Raises ConfigError."""
    weights = _cell_weights(model, input_size, hidden_size).values()
    return sum(weight.numel() for weight in weights if weight.dim() > 1)


def _cell_weights(model: ModelConfig, input_size: int, hidden_size: int) -> dict[str, Tensor]:
    """The weights of one layer's cell by name, on the meta device: shapes without memory."""
    with torch.device("meta"):
        cell = make_cell(model.cell, input_size, hidden_size, _options(model), model.layer_norm)
    if not isinstance(cell, nn.Module):
        raise ConfigError(f"the cell {model.cell} is no torch.nn.Module, so it cannot be trained")
    return dict(cell.named_parameters())


def build_dropouts(model: ResolvedModel) -> Dropouts:
    """The rates of dropout that a resolved configuration describes."""
    return Dropouts(
        input=model.input_dropout,
        layers=model.dropout,
        output=model.output_dropout,
        embedding=model.embedding_dropout,
        weight=model.weight_dropout,
        zoneout=(model.zoneout, model.zoneout_cell),
        locked=model.locked_dropout,
    )


def build_embedding(model: ResolvedModel, vocabulary: Vocabulary) -> tuple[nn.Module, int]:
    """What takes ids to vectors, and their width. Raises ConfigError."""
    if model.word_parts == ["lookup"]:
        return _lookup(model, vocabulary.size)
    if not isinstance(vocabulary, WordVocabulary):
        raise ConfigError(
            f"model.words = {', '.join(model.word_parts)} reads words by their characters, and "
            f"this is a {vocabulary.kind} vocabulary; use --vocabulary word, or words: lookup"
        )
    if vocabulary.specials != (UNKNOWN,):
        raise ConfigError(f"words are composed beside {UNKNOWN} and no other special symbol")
    characters = word_characters(vocabulary)
    vectors = build_words(model, vocabulary.size, characters.size)
    spelled, lengths = map(torch.from_numpy, spellings(vocabulary, characters))
    return SpelledEmbedding(vectors, spelled, lengths), vectors.size


def build_words(model: ResolvedModel, words: int, characters: int) -> WordVectors:
    """What makes the vectors of words, of which the last one is `<unk>`, from their ids and the
    ids of their characters. Raises ConfigError."""
    parts, size = model.word_parts, model.embedding_size
    lookup, width = _lookup(model, words) if "lookup" in parts else (None, 0)
    composers: list[nn.Module] = []
    for part in parts:
        if part == "lookup":
            continue
        if not isinstance(size, int):
            raise ConfigError(
                f"model.embedding_size = {size} is no width that a word can be composed to; "
                f"give it a number"
            )
        inner, hidden = model.character_embedding_size, model.character_hidden_size
        width += size
        if part == "recurrent":
            composers.append(RecurrentComposer(characters, inner, hidden, size))
            continue
        try:
            composers.append(ConvolvingComposer(characters, inner, 2 * hidden, size))
        except ValueError as error:
            raise ConfigError(f"model.character_hidden_size = {hidden}: {error}") from error
    return WordVectors(width, lookup, composers, words - 1)


def build_lookup(model: ResolvedModel, symbols: int) -> tuple[nn.Module, int]:
    """A vector of its own for each symbol, where none is composed, and its width. Raises
    ConfigError."""
    if model.word_parts != ["lookup"]:
        raise ConfigError(
            f"model.words = {', '.join(model.word_parts)} composes words, and this task looks its "
            f"symbols up; leave it out"
        )
    return _lookup(model, symbols)


def _lookup(model: ResolvedModel, symbols: int) -> tuple[nn.Module, int]:
    """A vector of its own for each symbol, and its width."""
    size = model.embedding_size
    width = size if isinstance(size, int) else None
    return embedding_of(symbols, width, model.embedding_scale), width or symbols


def _layers(model: ResolvedModel) -> dict[str, Any]:
    """A configuration's options of `recurrent_stack`."""
    return {
        "cell": model.cell,
        "hidden_sizes": model.widths,
        **_options(model),
        "dropouts": build_dropouts(model),
        "layer_norm": model.layer_norm,
        "skip_connections": model.skip_connections,
    }


def _over_input(model: ModelConfig) -> list[str]:
    """Name the matrices of a cell with one column for each input: as wide as the input is."""
    narrow, wide = (_cell_weights(model, inputs, 1) for inputs in (1, 2))
    return [name for name, weight in narrow.items() if weight.shape != wide[name].shape]


def _options(model: ModelConfig) -> dict[str, Any]:
    """The settings that a cell's constructor may name."""
    return {
        "activation": model.activation,
        "forget_bias": model.forget_bias,
        "recurrence_depth": model.recurrence_depth,
        "transform_bias": model.transform_bias,
    }


def placed(network: Network, config: ResolvedConfig) -> Network:
    """The network on the configuration's device, its weights laid out as that wants them."""
    network.to(torch.device(config.device))
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
    keep their fresh ones; likewise the rows of the characters that words are composed from. With
    one-hot inputs the columns of the first layer's matrices over its input, which `config` knows,
    are matched instead.
    Raises ConfigError where the shapes differ in anything but the vocabulary.
    """
    of_symbols = of_characters = _common(symbols, source_symbols)
    spelled, source_spelled = model.embedding, source.embedding
    if isinstance(spelled, SpelledEmbedding) and isinstance(source_spelled, SpelledEmbedding):
        # The last symbol of a vocabulary of composed words is `<unk>`, which has no characters.
        here, there = (characters_of(map(str, words[:-1])) for words in (symbols, source_symbols))
        of_characters = _common(here.symbols, there.symbols)
    theirs = source.state_dict()
    over_input = {f"stack.layers.0.cell.{name}" for name in _over_input(config)}
    with torch.no_grad():
        for name, mine in model.state_dict().items():
            given = theirs.get(name)
            inner = ".composers." in name
            by_row = name.startswith(("embedding.", "head.")) and not inner
            by_row |= inner and name.endswith(".embedding.weight")
            by_column = name in over_input and not any(n.startswith("embedding.") for n in theirs)
            to, of = (places.to(mine.device) for places in (of_characters if inner else of_symbols))
            if given is not None and by_row and mine.shape[1:] == given.shape[1:]:
                mine[to] = given.to(mine.device)[of]
            elif given is not None and by_column and mine.shape[0] == given.shape[0]:
                mine[:, to] = given.to(mine.device)[:, of]
            elif given is not None and mine.shape == given.shape:
                mine.copy_(given)
            else:
                raise ConfigError(
                    f"--from does not fit: {name} is {tuple(mine.shape)} here and "
                    f"{tuple(given.shape) if given is not None else 'missing'} there; "
                    f"use the same model options"
                )


def _common(mine: Sequence[Any], theirs: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """The places of the symbols that both have, here and there."""
    place = {symbol: i for i, symbol in enumerate(theirs)}
    common = [(i, place[symbol]) for i, symbol in enumerate(mine) if symbol in place]
    return torch.tensor([i for i, _ in common]).long(), torch.tensor([j for _, j in common]).long()


def build_objective(config: ResolvedConfig, corpus: Corpus) -> TextWindows:
    """The objective that a configuration describes, over a corpus. Raises ConfigError."""
    training = config.training
    return TextWindows(
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


def build_optimizer(config: ResolvedConfig, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a configuration; weight decay falls on matrices only."""
    training = config.training
    parameters = list(model.parameters())
    decay = training.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    rate = training.learning_rate
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
