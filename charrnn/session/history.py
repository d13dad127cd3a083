"""The training steps of a run as at most 2,000 rows, which `steps.jsonl` shows.

While a run is short, each row is one step. Whenever the number of steps has doubled, each two rows
become one, so that all rows stand for the same number of steps::

    steps 1 to 2,000      one step in a row
    steps to 4,000        two steps in a row
    steps to 8,000        four steps in a row

The number of steps in a row depends on nothing but the step, and the rows are saved in each
checkpoint. So the rows of a resumed run are those of an uninterrupted one, except for the times.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from charrnn.runs.checkpoint_check import MOST_ROWS
from charrnn.runs.directory import Run
from charrnn.training.trainer import Report


class Row(NamedTuple):
    """One step or several that follow one another."""

    step: float  # the last one, counted from 1
    steps: float
    scored: float  # characters or labels
    nats: float  # the summed training loss, with dropout on and while the weights change
    norms: float  # the sum over the steps of the gradient's norm before clipping
    learning_rate: float  # of the last step
    seconds: float  # of training until the end of the row, without evaluations and saving

    def and_then(self, later: Row) -> Row:
        """Return this row and the next one as one row.

        >>> Row(1, 1, 10, 30, 2, 0.1, 1.5).and_then(Row(2, 1, 10, 20, 4, 0.2, 2.5))
        Row(step=2, steps=2, scored=20, nats=50, norms=6, learning_rate=0.2, seconds=2.5)
        """
        return Row(
            later.step,
            self.steps + later.steps,
            self.scored + later.scored,
            self.nats + later.nats,
            self.norms + later.norms,
            later.learning_rate,
            later.seconds,
        )


def steps_in_a_row(step: int) -> int:
    """Return how many steps a row stands for once `step` steps have been taken: a power of two.

    >>> [steps_in_a_row(step) for step in (1, 2_000, 2_001, 4_000, 4_001)]
    [1, 1, 2, 2, 4]
    """
    return int(1 << (max(0, step - 1) // MOST_ROWS).bit_length())


class History:
    """The rows of a run; the last one may still lack steps.

    `unit` names what is scored, such as `character`.

    >>> history = History("character")
    >>> for step in range(1, 2_004):
    ...     history.add(Row(step, 1, 10, 30, 2, 0.1, step))
    >>> len(history.rows), history.rows[-1].step, history.complete()[-1].step
    (1002, 2003, 2002)
    """

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.rows: list[Row] = []
        self.unmeasured: list[tuple[Report, float]] = []  # steps whose losses were not read yet
        self._written: int | None = None  # rows in steps.jsonl; None: write it anew

    def take(self, report: Report, seconds: float) -> None:
        """Remember a step; `seconds` of training have passed at its end."""
        self.unmeasured.append((report, seconds))

    def measure(self, losses_and_norms: Sequence[tuple[float, float]]) -> None:
        """Add the remembered steps with their losses and their gradient norms."""
        steps = zip(self.unmeasured, losses_and_norms, strict=True)
        for (report, seconds), (nats, norm) in steps:
            self.add(Row(report.step, 1, report.scored, nats, norm, report.learning_rate, seconds))
        self.unmeasured.clear()

    def add(self, row: Row) -> None:
        """Add the next step."""
        size, before = steps_in_a_row(int(row.step)), steps_in_a_row(int(row.step) - 1)
        if size != before:
            rows, self.rows, self._written = self.rows, [], None
            for old in rows:
                self._append(old, size)
        self._append(row, size)

    def _append(self, row: Row, size: int) -> None:
        if self.rows and self.rows[-1].step % size:
            self.rows[-1] = self.rows[-1].and_then(row)
        else:
            self.rows.append(row)

    def complete(self) -> list[Row]:
        """Return the rows to which no step will be added."""
        last = int(self.rows[-1].step) if self.rows else 0
        return self.rows[:-1] if last % steps_in_a_row(last) else self.rows

    def write(self, run: Run, at_end: bool = False) -> None:
        """Bring steps.jsonl up to date; if `at_end`, also write the row that still lacks steps."""
        rows = self.rows if at_end else self.complete()
        if at_end or self._written is None:
            run.write_records("steps", as_records(rows, self.unit))
        elif new := rows[self._written :]:
            seconds = rows[self._written - 1].seconds if self._written else 0.0
            run.append_records("steps", as_records(new, self.unit, seconds))
        self._written = None if at_end else len(rows)

    def load(self, rows: Iterable[Sequence[float]]) -> None:
        """Continue from the rows of a checkpoint."""
        self.rows = [Row(*row) for row in rows]
        self.unmeasured.clear()
        self._written = None


def as_records(rows: Iterable[Row], unit: str, seconds: float = 0.0) -> list[dict[str, Any]]:
    """Return rows as lines of steps.jsonl; `unit` names what is scored, such as `character`."""
    lines = []
    for row in rows:
        speed = row.scored / (row.seconds - seconds) if row.seconds > seconds else None
        seconds = row.seconds
        lines.append(
            {
                "step": int(row.step),
                "steps": int(row.steps),
                f"{unit}s": int(row.scored),
                "train": {f"nats_per_{unit}": row.nats / row.scored} if row.scored else {},
                "gradient_norm": row.norms / row.steps,
                "learning_rate": row.learning_rate,
                "characters_per_second": speed,
                "seconds": row.seconds,
            }
        )
    return lines
