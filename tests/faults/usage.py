"""What users type, and the terminals and pipes that they use."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import random
import re
import string
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from charrnn.config.merge import all_keys, build_config
from charrnn.errors import ConfigError
from charrnn.runs.directory import Run
from tests.faults.harness import (
    Effort,
    Ended,
    Result,
    check,
    cold,
    command,
    fork,
    start_cold,
    tally,
    tiny_arguments,
    train,
)
from tests.faults.killing import folder, patched
from tests.faults.texts import inside, trained


def mistyped(word: str, draw: random.Random) -> str:
    """Return `word` after one edit: an insertion, deletion, substitution or transposition."""
    letters = string.ascii_lowercase + "_"
    while True:
        at = draw.randrange(len(word))
        edit = draw.randrange(4)
        letter = draw.choice(letters)
        other = [
            word[:at] + letter + word[at:],
            word[:at] + word[at + 1 :],
            word[:at] + letter + word[at + 1 :],
            word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :],
        ][edit]
        if other != word and other not in all_keys():
            return other


no_guess = mock.patch.object(difflib, "get_close_matches", return_value=[])


@check("typing errors in keys, values, commands, options, run names", sabotage="no guesses")
def typing_errors(effort: Effort, sabotaged: bool) -> Result:
    draw, right, wrong = random.Random(5), 0, []
    keys = [key for key in all_keys() if "." in key]
    other, answered = [], 0
    with patched(no_guess, when=sabotaged):
        for i in range(100):
            key = draw.choice(keys)
            section, _, name = key.partition(".")
            typed = f"{section}.{mistyped(name, draw)}" if i % 2 else mistyped(key, draw)
            try:
                build_config([("--set", {typed: 1})])
            except ConfigError as error:
                guess = re.search(r"did you mean ([\w.]+)\?", str(error))
                if guess and guess[1] == key:
                    right += 1
                else:
                    wrong.append(f"{typed}: {error}")
        where = trained()
        (where / "runs").mkdir()
        (where / "runs" / "run").symlink_to(where / "run")
        for arguments in (
            ["config", "show", "--set", "model.cell=lstn"],
            ["config", "show", "--set", "training.optimizer=adma"],
            ["trian", where],
            ["smaple", where],
            ["train", "--stesp", "3"],
            ["sample", "--lenght", "3", where],
            ["sample", str(where / "rnu")],
        ):
            ended = fork(inside(where, command(*arguments))).wait()
            said = "did you mean" in ended.errors.lower()
            answered += said and ended.code in (2, 4)
            if not said:
                other.append(f"{arguments}: {ended.errors}")
    missed = f"; other: {[*wrong, *other][0][:150]}" if wrong or other else ""
    return Result(
        right >= 95 and answered == 7, f"{right} of 100 keys, {answered} of 7 other words{missed}"
    )


def streams(
    arguments: list[object],
    closed: tuple[int, ...] = (),
    pipe: bool = False,
    **environment: str,
) -> Ended:
    """Start a new `charrnn` with streams closed, or with a standard output that nobody reads."""
    program = (
        "import os, sys\n"
        f"for number in {closed!r}:\n    os.close(number)\n"
        f"if {pipe!r}:\n    r, w = os.pipe(); os.dup2(w, 1); os.close(w); os.close(r)\n"
        f"os.execv(sys.executable, [sys.executable, '-m', 'charrnn', *{[*map(str, arguments)]!r}])"
    )
    return cold(program=program, **environment)


@check(
    "closed streams, pipes, C and Latin-1 locales", sabotage="the streams are as Python has them"
)
def terminals(effort: Effort, sabotaged: bool) -> Result:
    where = folder()
    (where / "text.txt").write_text("👩‍👩‍👧 é → ß\n" * 80, "utf-8")
    small = tiny_arguments(**{"training.steps": 4, "evaluation.every": 2})
    ended = fork(command("train", where / "text.txt", "--out", where / "run", *small)).wait()
    if ended.code:
        return Result(False, ended.errors)
    run = where / "run"
    latin = {"PYTHONIOENCODING": "latin-1:strict", "PYTHONUTF8": "0"}
    plain_c = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    sample: list[object] = ["sample", run, "-n", 300, "--seed", 1]
    commands: list[list[object]] = [
        sample, ["sample", run, "-n", 50, "--num-samples", 3], ["eval", run], ["info", run],
        ["vocab", run], ["list", where], ["train", where / "text.txt", *small],
    ]  # fmt: skip
    cases: list[tuple[str, Ended]] = []
    sabotage = {"PYTHONPATH": str(plain_streams())} if sabotaged else {}
    for arguments in commands if not effort.fast else commands[:1]:
        name = str(arguments[0])
        cases += [
            (f"{name}, pipe", streams(arguments, pipe=True, **sabotage)),
            (f"{name}, nothing open", streams(arguments, closed=(0, 1, 2), **sabotage)),
            (f"{name}, Latin-1", streams(arguments, **latin, **sabotage)),
        ]
        if not effort.fast:
            cases += [
                (f"{name}, no output", streams(arguments, closed=(1,), **sabotage)),
                (f"{name}, no input", streams(arguments, closed=(0,), **sabotage)),
                (f"{name}, C locale", streams(arguments, **plain_c, **sabotage)),
            ]
    problems = [
        f"{name}: exit {ended.code}, {ended.errors[-150:]}"
        for name, ended in cases
        if ended.code != 0 or ended.traceback or "Exception ignored" in ended.errors
    ]
    return tally(len(cases) - len(problems), len(cases), "ended well", problems)


def plain_streams() -> Path:
    """Make a folder with a sitecustomize that forbids changing the encoding of streams."""
    where = folder()
    (where / "sitecustomize.py").write_text(
        "import io\n"
        "class Plain(io.TextIOWrapper):\n"
        "    def reconfigure(self, **_): pass\n"
        "import sys\n"
        "for name in ('stdout', 'stderr'):\n"
        "    stream = getattr(sys, name)\n"
        "    if stream: setattr(sys, name, Plain(stream.buffer, encoding=stream.encoding,\n"
        "        errors='strict', line_buffering=stream.line_buffering))\n"
    )
    return where


def onto(
    number: int, target: Callable[[], int], function: Callable[[], object]
) -> Callable[[], object]:
    """Wrap `function`: send a standard stream to what `target` opens."""

    def run() -> object:
        os.dup2(target(), number)
        name = {1: "stdout", 2: "stderr"}[number]
        setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        return function()

    return run


def full() -> int:
    """Open a device that is always full."""
    return os.open("/dev/full", os.O_WRONLY)


def left() -> int:
    """Open a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def without_terminal(function: Callable[[], object]) -> Callable[[], object]:
    """Wrap `function`: run it in a process without a controlling terminal."""

    def run() -> object:
        os.setsid()
        return function()

    return run


