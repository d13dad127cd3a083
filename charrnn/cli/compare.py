"""`charrnn compare`."""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import click

from charrnn.cli.display import aligned, say, show, warn
from charrnn.cli.plot import curves_of

WIDEST = 30  # characters in a column of the text
MEASURES = ("nats", "parameters", "characters_per_second", "seconds_to")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--to", "target", type=float, metavar="NATS",
              help="Also the seconds until validation first has this loss.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(["text", "markdown", "latex", "csv", "json"]),
              default="text", show_default=True, help="The form of the table.")  # fmt: skip
def compare(runs: tuple[str, ...], target: float | None, form: str) -> None:
    """Show in which settings RUNs differ, and what came out.

    Every setting that differs is listed, also one that was chosen for you, since it may be the
    cause of a difference. Runs that differ in nothing but their seed are one column: the mean, ±
    the standard deviation over the runs. The score is that of the best checkpoint on validation.

    \b
    Examples:
      charrnn compare lstm-1 gru-1
      charrnn compare runs/lstm-* runs/gru-* --to 1.5
      charrnn compare runs/* --format latex
    """
    from charrnn.sharing.curves import comparison

    groups = comparison(curves_of(runs), target, warn)
    if form == "json":
        from charrnn.runs.checkpoint import SCHEMA

        for group in groups:
            click.echo(json.dumps({"schema": SCHEMA, **group}))
        return
    rows = _rows(groups, target)
    if form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows(zip(*rows, strict=True))
    elif form == "text":
        show(_aligned(rows))
        if len(groups) > 1 and all(len(group["runs"]) == 1 for group in groups):
            say("one run of each: a difference may come from the seed; train several with --seed")
    else:
        click.echo({"markdown": _markdown, "latex": _latex}[form](rows), nl=False)


def _rows(groups: Sequence[dict[str, Any]], target: float | None) -> list[list[str]]:
    """Return the table: a row for each setting that differs and each measure."""
    rows = [["", *(group["name"] for group in groups)]]
    rows.append(["runs", *(str(len(group["runs"])) for group in groups)])
    for key in groups[0]["settings"]:
        rows.append([key, *(_shown(group["settings"][key]) for group in groups)])
    units = {group["unit"] for group in groups}
    unit = units.pop() if len(units) == 1 else "unit"
    names = {
        "nats": f"nats per {unit}",
        "parameters": "parameters",
        "characters_per_second": f"{unit}s/s",
        "seconds_to": f"seconds to {target} nats",
    }
    digits = {"nats": 4, "parameters": 0, "characters_per_second": 0, "seconds_to": 1}
    for measure in MEASURES:
        if measure != "seconds_to" or target is not None:
            values = [_mean(g[measure], digits[measure], len(g["runs"])) for g in groups]
            rows.append([names[measure], *values])
    return rows


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _mean(values: Sequence[float | None], digits: int, count: int) -> str:
    """Show values as mean ± sample standard deviation, and how many are missing."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    shown = f"{statistics.fmean(known):,.{digits}f}"
    if len(set(known)) > 1:
        shown += f" ± {statistics.stdev(known):,.{digits}f}"
    return shown if len(known) == count else f"{shown} ({len(known)} of {count} runs)"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return the table in aligned columns; long values are cut, which other forms show in full."""
    rows = [[c if len(c) <= WIDEST else f"{c[: WIDEST - 3]}..." for c in row] for row in rows]
    return "\n".join(aligned(rows))


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines) + "\n"


_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}",
          "^": r"\textasciicircum{}", **{c: f"\\{c}" for c in "&%$#_{}"}}  # fmt: skip


def _latex(rows: Sequence[Sequence[str]]) -> str:
    """Return a tabular environment."""
    escaped = [["".join(_LATEX.get(c, c) for c in cell) for cell in row] for row in rows]
    lines = [" & ".join(row) + r" \\" for row in escaped]
    head = rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}"
    return "\n".join([head, r"\hline", lines[0], r"\hline", *lines[1:], r"\hline",
                      r"\end{tabular}"]) + "\n"  # fmt: skip
