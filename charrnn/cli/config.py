"""`charrnn config show`, `schema`, `defaults` and `diff`."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import click

from charrnn.cli.display import aligned, say, visible
from charrnn.cli.options import override_layers


@click.group()
def config() -> None:
    """Show the keys of the configuration with their values, meanings and sources.

    The keys come in three groups: for every run, for research on the model and its learning, and
    for the protocol by which a run is measured and repeated.

    \b
    Examples:
      charrnn config defaults
      charrnn config show configs/lstm.yaml --set training.window=128
      charrnn config schema > charrnn.schema.json
      charrnn config diff book-1 book-2
    """


@config.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set any config key.")
def show(path: Path | None, overrides: tuple[str, ...]) -> None:
    """Print each value that `train --config PATH` would use, with its source."""
    from charrnn.config.merge import (
        build_config,
        environment_layers,
        file_layer,
        flatten,
    )
    from charrnn.tasks.data import with_corpus_settings

    layers = [file_layer(path)] if path else []
    layers += environment_layers(os.environ) + override_layers(overrides)
    built, sources = build_config(with_corpus_settings(layers))
    shown = {key: json.dumps(value) for key, value in flatten(built.model_dump()).items()}
    width, value_width = max(map(len, shown)), min(40, max(map(len, shown.values())))
    _print_by_level(
        lambda key: f"{key:<{width}}  {shown[key]:<{value_width}}  {sources[key]}",
    )


@config.command()
def schema() -> None:
    """Print the JSON schema of a config file, for editors."""
    from charrnn.config.schema import Config

    click.echo(json.dumps(Config.model_json_schema(), indent=2))


@config.command()
def defaults() -> None:
    """Print every key with its default, its meaning and the tasks that use it, if not all do."""
    from charrnn.config.merge import describe_keys, flatten
    from charrnn.config.schema import Config, tasks_with

    values = flatten(Config().model_dump())
    described = dict(describe_keys())
    width = max(map(len, values))
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None

    def line(key: str) -> str:
        tasks = tasks_with(key)
        meaning = described[key] + (f" For {', '.join(tasks)}." if tasks else "")
        start = f"{key:<{width}}  {json.dumps(values[key]):<10}  "
        if columns is None:  # One line for each key, for tools such as grep.
            return start + meaning
        indent = " " * (4 if columns < 2 * len(start) else len(start))
        return textwrap.fill(start + meaning, columns - 1, subsequent_indent=indent)

    _print_by_level(line)


@config.command()
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: each key with two values.")
def diff(first: str, second: str, as_json: bool) -> None:
    """List the settings that differ between two runs: the key, then both values.

    RUN is a run, a checkpoint file or a config file.

    \b
    Examples:
      charrnn config diff book-1 book-2
      charrnn config diff configs/lstm.yaml runs/book-1 --json
    """
    from charrnn.config.merge import flatten
    from charrnn.runs.directory import read_config

    configs = [read_config(name) for name in (first, second)]
    before, after = (flatten(one.model_dump(mode="json")) for one in configs)
    different = {key: [before[key], after[key]] for key in before if before[key] != after[key]}
    if as_json:
        click.echo(json.dumps(different))
        return
    if not different:
        say(f"{first} and {second} have equal settings")
    rows = [(key, *map(json.dumps, values)) for key, values in different.items()]
    for line in aligned(rows):
        click.echo(visible(line))


def _print_by_level(line: Callable[[str], str]) -> None:
    """Print a line for each key, the everyday keys first, each level below its heading."""
    from charrnn.config.schema import LEVELS, fields, key_of

    for level, meaning in LEVELS.items():
        click.echo(f"# {level}: {meaning}")
        for key, field in fields().items():
            if key_of(field).level == level:
                click.echo(line(key))
