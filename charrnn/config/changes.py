"""Record the settings that change during a run, so that its `config.yaml` repeats the run.

A configuration holds the settings of the last step; `training.earlier` lists earlier values. ::

    training:
      steps: 1490
      earlier: [{until: 812, training.steps: 1651}]

This run was planned for 1,651 steps until it had taken 812, and for 1,490 from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from charrnn.config.merge import AnyConfig, flatten, with_values
from charrnn.config.schema import CHANGEABLE, Config


def config_at(config: AnyConfig, step: int) -> AnyConfig:
    """Return the settings that held once `step` steps had been taken.

    >>> from charrnn.config.schema import Config
    >>> config = with_values(Config(), {"training.steps": 500})
    >>> config_at(record_change(config, 300, {"training.steps": 400}), 299).training.steps
    500
    """
    values: dict[str, Any] = {}
    for entry in reversed(config.training.earlier):
        if step < entry["until"]:
            values |= {key: value for key, value in entry.items() if key in CHANGEABLE}
    return with_values(config, values) if values else config


def record_change(config: AnyConfig, step: int, values: Mapping[str, Any]) -> AnyConfig:
    """Change some settings from `step` on, and record the ones that held before."""
    before = flatten(config.model_dump())
    old = {key: before[key] for key, value in values.items() if before[key] != value}
    earlier = _with_entry(config.training.earlier, step, old)
    return with_values(config, {**values, "training.earlier": earlier}) if old else config


def record_resume(config: AnyConfig, before: Config, step: int, text: str | None) -> AnyConfig:
    """Record how a resumed run differs from its configuration `before` the stop at `step`.

    `text` is the SHA-256 of the earlier text, if the text has changed.
    """
    now, was = flatten(config.model_dump()), flatten(before.model_dump())
    old = {key: was[key] for key in CHANGEABLE if was[key] != now[key]}
    old |= {"text": text} if text else {}
    earlier = before.training.earlier
    if old:
        earlier = _with_entry(earlier, step, {"resumed": True, **old})
    return with_values(config, {"training.earlier": earlier})


def _with_entry(
    earlier: list[dict[str, Any]], step: int, old: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Add old values that held until `step`; of two values at a step the first is kept."""
    if step == 0 or not old:
        return earlier
    same = [entry for entry in earlier if entry["until"] == step]
    kept = [entry for entry in earlier if entry["until"] < step]
    return [*kept, {"until": step, **old, **(same[0] if same else {})}]
