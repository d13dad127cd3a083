"""`charrnn predict`."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click

from charrnn.cli.display import is_terminal, say, visible, warn
from charrnn.cli.options import quiet
from charrnn.cli.standard_input import Arriving, batches

if TYPE_CHECKING:
    from charrnn.data.rules import Cleaning
    from charrnn.data.tagged import Columns
    from charrnn.tasks.task import Prediction

AT_A_TIME = 256  # texts in a batch, or fewer if no more have arrived
STDIN = "standard input"


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
@click.option(
    "--input",
    "given_as",
    type=click.Choice(["auto", "lines", "rows"]),
    default="auto",
    show_default=True,
    help="Tagging: a sentence on each line of standard input, or a word on each row.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON lines, with probabilities.")
@quiet
def predict(
    run: str,
    text: tuple[str, ...],
    step: int | None,
    last: bool,
    device: str,
    beam: int | None,
    attention: Path | None,
    given_as: str,
    as_json: bool,
) -> None:
    """Predict with RUN's model for each TEXT, or for each line on standard input.

    A classifier prints the class, its probability and the text, separated by tabs. A tagger prints
    each word with its tag, as word/TAG; for CoNLL-U or other rows of words on standard input, it
    prints the same rows with tags. A translator prints only the translation. An empty line gives
    an empty line.

    \b
    Examples:
      charrnn predict names-1 Schmidt Nakamura
      charrnn predict names-1 --json < names.txt
      charrnn predict tagger-1 < untagged.conllu > tagged.conllu
      charrnn predict french-1 "I am tired." --beam 5 --attention tired.png
    """
    from charrnn.errors import DataError
    from charrnn.runs.directory import find_checkpoint

    checkpoint = find_checkpoint(run, warn, step, last)
    from charrnn.config.merge import config_from_data
    from charrnn.tasks.data import cleaning_of
    from charrnn.tasks.task import predict_each, task_of
    from charrnn.training.hardware import choose_device

    config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
    task = config.task
    predictor = task_of(task).predictor(checkpoint, str(choose_device(device)))
    if beam is not None or attention is not None:
        _search(predictor, f"{checkpoint.path} was trained for {task}", beam, attention, text)
    if text:
        for part in batches(iter(text), AT_A_TIME, lambda: True):
            _print(predict_each(predictor, part), as_json)
        return
    if sys.stdin is None:
        raise DataError("standard input is closed; give a TEXT, or pipe lines in")
    if sys.stdin.isatty():
        say("type a text and press Enter; Ctrl-D ends")
    _print_answers(predictor, cleaning_of(config), config.data.tag_column, given_as, as_json)


def _search(
    predictor: Any,
    reason: str,
    beam: int | None,
    attention: Path | None,
    text: tuple[str, ...],
) -> None:
    """Set the beam, and draw the attention. Raises ConfigError if the model is not a translator."""
    from charrnn.cli.pictures import require_pictures, save_alignment
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


def _print_answers(
    predictor: Any, cleaning: Cleaning, column: Any, given_as: str, as_json: bool
) -> None:
    """Predict for each line of standard input, or for its rows of words, as they arrive."""
    from charrnn.data.tagged import sheets
    from charrnn.tasks.data import lines_of
    from charrnn.tasks.task import TagsWords, predict_each

    stream = Arriving(sys.stdin.buffer)
    lines, columns = lines_of(cast(BinaryIO, stream), STDIN, cleaning), None
    if isinstance(predictor, TagsWords) and given_as != "lines":
        lines, columns = _rows_of(lines, stream, column, given_as == "rows")
    if columns is None:
        for part in batches(lines, AT_A_TIME, stream.has_line):
            _print(predict_each(predictor, part), as_json)
        return
    say(
        f"reading a word on each row, tags go to {columns.described}; --input lines reads each "
        f"line as a sentence"
    )
    for batch in batches(sheets(lines, columns, STDIN), AT_A_TIME, stream.has_blank_line):
        full = [sheet for sheet in batch if sheet.words]
        predictions = iter(predictor.predict_words([sheet.words for sheet in full]))
        answers = [next(predictions) if sheet.words else None for sheet in batch]
        if as_json:
            _print((answer for answer in answers if answer), as_json)
        else:
            tags = [answer.record["tags"] if answer else [] for answer in answers]
            _write([s.tagged(t, columns) for s, t in zip(batch, tags, strict=True)])


def _rows_of(
    lines: Iterator[str], stream: Arriving, column: Any, is_certain: bool
) -> tuple[Iterator[str], Columns | None]:
    """Look at the lines that have arrived; return all lines, and the columns if they are rows."""
    from charrnn.data.tagged import SAMPLE, columns_of, may_be_comment, recognise_rows

    first: list[str] = []
    for line in lines:
        first.append(line)
        if not may_be_comment(line) and (len(first) == SAMPLE or not stream.has_line()):
            break
    columns = recognise_rows(first, column)
    if is_certain and columns is None:
        columns = columns_of(enumerate(first, 1), STDIN, column)
    return itertools.chain(first, lines), columns


def _print(predictions: Iterable[Prediction], as_json: bool) -> None:
    """Print predictions, a line for each."""
    _write([json.dumps(p.record) if as_json else p.line for p in predictions])


def _write(lines: Sequence[str]) -> None:
    """Print lines at once."""
    text = "\n".join(lines)
    if lines:
        click.echo(visible(text) if is_terminal(sys.stdout) else text)
