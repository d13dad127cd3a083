"""What people type, the texts they bring, and the terminals and pipes they use."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import random
import re
import resource
import string
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from charrnn.checkpoint import load_checkpoint, save_checkpoint
from charrnn.config import all_keys, build_config
from charrnn.errors import ConfigError
from charrnn.layout import check_layout
from charrnn.runs import Run
from charrnn.sources import Document
from tests.faults.harness import (
    Effort,
    Ended,
    Result,
    check,
    cold,
    command,
    fork,
    resume,
    tally,
    tiny_arguments,
    train,
)
from tests.faults.killing import folder, patched

GOLDEN = Path(__file__).parents[1] / "golden"


def trained(**changes: object) -> Path:
    """A folder with a finished tiny run in it."""
    where = folder()
    ended = fork(train(where, steps=10, **changes)).wait()
    if ended.code:
        raise RuntimeError(ended.errors)
    return where


def mistyped(word: str, draw: random.Random) -> str:
    """`word` after one edit: an insertion, deletion, substitution or transposition."""
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


def inside(where: Path, function: Callable[[], object]) -> Callable[[], object]:
    """`function` with `where` as the working directory."""

    def run() -> object:
        os.chdir(where)
        return function()

    return run


# Texts --------------------------------------------------------------------------------------------

LINE = "to be, or not to be: that is the question\n"
# Name, content, exit code, and what must be said.
TEXTS: list[tuple[str, bytes, int, str]] = [
    ("empty", b"", 3, "is empty"),
    ("one character", b"a", 3, "give a longer text"),
    ("shorter than a window", b"to be or not to be, " * 3, 0, ""),
    ("one symbol only", b"a" * 500, 0, ""),
    ("bad UTF-8", LINE.encode() * 9 + b"\xff\xfe", 3, "byte 0xff at offset 378"),
    ("byte order mark", b"\xef\xbb\xbf" + LINE.encode() * 20, 0, ""),
    ("only a byte order mark", b"\xef\xbb\xbf", 3, "is empty"),
    ("CRLF", LINE.replace("\n", "\r\n").encode() * 20, 0, ""),
    ("NUL bytes", b"ab\0cd\n" * 100, 0, ""),
    ("emoji and joiners", "👩‍👩‍👧 é 🇫🇷\n".encode() * 60, 0, ""),
    ("lone surrogates", LINE.encode() * 9 + b"\xed\xa0\x80", 3, "byte 0xed at offset 378"),
    ("UTF-16", LINE.encode("utf-16") * 9, 3, "is not utf-8"),
]


def changing(when: str) -> Callable[[], Any]:
    """A patch under which the text changes or vanishes between two readings, or in one."""

    def chunks(document: Any, whole: Any = Document.chunks) -> Any:
        for i, chunk in enumerate(whole(document)):
            if when == "vanishes" and i == 0:
                document.path.unlink()
            if when == "changes" and i == 0:
                with document.path.open("ab") as file:
                    file.write(b"more")
            yield chunk

    return lambda: mock.patch.object(Document, "chunks", chunks)


@check("texts of every kind", sabotage="decoding is not strict, and nobody looks for changes")
def texts(effort: Effort, sabotaged: bool) -> Result:
    good, problems = 0, []
    loose = (
        mock.patch("charrnn.corpus._fingerprint", return_value=("0" * 64, [1])),
        mock.patch("charrnn.corpus._check_encoding"),
        mock.patch(
            "charrnn.corpus.codecs.getincrementaldecoder",
            lambda name: (
                lambda errors: __import__("codecs").lookup(name).incrementaldecoder("replace")
            ),
        ),
    )
    cases: list[tuple[str, Callable[[], object], int, str]] = []
    for name, content, code, said in TEXTS:
        where = folder()
        (where / "text.txt").write_bytes(content)
        arguments = ["train", where / "text.txt", "--out", where / "run"]
        small = tiny_arguments(**{"training.steps": 2, "training.batch_size": 1,
                                  "training.window": 4})  # fmt: skip
        cases.append((name, command(*arguments, *small), code, said))
    binaries = folder()
    for i in range(3):
        (binaries / f"{i}.bin").write_bytes(bytes(range(256)))
    cases.append(("a folder of binaries", command("train", binaries), 3, "3 binary files"))
    cases.append(("no such text", command("train", binaries / "x"), 3, "no file"))
    for when in ("changes", "vanishes"):
        where = folder()
        (where / "text.txt").write_text(LINE * 20)
        patch = changing(when)

        function = command("train", where / "text.txt", *tiny_arguments(2))

        def unsteady(patch: Any = patch, function: Any = function) -> object:
            with patch():
                return function()

        cases.append((f"a text that {when} while it is read", unsteady, 3, "text.txt"))
    with patched(*loose, when=sabotaged):
        for name, function, code, said in cases:
            ended = fork(inside(folder(), function)).wait()
            if ended.code == code and said in ended.errors and not ended.traceback:
                good += 1
            else:
                problems.append(f"{name}: exit {ended.code}, {ended.errors[-200:]}")
    return tally(good, len(cases), "with the outcome that is documented", problems)


@check("a text of one line of 1 GB", sabotage="read in one piece", slow=True)
def one_long_line(effort: Effort, sabotaged: bool) -> Result:
    where = folder()
    size = 1 << (28 if sabotaged else 30)  # A quarter is more than enough in one piece.
    block = ("To be, or not to be, that is the question: " * 25000).encode()[: 1 << 20]
    with (where / "line.txt").open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
    steps = ["--steps", "2", "--hidden-size", "32", "--batch-size", "4", "--window", "16"]
    steps += ["--set", "evaluation.characters=2000", "--set", "evaluation.warmup=10"]
    steps += ["--set", "data.split=[0.99999, 0.00001]", "--set", "threads=1"]
    program = "import charrnn.sources as s; s.CHUNK = 1 << 31; " if sabotaged else ""
    ended = cold(
        "train", where / "line.txt", "--out", where / "run", *steps,
        program=f"{program}from charrnn.cli.main import main; main()",
    )  # fmt: skip
    return Result(
        ended.code == 0 and ended.peak < 600 << 20,
        f"exit {ended.code}, peak {ended.peak >> 20} MB, {ended.seconds:.0f} s",
    )


@check("characters the model has never seen", sabotage="what is unknown is left out silently")
def unseen(effort: Effort, sabotaged: bool) -> Result:
    where = trained()
    edited = where / "edited.txt"
    edited.write_text((where / "text.txt").read_text() + "é → é\n", "utf-8")
    cases = [
        (command("sample", where / "run", "-n", 5, "--prompt", "aé"), ["U+00E9"]),
        (command("eval", where / "run", edited), ["U+00E9 'é' (2 times)", "U+2192"]),
        (resume(where, "run", "--data", edited, "--steps", 20), ["U+00E9", "U+2192"]),
    ]
    allowed = [
        command("sample", where / "run", "-n", 5, "--prompt", "aé", "--unknown", "skip"),
        command("eval", where / "run", edited, "--unknown", "skip"),
        resume(where, "run", "--data", edited, "--steps", 20, "--unknown", "skip"),
    ]
    from charrnn.vocabulary import CharacterVocabulary

    whole = CharacterVocabulary.encode
    silent = mock.patch.object(
        CharacterVocabulary, "encode", lambda self, text, unknown="skip": whole(self, text, "skip")
    )
    good, problems = 0, []
    with patched(silent, when=sabotaged):
        for function, names in cases:
            ended = fork(function).wait()
            named = all(name in ended.errors for name in names) and "--unknown skip" in ended.errors
            good += ended.code == 3 and named
            problems += [] if ended.code == 3 and named else [ended.errors]
        for function in allowed:
            ended = fork(function).wait()
            good += ended.code == 0
            problems += [] if ended.code == 0 else [ended.errors]
    return tally(good, 6, "named, or left out on request", problems)


# Numbers and memory -------------------------------------------------------------------------------


class Boundless:
    """Larger than any number, even than what is none."""

    def __mul__(self, _: float) -> Boundless:
        return self

    def __gt__(self, _: float) -> bool:
        return True


@check("a learning rate of 1e6", sabotage="nobody looks whether numbers are finite")
def diverging(effort: Effort, sabotaged: bool) -> Result:
    good, count, problems = 0, 0, []
    import torch

    blind = mock.patch.object(
        torch, "isfinite", lambda value: torch.ones_like(torch.as_tensor(value), dtype=torch.bool)
    )
    nothing_is_hopeless = mock.patch("charrnn.session.HOPELESS", Boundless())
    for optimizer in ("sgd", "adamw"):
        for cell, activation in (("lstm", "tanh"), ("vanilla", "relu")):
            count += 1
            where = folder()
            changes: dict[str, object] = {
                "model.cell": cell,
                "model.activation": activation,
                "training.optimizer": optimizer,
                "training.learning_rate": 1e6,
                "training.schedule": "constant",
            }
            with patched(blind, nothing_is_hopeless, when=sabotaged):
                ended = fork(train(where, **changes)).wait()
            run = Run(where / "run")
            finite = True
            for step in run.steps():
                tensors = load_checkpoint(run.checkpoint_path(step)).tensors.values()
                finite &= all(np.isfinite(value).all() for value in tensors)
            if finite and not ended.traceback and ended.code == 6:
                good += 1
            else:
                problems.append(f"{optimizer} {cell}: exit {ended.code}, {ended.errors[-150:]}")
    return tally(good, count, "exit 6, nothing non-finite saved", problems)


@check("out of memory", sabotage="the error is not recognised")
def out_of_memory(effort: Effort, sabotaged: bool) -> Result:
    where = trained()
    status = Path("/proc/self/status")
    if not status.exists():
        return Result(False, "this machine does not say how much memory a process has")
    now = int(status.read_text().split("VmSize:")[1].split()[0]) * 1024
    text = where / "long.txt"
    text.write_text(LINE * 40_000)
    large = tiny_arguments(**{"training.batch_size": 2048, "training.window": 512,
                              "model.hidden_size": 512})  # fmt: skip
    deaf = mock.patch("charrnn.errors.is_out_of_memory", return_value=False)
    deaf_main = mock.patch("charrnn.cli.main.is_out_of_memory", return_value=False)
    with patched(deaf, deaf_main, when=sabotaged):
        ended = fork(
            command("train", text, "--out", where / "big", *large),
            {resource.RLIMIT_AS: now + (1 << 30)},
        ).wait()
    run = Run(where / "big")
    whole = run.steps() == [0]
    for step in run.steps():
        load_checkpoint(run.checkpoint_path(step), check_layout)
    said = "--batch-size 1024" in ended.errors
    return Result(
        ended.code == 1 and said and whole and not ended.traceback,
        f"exit {ended.code}, batch size suggested: {said}, checkpoint whole: {whole}",
    )


# Terminals and pipes ------------------------------------------------------------------------------


def streams(
    arguments: list[object],
    closed: tuple[int, ...] = (),
    pipe: bool = False,
    **environment: str,
) -> Ended:
    """A fresh `charrnn` with streams closed, or standard output a pipe that nobody reads on."""
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
    """A folder whose sitecustomize forbids changing how streams encode."""
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


# Sampling -----------------------------------------------------------------------------------------


def watched(arguments: list[object], hold: bool) -> Callable[[], object]:
    """`charrnn sample` with its memory after 5% and at the end, and SHA-256, on standard error."""

    def run() -> None:
        length = int(str(arguments[arguments.index("-n") + 1]))
        digest, written, began, first = hashlib.sha256(), 0, 0, 0.0
        held: list[str] = []
        start = time.monotonic()

        def write(self: Any, text: str) -> None:
            nonlocal written, began, first
            digest.update(text.encode())
            written += len(text)
            first = first or time.monotonic() - start
            if hold:
                held.extend(text + str(written))
            if not began and written > length // 20:
                began = memory()

        patch = mock.patch("charrnn.cli.sample.Writer.__call__", write)
        with patch, contextlib.suppress(SystemExit):
            command(*arguments)()
        took = time.monotonic() - start
        print(json.dumps({"growth": memory() - began, "sha256": digest.hexdigest(),
                          "written": written, "first": first / took}), file=sys.stderr)  # fmt: skip

    return run


def memory() -> int:
    """Resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@check("1,000,000 characters sampled", sabotage="what was written is kept")
