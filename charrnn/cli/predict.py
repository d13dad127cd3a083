"""`charrnn predict`."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from charrnn.cli.display import is_terminal, say, visible, warn

AT_A_TIME = 256  # lines of standard input in a batch; typed lines come one at a time


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("text", nargs=-1, metavar="[TEXT]...")
@click.option("--step", type=click.IntRange(min=0), help="The checkpoint of this step.")
@click.option("--last", is_flag=True, help="The last checkpoint instead of the best.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N or mps.")
@click.option(
    "--beam",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Translation: keep the N best hypotheses, instead of the likeliest symbol alone.",
)
@click.option(
    "--attention",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Translation of one TEXT: draw where the decoder looked (.png, .svg or .pdf).",
)
@click.option("--json", "as_json", is_flag=True, help="JSON lines, with probabilities.")
def predict(
    run: str,
    text: tuple[str, ...],
    step: int | None,
    last: bool,
    device: str,
    beam: int | None,
    attention: Path | None,
    as_json: bool,
) -> None:
    """Predict with RUN's model for each TEXT, or for each line on standard input.

    A classifier prints the class, its probability and the text, separated by tabs. A tagger prints
    each word with its tag, as word/TAG. A translator prints only the translation.

    \b
    Examples:
      charrnn predict names-1 Schmidt Nakamura
      charrnn predict names-1 --json < names.txt
      charrnn predict french-1 "I am tired." --beam 5 --attention tired.png
    """
    from charrnn.errors import DataError
    from charrnn.runs.directory import find_checkpoint

    checkpoint = find_checkpoint(run, warn, step, last)
    from charrnn.config.merge import config_from_data
    from charrnn.tasks.data import cleaning_of, lines_of
    from charrnn.tasks.task import task_of
    from charrnn.training.hardware import choose_device

    config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
    task = config.task
    predictor = task_of(task).predictor(checkpoint, str(choose_device(device)))
    if beam is not None or attention is not None:
        _search(predictor, f"{checkpoint.path} was trained for {task}", beam, attention, text)
    if text:
        _print_predictions(predictor, iter(text), AT_A_TIME, as_json)
        return
    if sys.stdin is None:
        raise DataError("standard input is closed; give a TEXT, or pipe lines in")
    is_typed = sys.stdin.isatty()
    if is_typed:
        say("reading lines from the terminal; Ctrl-D ends")
    lines = lines_of(sys.stdin.buffer, "standard input", cleaning_of(config))
    _print_predictions(predictor, lines, 1 if is_typed else AT_A_TIME, as_json)


def _search(
    predictor: Any,
    reason: str,
    beam: int | None,
    attention: Path | None,
    text: tuple[str, ...],
) -> None:
    """Set the beam, and draw the attention. Raises ConfigError if the model is not a translator."""
    from charrnn.cli.alignment_picture import require_pictures, save_alignment
    from charrnn.errors import ConfigError
    from charrnn.tasks.task import Searching

    if not isinstance(predictor, Searching):
        raise ConfigError(
            f"--beam and --attention are for translations, but {reason}; leave them out"
        )
    predictor.beam = beam or 1
    if attention is None:
        return
    if len(text) != 1:
        raise click.UsageError(f"--attention draws one TEXT, not {len(text)}; give one")
    require_pictures(attention)
    alignment = predictor.align(text[0])
    save_alignment(attention, alignment.weights, alignment.source, alignment.output)


def _print_predictions(predictor: Any, texts: Iterator[str], size: int, as_json: bool) -> None:
    """Predict `size` texts at a time, and print a line for each."""
    on_terminal = is_terminal(sys.stdout)
    while part := list(itertools.islice(texts, size)):
        for prediction in predictor.predict(part):
            line = json.dumps(prediction.record) if as_json else prediction.line
            click.echo(visible(line) if on_terminal else line)
