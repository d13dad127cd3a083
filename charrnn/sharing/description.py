"""Describe a language model's vocabulary and sampling for a program that has only the export."""

from __future__ import annotations

from typing import Any

from charrnn.config.merge import config_from_data
from charrnn.data.vocabulary import TOKEN, Vocabulary
from charrnn.errors import ConfigError
from charrnn.inference.text import Request
from charrnn.inference.trained_model import TrainedModel
from charrnn.runs.checkpoint import Checkpoint


def language_model_of(checkpoint: Checkpoint, format: str) -> TrainedModel:
    """Load the language model of a checkpoint. Raises ConfigError for any other task."""
    task = config_from_data(checkpoint.metadata["config"], str(checkpoint.path)).task
    if task != "language_model":
        raise ConfigError(
            f"the format {format} holds language models only, and {checkpoint.path} was trained "
            f"for {task}; use the format hub"
        )
    return TrainedModel.from_checkpoint(checkpoint)


def description(model: TrainedModel) -> dict[str, Any]:
    """Return the training step, the vocabulary and the sampling defaults of a model as plain data.

    `vocabulary.symbols` are the texts of the ids; a special symbol is empty, a byte is the
    character with its number. `pattern` is a regular expression whose matches are the symbols of a
    text, which for bytes is first encoded as UTF-8 and decoded as Latin-1. `sampling.first` is the
    id that a text without a prompt starts after, `unwritten` are the ids that are never drawn, and
    a text ends at the id `end`.
    """
    vocabulary = model.vocabulary
    request = Request()
    choice = request.choice
    return {
        "step": model.training_step,
        "vocabulary": {
            "kind": vocabulary.kind,
            "symbols": _texts(vocabulary),
            "pattern": TOKEN.pattern if vocabulary.kind == "word" else r"[\s\S]",
            "unknown": getattr(vocabulary, "unknown", None),
            **vocabulary.cleaning._asdict(),
        },
        "sampling": {
            "first": model.first,
            "end": model.end,
            "unwritten": [] if model.unwritten is None else [model.unwritten],
            "length": request.length,
            "temperature": choice.temperature,
            "top_k": choice.top_k,
            "top_p": choice.top_p,
            "min_p": choice.min_p,
        },
    }


def _texts(vocabulary: Vocabulary) -> list[str]:
    if vocabulary.kind == "byte":
        return [chr(symbol) if isinstance(symbol, int) else "" for symbol in vocabulary.symbols]
    return [vocabulary.decode([i]) for i in range(vocabulary.size)]