def long_sample(effort: Effort, sabotaged: bool) -> Result:
    where = trained()
    length = 200_000 if sabotaged else effort.of(1_000_000, 100_000)
    arguments: list[object] = ["sample", where / "run", "-n", length, "--seed", 3]
    reports = []
    for _ in range(1 if sabotaged else 2):
        ended = fork(watched(arguments, sabotaged)).wait(600)
        reports.append(json.loads(ended.errors.splitlines()[-1]))
    growth = max(report["growth"] for report in reports)
    same = len({report["sha256"] for report in reports}) == 1
    whole = all(report["written"] == length for report in reports)
    streamed = max(report["first"] for report in reports)
    return Result(
        growth < 5 << 20 and same and whole and streamed < 0.2,
        f"{length:,} characters, memory grew by {growth / (1 << 20):.1f} MB, "
        f"same SHA-256 twice: {same}, first character after {streamed:.0%} of the time",
    )


# Other versions, other machines -------------------------------------------------------------------


def golden_score(path: Path, text: str, seed: int) -> dict[str, Any]:
    """The loss of a checkpoint on a text, and what it writes for a seed."""
    from charrnn.trained import load

    model = load(path)
    return {
        "nats_per_character": model.evaluate(text).nats_per_character,
        "sample": model.sample_text(60, seed=seed),
    }


