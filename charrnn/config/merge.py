"""Merge layers of settings into one configuration, and remember the source of each value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from charrnn.config.schema import Config, Section, fields, unused_keys
from charrnn.config.strict_yaml import _Dumper, parse_yaml, read_config_file
from charrnn.config.usual_names import KEYS, VALUES
from charrnn.errors import ConfigError, did_you_mean
from charrnn.registry import TASKS

# A configuration with its `auto` values, or a resolved one.
AnyConfig = TypeVar("AnyConfig", bound=Config)
Layer = tuple[str, Mapping[str, Any]]
"""A source of values (the name of a file, a flag or a variable), and its values by dotted key."""


EARLIER = {
    "evaluation.best": "validation",
    "data.reading": "plain",
    "data.newlines": "keep",
    "data.normalize": "none",
    "data.order": "path",
    "data.kinds": "name",
    "data.maximum_length": None,
    "training.batch_symbols": None,
}
"""Keys that the configuration of an older run lacks, with the values that repeat the run."""
NEWER = {
    *EARLIER,
    "data.separator",
    "data.text_column",
    "data.label_column",
    "data.source_column",
    "data.target_column",
    "data.tag_column",
    "data.bad_rows",
    "training.class_weights",
    "logging",
}
"""All keys that the configuration of an older run may lack."""


def build_config(layers: Sequence[Layer]) -> tuple[Config, dict[str, str]]:
    """Merge layers of settings, later ones winning; return the source of each key as well.

    A key that the task does not use is refused, whatever its value. But if a layer sets most keys
    of a section, it is taken for the `config.yaml` of a run: there, an unused key may have its
    default, or the value that `auto` was resolved to.

    Raises ConfigError naming the key, the value, its source and the values that are allowed.

    >>> config, sources = build_config([("my.yaml", {"model.cell": "gru"})])
    >>> config.model.cell, sources["model.cell"], sources["model.layers"]
    ('gru', 'my.yaml', 'default')
    """
    config, sources = _merge(layers)
    by_hand: dict[str, Any] = {}
    for _, layer in layers:
        for key, value in layer.items():
            if _is_of_a_run(layer, key):
                by_hand.pop(key, None)
            else:
                by_hand[key] = value
    for key in sorted(unused_keys(config.task) & by_hand.keys()):
        raise ConfigError(_unused(key, by_hand[key], sources[key], config.task))
    _check_bytes(config, by_hand, sources)
    _check_layers(config, by_hand, sources)
    return config, sources


def _merge(layers: Sequence[Layer]) -> tuple[Config, dict[str, str]]:
    """Merge and validate layers.

    A key that the task does not use must have its default. If the default is `auto`, any value is
    allowed, because planning resolves `auto` for every task.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    assumed: set[str] = set()
    for source, layer in layers:
        for key, value in map(_renamed, layer, layer.values()):
            if value is None and key in Config.model_fields:
                continue  # A section with all its keys commented out.
            _check_key(key, source)
            values[key] = value
            sources[key] = source
            assumed.discard(key)
        for key in EARLIER.keys() - layer.keys():
            if _is_of_a_run(layer, key):
                values[key], sources[key] = EARLIER[key], source
                assumed.add(key)
    task = str(values.get("task", Config().task))
    for key in assumed & (unused_keys(task) if task in TASKS else frozenset()):
        del values[key]
    try:
        config = Config.model_validate(nest(values))
    except ValidationError as error:
        raise ConfigError(_explain(error, sources)) from error
    resolved, defaults = flatten(config.model_dump()), flatten(Config().model_dump())
    for key in sorted(unused_keys(config.task)):
        if defaults[key] not in ("auto", resolved[key]):
            raise ConfigError(_unused(key, resolved[key], sources[key], config.task))
    return config, {key: sources.get(key, "default") for key in resolved}


def _is_of_a_run(layer: Mapping[str, Any], key: str) -> bool:
    """Whether `layer` looks like the `config.yaml` of a run: it sets most keys of `key`'s section.

    Keys that the `config.yaml` of an older run may lack (`NEWER`) do not count.
    """
    section = key.rpartition(".")[0]
    known = [name for name in all_keys() if name.rpartition(".")[0] == section]
    known = [name for name in known if name not in NEWER]
    return 2 * sum(name in layer for name in known) > len(known)


def _renamed(key: str, value: Any) -> tuple[str, Any]:
    """Return a key and its value by its present name: older runs have `tensorboard: true`."""
    if key != "tensorboard":
        return key, value
    return "logging", ["tensorboard"] if value else []


def _unused(key: str, value: Any, source: str, task: str) -> str:
    return f"{source}: {key} = {value!r} is not used by the task {task}; leave it out"