@check(
    "standard output or error full or left by its reader, no terminal",
    sabotage="errors of the system are not caught",
)
def full_streams(effort: Effort, sabotaged: bool) -> Result:
    """Check: exit 0 if the work was finished or the reader left, else 7; never a traceback.

    A training that did not finish must not end with exit 0.
    """
    targets = [full, left] if Path("/dev/full").exists() else [left]
    where = trained()
    run = where / "run"
    commands = [("sample", run, "-n", 3000), ("eval", run), ("info", run), ("train", "", "")]
    commands += [("vocab", run), ("list", where), ("sample", where / "none")]
    commands = commands[: effort.of(len(commands), 4)]
    unsaid = mock.patch("charrnn.cli.main.OSError", KeyError, create=True)
    unheard = mock.patch("charrnn.cli.main.BrokenPipeError", KeyError, create=True)
    good, problems, count = 0, [], 0
    for number, name in ((1, "output"), (2, "error")):
        for target in targets:
            for arguments in commands:
                count += 1
                new = folder()
                is_training = arguments[0] == "train"
                function = train(new, steps=30) if is_training else command(*arguments)
                with patched(unsaid, unheard, when=sabotaged):
                    ended = fork(without_terminal(onto(number, target, function))).wait(60)
                codes = {4} if str(arguments[1]).endswith("none") else {0, 7}
                unfinished = is_training and Run(new / "run").steps()[-1:] != [30]
                fine = ended.code in codes and not ended.traceback
                fine = fine and not (unfinished and ended.code == 0)
                good += fine
                end = ", unfinished" if unfinished else ""
                problems += [] if fine else [
                    f"{arguments[0]}, {name} {target.__name__}: exit {ended.code}{end}"
                ]  # fmt: skip
    word = "ended as documented" if full in targets else "ended as documented (no /dev/full)"
    return tally(good, count, word, problems)


