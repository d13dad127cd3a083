"""`charrnn train` and `charrnn resume`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli.display import say, warn
from charrnn.cli.options import NamesOption, override_layers, quiet
from charrnn.cli.progress import describe_arguments, drive, show_banner, show_rehearsal
from charrnn.errors import ExitCode
from charrnn.registry import CELLS, TASKS

if TYPE_CHECKING:
    from charrnn.config.merge import Layer

# Flag, configuration key, placeholder, and help: a text, or the names to list in it.
Flag = tuple[str, str, str, str | Iterable[str]]
BUDGET_FLAGS: list[Flag] = [
    ("--steps", "training.steps", "N", "Budget: optimizer steps."),
    ("--epochs", "training.epochs", "N", "Budget: passes over the training text."),
    ("--max-time", "training.max_time", "TIME", "Budget: wall-clock time, as 90s, 10m, 1h30m."),
]
RATE_FLAG: Flag = ("--learning-rate", "training.learning_rate", "X", "Highest learning rate.")
RESUME_FLAGS: list[Flag] = [*BUDGET_FLAGS, RATE_FLAG]
FLAGS: list[Flag] = [
    *BUDGET_FLAGS,
    ("--task", "task", "TASK", TASKS),
    ("--cell", "model.cell", "CELL", CELLS),
    ("--layers", "model.layers", "N", "Layers."),
    ("--hidden-size", "model.hidden_size", "N", "Hidden width, or [N, M] for one per layer."),
    (
        "--parameters",
        "model.parameters",
        "N|RUN",
        "Choose the width for N parameters (500k), or as many as RUN has.",
    ),
    ("--embedding-size", "model.embedding_size", "N", "Embedding width, or one_hot."),
    ("--dropout", "model.dropout", "P", "Dropout between layers."),
    ("--batch-size", "training.batch_size", "N", "Lanes: stretches of the text read side by side."),
    ("--window", "training.window", "N", "Characters between two steps (truncated BPTT)."),
    RATE_FLAG,
    ("--seed", "training.seed", "N", "Seed of weights and dropout."),
    ("--device", "device", "NAME", "auto, cpu, cuda, cuda:N or mps."),
    ("--vocabulary", "data.vocabulary", "KIND", "character, byte or word."),
    (
        "--separator",
        "data.separator",
        "LINE",
        "A line that divides a file into texts, such as ---; blank for a blank line.",
    ),
    ("--encoding", "data.encoding", "NAME", "Encoding of the text."),
    ("--text-column", "data.text_column", "COL", "Column of the text in a table: name, number."),
    ("--label-column", "data.label_column", "COL", "Column of the class in a table."),
    (
        "--bad-rows",
        "data.bad_rows",
        "HOW",
        "What to do with rows that are no examples: error, skip.",
    ),
    (
        "--errors",
        "data.errors",
        "HOW",
        "What to do with bytes that cannot be decoded: strict, replace, ...",
    ),
    (
        "--unknown",
        "data.unknown",
        "HOW",
        "What to do with characters that a run's vocabulary lacks: error, skip.",
    ),
]


def _flags(table: list[Flag]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for flag, key, metavar, text in reversed(table):
            names = {"help": text} if isinstance(text, str) else {"cls": NamesOption, "names": text}
            command = click.option(flag, key.replace(".", "__"), metavar=metavar, **names)(command)
        return command

    return decorate


def _flag_layers(table: list[Flag], values: Mapping[str, Any]) -> list[Layer]:
    """Return the flags that have a value, as settings; a budget replaces all other budgets."""
    from charrnn.config.strict_yaml import parse_yaml
    from charrnn.session.opening import replace_budgets

    layers: list[Layer] = []
    for flag, key, _, _ in table:
        value = values.get(key.replace(".", "__"))
        if value is not None:
            text = key in {"data.encoding", "data.errors", "data.separator", "device"}
            layers.append((flag, {key: value if text else parse_yaml(value, flag)}))
    return replace_budgets(layers)


@click.command()
@click.argument("data", nargs=-1, metavar="[DATA]...")
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="A YAML config.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set any config key.")
@click.option("--out", type=click.Path(path_type=Path), help="Run directory [runs/<corpus>-<n>].")
@click.option("--from", "origin", metavar="RUN", help="Start from the weights of another model.")
@click.option("--validation", multiple=True, metavar="DATA", help="Separate validation text.")
@click.option("--test", multiple=True, metavar="DATA", help="Separate test text.")
@_flags(FLAGS)
@click.option("--dry-run", is_flag=True,
              help="Print the plan, and measure memory and time; write nothing.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="JSON lines on standard output.")
@quiet
@click.pass_obj
def train(
    began: float,
    /,
    data: tuple[str, ...],
    config_path: Path | None,
    overrides: tuple[str, ...],
    out: Path | None,
    origin: str | None,
    validation: tuple[str, ...],
    test: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Train a model on DATA (default: Python's standard library).

    DATA is files, folders, patterns, URLs, `-` for standard input, or a named corpus such as
    `enwik8` (charrnn data list); compressed files and archives are unpacked. Settings that you do
    not give are chosen from the text and the machine. Prints the run directory.

    \b
    Examples:
      charrnn train book.txt
      charrnn train book.txt --max-time 2m --out runs/quick
      charrnn train book.txt --dry-run
      charrnn train src/ --cell gru --hidden-size 256 --vocabulary byte
      charrnn train --config configs/lstm.yaml shakespeare
      charrnn train poems.txt --from runs/shakespeare-1
      charrnn train names/ --task classification
      charrnn train pairs.tsv --task translation
    """
    from charrnn.session.opening import clock_from, load_source, merge_settings, start_run

    source = None
    if origin is not None:
        say(f"starting from {origin}")
        source = load_source(origin, warn)
    layers = _flag_layers(FLAGS, flags) + override_layers(overrides)
    for name, texts in (("sources", data), ("validation", validation), ("test", test)):
        if texts:
            layers.append((name, {f"data.{name}": list(texts)}))
    config = merge_settings(layers, config_path, source, warn)
    say(f"reading {describe_arguments(config.data.sources)}")
    with start_run(
        config, out=out, source=source, clock=clock_from(began), warn=warn, dry=dry_run
    ) as session:
        if dry_run:
            show_rehearsal(session, as_json)
            return ExitCode.DONE
        show_banner(session)
        say(f"run     {session.run.path}")
        code = drive(session, as_json)
    if not as_json:
        click.echo(str(session.run.path))
    return code


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--data", multiple=True, metavar="DATA", help="The text, if it has moved.")
@click.option(
    "--validation", multiple=True, metavar="DATA", help="The validation text, if it has moved."
)
@click.option("--test", multiple=True, metavar="DATA", help="The test text, if it has moved.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="New run directory for a checkpoint file."
)
@_flags(RESUME_FLAGS)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
              help="Change a setting, such as training.clip.")  # fmt: skip
