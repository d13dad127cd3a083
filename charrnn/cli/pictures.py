"""Draw an alignment or a confusion matrix. Needs the extra `pictures` (matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn.errors import ConfigError, StorageError, require_extra

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from charrnn.evaluation.metrics import Confusion

HALF = 0.5  # a cell with a larger share is too dark for black numbers
CELL = 0.22  # inches: the side of a cell
MOST = 300  # symbols at most on each axis


def require_pictures(path: Path) -> None:
    """Raise ConfigError without matplotlib, or for a type of file that it cannot write."""
    require_extra("matplotlib", "pictures", "a picture")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    kinds = FigureCanvasAgg.filetypes
    if path.suffix.lower().removeprefix(".") not in kinds:
        raise ConfigError(f"cannot draw {path}: name a file that ends in .png, .svg or .pdf")


def save_alignment(
    path: Path, weights: NDArray[Any], columns: Sequence[str], rows: Sequence[str]
) -> None:
    """Draw weights (rows, columns) between 0 and 1, labelled with their symbols.

    Raises ConfigError for more symbols than a picture can show, StorageError for a file that
    cannot be written.
    """
    if max(len(columns), len(rows)) > MOST:
        raise ConfigError(
            f"a picture of {len(rows):,} by {len(columns):,} symbols cannot be read; give a "
            f"shorter text (text and translation at most {MOST} symbols each)"
        )
    _save(path, weights, columns, rows, ("source", "translation", "attention"))


def save_confusion(path: Path, table: Confusion) -> None:
    """Draw the share of each class (row) that was taken for each class (column), with the counts.

    Raises ConfigError for more classes than a picture can show, StorageError for a file that
    cannot be written.
    """
    import numpy as np

    kept = [i for i, row in enumerate(table.counts) if row.sum() or table.counts[:, i].sum()]
    if len(kept) > MOST:
        raise ConfigError(
            f"a picture of {len(kept):,} classes cannot be read (at most {MOST}); use --json"
        )
    counts = table.counts[np.ix_(kept, kept)]
    names = [table.names[i] for i in kept]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    about = ("predicted", "right class", "share of the class")
    _save(path, shares, names, names, about, counts)


def _save(
    path: Path,
    weights: NDArray[Any],
    columns: Sequence[str],
    rows: Sequence[str],
    about: tuple[str, str, str],
    numbers: NDArray[Any] | None = None,
) -> None:
    """Draw a matrix; `about` names its columns, its rows and its values."""
    import numpy as np
    from matplotlib.figure import Figure

    cell = CELL if numbers is None else 2 * CELL
    width, height = cell * len(columns) + 2, cell * len(rows) + 1.5
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(weights, cmap="Greys", vmin=0, vmax=1, aspect="equal")
    for axis, symbols in ((axes.xaxis, columns), (axes.yaxis, rows)):
        axis.set_ticks(range(len(symbols)), [_shown(symbol) for symbol in symbols])
    if max(map(len, columns)) > 1:
        axes.tick_params("x", labelrotation=90)
    axes.xaxis.tick_top()
    for (row, column), number in np.ndenumerate([] if numbers is None else numbers):
        if number:
            shade = "white" if weights[row, column] > HALF else "black"
            axes.text(column, row, f"{number}", ha="center", va="center", size=6, color=shade)
    for label in axes.get_xticklabels() + axes.get_yticklabels():
        label.set_parse_math(False)  # A $ is a symbol like any other.
    axes.xaxis.set_label_position("top")
    axes.set_xlabel(about[0])
    axes.set_ylabel(about[1])
    figure.colorbar(image, ax=axes, label=about[2])
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _shown(symbol: str) -> str:
    """Make the spaces of a symbol visible."""
    return symbol.replace(" ", "\u2423") if symbol.isprintable() else ascii(symbol)[1:-1]
