"""`charrnn info`, `charrnn list` and `charrnn vocab`."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import click

from charrnn.cli.display import describe_model, describe_path, duration, say, show, warn


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--step", type=click.IntRange(min=0), help="The checkpoint of this step.")
@click.option("--last", is_flag=True, help="The last checkpoint instead of the best.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def info(run: str, step: int | None, last: bool, as_json: bool) -> None:
    """What RUN is: parameters by part, vocabulary, score, how it was trained.

    \b
    Examples:
      charrnn info book-1
      charrnn info step-00000500.safetensors --json
    """
    from charrnn.config.merge import config_from_data
    from charrnn.data.vocabulary import read_vocabularies
    from charrnn.runs.checkpoint import SCHEMA
    from charrnn.runs.checkpoint_check import loss_in
    from charrnn.runs.directory import Run, find_checkpoint, find_run

    checkpoint = find_checkpoint(run, warn, step, last)
    metadata = checkpoint.metadata
    found = find_run(run)
    recorded = found.read_best() if isinstance(found, Run) else {}
    config = config_from_data(metadata["config"], str(checkpoint.path))
    vocabularies = read_vocabularies(metadata["vocabulary"])
    best = metadata["session"]["best"] or {}
    corpus, environment = metadata["corpus"], metadata["environment"]
    seconds = metadata["session"]["trained_seconds"]
    characters = metadata["session"]["trained_characters"]
    trained_steps = metadata["progress"]["step"]
    parts: dict[str, int] = {}
    tied = config.model.tie_embeddings
    for name, tensor in checkpoint.tensors.items():
        twice = tied and name in ("model/embedding.weight", "model/embedding.vectors.lookup.weight")
        if name.startswith("model/") and not twice:
            keys = name.removeprefix("model/").split(".")
            part = f"layer {int(keys[2]) + 1}" if keys[0] == "stack" else keys[0]
            parts[part] = parts.get(part, 0) + int(tensor.size)
    sizes = {name: {"kind": v.kind, "size": v.size} for name, v in vocabularies.items()}
    score = recorded.get("score") if recorded.get("step") == trained_steps else None
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "checkpoint": str(checkpoint.path),
        "step": trained_steps,
        "model": describe_model(config),
        "parameters": {**parts, "total": sum(parts.values())},
        "vocabulary": sizes["text"] if list(sizes) == ["text"] else sizes,
        "best": best,
        "score": score,
        "text": corpus,
        "trained": {"seconds": seconds, "characters": characters,
                    "characters_per_second": characters / max(seconds, 1e-9)},
        "environment": environment,
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps(facts))
        return
    show(f"checkpoint  {checkpoint.path}")
    show(f"model       {facts['model']}")
    width = max(10, *map(len, facts["parameters"]))
    for part, count in facts["parameters"].items():
        show(f"            {part:<{width}} {count:>12,} parameters")
    for name, of in sizes.items():
        more = f" ({name})" if len(sizes) > 1 else ""
        show(f"vocabulary  {of['size']:,} {of['kind']} symbols{more}")
    if loss := loss_in(best):
        show(
            f"validation  {loss[0]:.4f} nats per {loss[1]} at step {best['step']:,} "
            f"({best['protocol']})"
        )
    if score and (loss := loss_in(score)):
        show(
            f"score       {loss[0]:.4f} nats, {loss[0] / math.log(2):.4f} bits per {loss[1]} "
            f"on {score['split']} ({score['protocol']})"
        )
    splits = ", ".join(f"{count:,} {name}" for name, count in corpus["splits"].items())
    show(f"text        {corpus['described']}: {splits}")
    show(f"            SHA-256 {corpus['sha256']}")
    training, unit = config.training, (loss_in(best) or (0, "character"))[1]
    show(
        f"trained     {trained_steps:,} steps of batch size {training.batch_size}, window "
        f"{training.window}, in {duration(seconds)}, "
        f"{facts['trained']['characters_per_second']:,.0f} {unit}s/s"
    )
    show(
        f"            {training.optimizer}, learning rate {training.learning_rate:g}, "
        f"{training.schedule}, seed {training.seed}"
    )
    versions = ", ".join(f"{name} {number}" for name, number in environment["packages"].items())
    show(
        f"            on {environment['device']}, {environment['threads']} threads "
        f"({describe_path(config)}), {environment['processor']}"
    )
    show(f"            Python {environment['python']}, {versions}")


@click.command("list")
@click.argument("root", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a run.")
def list_runs(root: Path, as_json: bool) -> None:
    """The runs below ROOT (runs/), with their best scores and their age.

    \b
    Examples:
      charrnn list
      charrnn list experiments/ --json
    """
    from charrnn.runs.checkpoint import SCHEMA
    from charrnn.runs.checkpoint_check import loss_in
    from charrnn.runs.directory import all_runs

    rows: list[dict[str, Any]] = []
    for run in all_runs(root):
        steps = run.steps()
        best = run.read_best()
        score = best.get("score") or {}
        age = time.time() - run.checkpoint_path(steps[-1]).stat().st_mtime if steps else None
        rows.append({
            "schema": SCHEMA, "run": str(run.path), "step": steps[-1] if steps else 0,
            "best_step": best.get("step"),
            "nats": loss[0] if (loss := loss_in(score) or loss_in(best)) else None,
            "unit": loss[1] if loss else None,
            "protocol": score.get("protocol", best.get("protocol")), "age_seconds": age,
        })  # fmt: skip
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    if not rows:
        say(f"no runs in {root}; charrnn train makes one")
        return
    width = max(len(str(row["run"])) for row in rows)
    show(f"{'run':<{width}}  {'step':>9}  {'nats':>7}  {'age':>7}  protocol")
    for row in rows:
        nats, old = row["nats"], row["age_seconds"]
        show(
            f"{row['run']:<{width}}  {row['step']:>9,}  {f'{nats:.4f}' if nats else '-':>7}  "
            f"{duration(old) if old is not None else '-':>7}  {row['protocol'] or '-'}"
        )


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def vocab(run: str, as_json: bool) -> None:
    """The symbols of RUN's vocabulary with their ids and code points; words as they are.

    \b
    Examples:
      charrnn vocab book-1
    """
    from charrnn.data.vocabulary import read_vocabularies
    from charrnn.runs.checkpoint import SCHEMA
    from charrnn.runs.directory import find_checkpoint

    vocabularies = read_vocabularies(find_checkpoint(run, warn).metadata.get("vocabulary"))
    if as_json:
        data = {name: {"kind": of.kind, "size": of.size, "symbols": list(of.symbols)}
                for name, of in vocabularies.items()}  # fmt: skip
        click.echo(
            json.dumps({"schema": SCHEMA, **(data.get("text", {}) if len(data) == 1 else data)})
        )
        return
    for name, vocabulary in vocabularies.items():
        first = f"{name}\t" if len(vocabularies) > 1 else ""
        symbols: tuple[str | int, ...] = vocabulary.symbols
        for i, symbol in enumerate(symbols):
            if isinstance(symbol, int):
                click.echo(f"{first}{i}\t0x{symbol:02X}")
                continue
            shown = symbol if symbol.isprintable() else ascii(symbol)[1:-1]
            point = (
                f"U+{ord(symbol):04X}\t"
                if vocabulary.kind == "character" and len(symbol) == 1
                else ""
            )
            click.echo(f"{first}{i}\t{point}{shown}")