@check("golden checkpoint of format 1, and one of a newer format", sabotage="one weight changed")
def golden(effort: Effort, sabotaged: bool) -> Result:
    recorded = json.loads((GOLDEN / "format-1.json").read_text())
    path = GOLDEN / "format-1.safetensors"
    where = folder()
    original = load_checkpoint(path)
    if sabotaged:
        original.tensors["model/head.weight"][0, 0] += 0.01
        path = where / "changed.safetensors"
        save_checkpoint(path, original.tensors, original.metadata)
    ended = fork(lambda: print(json.dumps(golden_score(path, recorded["text"], 1)))).wait()
    found = json.loads(ended.output)
    (where / "text.txt").write_text(recorded["text"])
    again = fork(
        command("resume", path, "--data", where / "text.txt", "--out", where / "run",
                "--steps", recorded["step"] + 2)
    ).wait()  # fmt: skip
    newer = mock.patch("charrnn.checkpoint.FORMAT", 99)
    with newer:
        save_checkpoint(where / "newer.safetensors", original.tensors, original.metadata)
    refused = fork(command("sample", where / "newer.safetensors")).wait()
    difference = abs(found["nats_per_character"] - recorded["nats_per_character"])
    return Result(
        difference < 1e-6
        and found["sample"] == recorded["sample"]
        and again.code == 0
        and refused.code == 4
        and "upgrade charrnn" in refused.errors,
        f"loss off by {difference:.1e}, resume exits {again.code}, newer exits {refused.code}",
    )


