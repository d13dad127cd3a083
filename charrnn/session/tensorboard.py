"""Write evaluations as TensorBoard events, with the optional package `tensorboard`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from charrnn.errors import ConfigError


def require_tensorboard() -> None:
    """Raise ConfigError where the package `tensorboard` is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("the setting tensorboard needs a package; run pip install tensorboard")


def event_writer(folder: Path) -> Callable[[dict[str, Any]], None]:
    """Return a function that writes a line of metrics.jsonl as events into `folder`."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def write(metrics: dict[str, Any]) -> None:
        step = metrics["step"]
        values = {
            f"{split}/{name}": value
            for split in ("train", "validation")
            for name, value in metrics[split].items()
            if isinstance(value, float)
        }
        values |= {name: metrics[name] for name in ("learning_rate", "characters_per_second")}
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return write
