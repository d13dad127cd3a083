"""Lines on a terminal and in a pipe."""

import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import unicodedata
from fcntl import ioctl
from pathlib import Path

import pytest

from charrnn.cli.display import duration, visible, wrap_for
from tests.cli.conftest import process
from tests.conftest import Run

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"


class Terminal(io.StringIO):
    """A terminal of 80 columns."""

    def isatty(self) -> bool:
        return True


LONG = "model   2 x LSTM 256, embedding 64, dropout 0.25, input dropout 0.1, skip connections, tied"


def test_lines_break_between_words_below_their_text() -> None:
    first, second = wrap_for(Terminal(), LONG).splitlines()
    assert first == LONG[: len(first)]
    assert len(first) < 80
    assert second == " " * 8 + LONG[len(first) + 1 :]
    quoted = wrap_for(Terminal(), "    " + "sample" * 20 + " end").splitlines()
    assert quoted == ["    " + "sample" * 20, "    end"]
    warning = "warning: " + "word " * 30
    lines = wrap_for(Terminal(), warning).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("    word") and len(line) < 80 for line in lines[1:])


@pytest.mark.parametrize("text", ["", "short", "a\n\n  b", f"files   /{'path/' * 40}end"])
def test_what_fits_and_what_is_one_word_stays(text: str) -> None:
    assert wrap_for(Terminal(), text).split() == text.split()
    assert "".join(wrap_for(Terminal(), text).split()) == "".join(text.split())
    if len(text) < 80:
        assert wrap_for(Terminal(), text) == text


def test_pipes_and_dumb_terminals_get_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrap_for(io.StringIO(), LONG) == LONG
    assert wrap_for(None, LONG) == LONG
    monkeypatch.setenv("TERM", "dumb")
    assert wrap_for(Terminal(), LONG) == LONG


@pytest.mark.parametrize(
    ("arguments", "columns"),
    [(["info", "runs/a"], 80), (["info", "runs/a"], 60), (["list"], 80), (["help", "fused"], 60)],
)
def test_a_command_fits_its_terminal(
    run: Run, trained: str, arguments: list[str], columns: int
) -> None:
    mine, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    child = process(*arguments, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    content = b""
    while chunk := read(mine):
        content += chunk
    assert child.wait(timeout=60) == 0
    os.close(mine)
    lines = content.decode().splitlines()
    piped = run(*arguments).out
    assert words("\n".join(lines)) == words(piped)
    assert all(len(line) < columns or len(line.split()) <= 2 for line in lines)
    assert max(map(len, piped.splitlines())) > columns
    assert any(line.startswith("  ") for line in lines)


def words(text: str) -> list[str]:
    """Return the words of an output without durations, which change."""
    return sorted(re.sub(r"\b(\d+m)?\d+s\b", "0s", text).split())


def read(terminal: int) -> bytes:
    """Read the next output on a terminal; return b"" once the writer has closed it."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59.6, 61, 3599, 3660)] == [
        "0s", "1m00s", "1m01s", "59m59s", "1h01m",
    ]  # fmt: skip


def test_standard_error_that_is_full_ends_nothing(trained: str, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Path("/dev/full").open("wb") as full:
        child = process("sample", trained, "-n", "5", stdout=-1, stderr=full)
        out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert len(out.decode()) >= 5
    assert sys.platform != "win32"


def test_what_commands_a_terminal_is_shown() -> None:
    joiners = {"\u200c", "\u200d"}
    for character in map(chr, range(sys.maxunicode + 1)):
        category = unicodedata.category(character)
        hidden = category in {"Cc", "Zl", "Zp", "Cs"} and character not in "\n\t"
        orders = unicodedata.bidirectional(character) in {
            "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
        }  # fmt: skip
        shown = visible(character)
        if hidden or orders or character in "\u200e\u200f\u061c\u200b\ufeff\xad":
            assert shown.isascii()
            assert shown.isprintable()
            assert eval(f"'{shown}'") == character
        elif category not in {"Cf", "Cn"} or character in joiners:
            assert shown == character


def on_terminal(*arguments: str, **environment: str) -> str:
    """Return what a command shows on a terminal."""
    mine, theirs = pty.openpty()
    child = process(*arguments, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
                    env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"} | environment)  # fmt: skip
    os.close(theirs)
    content = b""
    while chunk := read(mine):
        content += chunk
    child.wait(timeout=60)
    os.close(mine)
    return content.decode("utf-8").replace("\r\n", "\n")


def test_bidirectional_controls_are_shown_on_a_terminal_and_kept_in_a_pipe(
    run: Run, tmp_path: Path
) -> None:
    prompt = "ab\u202ec\u2066 \xe9"
    options = ["sample", "byte", "--prompt", prompt, "-n", "3", "--seed", "1", "--top-k", "1"]
    shutil.copytree(GOLDEN / "byte", tmp_path / "runs" / "byte")
    assert on_terminal(*options).startswith("ab\\u202ec\\u2066 \xe9")
    assert run(*options).out.startswith(prompt)
    shutil.copytree(GOLDEN / "lstm", tmp_path / "runs" / "lstm")
    refused = on_terminal("sample", "lstm", "--prompt", "\u202e")
    assert "\u202e" not in refused
    assert "\\u202e" in refused


def test_what_the_terminal_cannot_show_is_said_once(tmp_path: Path, run: Run) -> None:
    shutil.copytree(GOLDEN / "byte", tmp_path / "runs" / "byte")
    options = ["sample", "byte", "--prompt", "\u0442\u0435 \u0442", "-n", "3", "--top-k", "1"]
    shown = on_terminal(*options, PYTHONIOENCODING="cp1252", PYTHONUTF8="0")
    assert "\\u0442\\u0435 \\u0442" in shown
    assert shown.count("warning: the encoding of this terminal (cp1252)") == 1
    assert "warning" not in on_terminal(*options)
