"""Show the measures of a score by class: a table, the confusion matrix, and both as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli.display import visible

if TYPE_CHECKING:
    from charrnn.evaluation.metrics import ByClass, Confusion
    from charrnn.evaluation.score import Evaluation

MATRIX = 12  # with more classes, the most frequent confusions are listed, not the matrix
LISTED = 10
CORNER = "right / predicted"
WIDEST = 20  # characters of a name


def describe_classes(result: Evaluation) -> dict[str, Any]:
    """Return the measures by class and by type of span, and the confusion matrix, as plain data."""
    from charrnn.evaluation.metrics import by_class

    described: dict[str, Any] = {}
    if result.confusion is not None:
        described["classes"] = _plain(by_class(result.confusion))
        described["confusion"] = {
            "classes": [*result.confusion.names],
            "counts": result.confusion.counts.tolist(),
        }
    if result.spans is not None:
        described["spans"] = _plain(result.spans.types)
    return described


def _plain(measured: Mapping[str, ByClass]) -> dict[str, Any]:
    return {name: {**each.shares(), "count": each.occurrences} for name, each in measured.items()}


def show_classes(result: Evaluation) -> None:
    """Print the measures by class (by type, if tags mark spans), and the confusions."""
    from charrnn.evaluation.metrics import by_class

    if result.spans is not None:
        _show_table("span", result.spans.types)
    elif result.confusion is not None:
        _show_table("class", by_class(result.confusion))
    if result.confusion is not None:
        _show_confusion(result.confusion)


def _show_table(title: str, measured: Mapping[str, ByClass]) -> None:
    """Print precision, recall, F1 and count on a line for each class."""
    width = max([len(title), *(len(_short(name)) for name in measured)])
    click.echo(f"\n{title:{width}}  precision  recall      F1   count")
    for name, each in measured.items():
        shares = f"{each.precision:9.4f}  {each.recall:6.4f}  {each.f1:6.4f}"
        click.echo(f"{_short(name):{width}}  {shares}  {each.occurrences:6,}")


def _show_confusion(table: Confusion) -> None:
    """Print the matrix of a few classes, or the most frequent confusions of many."""
    counts = table.counts
    used = [i for i in range(len(table.names)) if counts[i].any() or counts[:, i].any()]
    names = [_short(table.names[i]) for i in used]
    if len(used) <= MATRIX:
        width = max(len(CORNER), *map(len, names))
        columns = [max(5, len(name)) for name in names]
        head = "  ".join(f"{name:>{c}}" for name, c in zip(names, columns, strict=True))
        click.echo(f"\n{CORNER:{width}}  {head}")
        for name, i in zip(names, used, strict=True):
            row = "  ".join(f"{counts[i, j]:>{c}}" for j, c in zip(used, columns, strict=True))
            click.echo(f"{name:{width}}  {row}")
        return
    wrong = [(int(counts[i, j]), i, j) for i in used for j in used if i != j and counts[i, j]]
    click.echo("\nmost often confused (all of them: --json)")
    for count, i, j in sorted(wrong, key=lambda each: -each[0])[:LISTED]:
        click.echo(f"{count:6,}  {_short(table.names[i])} taken for {_short(table.names[j])}")


def _short(name: str) -> str:
    """Return a name on one line, cut to a column's width."""
    shown = visible(name).replace("\n", " ").replace("\t", " ")
    return shown if len(shown) <= WIDEST else f"{shown[: WIDEST - 1]}…"
