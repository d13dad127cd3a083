"""Guess the encoding of a text that is not UTF-8, and show a line of it in that encoding."""

from __future__ import annotations

import re

from charrnn.data.vocabulary import shortened

# The encodings of real texts; of those that decode a text alike, the likelier comes first.
COMMON = [
    "cp1252", "latin_1", "shift_jis", "cp932", "koi8_r", "cp1251", "gb18030", "big5", "euc_jp",
    "euc_kr", "cp949", "cp1250", "iso8859_2", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257",
    "mac_roman", "cp437", "cp850", "cp866", "iso8859_15", "utf_16_le", "utf_16_be",
]  # fmt: skip
SHOWN = 60  # characters of the line that is shown


def likeliest(around: bytes, position: int, most: int = 2) -> list[tuple[str, str]]:
    """Return the likeliest encodings of a part of a text, each with a line decoded by it.

    The part has a byte at `position` that is not UTF-8; the bytes before it are ASCII.
    """
    from charset_normalizer import from_bytes

    start = around.rfind(b"\n", 0, position) + 1
    sample = around[start:]
    if b"\0" not in sample:  # Lines of ASCII are the same in all encodings.
        sample = b"\n".join(line for line in sample.split(b"\n") if not line.isascii())
    guesses: list[tuple[float, float, int]] = []
    for match in from_bytes(sample, cp_isolation=COMMON):
        names = {match.encoding, *match.could_be_from_charset} & {*COMMON}
        usual = min(map(COMMON.index, names))
        guesses.append((round(match.chaos, 1), -round(match.coherence, 1), usual))
    best = [COMMON[usual] for _, _, usual in sorted(guesses)]
    lines = {name: _line(sample.decode(name, "replace"), position - start) for name in best}
    return [(_shown(name), line) for name, line in lines.items()][:most]


def _line(text: str, position: int) -> str:
    """Quote the line at a position, or the part of it there."""
    start = text.rfind("\n", 0, position) + 1
    line = re.split(r"[\r\n]", text[max(start, position - SHOWN // 2) :], maxsplit=1)[0]
    return shortened(line.strip(), SHOWN)


def _shown(name: str) -> str:
    """Return the usual name of an encoding, which Python knows as well."""
    return f"windows-{name[2:]}" if name.startswith("cp125") else name.replace("_", "-")
