"""charrnn: character-level recurrent language models, trained and sampled.

The public surface is listed in `__all__` and described in the README. Names are imported when
they are first used, so that `import charrnn` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "GRUCell": "cells",
    "LSTMCell": "cells",
    "LSTMState": "cells",
    "MinGRUCell": "cells",
    "MinLSTMCell": "cells",
    "MultiplicativeLSTMCell": "cells",
    "RHNCell": "cells",
    "ResetFirstGRUCell": "cells",
    "StackedCell": "cells",
    "VanillaCell": "cells",
    "Bidirectional": "layers",
    "LanguageModel": "models",
    "Recurrent": "layers",
    "Stack": "layers",
    "TrainedModel": "trained",
    "detach": "state",
    "from_torch": "layers",
    "language_model": "models",
    "load": "trained",
    "reverse": "layers",
    "to_torch": "layers",
    "unroll": "layers",
}

__all__ = [*_HOMES]  # noqa: PLE0604 -- one list, not two


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"charrnn.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'charrnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
