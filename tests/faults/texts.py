"""Texts of every kind: valid, broken, and changing while they are read."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from charrnn.data.corpus import fingerprint, load_corpus
from charrnn.data.sources import Document, find_sources
from charrnn.data.vocabulary import CharacterVocabulary
from charrnn.errors import DataError
from tests.faults.harness import (
    Effort,
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
    ("UTF-16", LINE.encode("utf-16-le") * 9, 3, "is utf-16-le without a byte order mark"),
]


def trained(**changes: object) -> Path:
    """Make a folder with a finished tiny run in it."""
    where = folder()
    ended = fork(train(where, steps=10, **changes)).wait()
    if ended.code:
        raise RuntimeError(ended.errors)
    return where


def inside(where: Path, function: Callable[[], object]) -> Callable[[], object]:
    """Wrap `function`: run it with `where` as the working directory."""

    def run() -> object:
        os.chdir(where)
        return function()

    return run


@check("texts of every kind", sabotage="decoding is not strict", ci=True)
def texts(effort: Effort, sabotaged: bool) -> Result:
    good, problems = 0, []
    loose = (
        mock.patch("charrnn.data.corpus._check_encoding"),
        mock.patch(
            "charrnn.data.corpus.codecs.getincrementaldecoder",
            lambda name: lambda errors: codecs.lookup(name).incrementaldecoder("replace"),
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
    if sabotaged:
        cases = [case for case in cases if case[2]]  # Valid texts are accepted in any case.
    with patched(*loose, when=sabotaged):
        for name, function, code, said in cases:
            ended = fork(inside(folder(), function)).wait()
            if ended.code == code and said in ended.errors and not ended.traceback:
                good += 1
            else:
                problems.append(f"{name}: exit {ended.code}, {ended.errors[-200:]}")
    return tally(good, len(cases), "with the outcome that is documented", problems)


BEFORE = LINE * 400  # longer than what is read ahead


def extended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more of it")


def exchanged(path: Path) -> None:
    path.write_bytes((LINE[::-1] * 400).encode())


def shortened(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def spoiled(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


def removed(path: Path) -> None:
    path.unlink()


CHANGES = (extended, exchanged, shortened, spoiled, removed)


def changed_at(
    change: Callable[[Path], None], reading: int, middle: bool
) -> contextlib.AbstractContextManager[Any]:
    """Return a patch that calls `change` before read number `reading`, or in its middle."""
    begun = 0

    def chunks(document: Document, whole: Any = Document.chunks) -> Iterator[bytes]:
        nonlocal begun
        begun += 1
        now = begun == reading
        if now and not middle:
            change(document.path)
        for i, chunk in enumerate(whole(document)):
            if now and middle and i == 1:
                change(document.path)
            yield chunk

    return mock.patch.object(Document, "chunks", chunks)


@check(
    "a text that changes in any way at each moment of its four readings",
    sabotage="it is not read once more at the end",
)
def changing_texts(effort: Effort, sabotaged: bool) -> Result:
    """Check: either a one-line error, or the ids of one version of the text, never a mixture."""
    good, problems, count, refused = 0, [], 0, 0
    first: list[Any] = []

    def trusting(documents: Any) -> Any:
        if not first:
            first.append(fingerprint(documents))
        return first[0]

    for vocabulary in ("character", "byte"):
        for change in CHANGES:
            for reading in (1, 2, 3, 4):
                for middle in (False, True):
                    count += 1
                    first.clear()
                    path = folder() / "text.txt"
                    path.write_text(BEFORE)
                    name = f"{change.__name__}, reading {reading}, {middle=}, {vocabulary}"
                    try:
                        with (
                            scratch_cache(),
                            changed_at(change, reading, middle),
                            mock.patch("charrnn.data.sources.CHUNK", 200),
                            patched(
                                mock.patch("charrnn.data.corpus.fingerprint", trusting),
                                when=sabotaged,
                            ),
                        ):
                            corpus = load_corpus(find_sources([str(path)]), vocabulary=vocabulary)
                    except DataError as error:
                        refused += 1
                        good += "\n" not in str(error)
                        problems += [f"{name}: {error}"] if "\n" in str(error) else []
                        continue
                    spelled = corpus.vocabulary.decode(corpus.ids[0 : len(corpus.ids)].tolist())
                    after = path.read_bytes() if path.exists() else b""
                    if spelled in (BEFORE, after.decode("utf-8", "surrogateescape")):
                        good += 1
                    else:
                        problems.append(f"{name}: ids of no version of the text")
    return tally(good, count, f"moments ({refused} refused)", problems)


@check(
    "decode after encode is the text, whatever is cut where",
    sabotage="each piece is decoded for itself, what is bad replaced",
)
def round_trips(effort: Effort, sabotaged: bool) -> Result:
    """Check characters and bytes, with files read whole and in pieces of 1 to 7 bytes."""

    class Forgetful(codecs.IncrementalDecoder):
        def decode(self, chunk: Any, final: bool = False) -> str:
            return bytes(chunk).decode("utf-8", "replace")

        def getstate(self) -> tuple[bytes, int]:
            return b"", 0

    texts = [(name, content) for name, content, code, _ in TEXTS if code == 0]
    texts.append(("line ends of every kind", "a\r\nb\nc\rd\u2028e\u0085f\v\f\x1c\n".encode() * 40))
    texts.append(("outside the first plane", "\U0010ffff\U0001f600\u0301é\ufeff\n".encode() * 40))
    good, problems, count = 0, [], 0
    forgetful = mock.patch(
        "charrnn.data.corpus.codecs.getincrementaldecoder", return_value=Forgetful
    )
    for name, content in texts:
        path = folder() / "text.txt"
        path.write_bytes(content)
        for vocabulary in ("character", "byte"):
            for size in (1, 2, 3, 4, 7, 1 << 20):
                count += 1
                with (
                    scratch_cache(),
                    mock.patch("charrnn.data.sources.CHUNK", size),
                    patched(forgetful, when=sabotaged),
                ):
                    corpus = load_corpus(find_sources([str(path)]), vocabulary=vocabulary)
                    spelled = corpus.vocabulary.decode(corpus.ids[0 : len(corpus.ids)].tolist())
                whole = content.decode("utf-8")
                expected = whole.removeprefix("\ufeff") if vocabulary == "character" else whole
                if spelled == expected:
                    good += 1
                else:
                    problems.append(f"{name}, {vocabulary}, pieces of {size}: {spelled[:40]!r}")
    return tally(good, count, "texts x vocabularies x pieces", problems)


@contextlib.contextmanager
def scratch_cache() -> Iterator[None]:
    """Use an empty cache, so that earlier texts have to be prepared again."""
    cache = folder()
    with mock.patch.dict(os.environ, {"CHARRNN_CACHE_DIR": str(cache)}):
        yield
    shutil.rmtree(cache)


def as_nobody(function: Callable[[], object]) -> Callable[[], object]:
    """Wrap `function`: run it without root's right to read everything."""

    def run() -> object:
        home = folder()
        if os.geteuid() == 0:
            os.chmod(home, 0o777)
            os.chmod(tempfile.gettempdir(), 0o711)
            os.setgid(65534)
            os.setuid(65534)
        os.environ["CHARRNN_CACHE_DIR"] = str(home)
        return function()

    return run


