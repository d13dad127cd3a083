"""`charrnn export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from charrnn.cli.display import say, warn
from charrnn.registry import FORMATS

_FORMATS = "; ".join(f"{name}: {entry.title}" for name, entry in FORMATS.items())


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--format", type=click.Choice([*FORMATS]), required=True, help=f"{_FORMATS}.")
@click.option("--out", type=click.Path(path_type=Path),
              help="Where to write [a name such as RUN.onnx, in this folder].")  # fmt: skip
@click.option("--step", type=click.IntRange(min=0), help="The checkpoint of this step.")
@click.option("--last", is_flag=True, help="The last checkpoint instead of the best.")
@click.option("--license", metavar="ID", help="hub: the model's license, such as cc-by-4.0.")
@click.option("--push", metavar="OWNER/NAME",
              help="hub: upload the folder to this repository; a new one is private.")  # fmt: skip
def export(run: str, license: str | None, **flags: Any) -> None:
    """Write RUN's best model in a form that other programs read.

    The paths of the new files are printed. Vocabulary and sampling defaults are written as well.
    ONNX needs two packages (`pip install 'charrnn-trainer[onnx]'`), and --push needs one (the
    extra `hub`).

    \b
    Examples:
      charrnn export book-1 --format onnx
      charrnn export book-1 --format torch --out for-a-friend
      charrnn export book-1 --format hub --license cc-by-4.0
    """
    from charrnn.sharing.export import export as write

    options: dict[str, Any] = {} if license is None else {"license": license}
    for path in write(run, warn=warn, **flags, **options):
        click.echo(path)
    if flags["push"]:
        say(f"uploaded to {flags['push']}; see hf://{flags['push']}")
    elif flags["format"] == "hub" and license is None:
        say("fill in the license at the top of README.md")
