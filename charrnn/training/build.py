"""Build networks, objectives and optimizers from a configuration.

This is the last module that reads the configuration: networks and optimizers take plain values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

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
    """Build the network of a language model. Raises ConfigError."""
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
    """Build the recurrent layers of a network. Raises ConfigError."""
    try:
        return recurrent_stack(input_size, bidirectional=bidirectional, **_layers(model))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def matrix_weights(model: ModelConfig, input_size: int, hidden_size: int) -> int:
    """Count the weights in the matrices of one layer's cell. Raises ConfigError."""
    weights = _cell_weights(model, input_size, hidden_size).values()
    return sum(weight.numel() for weight in weights if weight.dim() > 1)


def _cell_weights(model: ModelConfig, input_size: int, hidden_size: int) -> dict[str, Tensor]:
    """Make the weights of one layer's cell on the meta device: shapes without memory."""
    with torch.device("meta"):
        cell = make_cell(model.cell, input_size, hidden_size, _options(model), model.layer_norm)
    if not isinstance(cell, nn.Module):
        raise ConfigError(
            f"the cell {model.cell} cannot be trained, because it is not a torch.nn.Module; "
            "use another cell"
        )
    return dict(cell.named_parameters())


def build_dropouts(model: ResolvedModel) -> Dropouts:
    """Collect the rates of dropout."""
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
    """Build the module that maps symbols to vectors; return it with their width.

    Raises ConfigError.
    """
    if model.word_parts == ["lookup"]:
        return _lookup(model, vocabulary.size)
    if not isinstance(vocabulary, WordVocabulary):
        raise ConfigError(
            f"model.words = {', '.join(model.word_parts)} reads words by their characters, but "
            f"this is a {vocabulary.kind} vocabulary; set data.vocabulary to "
            f"word, or model.words to lookup"
        )
    if vocabulary.specials != (UNKNOWN,):
        raise ConfigError(
            f"composed words allow no special symbol but {UNKNOWN}; set model.words to lookup"
        )
    characters = word_characters(vocabulary)
    vectors = build_words(model, vocabulary.size, characters.size)
    spelled, lengths = map(torch.from_numpy, spellings(vocabulary, characters))
    return SpelledEmbedding(vectors, spelled, lengths), vectors.size


def build_words(model: ResolvedModel, words: int, characters: int) -> WordVectors:
    """Build the module that maps words to vectors, from the ids of words and characters.

    The last word is `<unk>`. Raises ConfigError.
    """
    parts, size = model.word_parts, model.embedding_size
    lookup, width = _lookup(model, words) if "lookup" in parts else (None, 0)
    composers: list[nn.Module] = []
    for part in parts:
        if part == "lookup":
            continue
        if not isinstance(size, int):
            raise ConfigError(
                f"model.embedding_size = {size} is not a width for composed words; give it a number"
            )
        character_width, hidden = model.character_embedding_size, model.character_hidden_size
        width += size
        if part == "recurrent":
            composers.append(RecurrentComposer(characters, character_width, hidden, size))
            continue
        try:
            composers.append(ConvolvingComposer(characters, character_width, 2 * hidden, size))
        except ValueError as error:
            raise ConfigError(f"model.character_hidden_size = {hidden}: {error}") from error
    return WordVectors(width, lookup, composers, words - 1)


def build_lookup(model: ResolvedModel, symbols: int) -> tuple[nn.Module, int]:
    """Build a table of one vector for each symbol; return it with the vectors' width.

    Raises ConfigError if the configuration composes words.
    """
    if model.word_parts != ["lookup"]:
        raise ConfigError(
            f"model.words = {', '.join(model.word_parts)} composes words, which this task cannot; "
            f"leave it out"
        )
    return _lookup(model, symbols)


def _lookup(model: ResolvedModel, symbols: int) -> tuple[nn.Module, int]:
    """Build a table of one vector for each symbol; return it with the vectors' width."""
    size = model.embedding_size
    width = size if isinstance(size, int) else None
    return embedding_of(symbols, width, model.embedding_scale), width or symbols


def _layers(model: ResolvedModel) -> dict[str, Any]:
    """Collect the options of `recurrent_stack`."""
    return {
        "cell": model.cell,
        "hidden_sizes": model.widths,
        **_options(model),
        "dropouts": build_dropouts(model),
        "layer_norm": model.layer_norm,
        "skip_connections": model.skip_connections,
    }


def _options(model: ModelConfig) -> dict[str, Any]:
    """Collect the settings that the constructor of a cell may name."""
    return {
        "activation": model.activation,
        "forget_bias": model.forget_bias,
        "recurrence_depth": model.recurrence_depth,
        "transform_bias": model.transform_bias,
    }


def placed(network: Network, config: ResolvedConfig) -> Network:
    """Move a network to its device, with its weights laid out for the kernels there."""
    network.to(torch.device(config.device))
    for module in network.modules():
        if isinstance(module, Recurrent):
            module.compact()
    return network


