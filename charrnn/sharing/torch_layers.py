"""The format `torch`: weights of `torch.nn` layers in safetensors, and a script that uses them."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from charrnn.errors import ConfigError
from charrnn.inference.trained_model import TrainedModel
from charrnn.nn.layers import Stack
from charrnn.nn.torch_weights import to_torch
from charrnn.runs.checkpoint import Checkpoint
from charrnn.sharing.description import description, language_model_of


def export(checkpoint: Checkpoint, target: Path) -> None:
    """Write a folder with `model.safetensors`, `model.json` and `load.py`.

    Every layer is a module of its own, since a head may read the outputs of all of them. Raises
    ConfigError for layers that torch.nn does not have, and for a model that is no language model.
    """
    model = language_model_of(checkpoint, "torch")
    stack: Any = model.model.stack
    try:
        layers = [to_torch(Stack([layer])) for layer in stack.layers]
    except ValueError as error:
        settings = model.config.model
        norm = " with layer normalisation" if settings.layer_norm else ""
        zoneout = " with zoneout" if settings.zoneout or settings.zoneout_cell else ""
        raise ConfigError(
            f"torch.nn has vanilla, lstm and gru layers, without layer normalisation and zoneout, "
            f"and this model has {settings.cell}{norm or zoneout}; use the format onnx"
        ) from error
    embedding = model.looked_up().get("embedding.weight")
    network = {
        "layer": type(layers[0]).__name__,
        "activation": getattr(layers[0], "nonlinearity", None),
        "widths": [layer.hidden_size for layer in layers],
        "embedding_size": None if embedding is None else embedding.shape[1],
        "skip_connections": model.config.model.skip_connections,
    }
    target.mkdir()
    weights = safetensors.torch.save(_weights(model, layers))
    (target / "model.safetensors").write_bytes(weights)
    text = json.dumps({"network": network, **description(model)}, indent=1)
    (target / "model.json").write_text(text + "\n", "utf-8")
    script = resources.files(__package__).joinpath("load.py.txt").read_text("utf-8")
    (target / "load.py").write_text(script, "utf-8")


def _weights(model: TrainedModel, layers: list[nn.RNNBase]) -> dict[str, Tensor]:
    """Collect the weights by the names of `Model` in the script; tied ones are written twice."""
    named = {
        f"layers.{i}.{name}": weight
        for i, layer in enumerate(layers)
        for name, weight in layer.state_dict().items()
    }
    others = {
        name: torch.from_numpy(weight).clone()
        for name, weight in model.looked_up().items()
        if name.startswith(("embedding.", "head."))
    }
    return named | others
