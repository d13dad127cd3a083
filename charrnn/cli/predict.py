"""`charrnn predict`."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from charrnn.cli.display import is_terminal, visible, warn

AT_A_TIME = 256  # lines of standard input, unless somebody types them


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
    help="Of a translation: search with N hypotheses at a time, instead of the likeliest symbol.",
)
@click.option(
    "--attention",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Of the translation of one TEXT: draw where the decoder looked (.png, .svg or .pdf).",
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
    """What RUN's model says of each TEXT, or of each line on standard input.

    A classifier gives the class, its probability and the text, separated by tabs; a tagger each
    word of the text with its tag, as word/TAG; a translator the translation
    alone.

    \b
    Examples:
      charrnn predict names-1 Schmidt Nakamura
      charrnn predict names-1 --json < names.txt
      charrnn predict french-1 "I am tired." --beam 5 --attention tired.png
    """
    from charrnn.cli.alignment_picture import require_pictures, save_alignment
    from charrnn.config.merge import config_from_data
    from charrnn.errors import ConfigError, DataError
    from charrnn.runs.directory import find_checkpoint

    checkpoint = find_checkpoint(run, warn, step, last)
    from charrnn.tasks.task import Searching, task_of
    from charrnn.training.hardware import choose_device

    config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
    predictor = task_of(config.task).predictor(checkpoint, str(choose_device(device)))

    if beam is not None or attention is not None:
        if not isinstance(predictor, Searching):
            raise ConfigError(
                f"--beam and --attention are for translations, and {checkpoint.path} was trained "
                f"for {config.task}; leave them out"
            )
        predictor.beam = beam or 1
    if attention is not None:
        assert isinstance(predictor, Searching)
        if len(text) != 1:
            raise click.UsageError(f"--attention draws one TEXT; {len(text)} are given")
        require_pictures(attention)
        found = predictor.align(text[0])
        save_alignment(attention, found.weights, found.source, found.output)

    if not text and sys.stdin is None:
        raise DataError("standard input is closed; give a TEXT, or pipe lines in")

    def lines() -> Iterator[str]:
        for number, line in enumerate(sys.stdin.buffer, 1):
            try:
                yield line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"line {number:,} of standard input is not UTF-8 ({error.reason}); convert it"
                ) from error

    given = iter(text) if text else lines()
    on_terminal = is_terminal(sys.stdout)
    size = 1 if not text and sys.stdin.isatty() else AT_A_TIME
    while part := list(itertools.islice(given, size)):
        for prediction in predictor.predict(part):
            line = json.dumps(prediction.record) if as_json else prediction.line
            click.echo(visible(line) if on_terminal else line)