@click.option("--unknown", type=click.Choice(["error", "skip"]), default=None,
              help="What to do with characters that the vocabulary lacks.")  # fmt: skip
@click.option("--device", metavar="NAME", help="Continue on another device.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines on standard output.")
@quiet
@click.pass_obj
def resume(
    began: float,
    /,
    run: str,
    data: tuple[str, ...],
    validation: tuple[str, ...],
    test: tuple[str, ...],
    out: Path | None,
    overrides: tuple[str, ...],
    unknown: str | None,
    device: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Continue RUN where it stopped, as if it had never stopped.

    RUN is a run directory or its name under runs/. To go on from an earlier step, name a checkpoint
    file instead; this begins a new run directory. A new budget of --steps or --epochs counts from
    the start of the run, one of --max-time from now.

    \b
    Examples:
      charrnn resume book-1
      charrnn resume book-1 --max-time 30m
      charrnn resume book-1 --learning-rate 0.001
      charrnn resume step-00000500.safetensors --out runs/book-2
    """
    from charrnn.session.opening import clock_from, resume_run

    layers: list[Layer] = _flag_layers(RESUME_FLAGS, flags) + override_layers(overrides)
    layers += [("--unknown", {"data.unknown": unknown})] if unknown else []
    layers += [("--device", {"device": device})] if device else []
    moved = (("--data", "sources", data), ("--validation", "validation", validation),
             ("--test", "test", test))  # fmt: skip
    layers += [(flag, {f"data.{name}": list(texts)}) for flag, name, texts in moved if texts]
    with resume_run(run, layers, out=out, clock=clock_from(began), warn=warn) as session:
        show_banner(session)
        say(f"run     {session.run.path}")
        code = drive(session, as_json)
    if not as_json:
        click.echo(str(session.run.path))
    return code
