"""Read standard input as it arrives, so that each line can be answered at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")

PIECE = 1 << 20  # bytes: at most this many are read at a time


class Arriving:
    """A stream of bytes that knows whether more has arrived.

    It reads like a binary file: `readline`, iteration over lines, and `read`.
    """

    def __init__(self, stream: Any) -> None:
        self._read = getattr(stream, "read1", stream.read)
        self._lines: deque[bytes] = deque()
        self._rest = b""  # a line without its end
        self._blank = 0  # lines without text among `_lines`
        self._ended = False

    def has_line(self) -> bool:
        """Whether the next line has arrived, or the stream has ended."""
        return self._ended or bool(self._lines)

    def has_blank_line(self) -> bool:
        """Whether the next blank line has arrived, or the stream has ended."""
        return self._ended or self._blank > 0

    def readline(self) -> bytes:
        """Read a line with its end."""
        while not self._lines and not self._ended:
            self._wait()
        if not self._lines:
            line, self._rest = self._rest, b""
            return line
        line = self._lines.popleft()
        self._blank -= not line.strip()
        return line

    def _wait(self) -> None:
        piece = self._read(PIECE)
        self._ended = not piece
        *lines, self._rest = (self._rest + piece).split(b"\n")
        self._lines.extend(line + b"\n" for line in lines)
        self._blank += sum(not line.strip() for line in lines)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def read(self, size: int = -1) -> bytes:
        """Read the next line; without a `size`, read to the end."""
        return self.readline() if size >= 0 else b"".join(self)


def batches(items: Iterator[Item], size: int, is_ready: Callable[[], bool]) -> Iterator[list[Item]]:
    """Yield up to `size` items at a time, or fewer if the next one has not arrived.

    >>> list(batches(iter("abc"), 2, lambda: True))
    [['a', 'b'], ['c']]
    """
    for first in items:
        batch = [first]
        while len(batch) < size and is_ready():
            try:
                batch.append(next(items))
            except StopIteration:
                break
        yield batch
