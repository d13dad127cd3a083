"""`charrnn plot`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from charrnn.cli.chart import chart_for
from charrnn.cli.display import say, show, warn

if TYPE_CHECKING:
    from charrnn.sharing.curves import Chart, Curves


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--out", type=click.Path(path_type=Path), help="A .png, .svg or .pdf file.")
@click.option("--x", type=click.Choice(["steps", "epochs", "characters", "seconds"]),
              default="steps", show_default=True, help="The horizontal axis.")  # fmt: skip
@click.option("--y", type=click.Choice(["loss", "rate", "speed", "norm"]), default="loss",
              show_default=True, help="Loss, learning rate, speed or gradient norm.")  # fmt: skip
@click.option("--unit", type=click.Choice(["nats", "bits"]), default="nats", show_default=True,
              help="The unit of a loss.")  # fmt: skip
@click.option("--smooth", type=click.IntRange(min=1), default=1, metavar="N",
              help="Add the mean of N steps in a row to the curve of the steps.")  # fmt: skip
@click.option("--baseline", "with_baseline", is_flag=True,
              help="Add the score of n-grams on the same split (charrnn baseline).")  # fmt: skip
@click.option("--csv", "as_csv", is_flag=True, help="The curves as CSV on standard output.")
def plot(
    runs: tuple[str, ...],
    out: Path | None,
    x: str,
    y: str,
    unit: str,
    smooth: int,
    with_baseline: bool,
    as_csv: bool,
) -> None:
    """Draw the curves of one RUN or of several, also while they train.

    The loss in training is that of each step, with dropout on; that in validation is the quick
    score of each evaluation. Runs that differ in nothing but their seed become one line, the mean,
    with their range. Without --out and --csv, a small curve of characters is printed. Pictures need
    a package (`pip install 'charrnn-trainer[pictures]'`).

    \b
    Examples:
      charrnn plot book-1
      charrnn plot book-1 book-2 --out curves.svg
      charrnn plot runs/lstm-* runs/gru-* --unit bits --baseline --out curves.png
      charrnn plot book-1 --y rate --csv
    """
    from charrnn.cli.pictures import require_pictures, save_curves
    from charrnn.errors import ConfigError
    from charrnn.sharing.curves import chart_of

    if with_baseline and y != "loss":
        raise ConfigError("--baseline is a loss to beat; leave it out, or leave out --y")
    if out is not None:
        require_pictures(out)
    curves = curves_of(runs)
    baselines = _baselines(curves) if with_baseline else {}
    chart = chart_of(curves, warn, x, y, unit == "bits", smooth, baselines)
    if out is not None:
        save_curves(out, chart)
        say(f"wrote {out}")
    if as_csv:
        _print_csv(chart, x, unit if y == "loss" else y)
    elif out is None:
        show("\n".join(chart_for(sys.stdout, chart)))


def curves_of(names: Iterable[str]) -> list[Curves]:
    """Read the curves of runs; warn of those that have none.

    Raises CheckpointError if there is no curve at all.
    """
    from charrnn.errors import CheckpointError
    from charrnn.runs.directory import Run, find_run
    from charrnn.sharing.curves import read_curves

    curves: dict[Path, Curves] = {}
    for name in names:
        try:
            run = find_run(name)
            if isinstance(run, Path):
                raise CheckpointError(f"{name} is a single checkpoint, without a curve; name a run")
            path = run.path.resolve()
            if path not in curves:
                curves[path] = read_curves(Run(run.path), warn)
        except CheckpointError as error:
            warn(f"{error}; skipped")
    if not curves:
        raise CheckpointError("no run has a curve; charrnn list shows the runs here")
    return list(curves.values())


def _baselines(curves: Sequence[Curves]) -> Mapping[str, float]:
    """Score n-grams once for each text; the names tell several texts apart."""
    from charrnn.sharing.curves import baseline_of

    first = {str(one.facts.get("text_sha256")): one for one in curves}
    losses: dict[str, float] = {}
    for one in first.values():
        name, nats = baseline_of(one.run, warn)
        losses[name if len(first) == 1 else f"{name}, {one.facts.get('text')}"] = nats
    say(
        "n-grams are scored on the whole validation split, and the curve is an estimate during "
        "training; charrnn eval --compare scores both by one protocol"
    )
    return losses


def _print_csv(chart: Chart, x: str, y: str) -> None:
    """Print one row for each point: the run, the curve, and both values in full."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["run", "curve", x, y])
    for line in chart.lines:
        parts = {"": line.y, " lowest": line.low, " highest": line.high}
        parts[" running mean"] = line.smoothed
        for part, values in parts.items():
            pairs = [] if values is None else zip(line.x.tolist(), values.tolist(), strict=True)
            for at, value in pairs:
                writer.writerow([line.name, line.curve + part, f"{at:.10g}", repr(value)])
        if line.best is not None:
            writer.writerow([line.name, "best", f"{line.best[0]:.10g}", repr(line.best[1])])
    for name, loss in chart.baselines.items():
        writer.writerow([name, "baseline", "", repr(loss)])
