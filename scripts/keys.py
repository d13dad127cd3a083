"""Write charrnn/cli/keys.json, from which a shell completes the keys of the configuration.

python scripts/keys.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from charrnn.config.merge import describe_keys
from charrnn.config.schema import Config

KEYS = Path(__file__).resolve().parents[1] / "charrnn" / "cli" / "keys.json"


def names_in(schema: Any, definitions: dict[str, Any]) -> Iterator[str]:
    """Yield the names that a part of a JSON schema accepts, in a list of them as well."""
    if "$ref" in schema:
        yield from names_in(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    yield from schema.get("enum", [])
    if "const" in schema:
        yield schema["const"]
    if schema.get("type") == "boolean":
        yield from ("true", "false")
    for part in [*schema.get("anyOf", []), *([schema["items"]] if "items" in schema else [])]:
        yield from names_in(part, definitions)


def table() -> dict[str, dict[str, Any]]:
    """Collect each key with its names and the first sentence of its description."""
    schema = Config.model_json_schema()
    definitions = schema["$defs"]
    keys: dict[str, dict[str, Any]] = {}
    for key, description in describe_keys():
        section, _, name = key.rpartition(".")
        properties = schema["properties"]
        if section:
            properties = definitions[properties[section]["$ref"].rpartition("/")[2]]["properties"]
        # Installed packages add cells and tasks, so the names of these are not written down.
        is_open = key in ("model.cell", "task")
        names = [] if is_open else [*dict.fromkeys(names_in(properties[name], definitions))]
        sentence = description.partition(". ")[0].rstrip(".")
        keys[key] = {"values": names, "help": sentence}
    return keys


def written() -> str:
    """Return the content of the file, with each key on a line of its own."""
    lines = (f"  {json.dumps(key)}: {json.dumps(about)}" for key, about in table().items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    KEYS.write_text(written(), "utf-8")
