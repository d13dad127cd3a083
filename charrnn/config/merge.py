"""Merge layers of settings into one configuration, and remember where each value came from."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import (
    ValidationError,
)

from charrnn.config.schema import Config, Section
from charrnn.config.strict_yaml import _Dumper, parse_yaml, read_config_file
from charrnn.errors import ConfigError
from charrnn.registry import TASKS

AnyConfig = TypeVar("AnyConfig", bound=Config)  # With its `auto` values, or resolved.
Layer = tuple[str, Mapping[str, Any]]
"""Where values come from ("default", a file, a flag), and the values by dotted key."""


def build_config(layers: Sequence[Layer]) -> tuple[Config, dict[str, str]]:
    """The configuration from layers, later ones winning, and the source of each dotted key.

    Raises ConfigError naming the key, the value, where it came from and what is allowed.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, layer in layers:
        for key, value in layer.items():
            if value is None and key in Config.model_fields:
                continue  # A section whose keys are all commented out.
            _check_key(key, source)
            values[key] = value
            sources[key] = source
    try:
        config = Config.model_validate(nest(values))
    except ValidationError as error:
        raise ConfigError(_explain(error, sources)) from error
    given, usual = flatten(config.model_dump()), flatten(Config().model_dump())
    for key in TASKS[config.task].ignores:
        if given[key] != usual[key]:
            where = f"{sources[key]}: " if key in sources else ""
            shown = f"{where}{key} = {given[key]!r}"
            raise ConfigError(f"{shown} says nothing to the task {config.task}; leave it out")
    return config, {key: sources.get(key, "default") for key in given}


def with_values(config: AnyConfig, values: Mapping[str, Any]) -> AnyConfig:
    """Replace the values of some dotted keys. Raises ConfigError."""
    merged, _ = build_config([("config", flatten(config.model_dump())), ("plan", values)])
    try:
        return type(config).model_validate(merged.model_dump())
    except ValidationError as error:  # A resolved configuration allows no `auto`.
        raise ConfigError(_explain(error, {})) from error


def config_from_data(data: Any, name: str) -> Config:
    """A configuration from plain nested data, as a checkpoint holds it. Raises ConfigError."""
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: a config is a mapping of sections, not {type(data).__name__}")
    return build_config([(name, flatten(data))])[0]


def file_layer(path: Path) -> Layer:
    """A config file as a layer."""
    return str(path), flatten(read_config_file(path))


def environment_layers(environment: Mapping[str, str]) -> list[Layer]:
    """`CHARRNN_TRAINING__LEARNING_RATE=3e-4` sets `training.learning_rate`."""
    known = {key.replace(".", "__").upper(): key for key in all_keys()}
    layers: list[Layer] = []
    for variable, value in sorted(environment.items()):
        name = variable.removeprefix("CHARRNN_")
        if name != variable and name not in {"CACHE_DIR"}:
            key = known.get(name, name.replace("__", ".").lower())
            layers.append((variable, {key: parse_yaml(value, variable)}))
    return layers


def override_layers(overrides: Sequence[str]) -> list[Layer]:
    """`--set training.learning_rate=3e-4`. Raises ConfigError for one without `=`."""
    layers: list[Layer] = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override!r} has no value; write --set {override}=VALUE")
        layers.append((f"--set {override}", {key.strip(): parse_yaml(value, f"--set {key}")}))
    return layers


def all_keys() -> list[str]:
    """Every dotted key of the schema."""
    return list(flatten(Config().model_dump()))


def describe_keys() -> Iterator[tuple[str, str]]:
    """Every dotted key with its one-line description."""
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            for inner, inner_field in section.model_fields.items():
                yield f"{name}.{inner}", " ".join((inner_field.description or "").split())
        else:
            yield name, " ".join((field.description or "").split())


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys; an empty section counts as nothing."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys to nested mappings."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return nested


def dump_yaml(config: Config) -> str:
    """The configuration as YAML that reads back as the same configuration."""
    data = json.loads(config.model_dump_json())
    text: str = yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    return text


def _check_key(key: str, source: str) -> None:
    keys = all_keys()
    if key in keys:
        return
    sections = {known.split(".")[0] for known in keys if "." in known}
    if key in sections:
        raise ConfigError(f"{source}: {key!r} is a section; set one of its keys, as {key}.KEY")
    by_tail = [known for known in keys if known.split(".")[-1] == key.rsplit(".", maxsplit=1)[-1]]
    by_tail.sort(key=lambda known: -difflib.SequenceMatcher(None, key, known).ratio())
    close = by_tail or difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    if not close:
        tails = {known.split(".")[-1]: known for known in keys}
        close = [
            tails[t] for t in difflib.get_close_matches(key.rsplit(".", maxsplit=1)[-1], tails, n=1)
        ]
    hint = f"did you mean {close[0]}?" if close else "charrnn config defaults lists all keys"
    raise ConfigError(f"{source}: unknown key {key!r}; {hint}")


def _explain(error: ValidationError, sources: Mapping[str, str]) -> str:
    keys = all_keys()
    first = error.errors(include_url=False)[0]
    names = [str(part) for part in first["loc"]]
    key = next(
        (".".join(names[:n]) for n in (2, 1) if ".".join(names[:n]) in keys), ".".join(names[:1])
    )
    related = [
        e
        for e in error.errors(include_url=False)
        if e["loc"][: len(key.split("."))] == first["loc"][: len(key.split("."))]
    ]
    messages = dict.fromkeys(e["msg"].removeprefix("Value error, ") for e in related)
    problem = "; or ".join(message[0].lower() + message[1:] for message in messages)
    value = first["input"]
    shown = "" if isinstance(value, (dict, Section)) else f" = {str(value)[:60]!r}"
    hint = ""
    expected = first.get("ctx", {}).get("expected")
    if isinstance(value, str) and isinstance(expected, str):
        close = difflib.get_close_matches(
            value, re.findall(r"'([^']*)'", expected), n=1, cutoff=0.5
        )
        hint = f"; did you mean {close[0]}?" if close else ""
    where = sources.get(key)
    return f"{where + ': ' if where else ''}{key}{shown}: {problem}{hint}"