@check("a run from a GPU, from other threads, with another text", sabotage="differences unsaid")
def elsewhere(effort: Effort, sabotaged: bool) -> Result:
    where = trained()
    path = Run(where / "run").checkpoint_path(10)
    saved = load_checkpoint(path)
    metadata = json.loads(json.dumps(saved.metadata))
    metadata["config"]["device"] = metadata["environment"]["device"] = "cuda:0"
    metadata["environment"]["threads"] = 64
    metadata["environment"]["packages"]["torch"] = "9.9"
    save_checkpoint(path, saved.tensors, metadata)
    text = where / "other.txt"
    text.write_text((where / "text.txt").read_text()[::-1])
    with patched(mock.patch("charrnn.runs.differences", return_value=[]), when=sabotaged):
        codes = [
            fork(command(*arguments)).wait().code
            for arguments in (["sample", path, "-n", 5], ["eval", path], ["info", path])
        ]
        ended = fork(
            command("resume", path, "--data", text, "--out", where / "on", "--steps", 12)
        ).wait()
    said = [
        word in ended.errors
        for word in ("device: cuda:0 before, cpu now", "threads: 64 before", "torch': '9.9'",
                     "the text is not the one")
    ]  # fmt: skip
    return Result(
        codes == [0, 0, 0] and ended.code == 0 and all(said),
        f"exits {[*codes, ended.code]}, {sum(said)} of 4 differences said",
    )
