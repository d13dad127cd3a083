"""Print for people: lines (wrapped on a terminal) and a progress bar."""

from __future__ import annotations

import codecs
import contextlib
import io
import math
import os
import re
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli.flags import in_flags
from charrnn.registry import CELLS

if TYPE_CHECKING:
    from tqdm import tqdm

    from charrnn.config.schema import Config
    from charrnn.data.download import Progress, Watch
    from charrnn.evaluation.score import Evaluation

BETWEEN_LINES = 10.0  # seconds between two lines about a download, without a terminal


def is_terminal(stream: Any) -> bool:
    """Whether the stream is a terminal that understands control sequences."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def columns_of(stream: Any) -> int | None:
    """Return the width of the terminal behind a stream, or None if there is no terminal."""
    if not is_terminal(stream):
        return None
    try:
        # A new terminal may report a width of 0.
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def wrap_for(stream: Any, text: str) -> str:
    """Wrap lines between words to the width of `stream`, if it is a terminal.

    If a line begins with a label, such as `model` before `2 x LSTM`, its later parts are aligned
    with the text behind the label; otherwise they are indented by four columns. A word that is
    longer than a line, such as a path, is not broken.
    """
    columns = columns_of(stream)
    if columns is None:
        return text
    return "\n".join(_wrap_line(line, max(20, columns - 1)) for line in text.split("\n"))


def _wrap_line(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    margin = " " * (len(line) - len(line.lstrip(" ")))
    label = re.match(r" *(?:\S+ {2,})?", line)
    indent = len(label[0]) if label else 0
    return textwrap.fill(
        line.lstrip(" "),
        width,
        initial_indent=margin,
        subsequent_indent=" " * (indent if 4 <= indent <= width // 2 else 4),
        expand_tabs=False,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )


QUIET = "charrnn.quiet"
"""The entry of click's `Context.meta` that is true with --quiet: only warnings and errors."""


def is_quiet() -> bool:
    """Return whether the user gave --quiet."""
    context = click.get_current_context(silent=True)
    return context is not None and context.meta.get(QUIET, False)


def say(text: str = "", *, bold: bool = False, dim: bool = False) -> None:
    """Print a line about progress on standard error, unless the command was given --quiet."""
    if not is_quiet():
        alert(text, bold=bold, dim=dim)


def alert(text: str, *, bold: bool = False, dim: bool = False) -> None:
    """Print a line on standard error, styled only on a terminal and never with NO_COLOR.

    The line is dropped if it cannot be written (the disk is full, or the pipe is closed), because a
    lost line must not end hours of training.
    """
    text = wrap_for(sys.stderr, visible(text))
    if is_terminal(sys.stderr) and not os.environ.get("NO_COLOR"):
        text = click.style(text, bold=bold or None, dim=dim or None) if text else text
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def warn(text: str) -> None:
    """Print a warning on standard error, with settings named by the command's flags."""
    context = click.get_current_context(silent=True)
    text = in_flags(text, context.command) if context else text
    alert(f"warning: {one_line(text)}")


def show(text: str) -> None:
    """Print text for people on standard output."""
    click.echo(wrap_for(sys.stdout, visible(text)))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Join the cells of each row, so that they stand in columns.

    >>> aligned([("cell", "lstm"), ("layers", "2")])
    ['cell    lstm', 'layers  2']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (zip(row, widths, strict=True) for row in rows)
    return ["  ".join(f"{cell:<{width}}" for cell, width in line).rstrip() for line in lines]


# Control characters (C1, and C0 without tab and line feed), format characters, which change the
# order or the look of the characters around them, line and paragraph separators, and lone
# surrogates. The joiners U+200C and U+200D are allowed: Persian words and emoji are written with
# them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0001\U000e0020-\U000e007f]"
)


def visible(text: str) -> str:
    """Escape control and format characters, so that text cannot command a terminal.

    Newlines and tabs stay.

    >>> visible("red: \\x1b[31m, reversed: \\u202e")
    'red: \\\\x1b[31m, reversed: \\\\u202e'
    """
    return _HIDDEN.sub(lambda match: _escape(match[0]), text)


