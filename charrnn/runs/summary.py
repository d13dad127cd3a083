"""A run in a few facts, from its small files and the header of a checkpoint, without torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from charrnn.config.merge import config_from_data
from charrnn.errors import ConfigError
from charrnn.runs.checkpoint_check import usable_best
from charrnn.runs.directory import Run


def header_facts(checkpoint: Path) -> dict[str, Any]:
    """Read what a checkpoint says about its run, from its header alone; {} if it is damaged.

    The keys are `config`, `parameters`, `step`, `epoch`, `best`, `characters_per_second` (None
    before the first step), `text_sha256`, `text` (its description) and `processor`.
    """
    try:
        with safe_open(str(checkpoint), "numpy") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            sizes = {name: math.prod(file.get_slice(name).get_shape()) for name in names}
        config = config_from_data(json.loads(metadata["config"]), str(checkpoint))
        progress, session, corpus, environment = (
            json.loads(metadata[key]) for key in ("progress", "session", "corpus", "environment")
        )
        seconds = float(session["trained_seconds"])
        parameters = count_parameters(sizes, config.model.tie_embeddings)
        return {
            "config": config,
            "parameters": sum(parameters.values()),
            "step": int(progress["step"]),
            "epoch": float(progress["epoch"]),
            "best": usable_best(session["best"]),
            "characters_per_second": session["trained_characters"] / seconds if seconds else None,
            "text_sha256": str(corpus["sha256"]),
            "text": str(corpus["described"]),
            "processor": str(environment["processor"]),
        }
    except (SafetensorError, ConfigError, OSError, ValueError, LookupError, TypeError):
        return {}  # A damaged checkpoint; `charrnn info` says what is wrong with it.


def recorded_best(run: Run, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the step and the score of the best checkpoint; {} if there is none.

    `about` is the result of `header_facts`, which is used if best.json is missing or damaged.
    """
    return run.read_best() or dict(about.get("best", {}))


def spoken_unit(unit: str | None, vocabulary: str | None) -> str:
    """Name the unit of a score; a byte, not a character, if the vocabulary is one of bytes."""
    unit = unit or "character"
    return "byte" if (unit, vocabulary) == ("character", "byte") else unit


def count_parameters(sizes: Mapping[str, int], tied: bool) -> dict[str, int]:
    """Count the parameters of each part of a model, in the order in which data flows through it.

    `sizes` maps the tensors of a checkpoint to their numbers of elements. An embedding that is
    `tied` to the head counts once, as the head.

    >>> count_parameters({"model/stack.layers.0.cell.bias": 4, "model/embedding.weight": 6}, False)
    {'embedding': 6, 'layer 1': 4}
    """
    parts: dict[str, int] = {}
    for name, size in sizes.items():
        in_head = ("model/embedding.weight", "model/embedding.vectors.lookup.weight")
        if name.startswith("model/") and not (tied and name in in_head):
            first, *others = name.removeprefix("model/").split(".")
            part = f"layer {int(others[1]) + 1}" if first == "stack" else first
            parts[part] = parts.get(part, 0) + int(size)
    return {part: parts[part] for part in sorted(parts, key=_place)}


_PLACES = (
    r"words|.*embedding",
    r"encoder",
    r"bridges",
    r"decoder",
    r"layer \d+",
    r"attention",
    r"combine",
    r"(?!head$).*",
    r"head",
)


def _place(part: str) -> tuple[int, int, str]:
    """Return the key to sort a part of a model by: first its kind, then the layer's number."""
    kind = next(i for i, pattern in enumerate(_PLACES) if re.fullmatch(pattern, part))
    number = part.rpartition(" ")[2]
    return kind, int(number) if number.isdigit() else 0, part
