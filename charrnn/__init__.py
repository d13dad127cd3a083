"""charrnn: character-level recurrent language models, trained and sampled.

The public surface is listed in `__all__` and described in the README. Names are imported when
they are first used, so that `import charrnn` does not wait for torch.
"""

from __future__ import annotations

from typing import Any

from charrnn.registry import resolve

_REFERENCES = (
    "charrnn.inference.trained_model:TrainedModel",
    "charrnn.inference.trained_model:load",
    "charrnn.nn.cells.minimal:MinGRUCell",
    "charrnn.nn.cells.minimal:MinLSTMCell",
    "charrnn.nn.cells.mlstm:MultiplicativeLSTMCell",
    "charrnn.nn.cells.rhn:RHNCell",
    "charrnn.nn.cells.stacked:StackedCell",
    "charrnn.nn.cells.standard:GRUCell",
    "charrnn.nn.cells.standard:LSTMCell",
    "charrnn.nn.cells.standard:LSTMState",
    "charrnn.nn.cells.standard:ResetFirstGRUCell",
    "charrnn.nn.cells.standard:VanillaCell",
    "charrnn.nn.dropout:Dropouts",
    "charrnn.nn.layers:Bidirectional",
    "charrnn.nn.layers:Recurrent",
    "charrnn.nn.layers:Stack",
    "charrnn.nn.layers:unroll",
    "charrnn.nn.models:LanguageModel",
    "charrnn.nn.models:language_model",
    "charrnn.nn.sequences:reverse",
    "charrnn.nn.state:detach",
    "charrnn.nn.torch_weights:from_torch",
    "charrnn.nn.torch_weights:to_torch",
    "charrnn.session.start:TrainedRun",
    "charrnn.session.start:resume",
    "charrnn.session.start:train",
    "charrnn.sharing.export:export",
)
_PUBLIC = {reference.partition(":")[2]: reference for reference in _REFERENCES}

__all__ = [*_PUBLIC]  # noqa: PLE0604 -- one list, not two


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return resolve(_PUBLIC[name])
    raise AttributeError(f"module 'charrnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
