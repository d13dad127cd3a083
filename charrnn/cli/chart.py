"""Draw curves with characters, for a terminal."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

from charrnn.cli.display import columns_of

if TYPE_CHECKING:
    from charrnn.sharing.curves import Chart, Line

WIDTH, HEIGHT = 80, 16
BETWEEN = 3  # columns between two marks of a line, at least
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits of the eight dots of a braille character, by row and column."""


def chart_for(stream: Any, chart: Chart) -> list[str]:
    """Draw a chart as lines that fit a stream: its width, and the characters that it can show."""
    width = min(WIDTH, (columns_of(stream) or WIDTH + 1) - 1)
    try:
        "\u28ff\u2514\u2500\u2502".encode(getattr(stream, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return chart_lines(chart, width, HEIGHT, braille=False)
    return chart_lines(chart, width, HEIGHT)


def chart_lines(
    chart: Chart, width: int = WIDTH, height: int = HEIGHT, braille: bool = True
) -> list[str]:
    """Draw a chart as `height` lines and a legend.

    Training is drawn with dots. Validation has a mark at each evaluation: the letter of its run,
    or `o` for a single run. `*` is the best step.
    """
    values = [y for line in chart.lines for y in line.y] + [*chart.baselines.values()]
    low, high = float(min(values)), float(max(values))
    xs = [x for line in chart.lines for x in line.x]
    left, right = float(min(xs)), float(max(xs))
    labels = [f"{y:.4g}" for y in (high, (high + low) / 2, low)]
    margin = max(map(len, labels)) + 1
    columns, rows = max(10, width - margin - 1), height - 2
    paper = _Paper(columns, rows, (left, right), (low, high), braille)
    for loss in chart.baselines.values():
        paper.mark_level(loss)
    for line in chart.lines:
        if not _is_only_marked(chart, line):
            paper.draw(line)
    for line in chart.lines:
        paper.mark(line, _letter(chart, line))
    wall, floor, corner = ("\u2502", "\u2500", "\u2514") if braille else ("|", "-", "+")
    at = {0: labels[0], (rows - 1) // 2: labels[1], rows - 1: labels[2]}
    drawn = [f"{at.get(row, ''):>{margin}}{wall}{paper.row(row)}".rstrip() for row in range(rows)]
    ends = f"{left:,.4g}", f"{right:,.4g}"
    middle = f"{ends[0]}{chart.x_label:^{max(0, columns - len(ends[0]) - len(ends[1]))}}{ends[1]}"
    drawn += [" " * margin + corner + floor * columns, " " * (margin + 1) + middle]
    return drawn + _legend(chart, "\u28c0" if braille else ".")


def _letter(chart: Chart, line: Line) -> str:
    """Return the mark of a line: the letter of its run, `o` for a single one, "" for training."""
    names = chart.names
    if line.curve == "training" and _has_validation(chart, line):
        return ""
    if len(names) == 1:
        return "o" if line.curve == "validation" else ""
    return string.ascii_lowercase[names.index(line.name) % 26]


def _has_validation(chart: Chart, line: Line) -> bool:
    return any(x.name == line.name and x.curve == "validation" for x in chart.lines)


def _is_only_marked(chart: Chart, line: Line) -> bool:
    """Return whether to draw the marks of a line without dots: training has the dots."""
    pair = {x.curve for x in chart.lines if x.name == line.name}
    return line.curve == "validation" and "training" in pair


def _legend(chart: Chart, dots: str) -> list[str]:
    """Return one line for each run: its mark, its last values and its best step."""
    lines = [f"{chart.y_label}:"]
    for number, name in enumerate(chart.names):
        mark = f"{string.ascii_lowercase[number % 26]} " if len(chart.names) > 1 else ""
        parts = []
        for line in chart.lines:
            if line.name == name:
                single = {"validation": "o ", "training": f"{dots} "}.get(line.curve, "")
                shown = f"{'' if mark else single}{line.curve} {line.y[-1]:.4g}"
                parts.append(shown)
                if line.best is not None:
                    parts.append(f"* best {line.best[1]:.4f} at {line.best[0]:,.4g}")
        lines.append(f"  {mark}{name}: {', '.join(parts)}")
    lines += [f"  - {name}: {loss:.4f}" for name, loss in chart.baselines.items()]
    return lines


class _Paper:
    """A grid of characters: dots for lines, and marks upon them."""

    def __init__(
        self,
        columns: int,
        rows: int,
        xs: tuple[float, float],
        ys: tuple[float, float],
        braille: bool,
    ) -> None:
        self._columns, self._rows, self._xs, self._ys = columns, rows, xs, ys
        self._fine = (2, 4) if braille else (1, 1)
        self._dots: set[tuple[int, int]] = set()
        self._marks: dict[tuple[int, int], str] = {}

    def _place(self, x: float, y: float, fine: tuple[int, int]) -> tuple[int, int]:
        """Return the column and the row of a point, on a grid `fine` times as fine as the cells."""
        (left, right), (low, high) = self._xs, self._ys
        across = (x - left) / (right - left) if right > left else 0.5
        down = (high - y) / (high - low) if high > low else 0.5
        columns, rows = self._columns * fine[0], self._rows * fine[1]
        return round(across * (columns - 1)), round(down * (rows - 1))

    def draw(self, line: Line) -> None:
        """Draw a line as connected dots."""
        points = [self._place(x, y, self._fine) for x, y in zip(line.x, line.y, strict=True)]
        for (c0, r0), (c1, r1) in zip(points, points[1:] or points, strict=False):
            steps = max(abs(c1 - c0), abs(r1 - r0), 1)
            self._dots |= {
                (round(c0 + (c1 - c0) * i / steps), round(r0 + (r1 - r0) * i / steps))
                for i in range(steps + 1)
            }

    def mark(self, line: Line, letter: str) -> None:
        """Mark the points of a line, and its best one."""
        last = -BETWEEN
        for x, y in zip(line.x, line.y, strict=True):
            column, row = self._place(x, y, (1, 1))
            if letter and column - last >= BETWEEN:
                self._marks.setdefault((column, row), letter)
                last = column
        if line.best is not None:
            self._marks[self._place(*line.best, (1, 1))] = "*"

    def mark_level(self, y: float) -> None:
        """Mark a horizontal line."""
        _, row = self._place(self._xs[0], y, (1, 1))
        self._marks |= {(column, row): "-" for column in range(0, self._columns, 2)}

    def row(self, row: int) -> str:
        """Return a row of characters."""
        return "".join(self._character(column, row) for column in range(self._columns))

    def _character(self, column: int, row: int) -> str:
        if mark := self._marks.get((column, row)):
            return mark
        across, down = self._fine
        bits = [
            DOTS[j][i]
            for i in range(across)
            for j in range(down)
            if (column * across + i, row * down + j) in self._dots
        ]
        if not bits:
            return " "
        return chr(0x2800 + sum(bits)) if self._fine != (1, 1) else "."
