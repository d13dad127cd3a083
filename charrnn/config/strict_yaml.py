"""Strict YAML: one document, no duplicate keys, and limits on size and depth."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from charrnn.errors import ConfigError

MAX_YAML = 1_000_000  # characters; these limits keep reading any text below a second
MAX_NODES = 10_000
MAX_DEPTH = 20


class _Loader(yaml.SafeLoader):
    """YAML without surprises: 1e-3 is a number, `no` is a word, and no aliases or repeated keys."""

    # PyYAML shares this attribute with its subclasses, and ours must not change PyYAML's.
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012

    depth = nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self.depth += 1
        self.nodes += 1
        problem = (
            "aliases are not allowed; repeat the value" if isinstance(event, yaml.AliasEvent)
            else "this is nested too deeply" if self.depth > MAX_DEPTH
            else f"there are more than {MAX_NODES:,} values" if self.nodes > MAX_NODES
            else None
        )  # fmt: skip
        if problem:
            raise yaml.MarkedYAMLError(None, None, problem, event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            # PyYAML raises these for a value that does not fit its tag, such as `!!bool 7`.
            shown = str(node.value)[:30]
            problem = f"{shown!r} is not a valid {node.tag.rsplit(':', 1)[-1]}"
            raise yaml.MarkedYAMLError(None, None, problem, node.start_mark) from error
        if isinstance(value, float) and not math.isfinite(value):
            shown = f"{str(node.value)[:30]!r} is not a finite number"
            raise yaml.MarkedYAMLError(None, None, shown, node.start_mark)
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.MarkedYAMLError(None, None, "this is not a mapping", node.start_mark)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(None, None, "a key must be a word", key.start_mark)
            if key.value in seen:
                problem = f"the key {key.value!r} is repeated; remove one of the two"
                raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes every string that `_Loader` or another YAML reader would not read as a string."""

    def represent_str(self, text: str) -> Any:
        # In plain style, PyYAML breaks lines at U+0085 and similar characters and loses them.
        style = None if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_str)

for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9][0-9_]{0,30}$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("null", r"^(?:~|null|Null|NULL|)$", "~nN\0"),
):
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}",
            re.compile(_pattern),
            [*_first, ""] if _tag == "null" else list(_first),
        )


# PyYAML reads 010 as an octal number.
_Loader.add_constructor(
    "tag:yaml.org,2002:int",
    lambda loader, node: int(loader.construct_scalar(node)),  # type: ignore[arg-type]
)


def parse_yaml(text: str, name: str) -> Any:
    """Read plain data from YAML. Raises ConfigError with the line and column of the problem.

    >>> parse_yaml("training: {learning_rate: 1e-3}", "my.yaml")
    {'training': {'learning_rate': 0.001}}
    """
    if len(text) > MAX_YAML:
        raise ConfigError(
            f"{name}: a config has at most {MAX_YAML:,} characters, but this one has {len(text):,}"
        )
    try:
        return yaml.load(text, _Loader)  # noqa: S506 -- a stricter SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError(f"{where}: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise ConfigError(
            f"{name}:{line}:{column}: the character U+{error.character:04X} is not allowed in YAML"
        ) from error


def read_config_file(path: Path) -> dict[str, Any]:
    """Read the nested values of a config file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            text = file.read(4 * MAX_YAML + 1).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"cannot read the config {path}: {reason}") from error
    data = parse_yaml(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a config is a mapping of sections, not a {type(data).__name__}")
    return data