@check("paths that cannot be read as a text", sabotage="the system's errors are not translated")
def unreadable(effort: Effort, sabotaged: bool) -> Result:
    """Check that each ends within seconds, with one line and a documented exit code."""
    where = folder()
    os.chmod(where, 0o755)
    (where / "locked.txt").write_text(LINE)
    os.chmod(where / "locked.txt", 0)
    (where / "locked").mkdir()
    (where / "locked" / "text.txt").write_text(LINE)
    os.chmod(where / "locked", 0)
    (where / "loop").symlink_to("loop")
    (where / "broken.txt.gz").write_bytes(b"\x1f\x8bno")
    (where / "cut.txt.gz").write_bytes(gzip.compress(LINE.encode() * 20)[:-6])
    (where / "broken.txt.zst").write_bytes(b"\x28\xb5no")
    (where / "folder").mkdir()
    (where / "folder" / "dangling").symlink_to("nowhere")
    os.mkfifo(where / "folder" / "pipe")

    @contextlib.contextmanager
    def untranslated(document: Document, whole: bool = True) -> Iterator[Any]:
        yield document.path.open("rb")

    def through_a_pipe() -> object:
        reading, writing = os.pipe()
        os.close(writing)
        return command("train", f"/dev/fd/{reading}", *tiny_arguments(2))()

    cases: list[tuple[str, Callable[[], object], int, str]] = [
        (name[:20], command("train", f"{where}/{name}", *tiny_arguments(2)), code, said)
        for name, code, said in (
            ("locked.txt", 3, "cannot read"),
            ("locked", 3, "no text files"),
            ("locked/text.txt", 7, "Permission denied"),
            ("loop", 3, "loop"),
            ("broken.txt.gz", 3, "damaged gzip"),
            ("cut.txt.gz", 3, "cannot read"),
            ("broken.txt.zst", 3, "damaged zstd"),
            ("folder", 3, "no text files"),
            ("no\0thing", 3, "no file"),
            ("x" * 5000, 3, "no file"),
        )
    ]
    cases.append(("nothing", command("train", os.devnull, *tiny_arguments(2)), 3, "is empty"))
    if Path("/dev/fd").exists():
        cases.append(("a closed pipe", through_a_pipe, 3, "is empty"))
    good, problems = 0, []
    with patched(mock.patch.object(Document, "open", untranslated), when=sabotaged):
        for name, function, code, said in cases:
            ended = fork(as_nobody(function)).wait(20)
            lines = [line for line in ended.errors.splitlines() if line.startswith("charrnn: ")]
            fine = ended.code == code and len(lines) == 1 and said in lines[0]
            good += fine
            problems += [] if fine else [f"{name}: exit {ended.code}, {ended.errors[-150:]}"]
    return tally(good, len(cases), "refused in one line", problems)


