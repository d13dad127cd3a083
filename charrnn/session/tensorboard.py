"""Write evaluations as TensorBoard events, with the optional package `tensorboard`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from charrnn.errors import require_extra


def require_tensorboard() -> None:
    """Raise ConfigError if the package `tensorboard` is missing."""
    require_extra("tensorboard", "tensorboard", "the setting tensorboard")


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
