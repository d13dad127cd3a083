"""`charrnn config show`, `schema` and `defaults`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click


@click.group()
def config() -> None:
    """Show the configuration: every key, its value, and where it came from.

    \b
    Examples:
      charrnn config defaults
      charrnn config show configs/lstm.yaml --set training.window=128
      charrnn config schema > charrnn.schema.json
    """


@config.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set any config key.")
def show(path: Path | None, overrides: tuple[str, ...]) -> None:
    """Each value that `train --config PATH` would use, with its source."""
    from charrnn.config.merge import (
        build_config,
        environment_layers,
        file_layer,
        flatten,
        override_layers,
    )

    layers = [file_layer(path)] if path else []
    layers += environment_layers(os.environ) + override_layers(overrides)
    built, sources = build_config(layers)
    values = flatten(built.model_dump())
    width = max(map(len, values))
    shown = {key: json.dumps(value) for key, value in values.items()}
    value_width = min(40, max(map(len, shown.values())))
    for key, value in shown.items():
        click.echo(f"{key:<{width}}  {value:<{value_width}}  {sources[key]}")


@config.command()
def schema() -> None:
    """The JSON schema of a config file, for editors."""
    from charrnn.config.schema import Config

    click.echo(json.dumps(Config.model_json_schema(), indent=2))


@config.command()
def defaults() -> None:
    """Every key with its default and what it means."""
    from charrnn.config.merge import describe_keys, flatten
    from charrnn.config.schema import Config

    values = flatten(Config().model_dump())
    width = max(map(len, values))
    for key, description in describe_keys():
        click.echo(f"{key:<{width}}  {json.dumps(values[key]):<10}  {description}")