@check("a text of one line of 1 GB", sabotage="read in one piece", slow=True)
def one_long_line(effort: Effort, sabotaged: bool) -> Result:
    where = folder()
    size = 1 << (28 if sabotaged else 30)  # A quarter, read at once, is too much.
    block = ("To be, or not to be, that is the question: " * 25000).encode()[: 1 << 20]
    with (where / "line.txt").open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
    steps = ["--steps", "2", "--hidden-size", "32", "--batch-size", "4", "--window", "16"]
    steps += ["--set", "evaluation.characters=2000", "--set", "evaluation.warmup=10"]
    steps += ["--set", "data.split=[0.99999, 0.00001]", "--set", "threads=1"]
    program = "import charrnn.data.sources as s; s.CHUNK = 1 << 31; " if sabotaged else ""
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
    from charrnn.data.vocabulary import CharacterVocabulary

    whole = CharacterVocabulary.encode
    silent = mock.patch.object(
        CharacterVocabulary, "encode", lambda self, text, unknown="skip": whole(self, text, "skip")
    )
    good, problems = 0, []
    with patched(silent, when=sabotaged):
        for function, names in cases:
            ended = fork(function).wait()
            named = (
                all(name in ended.errors for name in names) and "unknown to skip" in ended.errors
            )
            good += ended.code == 3 and named
            problems += [] if ended.code == 3 and named else [ended.errors]
        for function in allowed:
            ended = fork(function).wait()
            good += ended.code == 0
            problems += [] if ended.code == 0 else [ended.errors]
    return tally(good, 6, "named, or left out on request", problems)


@check(
    "characters left out with --unknown skip count for nothing",
    sabotage="they are read as the first character of the vocabulary",
)
def skipped(effort: Effort, sabotaged: bool) -> Result:
    """Check that a text with unknown characters scores and samples as the text without them."""
    where = trained()
    clean = (where / "text.txt").read_text()[:200]
    dirty = "".join(c + ("é\u200d" if i % 9 == 0 else "") for i, c in enumerate(clean))
    (where / "clean.txt").write_text(clean, "utf-8")
    (where / "dirty.txt").write_text(dirty, "utf-8")

    def replaced(self: Any, text: str, unknown: str = "error") -> Any:
        ids = self._lookup(text)
        return np.where(ids < self.size, ids, 0).astype(np.uint8)

    def score(name: str) -> dict[str, Any]:
        ended = fork(
            command("eval", where / "run", where / name, "--unknown", "skip", "--json")
        ).wait()
        return json.loads(ended.output) if ended.code == 0 else {"failed": ended.errors}

    def sample(prompt: str) -> str:
        arguments = ["--prompt", prompt, "--unknown", "skip", "-n", 40, "--seed", 1, "--json"]
        ended = fork(command("sample", where / "run", *arguments)).wait()
        return str(json.loads(ended.output)["text"]) if ended.code == 0 else ended.errors

    with patched(mock.patch.object(CharacterVocabulary, "encode", replaced), when=sabotaged):
        scores = [score("clean.txt"), score("dirty.txt")]
        samples = [sample("abc"), sample("aébc\u200d")]
        mixed = fork(resume(where, "run", "--data", where / "dirty.txt", "--steps", 12)).wait()
    nats = [value.get("nats_per_character", math.nan) for value in scores]
    counted = scores[1].get("unknown_characters")
    named = "U+00E9" in mixed.errors and "U+200D" in mixed.errors and mixed.code == 3
    return Result(
        nats[0] == nats[1] and counted == len(dirty) - len(clean) and samples[0] == samples[1]
        and named,
        f"{nats[0]:.4f} and {nats[1]:.4f} nats, {counted} left out, same sample: "
        f"{samples[0] == samples[1]}, named on resume: {named}",
    )  # fmt: skip