def _escape(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


_unshown: list[str] = []  # characters that the encoding of the terminal lacked


def accept_all_text() -> None:
    """Make the standard streams accept any text.

    Output that goes to no terminal is UTF-8, whatever the locale. Characters that a terminal's
    encoding lacks are escaped, and `warn_of_unshown` warns of them. Undecodable bytes of the input
    are read as surrogates.
    """
    codecs.register_error("charrnn.escape", _escape_and_remember)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            if stream.isatty():
                stream.reconfigure(errors="charrnn.escape")
            else:
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")


def _escape_and_remember(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and not _unshown:
        _unshown.append(error.object[error.start])
    return codecs.backslashreplace_errors(error)


def warn_of_unshown() -> None:
    """Warn once of characters that the encoding of the terminal lacks, if there were any."""
    if _unshown:
        encoding = getattr(sys.stdout or sys.stderr, "encoding", "unknown")
        warn(
            f"the encoding of this terminal ({encoding}) lacks characters such as "
            f"{_escape(_unshown.pop())}, which are shown as escapes; set the locale to UTF-8, or "
            f"write to a file, which is UTF-8"
        )


def one_line(text: str) -> str:
    """Put a message on one line, even if it quotes line ends, and escape control characters."""
    return visible(text).replace("\n", " ")


def duration(seconds: float) -> str:
    """Format a duration by its two largest units.

    >>> duration(47), duration(185), duration(7800)
    ('47s', '3m05s', '2h10m')
    """
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded}s"
    if rounded < 3600:
        return f"{rounded // 60}m{rounded % 60:02d}s"
    return f"{rounded // 3600}h{rounded % 3600 // 60:02d}m"


def describe_model(config: Config) -> str:
    """Describe a model: `2 x LSTM 256, embedding 64, dropout 0.25`, then other options in use."""
    from charrnn.config.schema import unused_keys

    model, ignored = config.model, unused_keys(config.task)
    widths = model.widths
    name = CELLS[model.cell].title.format_map(vars(model))
    shape = (
        f"{len(widths)} x {name} {widths[0]}" if len(set(widths)) == 1 else f"{name} {list(widths)}"
    )
    embedding = (
        "one-hot" if model.embedding_size == "one_hot" else f"embedding {model.embedding_size}"
    )
    if model.word_parts != ["lookup"]:
        embedding += f" of {' and '.join(model.word_parts)} words"
    parts = [
        shape,
        embedding,
        f"{'locked ' if model.locked_dropout else ''}dropout {model.dropout}",
    ]
    others = ["input_dropout", "output_dropout", "embedding_dropout", "weight_dropout", "zoneout"]
    for name in [*others, "zoneout_cell"]:
        value = getattr(model, name)
        if value and (name != "zoneout_cell" or _has_cell_state(model.cell)):
            parts.append(f"{name.replace('_', ' ')} {value}")
    if model.layer_norm:
        parts.append("layer normalisation")
    if model.skip_connections:
        parts.append("skip connections")
    if model.bidirectional and "model.bidirectional" not in ignored:
        parts.insert(1, "bidirectional")
    if "model.pooling" not in ignored:
        parts.append(f"{model.pooling} pooling")
    if "model.attention" not in ignored:
        parts.append(f"{model.attention} attention")
    return ", ".join(parts)


def _has_cell_state(cell: str) -> bool:
    """Whether the state of a cell has a second part, to which `model.zoneout_cell` applies."""
    from charrnn.nn.models import cell_class
    from charrnn.nn.state import leaves

    return len([*leaves(cell_class(cell)(1, 1).initial_state(1))]) > 1


def describe_path(config: Config) -> str:
    """Say how the layers are computed in training: `fused lstm, bfloat16`."""
    path = "fused" if config.model.fused else "plain"
    return f"{path} {config.model.cell}, {config.precision}"


def measured(value: float) -> str:
    """Format a metric: a count in full, any other number with four digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def show_evaluation(result: Evaluation) -> None:
    """Print a score on standard output, one number on each line."""
    unit = result.unit
    click.echo(f"{f'nats per {unit}':20}{result.nats:.4f}")
    click.echo(f"{f'bits per {unit}':20}{result.bits:.4f}")
    if result.bits_per_byte is not None:
        click.echo(f"bits per byte       {result.bits_per_byte:.4f}")
        click.echo(f"perplexity          {math.exp(min(result.nats, 700)):.4f}")
    for name, value in result.metrics.items():
        click.echo(f"{name.replace('_', ' '):20}{measured(value)}")
    if result.halves is not None:
        for name, half in zip(("first half", "second half"), result.halves, strict=True):
            click.echo(f"{name:20}{half:.4f}")
    click.echo(f"{f'{unit}s scored':20}{result.count:,}")
    if result.bits_per_byte is not None:
        click.echo(f"{f'unknown {unit}s':20}{result.unknown:,}")


class Bar:
    """A progress bar on a terminal; without a terminal it shows nothing."""

    def __init__(self, shown: bool, unit: str = "step") -> None:
        self._shown = shown and is_terminal(sys.stderr)
        self._unit = unit
        self._bar: tqdm[Any] | None = None

    def start(self, total: int | None, done: int) -> None:
        """Begin at step `done`, or begin again with a new total."""
        self.close()
        if self._shown and not is_quiet():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=done, unit=self._unit, file=sys.stderr, leave=False,
                dynamic_ncols=True, smoothing=0.1, mininterval=0.2, unit_scale=self._unit == "B",
            )  # fmt: skip

    def advance(self, steps: int = 1) -> None:
        """Count one step more, or several."""
        if self._bar is not None:
            self._bar.update(steps)

    def aim_at(self, total: int) -> None:
        """Change the total."""
        if self._bar is not None:
            self._bar.total = total

    def say(self, text: str = "", **style: bool) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.clear()
        say(text, **style)
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def download_display() -> Watch:
    """Return a function that shows downloads: a bar on a terminal, or else a line now and then."""
    bar, name, shown, said = Bar(True, "B"), "", 0, 0.0

    def show_event(event: str | Progress) -> None:
        nonlocal name, shown, said
        if isinstance(event, str) or event.done == event.total:
            bar.close()
            name = ""
            if isinstance(event, str):
                say(event)
            return
        if event.name != name:
            name, shown, said = event.name, event.done, time.monotonic()
            bar.start(event.total, event.done)
        bar.advance(event.done - shown)
        shown = event.done
        if not is_terminal(sys.stderr) and time.monotonic() - said > BETWEEN_LINES:
            said = time.monotonic()
            total = f" of {event.total / 1e6:,.1f}" if event.total else ""
            say(f"{name}: {event.done / 1e6:,.1f}{total} MB")

    return show_event