def load_arrays(model: Network, weights: Mapping[str, NDArray[Any]]) -> Network:
    """Copy weights by name into a model and return it.

    Raises RuntimeError if names or shapes differ.
    """
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model


class SymbolAxis(NamedTuple):
    """The axis of a weight that has one entry for each symbol."""

    symbols: Literal["text", "characters"]
    """The symbols of the text, or the characters that words are composed from."""
    axis: int


def symbol_axes(model: LanguageModel, config: ModelConfig) -> dict[str, SymbolAxis]:
    """Name the weights of a language model that have an axis of symbols.

    These are the rows of the embedding and of the head, and the head's biases. A one-hot input has
    no embedding; instead, each input matrix of the first layer has a column for each symbol.
    """
    axes = {"head.weight": SymbolAxis("text", 0), "head.bias": SymbolAxis("text", 0)}
    embedding = model.embedding
    if isinstance(embedding, SpelledEmbedding):
        if embedding.vectors.lookup is not None:
            axes["embedding.vectors.lookup.weight"] = SymbolAxis("text", 0)
        for i in range(len(embedding.vectors.composers)):
            characters = f"embedding.vectors.composers.{i}.embedding.weight"
            axes[characters] = SymbolAxis("characters", 0)
    elif isinstance(embedding, nn.Embedding):
        axes["embedding.weight"] = SymbolAxis("text", 0)
    else:
        for name in _weights_over_input(config):
            axes[f"stack.layers.0.cell.{name}"] = SymbolAxis("text", 1)
    return axes


def _weights_over_input(model: ModelConfig) -> list[str]:
    """Name the matrices of a cell that are wider for a wider input."""
    narrow, wide = (_cell_weights(model, input_size, 1) for input_size in (1, 2))
    return [name for name, weight in narrow.items() if weight.shape != wide[name].shape]


def adopt_weights(
    model: LanguageModel,
    source: LanguageModel,
    symbols: Sequence[str | int],
    source_symbols: Sequence[str | int],
    config: ModelConfig,
) -> None:
    """Copy the weights of another language model, matching symbols by identity.

    Along the axes of symbols (`symbol_axes`), entries of common symbols are copied and entries of
    new symbols keep their starting values; every other weight is copied whole. `config` describes
    `model`. Raises ConfigError if the models differ in more than their symbols.
    """
    axes = symbol_axes(model, config)
    common = {"text": _common(symbols, source_symbols)}
    if any(axis.symbols == "characters" for axis in axes.values()):
        # The last symbol of a vocabulary of composed words is `<unk>`, which has no characters.
        mine, theirs = (characters_of(map(str, words[:-1])) for words in (symbols, source_symbols))
        common["characters"] = _common(mine.symbols, theirs.symbols)
    weights, source_weights = model.state_dict(), source.state_dict()
    for name in [*weights, *(source_weights.keys() - weights.keys())]:
        weight, other = weights.get(name), source_weights.get(name)
        if not _fits(weight, other, axes.get(name)):
            here, there = ("missing" if w is None else list(w.shape) for w in (weight, other))
            raise ConfigError(
                f"the weights of the other model do not fit: {name} is {here} here and {there} "
                f"there; use the same settings of the section model"
            )
    with torch.no_grad():
        for name, weight in weights.items():
            other = source_weights[name].to(weight.device)
            if name in axes:
                kind, axis = axes[name]
                places, source_places = (part.to(weight.device) for part in common[kind])
                weight.index_copy_(axis, places, other.index_select(axis, source_places))
            else:
                weight.copy_(other)


def _fits(weight: Tensor | None, other: Tensor | None, axis: SymbolAxis | None) -> bool:
    """Whether two weights exist and have the same shape, apart from their axis of symbols."""
    if weight is None or other is None or weight.dim() != other.dim():
        return False
    differ = [i for i in range(weight.dim()) if weight.shape[i] != other.shape[i]]
    return not differ or (axis is not None and differ == [axis.axis])


def _common(symbols: Sequence[Any], others: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Find the places, in each of two vocabularies, of the symbols that both have."""
    place = {symbol: i for i, symbol in enumerate(others)}
    pairs = [(i, place[symbol]) for i, symbol in enumerate(symbols) if symbol in place]
    return torch.tensor([i for i, _ in pairs]).long(), torch.tensor([j for _, j in pairs]).long()


def build_objective(config: ResolvedConfig, corpus: Corpus) -> TextWindows:
    """Build the objective of a language model over a corpus."""
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
    """Build the optimizer; only matrices decay, biases and gains do not."""
    training = config.training
    parameters = list(model.parameters())
    decay = training.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    rate = training.learning_rate
    # On a GPU the rate is a tensor, so that it can change without capturing the step again.
    on_gpu = parameters[0].device.type == "cuda"
    rate_or_tensor = torch.tensor(rate, device=parameters[0].device) if on_gpu else rate
    match training.optimizer:
        case "adam" | "adamw" as name:
            kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
            betas = training.betas
            return kind(groups, rate_or_tensor, betas=betas, fused=True, capturable=on_gpu)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=rate, alpha=training.betas[1])
        case "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=training.momentum)