@check(
    "1,000,000 characters sampled through a pipe: streamed, constant memory, repeatable",
    sabotage="what was written is kept, and for the reader who leaves gathered first",
)
def long_sample(effort: Effort, sabotaged: bool) -> Result:
    """Measure the output of a new process from outside: what arrives, when, and its memory."""
    where = trained()
    length = effort.of(1_000_000, 80_000)
    run = ["sample", str(where / "run"), "-n", str(length), "--seed", "3"]
    keep = (
        "from charrnn.cli.sample import Output\n"
        "whole, kept = Output.__call__, []\n"
        "def keeping(self, text):\n"
        "    kept.append([text, len(kept)])\n"
        "    whole(self, text)\n"
        "Output.__call__ = keeping\n"
    )
    gather = (
        "import charrnn.inference.text as module\n"
        "whole = module.generate_texts\n"
        "def gathered(*arguments):\n"
        "    texts = whole(*arguments[:-1], None)\n"
        "    arguments[-1](texts[0])\n"
        "    return texts\n"
        "module.generate_texts = gathered\n"
    )

    def measured(reader_leaves_after: int | None = None) -> tuple[str, float, int, Ended, int]:
        reading, writing = os.pipe()
        sabotage = gather if reader_leaves_after else keep
        program = f"{sabotage if sabotaged else ''}from charrnn.cli.main import main; main()"
        child = start_cold(*run, program=program, output=writing)
        os.close(writing)
        digest, came, first, early, late = hashlib.sha256(), 0, 0.0, 0, 0
        while piece := os.read(reading, 1 << 12):
            first = first or time.monotonic() - child.began
            digest.update(piece)
            came += len(piece)
            if reader_leaves_after and came >= reader_leaves_after:
                break
            resident = resident_memory(child.pid)
            early = early or (resident if came > length // 20 else 0)
            late = max(late, resident) if early else 0
        os.close(reading)
        ended = child.wait(600)
        return digest.hexdigest(), first / ended.seconds, late - early, ended, came

    one, again = measured(), measured()
    head = measured(reader_leaves_after=10)
    same = one[0] == again[0] and one[4] > length
    growth = max(one[2], again[2])
    streamed = max(one[1], again[1])
    quiet = head[3].code == 0 and not head[3].errors.strip()
    sooner = head[3].seconds < one[3].seconds / 2
    return Result(
        same and growth < 5 << 20 and streamed < 0.5 and quiet and sooner,
        f"{length:,} characters, first after {streamed:.0%} of the time, memory grew by "
        f"{growth / (1 << 20):.1f} MB, same SHA-256 twice: {same}; left after 10 bytes: exit "
        f"{head[3].code} after {head[3].seconds:.1f} of {one[3].seconds:.1f} s",
    )


def resident_memory(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it has ended."""
    with contextlib.suppress(OSError, IndexError):
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024
    return 0
