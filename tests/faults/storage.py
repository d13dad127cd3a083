"""Disks that fill up or cannot be written, damaged caches and damaged checkpoints."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from charrnn.config.schema import Config
from charrnn.data.cache import cache_folder
from charrnn.data.corpus import load_corpus
from charrnn.data.sources import find_sources
from charrnn.errors import CheckpointError, StorageError
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.runs.directory import Run
from charrnn.tasks.data import rules_of
from charrnn.training.trainer import Trainer
from tests.faults.harness import (
    Effort,
    Ended,
    Result,
    check,
    command,
    fork,
    record,
    side_by_side,
    tally,
    tiny_arguments,
    train,
    write_text,
)

PAGE = 4096
NEW_USER, NEW_MOUNTS = 0x10000000, 0x20000  # CLONE_NEWUSER, CLONE_NEWNS

# Disks ---------------------------------------------------------------------------------------


def own_mounts() -> bool:
    """Let this process mount file systems that only it and its children see; False if refused."""
    library = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if not hasattr(library, "unshare") or library.unshare(NEW_USER | NEW_MOUNTS):
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError:
        return False
    return mounted(Path(tempfile.mkdtemp()), "size=4k")


def mounted(folder: Path, options: str) -> bool:
    """Mount a tmpfs at `folder`, or change the one that is there (`remount,...`)."""
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def full_after(folder: Path, room: int) -> Iterator[None]:
    """Without a mount: make writing below `folder` fail after `room` bytes."""
    left, real = room, io.open

    class Limited(io.FileIO):
        def write(self, data: Any) -> int:
            nonlocal left
            if len(data) > left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.name))
            left -= len(data)
            return super().write(data)

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not set("wax") & set(mode) or not str(file).startswith(f"{folder}/"):
            return real(file, mode, *arguments, **options)
        writer = io.BufferedWriter(Limited(file, mode.strip("bt")))
        return writer if "b" in mode else io.TextIOWrapper(writer, "utf-8")

    with mock.patch.object(io, "open", opened):
        yield


@contextlib.contextmanager
def refusing(folder: Path) -> Iterator[None]:
    """Without a mount: let nothing below `folder` be created or opened for writing."""

    def read_only(real: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if str(path).startswith(f"{folder}/") and writes(*arguments):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return real(path, *arguments, **options)

        return call

    with (
        mock.patch.object(io, "open", read_only(io.open, lambda m="r", *_: set("wax+") & set(m))),
        mock.patch.object(os, "open", read_only(os.open, lambda flags, *_: flags & os.O_ACCMODE)),
        mock.patch.object(os, "mkdir", read_only(os.mkdir, lambda *_: True)),
    ):
        yield


def write_in_place(path: Path, content: bytes, verify: object = None) -> None:
    """Write a file in place, as many trainers do instead of `write_atomically`."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(
            f"cannot write {path} ({len(content):,} bytes): {error.strerror}"
        ) from error


@contextlib.contextmanager
def writing_in_place(sabotaged: bool) -> Iterator[None]:
    """Take away the temporary file and the rename."""
    with contextlib.ExitStack() as stack:
        for module in ("runs.checkpoint", "runs.directory") if sabotaged else ():
            stack.enter_context(mock.patch(f"charrnn.{module}.write_atomically", write_in_place))
        yield


def damaged_files(run: Run) -> list[str]:
    """Return the files of a run that are damaged."""
    found = []
    for step in run.steps():
        try:
            run.load(step)
        except CheckpointError as error:
            found.append(str(error))
    for name in ("best.json", "environment.json", "owner.json"):
        with contextlib.suppress(FileNotFoundError):
            try:
                json.loads((run.path / name).read_text())
            except ValueError as error:
                found.append(f"{name}: {error}")
    return found


