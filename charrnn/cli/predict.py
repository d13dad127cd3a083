"""`charrnn predict`."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator

import click

from charrnn.cli.display import warn

AT_A_TIME = 256  # lines of standard input, unless somebody types them


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("text", nargs=-1, metavar="[TEXT]...")
@click.option("--step", type=click.IntRange(min=0), help="The checkpoint of this step.")
@click.option("--last", is_flag=True, help="The last checkpoint instead of the best.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N or mps.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines with all probabilities.")
def predict(
    run: str, text: tuple[str, ...], step: int | None, last: bool, device: str, as_json: bool
) -> None:
    """What RUN's model says of each TEXT, or of each line on standard input.

    A classifier gives the class, its probability and the text, separated by tabs; a tagger each
    word of the text with its tag, as word/TAG.

    \b
    Examples:
      charrnn predict names-1 Schmidt Nakamura
      charrnn predict names-1 --json < names.txt
    """
    from charrnn.config import config_from_data
    from charrnn.errors import DataError
    from charrnn.runs import find_checkpoint

    checkpoint = find_checkpoint(run, warn, step, last)
    from charrnn.experiments import experiment_of
    from charrnn.planning import choose_device

    config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
    predictor = experiment_of(config.task).predictor(checkpoint, str(choose_device(device)))

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
    size = 1 if not text and sys.stdin.isatty() else AT_A_TIME
    while part := list(itertools.islice(given, size)):
        for prediction in predictor.predict(part):
            click.echo(json.dumps(prediction.record) if as_json else prediction.line)
