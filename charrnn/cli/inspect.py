"""`charrnn info`, `charrnn list` and `charrnn vocab`."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli.display import (
    columns_of,
    describe_model,
    describe_path,
    duration,
    say,
    show,
    visible,
    warn,
)
from charrnn.errors import did_you_mean
from charrnn.registry import one_of

if TYPE_CHECKING:
    from charrnn.config.schema import Config
    from charrnn.runs.checkpoint import Checkpoint
    from charrnn.runs.directory import Run


SORTED_BY = {
    "name": "run", "score": "nats", "age": "age_seconds", "step": "step", "task": "task",
    "cell": "cell", "parameters": "parameters", "seed": "seed", "state": "state",
}  # fmt: skip
"""The keys of `list --sort`, and what they are called in the records of `list --json`."""


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--step", type=click.IntRange(min=0), help="The checkpoint of this step.")
@click.option("--last", is_flag=True, help="The last checkpoint instead of the best.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def info(run: str, step: int | None, last: bool, as_json: bool) -> None:
    """Describe RUN: its parameters by part, vocabulary, scores, text and training.

    \b
    Examples:
      charrnn info book-1
      charrnn info step-00000500.safetensors --json
    """
    from charrnn.config.merge import config_from_data
    from charrnn.runs.directory import find_checkpoint

    checkpoint = find_checkpoint(run, warn, step, last)
    config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
    facts = _facts(checkpoint, config)
    if as_json:
        click.echo(json.dumps(facts))
        return
    _show_model(facts)
    _show_scores(facts)
    _show_training(facts, config)


def _facts(checkpoint: Checkpoint, config: Config) -> dict[str, Any]:
    """Collect the record that `info --json` prints."""
    from charrnn.data.vocabulary import read_vocabularies
    from charrnn.runs.checkpoint import SCHEMA
    from charrnn.runs.summary import count_parameters

    metadata = checkpoint.metadata
    session, step = metadata["session"], metadata["progress"]["step"]
    seconds, characters = session["trained_seconds"], session["trained_characters"]
    parameters = count_parameters(
        {name: tensor.size for name, tensor in checkpoint.tensors.items()},
        config.model.tie_embeddings,
    )
    sizes = {
        name: {"kind": vocabulary.kind, "size": vocabulary.size}
        for name, vocabulary in read_vocabularies(metadata["vocabulary"]).items()
    }
    return {
        "schema": SCHEMA,
        "checkpoint": str(checkpoint.path),
        "step": step,
        "model": describe_model(config),
        "parameters": {**parameters, "total": sum(parameters.values())},
        "vocabulary": sizes["text"] if list(sizes) == ["text"] else sizes,
        "best": session["best"] or {},
        "score": metadata.get("score"),
        "text": metadata["corpus"],
        "trained": {
            "seconds": seconds,
            "characters": characters,
            "characters_per_second": characters / max(seconds, 1e-9),
        },
        "environment": metadata["environment"],
    }


def _show_model(facts: Mapping[str, Any]) -> None:
    show(f"checkpoint  {facts['checkpoint']}")
    show(f"model       {facts['model']}")
    width = max(10, *map(len, facts["parameters"]))
    for part, count in facts["parameters"].items():
        show(f"            {part:<{width}} {count:>12,} parameters")
    sizes = facts["vocabulary"]
    for name, one in {"": sizes}.items() if "kind" in sizes else sizes.items():
        show(f"vocabulary  {one['size']:,} {one['kind']} symbols{f' ({name})' if name else ''}")


def _show_scores(facts: Mapping[str, Any]) -> None:
    from charrnn.runs.checkpoint_check import loss_in
    from charrnn.runs.summary import spoken_unit

    best, score, kind = facts["best"], facts["score"], facts["vocabulary"].get("kind")
    if loss := loss_in(best):
        nats, unit = loss[0], spoken_unit(loss[1], kind)
        show(
            f"validation  {nats:.4f} nats per {unit} at step {best['step']:,} ({best['protocol']})"
        )
    if score and (loss := loss_in(score)):
        nats, unit = loss[0], spoken_unit(loss[1], kind)
        show(
            f"score       {nats:.4f} nats, {nats / math.log(2):.4f} bits per {unit} "
            f"on {score['split']} ({score['protocol']})"
        )


def _show_training(facts: Mapping[str, Any], config: Config) -> None:
    from charrnn.runs.checkpoint_check import loss_in
    from charrnn.runs.summary import spoken_unit

    text, trained, environment = facts["text"], facts["trained"], facts["environment"]
    training, loss = config.training, loss_in(facts["best"])
    unit = spoken_unit(loss[1] if loss else None, config.data.vocabulary)
    splits = ", ".join(f"{count:,} {name}" for name, count in text["splits"].items())
    versions = ", ".join(f"{name} {number}" for name, number in environment["packages"].items())
    show(f"text        {text['described']}: {splits}")
    show(f"            SHA-256 {text['sha256']}")
    show(
        f"trained     {facts['step']:,} steps of batch size {training.batch_size}, window "
        f"{training.window}, in {duration(trained['seconds'])}, "
        f"{trained['characters_per_second']:,.0f} {unit}s/s"
    )
    show(
        f"            {training.optimizer}, learning rate {training.learning_rate:g}, "
        f"{training.schedule}, seed {training.seed}"
    )
    show(
        f"            on {environment['device']}, {environment['threads']} threads "
        f"({describe_path(config)}), {environment['processor']}"
    )
    show(f"            Python {environment['python']}, {versions}")


@click.command("list")
@click.argument("root", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--sort", default="name", show_default=True, metavar="KEY",
              help=f"{one_of(SORTED_BY)}; -KEY for the opposite order.")  # fmt: skip
@click.option("--cell", metavar="CELL", help="Only runs with this cell.")
@click.option("--task", metavar="TASK", help="Only runs of this task.")
@click.option("--state", type=click.Choice(["running", "finished", "stopped"]),
              help="Only runs in this state.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each run.")
def list_runs(root: Path, sort: str, as_json: bool, **wanted: str | None) -> None:
    """List the runs below ROOT (runs/) with their models, scores and states.

    The score of a finished run is that of its best checkpoint on the whole validation split;
    before that, the score of the best evaluation is shown. A run is running (a process is training
    it), finished, or stopped (charrnn resume continues it).

    \b
    Examples:
      charrnn list
      charrnn list --sort score --cell gru
      charrnn list experiments/ --sort -age --json
    """
    from charrnn.runs.directory import all_runs

    rows = [_row(run) for run in all_runs(root)]
    chosen = {key: value for key, value in wanted.items() if value is not None}
    is_empty = not rows
    rows = [row for row in rows if all(row[key] == value for key, value in chosen.items())]
    rows = _sorted(rows, sort)
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    elif rows:
        _show_table(rows)
    elif not is_empty:
        say(f"no run in {root} has {' and '.join(f'{k} {v}' for k, v in chosen.items())}")
    else:
        say(f"no runs in {root}; charrnn train makes one")


def _sorted(rows: list[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    """Sort the runs by a key of `SORTED_BY`; those without a value come last.

    Scores are compared only within their unit, and a line says so if there are several units.
    """
    from charrnn.runs.summary import spoken_unit

    key, is_reversed = sort.removeprefix("-"), sort.startswith("-")
    if key not in SORTED_BY:
        hint = did_you_mean(key, SORTED_BY) or f"it is {one_of(SORTED_BY)}"
        raise click.BadParameter(f"runs have no {key!r} to sort by; {hint}", param_hint="--sort")
    field = SORTED_BY[key]
    known = [row for row in rows if row[field] is not None]
    known.sort(key=lambda row: row[field], reverse=is_reversed)
    if key == "score":
        units = {spoken_unit(row["unit"], row["vocabulary"]) for row in known}
        known.sort(key=lambda row: spoken_unit(row["unit"], row["vocabulary"]))
        if len(units) > 1:
            say(f"scores per {' and per '.join(sorted(units))} are sorted apart")
    return known + [row for row in rows if row[field] is None]


def _row(run: Run) -> dict[str, Any]:
    """Collect the record that `list --json` prints; None for values that cannot be read."""
    from charrnn.runs.checkpoint import SCHEMA
    from charrnn.runs.checkpoint_check import loss_in
    from charrnn.runs.summary import header_facts, recorded_best

    steps = run.steps()
    last = run.checkpoint_path(steps[-1]) if steps else None
    about = header_facts(last) if last else {}
    best = recorded_best(run, about)
    score = best.get("score") or {}
    loss = loss_in(score) or loss_in(best)
    config = about.get("config")
    age = time.time() - last.stat().st_mtime if last else None
    return {
        "schema": SCHEMA,
        "run": str(run.path),
        "step": steps[-1] if steps else 0,
        "best_step": best.get("step"),
        "nats": loss[0] if loss else None,
        "unit": loss[1] if loss else None,
        "protocol": score.get("protocol", best.get("protocol")),
        "age_seconds": age,
        "task": config.task if config else None,
        "cell": config.model.cell if config else None,
        "hidden_sizes": config.model.widths if config else None,
        "parameters": about.get("parameters"),
        "seed": config.training.seed if config else None,
        "vocabulary": config.data.vocabulary if config else None,
        "state": _state(run, about),
    }


def _state(run: Run, about: Mapping[str, Any]) -> str:
    """Say whether a run is running, finished or stopped."""
    if run.is_locked():
        return "running"
    if any("final" in line for line in run.metrics()[-1:]):
        return "finished"
    if not about:
        return "stopped"
    training = about["config"].training
    steps, epochs = training.steps, training.epochs
    all_steps = steps is not None and about["step"] >= steps
    all_epochs = isinstance(epochs, float) and about["epoch"] >= epochs
    return "finished" if all_steps or all_epochs else "stopped"


def _show_table(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print each run below a line of headings; numbers are aligned on the right."""
    heads = (
        "run", "task", "cell", "widths", "parameters", "seed", "step", "score", "state", "age",
        "protocol",
    )  # fmt: skip
    table = [heads, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    numbers = {"parameters", "seed", "step", "age"}
    lines = _columns_on_lines(widths, columns_of(sys.stdout))
    for cells in table:
        padded = [
            f"{cell:>{width}}" if head in numbers else f"{cell:<{width}}"
            for head, cell, width in zip(heads, cells, widths, strict=True)
        ]
        shown = ["  ".join(padded[i] for i in columns).rstrip() for columns in lines]
        click.echo(visible("\n    ".join(shown)))


def _columns_on_lines(widths: Sequence[int], room: int | None) -> list[list[int]]:
    """Divide the columns of a table into lines of at most `room`; None means a single line.

    >>> _columns_on_lines([30, 20, 20, 20], 80), _columns_on_lines([30, 20, 20, 20], None)
    ([[0, 1, 2], [3]], [[0, 1, 2, 3]])
    """
    lines: list[list[int]] = [[]]
    used = 0
    for i, width in enumerate(widths):
        if room is not None and lines[-1] and used + 2 + width >= room:
            lines.append([])
            used = 2
        lines[-1].append(i)
        used += 2 + width
    return lines


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    from charrnn.runs.summary import spoken_unit

    sizes = row["hidden_sizes"] or []
    same = len(set(sizes)) == 1
    widths = f"{len(sizes)} x {sizes[0]}" if same else ", ".join(map(str, sizes))
    unit = spoken_unit(row["unit"], row["vocabulary"])
    loss = f"{row['nats']:.4f} nats per {unit}" if row["nats"] is not None else "-"
    age = duration(row["age_seconds"]) if row["age_seconds"] is not None else "-"
    size = f"{row['parameters']:,}" if row["parameters"] is not None else "-"
    seed = "-" if row["seed"] is None else str(row["seed"])
    return (
        row["run"], row["task"] or "-", row["cell"] or "-", widths or "-", size, seed,
        f"{row['step']:,}", loss, row["state"], age, row["protocol"] or "-",
    )  # fmt: skip


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def vocab(run: str, as_json: bool) -> None:
    """List the symbols of RUN's vocabulary with their ids, and code points for characters.

    \b
    Examples:
      charrnn vocab book-1
    """
    from charrnn.data.vocabulary import read_vocabularies
    from charrnn.runs.checkpoint import SCHEMA
    from charrnn.runs.directory import find_checkpoint

    vocabularies = read_vocabularies(find_checkpoint(run, warn).metadata.get("vocabulary"))
    if as_json:
        data = {
            name: {"kind": one.kind, "size": one.size, "symbols": list(one.symbols)}
            for name, one in vocabularies.items()
        }
        content = data.get("text", {}) if len(data) == 1 else data
        click.echo(json.dumps({"schema": SCHEMA, **content}))
        return
    for name, vocabulary in vocabularies.items():
        first = f"{name}\t" if len(vocabularies) > 1 else ""
        symbols: tuple[str | int, ...] = vocabulary.symbols
        for i, symbol in enumerate(symbols):
            click.echo(f"{first}{i}\t{_describe_symbol(symbol, vocabulary.kind)}")


def _describe_symbol(symbol: str | int, kind: str) -> str:
    """Show a byte in hexadecimal, a character with its code point, and a word unchanged."""
    if isinstance(symbol, int):
        return f"0x{symbol:02X}"
    printed = symbol if symbol.isprintable() else ascii(symbol)[1:-1]
    if kind == "character" and len(symbol) == 1:
        return f"U+{ord(symbol):04X}\t{printed}"
    return printed