def _check_bytes(config: Config, by_hand: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Refuse settings that have no effect on a byte vocabulary, which reads every byte."""
    if config.data.vocabulary != "byte":
        return
    idle = {"data.minimum_count": 1, "data.newlines": "keep", "data.normalize": "none"}
    for key, harmless in idle.items():
        if by_hand.get(key, harmless) != harmless:
            shown = f"{sources[key]}: {key} = {by_hand[key]!r}"
            raise ConfigError(f"{shown} is not used by a vocabulary of bytes; leave it out")


def _check_layers(config: Config, by_hand: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Refuse a number of layers that differs from the number of widths."""
    layers, widths = by_hand.get("model.layers"), config.model.hidden_size
    if isinstance(layers, int) and isinstance(widths, list) and layers != len(widths):
        raise ConfigError(
            f"{sources['model.layers']}: model.layers = {layers}, but model.hidden_size lists "
            f"{len(widths)} widths, one for each layer; leave model.layers out, or list {layers}"
        )


def with_values(config: AnyConfig, values: Mapping[str, Any]) -> AnyConfig:
    """Replace the values of some dotted keys. Raises ConfigError."""
    merged, _ = _merge([("config", flatten(config.model_dump())), ("plan", values)])
    try:
        return type(config).model_validate(merged.model_dump())
    except ValidationError as error:  # A resolved configuration allows no `auto`.
        raise ConfigError(_explain(error, {})) from error


def config_from_data(data: Any, name: str) -> Config:
    """Read a configuration from nested data, as a checkpoint holds it. Raises ConfigError."""
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: a config is a mapping of sections, not a {type(data).__name__}")
    return _merge([(name, flatten(data))])[0]


def file_layer(path: Path) -> Layer:
    """Read a config file as a layer. Raises ConfigError."""
    return str(path), flatten(read_config_file(path))


def environment_layers(environment: Mapping[str, str]) -> list[Layer]:
    """Read layers from the environment, one for each variable `CHARRNN_...`.

    >>> environment_layers({"CHARRNN_TRAINING__LEARNING_RATE": "3e-4"})
    [('CHARRNN_TRAINING__LEARNING_RATE', {'training.learning_rate': 0.0003})]
    """
    known = {key.replace(".", "__").upper(): key for key in all_keys()}
    layers: list[Layer] = []
    for variable, value in sorted(environment.items()):
        name = variable.removeprefix("CHARRNN_")
        if name != variable and name not in {"CACHE_DIR", "HUB_REFRESH"}:
            key = known.get(name, name.replace("__", ".").lower())
            layers.append((variable, {key: parse_yaml(value, variable)}))
    return layers


def all_keys() -> list[str]:
    """List every dotted key of the schema."""
    return list(fields())


def describe_keys() -> Iterator[tuple[str, str]]:
    """Yield every dotted key with its description on one line."""
    for key, field in fields().items():
        yield key, " ".join((field.description or "").split())


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into one with dotted keys; an empty section adds no key."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into nested mappings."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return nested


def dump_yaml(config: Config) -> str:
    """Write the configuration as YAML that reads back as the same configuration."""
    data = json.loads(config.model_dump_json())
    text: str = yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    return text


def _check_key(key: str, source: str) -> None:
    """Raise ConfigError, with the most likely key, if the key does not exist."""
    keys = all_keys()
    if key in keys:
        return
    sections = {known.split(".")[0] for known in keys if "." in known}
    if key in sections:
        raise ConfigError(f"{source}: {key!r} is a section; set one of its keys, such as {key}.KEY")
    name = _name_of(key)
    elsewhere = [known for known in keys if _name_of(known) == name]
    hint = (
        did_you_mean(key, elsewhere, cutoff=0)
        or did_you_mean(name, (), KEYS, cutoff=1)
        or did_you_mean(key, keys)
        or did_you_mean(name, (), KEYS | {_name_of(known): known for known in keys})
        or "charrnn config defaults lists all keys"
    )
    raise ConfigError(f"{source}: unknown key {key!r}; {hint}")


def _name_of(key: str) -> str:
    """The part of a dotted key behind its section."""
    return key.rpartition(".")[2]


def _explain(error: ValidationError, sources: Mapping[str, str]) -> str:
    """Write one line about the first key that pydantic refused: source, key, value and reason."""
    keys = all_keys()
    errors = error.errors(include_url=False)
    first = errors[0]
    names = [str(part) for part in first["loc"]]
    key = next(
        (".".join(names[:n]) for n in (2, 1) if ".".join(names[:n]) in keys), ".".join(names[:1])
    )
    depth = len(key.split("."))
    related = [one for one in errors if one["loc"][:depth] == first["loc"][:depth]]
    messages = dict.fromkeys(one["msg"].removeprefix("Value error, ") for one in related)
    problem = "; or ".join(message[0].lower() + message[1:] for message in messages)
    value = first["input"]
    shown = "" if isinstance(value, (dict, Section)) else f" = {str(value)[:60]!r}"
    expected = " ".join(str(one.get("ctx", {}).get("expected", "")) for one in related)
    hint = (
        did_you_mean(value, re.findall(r"'([^']*)'", expected), VALUES.get(key, {}))
        if isinstance(value, str)
        else ""
    )
    where = f"{sources[key]}: " if key in sources else ""
    return f"{where}{key}{shown}: {problem}{f'; {hint}' if hint else ''}"
