"""From a configuration to its pieces: texts, network, task and optimizer.

This is where configuration ends: everything below takes plain values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray

from charrnn.checkpoint import Checkpoint
from charrnn.config import Config, with_values
from charrnn.corpus import Corpus, load_corpus, read_cache, split_corpus
from charrnn.errors import ConfigError, DataError
from charrnn.layers import Recurrent
from charrnn.models import LanguageModel, language_model
from charrnn.sources import Sources, find_sources
from charrnn.tasks.language_model import LanguageModelTask
from charrnn.vocabulary import read_vocabulary

Warn = Callable[[str], None]
Texts = dict[str, Sources]
"""The main text under `sources`, separate ones under `validation` and `test`."""


@contextmanager
def find_texts(config: Config, warn: Warn) -> Iterator[Texts]:
    """The texts a configuration names; copies of what can be read only once are deleted after.

    Raises DataError.
    """
    texts: Texts = {}
    try:
        for name in ("sources", "validation", "test"):
            arguments = getattr(config.data, name)
            if arguments or name == "sources":
                texts[name] = find_sources(arguments)
                if skipped := texts[name].skipped:
                    warn(f"{texts[name].described}: {skipped:,} binary files were left out")
        yield texts
    finally:
        for part in texts.values():
            part.discard()


def read_corpus(config: Config, texts: Texts, vocabulary: Any = None) -> Corpus:
    """The ids of the texts, with the vocabulary given or the kind that is configured.

    Raises DataError.
    """
    return load_corpus(
        texts["sources"],
        texts.get("validation"),
        texts.get("test"),
        vocabulary=vocabulary or config.data.vocabulary,
        fractions=config.data.split,
        encoding=config.data.encoding,
        errors=config.data.errors,
        unknown=config.data.unknown,
    )


def with_absolute_paths(config: Config, texts: Mapping[str, Sources]) -> Config:
    """The configuration with its texts by absolute path, so that it repeats the run anywhere."""
    return with_values(config, {f"data.{name}": part.arguments for name, part in texts.items()})


def corpus_of_checkpoint(
    config: Config, checkpoint: Checkpoint, moved: Mapping[str, Sequence[str]], warn: Warn
) -> tuple[Config, Corpus]:
    """The text a checkpoint was trained on, in the model's vocabulary.

    `moved` names texts to use in place of the recorded `sources`, `validation` or `test`.
    What could be read only once comes from the cache. Raises DataError where it is gone from
    there, and for characters that the vocabulary lacks.
    """
    try:
        recorded = checkpoint.metadata["corpus"]
        key, sha256 = recorded["key"], recorded["sha256"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{checkpoint.path} does not say what it was trained on") from error
    vocabulary = read_vocabulary(checkpoint.metadata.get("vocabulary"))
    moved = {f"data.{name}": list(given) for name, given in moved.items() if given}
    config = with_values(config, moved)
    everything = [*config.data.sources, *config.data.validation, *config.data.test]
    once = [argument for argument in everything if argument == "-" or "://" in argument]
    if once and not moved:
        cached = read_cache(str(key))
        if cached is None:
            raise DataError(
                f"the text came from {once[0]} and is no longer in the cache; "
                f"give it again with --data"
            )
        separate = bool(config.data.validation), bool(config.data.test)
        return config, split_corpus(cached, config.data.split, *separate)
    with find_texts(config, warn) as texts:
        corpus = read_corpus(config, texts)  # As the run did: mostly found in the cache.
        if corpus.vocabulary.to_data() != vocabulary.to_data():
            corpus = read_corpus(config, texts, vocabulary)
    if corpus.sha256 != sha256:
        warn(
            f"the text is not the one the run began with (SHA-256 {corpus.sha256[:12]}, was "
            f"{sha256[:12]}): going on with this one"
        )
    return with_absolute_paths(config, texts), corpus


def build_model(config: Config, vocabulary_size: int) -> LanguageModel:
    """The network a resolved configuration describes, on its device. Raises ConfigError."""
    model = config.model
    numbers = [model.embedding_size, model.dropout, model.input_dropout, model.output_dropout]
    if "auto" in numbers:
        raise ConfigError("the config still has 'auto' values; charrnn train resolves them")
    embedding = model.embedding_size
    try:
        network = language_model(
            vocabulary_size,
            cell=model.cell,
            hidden_sizes=model.widths,
            embedding_size=embedding if isinstance(embedding, int) else None,
            activation=model.activation,
            forget_bias=model.forget_bias,
            dropout=float(model.dropout),
            input_dropout=float(model.input_dropout),
            output_dropout=float(model.output_dropout),
            tie_embeddings=model.tie_embeddings,
            skip_connections=model.skip_connections,
        )
    except ValueError as error:
        raise ConfigError(f"{error}; set model.embedding_size to that width") from error
    network.to(torch.device("cpu" if config.device == "auto" else config.device))
    for module in network.modules():
        if isinstance(module, Recurrent):
            module.compact()
    return network


def load_arrays(model: LanguageModel, weights: Mapping[str, NDArray[Any]]) -> LanguageModel:
    """Copy weights by name into a model and return it. Raises RuntimeError where they differ."""
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model


def adopt_weights(
    model: LanguageModel,
    source: LanguageModel,
    symbols: Sequence[str] | Sequence[int],
    source_symbols: Sequence[str] | Sequence[int],
) -> None:
    """Copy another model's weights, matching symbols by identity.

    Embedding rows, output rows and output biases of common symbols are carried over; new symbols
    keep their fresh ones. With one-hot inputs the first layer's columns are matched instead.
    Raises ConfigError where the shapes differ in anything but the vocabulary.
    """
    place = {symbol: i for i, symbol in enumerate(source_symbols)}
    common = [(i, place[s]) for i, s in enumerate(symbols) if s in place]
    to = torch.tensor([i for i, _ in common], dtype=torch.long)
    of = torch.tensor([j for _, j in common], dtype=torch.long)
    theirs = source.state_dict()
    with torch.no_grad():
        for name, mine in model.state_dict().items():
            given = theirs.get(name)
            by_row = name.startswith(("embedding.", "head."))
            by_column = name == "stack.layers.0.cell.weight_ih" and not any(
                n.startswith("embedding.") for n in theirs
            )
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
