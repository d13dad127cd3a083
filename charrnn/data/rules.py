"""The rules by which files become texts: line ends, Unicode form, and where a document ends.

`Cleaning` changes the characters of a text, `Rules` adds how files are recognised, ordered and cut
into documents. Both work on a text that arrives in chunks, and their result does not depend on the
chunks.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Newlines = Literal["join", "keep"]
Normalize = Literal["nfc", "none"]
Order = Literal["natural", "path"]
Kinds = Literal["content", "name"]

BLANK = "blank"  # the separator for blank lines
DASHES = 3  # equal marks: a separator of at least this many also matches longer lines
# Characters that are never composed with the one before: a text may be cut before them.
_STARTS = re.compile("[\0-\u02ff\u3400-\u9fff\uac00-\ud7a3]")


@dataclass
class Changes:
    """The changes that were made in reading, by the name of the document."""

    joined: dict[str, int] = field(default_factory=dict)
    """The number of line ends that became a line feed."""
    composed: dict[str, bool] = field(default_factory=dict)
    """Whether characters were composed."""

    def notes(self, described: str) -> Iterator[str]:
        """Say what was changed, and which setting prevents that."""
        if count := sum(self.joined.values()):
            yield (
                f"{described}: {count:,} line ends of Windows or old Macs were read as plain ones; "
                f"data.newlines=keep leaves them as they are"
            )
        if any(self.composed.values()):
            yield (
                f"{described}: letters with separate accents were composed (Unicode NFC); "
                f"data.normalize=none leaves them as they are"
            )


class Cleaning(NamedTuple):
    r"""The changes to the characters of a text before they are looked up.

    If `newlines` is join, CR LF and CR become LF; if `normalize` is nfc, the text gets Unicode's
    form NFC. Cleaning a text twice is the same as cleaning it once.

    >>> Cleaning("join", "nfc")("e\u0301\r\n") == "\xe9\n"
    True
    """

    newlines: Newlines = "keep"
    normalize: Normalize = "none"

    def __call__(self, text: str) -> str:
        """Clean a whole text."""
        if self.newlines == "join" and "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        return _composed(text) if self.normalize == "nfc" else text

    def stream(self, chunks: Iterable[str], name: str, changes: Changes | None) -> Iterator[str]:
        """Clean a text in chunks; record what was changed in the document `name`."""
        changes = changes or Changes()
        if self.newlines == "join":
            chunks = _joining(chunks, name, changes)
        if self.normalize == "nfc":
            chunks = _composing(chunks, name, changes)
        yield from chunks


AS_IT_IS = Cleaning()


@dataclass(frozen=True)
class Rules:
    """How files become documents; the defaults are those of runs that are older than these rules.

    - `order`: the documents of a folder in natural order (`natural`: 2 before 10), or in the order
      of their code points (`path`).
    - `kinds`: compressed files, archives and files that are no texts are recognised by their first
      bytes (`content`); or only compressed files are recognised, by their names (`name`).
    - `separator`: a line that ends a document inside a file.
    """

    cleaning: Cleaning = AS_IT_IS
    order: Order = "path"
    kinds: Kinds = "name"
    separator: str | None = None


AS_BEFORE = Rules()


def natural_key(path: str) -> list[tuple[list[str | int], str]]:
    """Return a key that sorts paths in natural order: `Chapter 2` before `Chapter 10`.

    >>> sorted(["ch10.txt", "ch2.txt", "Ch1.txt"], key=natural_key)
    ['Ch1.txt', 'ch2.txt', 'ch10.txt']
    """
    return [
        (
            [
                int(piece) if i % 2 else piece.casefold()
                for i, piece in enumerate(re.split("([0-9]{1,18})", part))
            ],
            part,
        )
        for part in path.split("/")
    ]


def _joining(chunks: Iterable[str], name: str, changes: Changes) -> Iterator[str]:
    """Make every line end a line feed; a CR at the end of a chunk waits for the next chunk."""
    held, count = "", 0
    for chunk in chunks:
        text, held = held + chunk if held else chunk, ""
        if "\r" in text:
            if text.endswith("\r"):
                text, held = text[:-1], "\r"
            count += text.count("\r")
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        if text:
            yield text
    if held:
        count += 1
        yield "\n"
    changes.joined[name] = count


def _composing(chunks: Iterable[str], name: str, changes: Changes) -> Iterator[str]:
    """Compose characters; keep back the end of a chunk that the next chunk may still change."""
    held, changed = "", False
    for chunk in chunks:
        if held and not _STARTS.match(chunk):
            cut = _last_start(held)
            ready, held = held[:cut], held[cut:] + chunk
        else:
            ready, held = held, chunk
        if held.endswith("\n"):  # A line end is complete, and its writer may be waiting.
            ready, held = ready + held, ""
        if ready:
            text = _composed(ready)
            changed = changed or text is not ready
            yield text
    if held:
        text = _composed(held)
        changed = changed or text is not held
        yield text
    changes.composed[name] = changed


def _composed(text: str) -> str:
    """Return the form NFC of a text: the very same object if nothing changes."""
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text
    return unicodedata.normalize("NFC", text)


def _last_start(text: str) -> int:
    """Return the last position before which a text may be cut; 0 if there is none."""
    return next((i for i in range(len(text) - 1, 0, -1) if _STARTS.match(text[i])), 0)


# Documents within a file ------------------------------------------------------------------------


@functools.cache
def _border(separator: str) -> re.Pattern[str]:
    """Compile the pattern of a separator within complete lines."""
    white, text = "[ \t\r]*", separator.strip()
    if text == BLANK:
        return re.compile(f"^{white}\n", re.MULTILINE)
    if text.startswith("<") and text.endswith(">"):  # A tag separates within a line, too.
        return re.compile(white + re.escape(text) + white)
    line = re.escape(text)
    if len(text) >= DASHES and len(set(text)) == 1 and not text[0].isalnum():
        line = f"{re.escape(text[0])}{{{len(text)},}}"
    return re.compile(rf"^{white}{line}{white}(?:\n|\Z)", re.MULTILINE)


def cut(chunks: Iterable[str], separator: str) -> Iterator[str | None]:
    r"""Cut a text that arrives in chunks into parts: yield their pieces, and None after each part.

    `separator` is a line, `blank` for a blank line, or a tag in angle brackets, which may stand
    within a line; a separator of three or more equal marks (`---`) also matches longer lines of
    them. Line ends around a separator belong to no part, and empty parts are left out.

    >>> list(cut(["a\nb\n\n", "\nc\n"], "blank"))
    ['a\nb', None, 'c', None]
    """
    border, line, ends, is_open = _border(separator), "", "", False
    for chunk in itertools.chain(chunks, [None]):
        text = line if chunk is None else line + chunk
        stop = len(text) if chunk is None else text.rfind("\n") + 1
        lines, line = text[:stop], text[stop:]
        for number, piece in enumerate(border.split(lines)):
            if number:
                if is_open:
                    yield None
                is_open, ends = False, ""
            body = ends + piece if is_open else piece.lstrip("\r\n")
            kept = body.rstrip("\r\n")
            ends = body[len(kept) :]
            if kept:
                is_open = True
                yield kept
    if is_open:
        yield None


def split_text(text: str, separator: str) -> list[tuple[int, str]]:
    r"""Cut a whole text into parts as `cut` does; return each with the number of its first line.

    >>> split_text("a\nb\n---\nc\n", "---")
    [(1, 'a\nb'), (4, 'c')]
    """
    parts: list[tuple[int, str]] = []
    line, start = 1, 0
    for match in [*_border(separator).finditer(text), None]:
        piece = text[start : match.start() if match else len(text)]
        body = piece.lstrip("\r\n")
        if kept := body.rstrip("\r\n"):
            parts.append((line + piece[: len(piece) - len(body)].count("\n"), kept))
        line += piece.count("\n") + (match[0].count("\n") if match else 0)
        start = match.end() if match else 0
    return parts


def not_divided(separator: str) -> str:
    """Return the hint that a separator does not occur in a text."""
    form = {BLANK: "lines without text"}.get(separator.strip(), "a line of its own")
    if separator.strip().startswith("<"):
        form = "a tag, with its brackets"
    return (
        f"the separator {separator!r} does not occur, so that each file is one document; it stands "
        f"for {form}: compare it with the text"
    )
