"""charrnn: character-level recurrent language models, trained and sampled.

The public surface is listed in `__all__` and described in the README. Names are imported when
they are first used, so that `import charrnn` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "GRUCell": "nn.cells.standard",
    "LSTMCell": "nn.cells.standard",
    "LSTMState": "nn.cells.standard",
    "MinGRUCell": "nn.cells.minimal",
    "MinLSTMCell": "nn.cells.minimal",
    "MultiplicativeLSTMCell": "nn.cells.mlstm",
    "RHNCell": "nn.cells.rhn",
    "ResetFirstGRUCell": "nn.cells.standard",
    "StackedCell": "nn.cells.stacked",
    "VanillaCell": "nn.cells.standard",
    "Bidirectional": "nn.layers",
    "LanguageModel": "nn.models",
    "Recurrent": "nn.layers",
    "Stack": "nn.layers",
    "TrainedModel": "inference.trained_model",
    "TrainedRun": "session.start",
    "detach": "nn.state",
    "from_torch": "nn.torch_weights",
    "language_model": "nn.models",
    "load": "inference.trained_model",
    "resume": "session.start",
    "reverse": "nn.sequences",
    "to_torch": "nn.torch_weights",
    "train": "session.start",
    "unroll": "nn.layers",
}

__all__ = [*_HOMES]  # noqa: PLE0604 -- one list, not two


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"charrnn.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'charrnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
