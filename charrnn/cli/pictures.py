"""Draw an alignment, a confusion matrix or curves. Needs the extra `pictures` (matplotlib)."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn.cli.display import visible, warn
from charrnn.errors import ConfigError, StorageError, require_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from charrnn.evaluation.metrics import Confusion
    from charrnn.sharing.curves import Chart, Line

HALF = 0.5  # a cell with a larger share is too dark for black numbers
CELL = 0.22  # inches: the side of a cell
MOST = 300  # symbols at most on each axis
# Colours that colour-blind people tell apart (Okabe and Ito 2008, without yellow). Dashes and
# markers tell the runs apart in black and white; 7, 4 and 9 repeat together after 252 runs.
COLOURS = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
MARKED = 12  # markers on a line at most


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
    labels = [[_shown(symbol) for symbol in symbols] for symbols in (columns, rows)]
    with _fonts_for("".join(labels[0] + labels[1])):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(weights, cmap="Greys", vmin=0, vmax=1, aspect="equal")
        for axis, symbols in zip((axes.xaxis, axes.yaxis), labels, strict=True):
            axis.set_ticks(range(len(symbols)), symbols)
        if max(map(len, columns)) > 1:
            axes.tick_params("x", labelrotation=90)
        axes.xaxis.tick_top()
        for (row, column), number in np.ndenumerate([] if numbers is None else numbers):
            if number:
                shade = "white" if weights[row, column] > HALF else "black"
                axes.text(column, row, f"{number}", ha="center", va="center", size=6, color=shade)
        axes.xaxis.set_label_position("top")
        axes.set_xlabel(about[0])
        axes.set_ylabel(about[1])
        figure.colorbar(image, ax=axes, label=about[2])
        _write(figure, path)


def save_curves(path: Path, chart: Chart) -> None:
    """Draw curves of runs. Raises StorageError for a file that cannot be written.

    A thin line is training, a thick one validation; an area is the range over seeds, a star the
    best step.
    """
    from matplotlib.figure import Figure

    names = chart.names
    with _fonts_for("".join(names)):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot()
        for line in chart.lines:
            _draw(axes, line, names.index(line.name))
        for i, (name, loss) in enumerate(chart.baselines.items()):
            axes.axhline(loss, color="0.35", linestyle=(0, (1, 1 + i)), label=f"{name}: {loss:.4f}")
        axes.set_xlabel(chart.x_label)
        axes.set_ylabel(chart.y_label)
        axes.grid(alpha=0.25)
        axes.margins(x=0.02)
        _add_legend(axes, chart)
        _write(figure, path)


def _look(number: int) -> dict[str, Any]:
    """Return the colour, the dashes and the marker of a run."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[number % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def _draw(axes: Axes, line: Line, number: int) -> None:
    """Draw a line with its range, its running mean and its best point."""
    look, is_training = _look(number), line.curve == "training"
    width = 0.7 if is_training else 1.8
    every = max(1, -(-len(line.x) // MARKED))
    more: dict[str, Any] = (
        {"markersize": 3.5, "markerfacecolor": "white"} if is_training else {"markersize": 5}
    )
    raw = look | more | {"linewidth": width, "markevery": (number * every // 4, every)}
    axes.plot(line.x, line.y, alpha=0.45 if line.smoothed is not None else 1, zorder=2, **raw)
    if line.smoothed is not None:
        axes.plot(line.x, line.smoothed, zorder=2.5, **look | {"marker": "", "linewidth": 1.2})
    if line.low is not None and line.high is not None:
        axes.fill_between(line.x, line.low, line.high, color=look["color"], alpha=0.2, linewidth=0)
    if line.best is not None:
        axes.plot(*line.best, "*", color=look["color"], markersize=15, markeredgecolor="white",
                  zorder=4)  # fmt: skip


def _add_legend(axes: Axes, chart: Chart) -> None:
    """Name the runs and, for losses, the kinds of lines."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for number, name in enumerate(chart.names):
        best = next((x.best for x in chart.lines if x.name == name and x.best is not None), None)
        label = visible(name) + (f": best {best[1]:.4f} at {best[0]:,.4g}" if best else "")
        handles.append(Line2D([], [], label=label, **_look(number)))
    kinds = {line.curve for line in chart.lines}
    if "training" in kinds:
        thin: dict[str, Any] = {
            "linewidth": 0.7,
            "marker": "o",
            "markersize": 3.5,
            "markerfacecolor": "white",
        }
        handles.append(Line2D([], [], color="0.35", label="training", **thin))
    if "validation" in kinds:
        thick: dict[str, Any] = {"linewidth": 1.8, "marker": "o", "markersize": 5}
        handles.append(Line2D([], [], color="0.35", label="validation", **thick))
    if any(line.smoothed is not None for line in chart.lines):
        handles.append(Line2D([], [], color="0.35", linewidth=1.2, label="running mean"))
    if any(line.low is not None for line in chart.lines):
        handles.append(Patch(color="0.35", alpha=0.2, label="mean and range of the runs"))
    if any(line.best is not None for line in chart.lines):
        star: dict[str, Any] = {"marker": "*", "markersize": 11, "linestyle": ""}
        handles.append(Line2D([], [], color="0.35", label="best step", **star))
    axes.legend(handles=[*handles, *axes.get_legend_handles_labels()[0]], fontsize=8)


def _write(figure: Figure, path: Path) -> None:
    """Write a figure. The same figure gives the same file."""
    is_svg = path.suffix.lower() == ".svg"
    try:
        figure.savefig(path, dpi=150, metadata={"Date": None} if is_svg else None)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def _fonts_for(text: str) -> Iterator[None]:
    """Draw with installed fonts that have the characters of a text; warn of those that none has.

    In a label, a $ is a symbol like any other.
    """
    import matplotlib

    families, missing = fonts_with(text)
    if missing:
        from charrnn.data.vocabulary import name_characters

        names = name_characters(Counter(missing))
        warn(
            f"no installed font has {names}, so the picture shows boxes; "
            f"install a font for this script, such as Noto Sans"
        )
    settings: Any = {"font.family": families, "text.parse_math": False, "svg.hashsalt": "charrnn"}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")
        yield


def fonts_with(text: str) -> tuple[list[str], list[str]]:
    """Return font families that together have the characters of a text, and those none has.

    The first family is matplotlib's usual one. A font that was installed after matplotlib listed
    the fonts is searched too.
    """
    from matplotlib.font_manager import findfont, findSystemFonts, fontManager, get_font

    first = findfont("DejaVu Sans")
    families = ["DejaVu Sans"]
    missing = {c for c in text if c.isprintable() and not c.isspace()}
    missing -= _characters_of(get_font(first))
    if not missing:
        return families, []
    listed = {font.fname: font.name for font in fontManager.ttflist if font.style == "normal"}
    new = set(findSystemFonts()) - {font.fname for font in fontManager.ttflist}
    for path in [*listed, *sorted(new)]:
        try:
            font = get_font(path)
        except (OSError, RuntimeError):  # A damaged file, or one in another format.
            continue
        if font.family_name.startswith("Last Resort"):  # It has a box for every character.
            continue
        if font.scalable and (extra := missing & _characters_of(font)):
            if path in new:
                fontManager.addfont(path)
            families.append(font.family_name)
            missing -= extra
        if not missing:
            break
    return families, sorted(missing)


def _characters_of(font: Any) -> set[str]:
    return {chr(number) for number in font.get_charmap()}


def _shown(symbol: str) -> str:
    """Make the spaces of a symbol visible."""
    return symbol.replace(" ", "\u2423") if symbol.isprintable() else ascii(symbol)[1:-1]
