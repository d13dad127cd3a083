"""`charrnn sample --interactive`: turns, commands, and a terminal with Ctrl-C and history."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import process
from tests.conftest import Result, Run

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"


@pytest.fixture
def model(run: Run, tmp_path: Path) -> str:
    shutil.copytree(GOLDEN / "lstm", tmp_path / "runs" / "lstm")
    return "lstm"


def converse(run: Run, model: str, *lines: str) -> Result:
    text = "".join(f"{line}\n" for line in lines)
    return run("sample", model, "--interactive", "-n", "20", "--seed", "1", stdin=text.encode())


def test_the_model_goes_on_from_an_unfinished_sentence(run: Run, model: str) -> None:
    """As in one text: the line that is typed has no end."""
    whole = run("sample", model, "--prompt", "\nThe wa", "-n", "20", "--seed", "1").out
    typed = converse(run, model, "The wa")
    assert typed.out == whole.removeprefix("\nThe wa")
    with_end = converse(run, model, "/newline on", "The wa")
    ended = run("sample", model, "--prompt", "\nThe wa\n", "-n", "20", "--seed", "1").out
    assert with_end.out == ended.removeprefix("\nThe wa\n")


def test_an_empty_line_lets_the_model_go_on(run: Run, model: str) -> None:
    two = converse(run, model, "The ", "").out
    whole = run("sample", model, "--prompt", "\nThe ", "-n", "40", "--seed", "1").out
    assert two.replace("\n", "") == whole.removeprefix("\nThe ").replace("\n", "")


def test_retry_writes_another_text_from_the_same_place(run: Run, model: str) -> None:
    result = converse(run, model, "/temperature 0", "The ", "/retry")
    assert result.code == 0, result.err
    half = len(result.out) // 2
    assert result.out[:half] == result.out[half:]
    drawn = converse(run, model, "The ", "/retry").out
    assert drawn[: len(drawn) // 2] != drawn[len(drawn) // 2 :]
    assert drawn == converse(run, model, "The ", "/retry").out
    nothing = converse(run, model, "/retry")
    assert nothing.code == 0
    assert "nothing has been written yet" in nothing.err


def test_a_symbol_can_be_chosen_among_the_likeliest(run: Run, model: str) -> None:
    result = converse(run, model, "/next 3", "/take 2", "/take 9", "/next x")
    listed = re.findall(r"^ +(\d)  +([\d.]+)%  '(.+)'$", result.err, re.M)
    assert [number for number, _, _ in listed] == ["1", "2", "3"] * 2
    assert result.out == f"{listed[1][2]}\n"
    assert "from 1 to 3" in result.err
    assert "'x' is not a number" in result.err
    assert "type /next first" in converse(run, model, "/take 1").err


def test_settings_change_by_the_names_of_the_flags(run: Run, model: str) -> None:
    def text(*commands: str) -> str:
        result = converse(run, model, *commands, "The ")
        assert result.code == 0, result.err
        return result.out

    def flags(*options: str) -> str:
        arguments = ["--prompt", "\nThe ", "--seed", "1", *options]
        return run("sample", model, *arguments).out.removeprefix("\nThe ")

    assert text("/temperature 0.4") == flags("-n", "20", "--temperature", "0.4")
    assert text("/length 7", "/top-k 2") == flags("-n", "7", "--top-k", "2")
    assert text("/stop e") == flags("-n", "20", "--stop", "e")
    assert text("/greedy-inside-words on") == flags("-n", "20", "--greedy-inside-words")
    assert text("/temperature 0.4", "/temperature off") == flags("-n", "20")
    assert text("/repetition-penalty 3") == flags("-n", "20", "--repetition-penalty", "3")
    shown = converse(run, model, "/top-p 0.5", "/settings", "/help").err
    assert shown.count("top-p                 0.5") == 2
    assert "/temperature 0.7" in shown


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("/temperture 1", "no command /temperture; did you mean /temperature?"),
        ("/temperature hot", "'hot' is not a valid float"),
        ("/temperature -1", "-1.0 is not in the range"),
        ("/greedy-inside-words maybe", "takes on or off"),
        ("/", "no command /; /help lists them"),
        ("\u0442", "lacks U+0442"),
        ("//x", "U+002F"),
    ],
)
def test_a_mistake_is_said_and_the_turns_go_on(
    run: Run, model: str, command: str, message: str
) -> None:
    result = converse(run, model, command, "The ")
    assert result.code == 0
    assert message in result.err
    assert result.out == converse(run, model, "The ").out


def test_quit_ends_it(run: Run, model: str) -> None:
    assert converse(run, model, "/quit", "The ").out == ""


class Typist:
    """A terminal with `charrnn sample --interactive` in it."""

    def __init__(self, *arguments: str) -> None:
        self.terminal, theirs = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "NO_COLOR": "1", "INPUTRC": os.devnull}
        self.child = process(
            "sample", *arguments, "--interactive", "--seed", "1", stdin=theirs, stdout=theirs,
            stderr=theirs, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.shown = ""

    def wait_for(self, pattern: str, seconds: float = 30) -> str:
        """Read until the output since the last call matches; return it."""
        until = time.monotonic() + seconds
        while not re.search(pattern, self.shown):
            ready = select.select([self.terminal], [], [], max(0, until - time.monotonic()))[0]
            assert ready, f"no {pattern!r} in {self.shown!r}"
            try:
                chunk = os.read(self.terminal, 4096)
            except OSError:
                chunk = b""
            assert chunk, f"ended without {pattern!r} in {self.shown!r}"
            self.shown += chunk.decode("utf-8", "replace")
        before, self.shown = self.shown, ""
        return before

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())


@pytest.fixture
def typist(model: str) -> Iterator[Typist]:
    one = Typist(model, "-n", "20")
    yield one
    one.child.kill()
    one.child.wait()
    os.close(one.terminal)


def test_a_terminal_edits_lines_and_remembers_them(typist: Typist) -> None:
    pytest.importorskip("readline")
    typist.wait_for("> ")
    typist.type("/length 5\n")
    typist.wait_for(r"length +5\r\n(.*)> ")
    typist.type("/length 77\x7f\n")  # Backspace.
    typist.wait_for(r"length +7\r\n(.*)> ")
    typist.type("\x1b[A\x1b[A\n")  # Up twice.
    typist.wait_for(r"length +5\r\n(.*)> ")
    typist.type("\x04")
    assert typist.child.wait(30) == 0


def test_ctrl_c_stops_the_text_and_keeps_the_session(typist: Typist) -> None:
    typist.wait_for("> ")
    typist.type("/length 100000000\n")
    typist.wait_for(r"length +1\d+\r\n(.*)> ")
    typist.type("The \n")
    typist.wait_for(r"The.*\n(.|\n){200}")
    typist.child.send_signal(signal.SIGINT)
    typist.wait_for(r"\(stopped\)(.|\n)*> ")
    typist.type("half a li")
    typist.wait_for("half a li")
    typist.child.send_signal(signal.SIGINT)
    typist.wait_for(r"Ctrl-D ends(.|\n)*> ")
    typist.type("/length 5\n")
    typist.wait_for(r"length +5\r\n(.*)> ")
    typist.type("/retry\n")
    typist.wait_for("> ")
    typist.type("\x04")
    assert typist.child.wait(30) == 0


def test_where_a_text_was_stopped_it_goes_on(run: Run, model: str) -> None:
    """The state after a stop is that of a text that ended there."""
    whole = run("sample", model, "--prompt", "\nThe ", "-n", "3000", "--seed", "1").out
    one = Typist(model, "-n", "100000000")
    one.wait_for("> ")
    one.type("The \n")
    first = one.wait_for(r"The (.|\n){300}")
    one.child.send_signal(signal.SIGINT)
    first += one.wait_for(r"\(stopped\)(.|\n)*> ")
    one.type("/length 50\n")
    one.wait_for(r"length +50\r\n(.*)> ")
    one.type("\n")
    more = one.wait_for(r"\n(.|\n){50,}> ")
    one.type("\x04")
    assert one.child.wait(30) == 0
    os.close(one.terminal)

    def plain(text: str) -> str:
        return re.sub(r"[\r\n]|\x1b\[\?2004[hl]", "", text)

    written = plain(first).partition("The ")[2].partition("(stopped)")[0]
    written += plain(more).removesuffix("> ")
    assert plain(whole).removeprefix("The ").startswith(written[:2900])
    assert len(written) > 300


def test_a_redirected_output_holds_the_text_alone(run: Run, model: str) -> None:
    mine, theirs = pty.openpty()
    child = process("sample", model, "--interactive", "-n", "20", "--seed", "1", stdin=theirs,
                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
    os.close(theirs)
    os.write(mine, b"The \n\x04")
    out, _ = child.communicate(timeout=60)
    os.close(mine)
    assert out.decode() == converse(run, model, "The ").out