def after_no_room(run: Run, ended: Ended, go_on: Callable[[], object], straight: str) -> str:
    """Return what is wrong after a start without room and a second one with room; or ''."""
    last = (ended.errors.splitlines() or [""])[-1]
    begun = bool(run.steps())
    if ended.code != 7 or ended.traceback:
        return f"exit {ended.code}: {last}"
    if not last.startswith("charrnn: cannot write ") or str(run.path) not in last:
        return f"the path is not named: {last}"
    if " bytes" not in last:
        return f"the bytes needed are not named: {last}"
    if damaged := damaged_files(run):
        return damaged[0]
    if not begun:
        shutil.rmtree(run.path)
    again = fork(go_on).wait()
    if again.code != 0:
        return f"the next start: exit {again.code}: {again.errors.splitlines()[-1:]}"
    if left := [str(path) for path in run.path.rglob("*writing-*")]:
        return f"left behind: {left[0]}"
    return "" if record(run.path)["checkpoint"] == straight else "it went on otherwise"


KEEP_ALL = {"checkpoints.keep_last": 100}
NOTHING: contextlib.AbstractContextManager[None] = contextlib.nullcontext()


@check(
    "disk full while training: last good checkpoint intact, exit 7, the next start works",
    sabotage="files are written in place",
    ci=True,
)
def disk_full(effort: Effort, sabotaged: bool) -> Result:
    folder = Path(tempfile.mkdtemp())
    fork(train(folder, **KEEP_ALL)).wait()
    straight = record(folder / "run")["checkpoint"]
    size = sum(path.stat().st_size for path in folder.rglob("run/**/*") if path.is_file())
    first = Run(folder / "run").checkpoint_path(0).stat().st_size + 6 * PAGE
    count = 2 if sabotaged else effort.of(50, 3)
    sizes = [first + (size - first) * i // count // PAGE * PAGE for i in range(count)]

    def work(sizes: list[int]) -> list[str]:
        real = own_mounts()
        return [f"{'tmpfs' if real else 'substitute'} {fills_up(size, real)}" for size in sizes]

    def fills_up(size: int, real: bool) -> str:
        disk = Path(tempfile.mkdtemp(dir=folder))
        write_text(folder)
        run = Run(disk / "run")
        start = command(
            "train", folder / "text.txt", "--out", run.path, *tiny_arguments(**KEEP_ALL)
        )
        if real and not mounted(disk, f"size={size}"):
            raise RuntimeError("mount failed")
        with writing_in_place(sabotaged), full_after(disk, size) if not real else NOTHING:
            ended = fork(start).wait()
        if real and not mounted(disk, "remount,size=64m"):
            raise RuntimeError("remount failed")
        go_on = command("resume", run.path) if run.steps() else start
        return after_no_room(run, ended, go_on, straight)

    found = side_by_side(work, sizes)
    problems = [text.partition(" ")[2] for text in found if text.partition(" ")[2]]
    how = found[0].partition(" ")[0]
    return tally(len(found) - len(problems), len(found), f"sizes ({how})", problems)


@check(
    "file-size limits while training: last good checkpoint intact, exit 7, the next start works",
    sabotage="files are written in place",
)
def file_size_limits(effort: Effort, sabotaged: bool) -> Result:
    folder = Path(tempfile.mkdtemp())
    fork(train(folder, **KEEP_ALL)).wait()
    straight = record(folder / "run")["checkpoint"]
    run = Run(folder / "run")
    largest = run.checkpoint_path(10).stat().st_size * 9 // 10
    for step in run.steps()[3:]:
        run.checkpoint_path(step).unlink()
    count = 2 if sabotaged else effort.of(20, 3)
    limits = [round(largest * (2048 / largest) ** (i / count)) for i in range(count - 1)]

    def work(limits: list[int]) -> list[str]:
        return [limited(limit) for limit in limits]

    def limited(limit: int) -> str:
        own = Run(Path(tempfile.mkdtemp(dir=folder)) / "run")
        shutil.copytree(run.path, own.path)
        if limit == 0:
            limit = lengthen_metrics(own, 2 * largest)
        with writing_in_place(sabotaged):
            ended = fork(command("resume", own.path), {resource.RLIMIT_FSIZE: limit}).wait()
        return after_no_room(own, ended, command("resume", own.path), straight)

    problems = [text for text in side_by_side(work, [0, *limits]) if text]
    return tally(count - len(problems), count, "limits", problems)


def lengthen_metrics(run: Run, size: int) -> int:
    """Make metrics.jsonl as long as that of a long run, so that it reaches a limit first."""
    path = run.path / "metrics.jsonl"
    line = path.read_text().splitlines(keepends=True)[0]
    path.write_text(line * (size // len(line)))
    return path.stat().st_size


def noted_run(self: Trainer[Any], until: int) -> Iterator[Any]:
    """Do as `Trainer.run`, and note when the first step is asked for."""
    print("TRAINED", flush=True)
    yield from REAL_RUN(self, until)


REAL_RUN = Trainer.run


@contextlib.contextmanager
def lazily() -> Iterator[None]:
    """Write nothing before the first step."""
    with contextlib.ExitStack() as stack:
        for name in ("cut_metrics", "record_environment", "write_config", "save"):
            stack.enter_context(mock.patch.object(Run, name))
        stack.enter_context(mock.patch.object(Run, "lock", return_value=NOTHING))
        yield


def refused(ended: Ended) -> str:
    """Return what is wrong with a start that must be refused at once with exit 7; or ''."""
    last = (ended.errors.splitlines() or [""])[-1]
    if "TRAINED" in ended.output:
        return f"it trained first, then exit {ended.code}: {last}"
    good = ended.code == 7 and not ended.traceback and last.startswith("charrnn: cannot ")
    return "" if good else f"exit {ended.code}: {last}"


@check(
    "read-only run directory: exit 7 before any training",
    sabotage="nothing is locked or written until the first step is taken",
)
def read_only(effort: Effort, sabotaged: bool) -> Result:
    folder = Path(tempfile.mkdtemp())
    text = write_text(folder)

    def starts() -> None:
        disk = folder / "disk"
        disk.mkdir()
        real = own_mounts() and mounted(disk, "size=8m")
        fork(train(disk, steps=20)).wait()
        if real and not mounted(disk, "remount,ro"):
            raise RuntimeError("remount failed")
        os.chdir(disk)
        cases = {
            "a new run": ["train", text, "--out", disk / "new", *tiny_arguments()],
            "a new run of our own naming": ["train", text, *tiny_arguments()],
            "resume": ["resume", disk / "run", "--steps", 40],
        }
        with (
            mock.patch.object(Trainer, "run", noted_run),
            lazily() if sabotaged else NOTHING,
            NOTHING if real else refusing(disk),
        ):
            ended = {name: fork(command(*words)).wait() for name, words in cases.items()}
        problems = [
            f"{name}: {problem}" for name, end in ended.items() if (problem := refused(end))
        ]
        print(json.dumps(["mounted" if real else "substitute", len(cases), problems]))

    how, count, problems = json.loads(fork(starts).wait().output.splitlines()[-1])
    return tally(count - len(problems), count, f"starts ({how})", problems)


# The id cache --------------------------------------------------------------------------------


def entry() -> Path:
    """Return the one entry of the id cache."""
    (found,) = [path for path in (cache_folder() / "ids").iterdir() if len(path.name) == 64]
    return found


def at_step(number: int, action: Callable[[], object]) -> Any:
    """Call `action` in the training process after `number` steps."""

    def run(self: Trainer[Any], steps: int) -> Iterator[Any]:
        for report in REAL_RUN(self, steps):
            if report.step == number:
                action()
            yield report

    return mock.patch.object(Trainer, "run", run)


def kill_at_fsync(descriptor: int) -> None:
    """Kill the process in place of `os.fsync`."""
    os.kill(os.getpid(), signal.SIGKILL)


def damage_entry(how: str) -> None:
    """Damage the entry of the id cache."""
    ids, about = entry() / "ids.bin", entry() / "about.json"
    size = ids.stat().st_size
    match how:
        case "half of the ids":
            os.truncate(ids, size // 2)
        case "no ids":
            os.truncate(ids, 0)
        case "one id fewer":
            os.truncate(ids, size - 1)
        case "one id more":
            ids.write_bytes(ids.read_bytes() + b"\0")
        case "another id":
            content = bytearray(ids.read_bytes())
            content[size // 3] ^= 1
            ids.write_bytes(content)
        case "ids gone":
            ids.unlink()
        case "half of the description":
            os.truncate(about, about.stat().st_size // 2)
        case "no description":
            about.unlink()
        case "another description":
            about.write_text("[" * 100_000)
        case "all gone":
            shutil.rmtree(entry())
        case "a file in its place":
            place = entry()
            shutil.rmtree(place)
            place.write_text("")


BEFORE = (
    "half of the ids",
    "no ids",
    "one id fewer",
    "one id more",
    "another id",
    "ids gone",
    "half of the description",
    "no description",
    "another description",
    "all gone",
    "a file in its place",
)
DURING = ("half of the ids", "no ids", "all gone")


@check(
    "id cache truncated, damaged, gone, on a full disk, built twice at once, its builder killed",
    sabotage="its checksum and its length are not looked at",
)
def id_cache(effort: Effort, sabotaged: bool) -> Result:
    folder = Path(tempfile.mkdtemp())
    fork(train(folder, steps=20)).wait()
    straight = record(folder / "run")["checkpoint"]
    problems: list[str] = []
    count = 0

    def note(case: str, ended: Ended, run: str = "", codes: Sequence[int] = (0,)) -> None:
        """Count a start that must end with one of `codes`, and with equal weights if it trains."""
        nonlocal count
        count += 1
        last = (ended.errors.splitlines() or [""])[-1]
        if ended.code not in codes or ended.traceback:
            problems.append(f"{case}: exit {ended.code}: {last}")
        elif ended.code and not last.startswith("charrnn: "):
            problems.append(f"{case}: no message: {last}")
        elif not ended.code and record(folder / run)["checkpoint"] != straight:
            problems.append(f"{case}: it learned another text")
        elif left := list((cache_folder() / "ids").glob("scratch-*")):
            problems.append(f"{case}: left behind {left[0].name}")

    def renew() -> None:
        shutil.rmtree(cache_folder())
        text, rules = str(folder / "text.txt"), rules_of(Config())
        ended = fork(lambda: load_corpus(find_sources([text], rules=rules))).wait()
        if ended.code:
            raise RuntimeError(ended.errors)

    for i, how in enumerate(BEFORE[:: effort.of(1, 3)]):
        damage_entry(how)
        with unchecked_cache(sabotaged):
            note(how, fork(train(folder, f"before{i}", steps=20)).wait(), f"before{i}")
        renew()
    for i, how in enumerate(DURING):
        for in_memory in (0, 1 << 26)[: effort.of(2, 1)]:
            run = f"during{i}-{in_memory}"
            with (
                at_step(12, lambda how=how: damage_entry(how)),
                mock.patch("charrnn.data.id_cache.IN_MEMORY", in_memory),
                unchecked_cache(sabotaged),
            ):
                ended = fork(train(folder, run, steps=20)).wait()
            note(f"{how}, while training", ended, run, (0, 3))
            renew()
    if sabotaged:
        return tally(count - len(problems), count, "starts", problems)

    shutil.rmtree(cache_folder())
    with mock.patch.object(os, "fsync", kill_at_fsync):
        killed = fork(command("train", folder / "text.txt", *tiny_arguments(steps=20))).wait()
    left = list((cache_folder() / "ids").glob("scratch-*"))
    if killed.code != -signal.SIGKILL or not left:
        raise RuntimeError(f"the builder was not killed while building: {killed}")
    note("after a builder was killed", fork(train(folder, "killed", steps=20)).wait(), "killed")

    for i in range(effort.of(10, 1)):
        shutil.rmtree(cache_folder())
        together = [fork(train(folder, f"twice{i}{j}", steps=20)) for j in range(2)]
        for j, ended in enumerate([child.wait() for child in together]):
            note("built by two at once", ended, f"twice{i}{j}")

    (folder / "long.txt").write_text("abcdefgh\n" * 5000)
    for pages in range(1, effort.of(12, 3)):
        ended = fork(lambda pages=pages: cache_on_small_disk(folder, pages * PAGE)).wait()
        note(f"a disk of {pages} pages for the cache", ended, codes=(7,))
        if "scratch-" in ended.output or f"{45_000:,} bytes" not in ended.errors:
            problems.append(f"a disk of {pages} pages for the cache: {ended}")
    return tally(count - len(problems), count, "starts", problems)


def cache_on_small_disk(folder: Path, size: int) -> None:
    """Train with the cache on a disk that is too small, and print the files left there."""
    disk = Path(tempfile.mkdtemp(dir=folder))
    os.environ["CHARRNN_CACHE_DIR"] = str(disk)
    real = own_mounts() and mounted(disk, f"size={size}")
    try:
        with NOTHING if real else full_after(disk, size):
            command("train", folder / "long.txt", "--out", folder / "run-of-long")()
    finally:
        print(*disk.rglob("scratch-*"))


class Agreeing(str):
    """A checksum that equals every other."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def believing(module: str) -> Any:
    """Take away the verification of checksums in a module."""

    def digest(*_: object) -> Any:
        return SimpleNamespace(update=lambda _: None, hexdigest=lambda: Agreeing("0" * 64))

    known = SimpleNamespace(sha256=digest, file_digest=digest)
    return mock.patch(f"charrnn.{module}.hashlib", known)


def read_unchecked(self: Any, start: int, stop: int) -> Any:
    """Do as `IdFile._read`, but accept fewer ids than were asked for."""
    size = self._dtype.itemsize
    os.lseek(self._file, start * size, os.SEEK_SET)
    return np.frombuffer(os.read(self._file, (stop - start) * size), self._dtype)


@contextlib.contextmanager
def unchecked_cache(sabotaged: bool) -> Iterator[None]:
    """Take away both checks of the id cache."""
    with contextlib.ExitStack() as stack:
        if sabotaged:
            real = hashlib.sha256
            hidden = stack.enter_context(believing("data.id_cache"))
            hidden.sha256 = real  # It also makes the key of the entry.
            stack.enter_context(mock.patch("charrnn.data.id_cache.IdFile._read", read_unchecked))
        yield


# Checkpoints ---------------------------------------------------------------------------------


@check(
    "checkpoint truncated at every header byte and 200 places, 1,000 single bits flipped: refused",
    sabotage="its checksum is not looked at",
    ci=True,
)
def damaged_checkpoints(effort: Effort, sabotaged: bool) -> Result:
    folder = Path(tempfile.mkdtemp())
    fork(train(folder, steps=10)).wait()
    whole = Run(folder / "run").checkpoint_path(10).read_bytes()
    load_checkpoint(Run(folder / "run").checkpoint_path(10))
    header = 8 + int.from_bytes(whole[:8], "little")
    draw = random.Random(1)
    inside = range(0, header, 1 if not (sabotaged or effort.fast) else 37)
    places = effort.of(200, 50)
    cuts = [*inside, *sorted(draw.sample(range(header, len(whole)), places - 1)), len(whole) - 1]
    in_header = effort.of(500, 100)
    bits = draw.sample(range(header * 8), in_header)
    bits += draw.sample(range(header * 8, len(whole) * 8), in_header)
    path = folder / "damaged.safetensors"
    accepted = 0
    with believing("runs.checkpoint") if sabotaged else NOTHING:
        for cut in cuts:
            path.write_bytes(whole[:cut])
            accepted += not is_refused(path)
        for bit in bits:
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            accepted += not is_refused(path)
    count = len(cuts) + len(bits)
    what = f"refused ({len(inside):,} cuts in the header, {places} behind it, {len(bits):,} flips)"
    return tally(count - accepted, count, what)


def is_refused(path: Path) -> bool:
    """Return whether loading raises CheckpointError; any other exception is a defect."""
    try:
        load_checkpoint(path)
    except CheckpointError:
        return True
    return False


def damage(path: Path, how: str) -> None:
    """Damage a checkpoint."""
    content = bytearray(path.read_bytes())
    match how:
        case "a flipped bit":
            content[-100] ^= 4
        case "half a file":
            del content[len(content) // 2 :]
        case "an empty file":
            content.clear()
    path.write_bytes(content)


@check(
    "damaged checkpoint: an automatic choice falls back, with a warning; an explicit one: exit 4",
    sabotage="its checksum is not looked at",
)
def fall_back(effort: Effort, sabotaged: bool) -> Result:
    folder = Path(tempfile.mkdtemp())
    fork(train(folder, "whole", steps=40, **KEEP_ALL)).wait()
    whole = Run(folder / "whole")
    best = 20
    whole.write_best({"step": best, "nats_per_character": 2.0, "protocol": "chosen", "score": None})
    problems: list[str] = []
    count = 0

    def expect(case: str, code: int, step: int, says: str, *words: object) -> None:
        """Run a command on a copy whose checkpoint of `step` is damaged."""
        nonlocal count
        if sabotaged and count >= 3:
            return
        for how in ("a flipped bit", "half a file", "an empty file")[: effort.of(3, 1)]:
            count += 1
            run = Run(folder / "run")
            shutil.rmtree(run.path, ignore_errors=True)
            shutil.rmtree(folder / "other", ignore_errors=True)
            shutil.copytree(whole.path, run.path)
            damage(run.checkpoint_path(step), how)
            with believing("runs.checkpoint") if sabotaged else NOTHING:
                ended = fork(command(*words)).wait()
            named = f"step-{step:08d}" in ended.errors and says in ended.errors + ended.output
            if ended.code != code or ended.traceback or not named:
                problems.append(f"{case}, {how}: exit {ended.code}: {ended.errors[-300:]}")

    run, text = folder / "run", folder / "text.txt"
    last = whole.checkpoint_path(40).name
    file = run / "checkpoints" / last
    back = "warning: "
    expect("sample", 0, best, back, "sample", run, "-n", 5)
    expect("sample --last", 0, 40, back, "sample", run, "-n", 5, "--last")
    expect("eval", 0, best, back, "eval", run)
    expect("eval --last", 0, 40, back, "eval", run, "--last")
    expect("info", 0, best, back, "info", run)
    expect("info --last", 0, 40, '"step": 30', "info", run, "--last", "--json")
    expect("vocab", 0, best, back, "vocab", run)
    expect("resume", 0, 40, "going on from", "resume", run, "--steps", 50)
    expect("train --from", 0, best, back, "train", text, "--from", run, "--out",
           folder / "other", "--steps", 1)  # fmt: skip
    no = "charrnn: "
    expect("sample FILE", 4, 40, no, "sample", file)
    expect("sample --step", 4, 40, no, "sample", run, "--step", 40)
    expect("eval FILE", 4, 40, no, "eval", file)
    expect("eval --step", 4, 40, no, "eval", run, "--step", 40)
    expect("info FILE", 4, 40, no, "info", file)
    expect("info --step", 4, 40, no, "info", run, "--step", 40)
    expect("vocab FILE", 4, 40, no, "vocab", file)
    expect("resume FILE", 4, 40, no, "resume", file, "--out", folder / "other")
    expect("train --from FILE", 4, 40, no, "train", text, "--from", file, "--out",
           folder / "other", "--steps", 1)  # fmt: skip
    return tally(count - len(problems), count, "commands", problems)
