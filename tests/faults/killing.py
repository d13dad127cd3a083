"""Processes that are killed or interrupted, or that disturb each other."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import filelock
import numpy as np

from charrnn.cli.progress import Stopper
from charrnn.errors import CharrnnError
from charrnn.runs import checkpoint as checkpoint_module
from charrnn.runs.checkpoint import load_checkpoint, save_checkpoint
from charrnn.runs.checkpoint_check import check_layout
from charrnn.runs.directory import Run
from charrnn.session.loop import Session
from charrnn.training.lane_processes import LaneProcesses
from charrnn.training.trainer import Trainer
from tests.faults.harness import (
    ON_EXAMPLES,
    Effort,
    Ended,
    Result,
    check,
    command,
    fingerprint,
    fork,
    record,
    resume,
    tally,
    tiny_arguments,
    write_text,
)
from tests.tiny import drive, start, tiny_config, tiny_corpus

INTERVAL = 10  # steps between the checkpoints of the tiny runs


def folder() -> Path:
    """Make a new folder."""
    return Path(tempfile.mkdtemp())


def train(where: Path, steps: int = 100, **changes: object) -> Callable[[], object]:
    """Return `charrnn train` of a tiny run. All read one text, since its path is part of a run."""
    text = write_text(Path(tempfile.gettempdir()), changes.get("task"))
    return command("train", text, "--out", where / "run", *tiny_arguments(steps, **changes))


@contextlib.contextmanager
def patched(*patches: Any, when: bool = True) -> Iterator[None]:
    """Apply all the patches, or none."""
    with contextlib.ExitStack() as stack:
        for patch in patches if when else ():
            stack.enter_context(patch)
        yield


def write_in_place(path: Path, content: bytes, verify: Any = None) -> None:
    """Write as `write_atomically` must not: into the file itself."""
    with path.open("wb") as file:
        file.write(content)
    if verify is not None:
        verify(path)


in_place = (
    mock.patch.object(checkpoint_module, "write_atomically", write_in_place),
    mock.patch("charrnn.runs.directory.write_atomically", write_in_place),
)


def finish(where: Path, **changes: Any) -> Ended:
    """Resume a run that was killed, or train it again if it had not yet started."""
    if Run(where / "run").steps():
        return fork(resume(where)).wait()
    shutil.rmtree(where / "run", ignore_errors=True)
    return fork(train(where, **changes)).wait()


def goes_on(ended: Ended) -> bool:
    """Return whether the run resumed, or was complete because the kill came after its end."""
    complete = ended.code == 2 and "has reached its budget" in ended.errors
    return ended.code == 0 or complete


def counting(function: Callable[[], object], counter: Path) -> Callable[[], object]:
    """Wrap `function`: write the number of each training step to a file."""

    def run() -> object:
        file = os.open(counter, os.O_WRONLY | os.O_CREAT)
        whole = Trainer._step

        def step(trainer: Any, batch: Any) -> Any:
            result = whole(trainer, batch)
            os.pwrite(file, struct.pack("q", trainer.progress.step + 1), 0)
            return result

        with mock.patch.object(Trainer, "_step", step):
            return function()

    return run


def last_step(counter: Path) -> int:
    """Return the number that `counting` wrote last."""
    content = counter.read_bytes() if counter.exists() else b""
    return int(struct.unpack("q", content)[0]) if content else 0


no_seed = mock.patch("torch.manual_seed")


@check("kill -9 at random moments", sabotage="random numbers not tied to the step", ci=True)
def kill_at_random(effort: Effort, sabotaged: bool) -> Result:
    return killed_at_random(6 if sabotaged else effort.of(200, 5), sabotaged)


@check(
    "kill -9 at random moments of a run in two processes",
    sabotage="random numbers not tied to the step",
)
def kill_team_at_random(effort: Effort, sabotaged: bool) -> Result:
    return killed_at_random(6 if sabotaged else effort.of(50, 3), sabotaged, processes=2)


@check(
    "kill -9 at random steps of runs on examples",
    sabotage="random numbers not tied to the step",
)
def kill_on_examples(effort: Effort, sabotaged: bool) -> Result:
    count = 1 if sabotaged else effort.of(40, 1)
    found = [
        killed_at_random(count, sabotaged, range(11, 40), task=task, steps=40)
        for task in ON_EXAMPLES
    ]
    return Result(all(each.holds for each in found), "; ".join(each.figure for each in found))


def killed_at_random(
    count: int, sabotaged: bool, at: range | None = None, **changes: Any
) -> Result:
    """Kill `count` runs once each, after one of the steps `at` or at any moment, and resume them.

    A sabotage shows only if the kill comes after a checkpoint and before the end. A few random
    moments of a short run can all lie outside; chosen steps cannot.
    """
    moments = random.Random(7)
    good, problems, most_lost = 0, [], 0
    with patched(no_seed, when=sabotaged):
        straight = folder()
        whole = fork(train(straight, **changes)).wait()
        expected = record(straight / "run")
        for i in range(count):
            where = folder()
            counter = where / "counter"
            child = fork(counting(train(where, **changes), counter))
            if at is None:
                time.sleep(whole.seconds * (i + moments.random()) / count)
            else:
                step, patience = moments.choice(at), time.monotonic() + 60
                while last_step(counter) < step and time.monotonic() < patience:
                    time.sleep(0.001)
            child.kill()
            child.wait()
            steps = [
                step
                for step in Run(where / "run").steps()
                if is_whole(Run(where / "run").checkpoint_path(step))
            ]
            lost = last_step(counter) - max(steps, default=0)
            most_lost = max(most_lost, lost)
            ended = finish(where, **changes)
            same = goes_on(ended) and record(where / "run") == expected
            good += same and lost <= INTERVAL
            if not same or lost > INTERVAL:
                problems.append(f"kill {i}: exit {ended.code}, {lost} steps lost, {ended.errors}")
            shutil.rmtree(where)
            if sabotaged and problems:
                break
    result = tally(good, good + len(problems), "resumed bit for bit", problems)
    return Result(result.holds, f"{result.figure}; at most {most_lost} steps lost")


def is_whole(path: Path) -> bool:
    """Return whether the file is a checkpoint that loads."""
    try:
        load_checkpoint(path, check_layout)
    except CharrnnError:
        return False
    return True


# Every system call of a save ----------------------------------------------------------------------


class Failpoints:
    """Counts the moments before, within and after each write, fsync, replace and unlink, and ends
    the process by SIGKILL at the one that was asked for."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.count = 0

    def reach(self) -> None:
        """Count one moment."""
        self.count += 1
        if self.count == self.target:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a call: count a moment before and after it."""

        def call(*arguments: Any, **options: Any) -> Any:
            self.reach()
            result = function(*arguments, **options)
            self.reach()
            return result

        return call

    def open(self, path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        """Open as `Path.open` does, but write everything in two halves."""
        file = io.open(path, mode, *arguments, **options)  # noqa: SIM115, UP020
        if mode not in ("wb", "a"):
            return file
        write = file.write

        def in_halves(content: Any) -> int:
            self.reach()
            write(content[: len(content) // 2])
            file.flush()
            self.reach()
            write(content[len(content) // 2 :])
            self.reach()
            return len(content)

        return mock.MagicMock(
            wraps=file,
            write=in_halves,
            __enter__=lambda _: mock.MagicMock(wraps=file, write=in_halves),
            __exit__=lambda *_: file.close(),
        )

    def installed(self) -> contextlib.ExitStack:
        """Return the patches that make these calls count their moments."""
        stack = contextlib.ExitStack()
        for name in ("fsync", "replace", "unlink"):
            stack.enter_context(mock.patch.object(os, name, self.around(getattr(os, name))))
        points = self

        def opened(path: Path, *arguments: Any, **options: Any) -> Any:
            return points.open(path, *arguments, **options)

        stack.enter_context(mock.patch.object(pathlib.Path, "open", opened))
        return stack


def with_failpoints(function: Callable[[], object], target: int, counter: Path) -> Any:
    """Wrap `function`: kill it at moment number `target`; write the number of moments to a file."""

    def run() -> object:
        points = Failpoints(target)
        try:
            with points.installed():
                return function()
        finally:
            counter.write_text(str(points.count))

    return run


@check("every failpoint of saving and pruning x kill", sabotage="writes in place", ci=True)
def failpoints(effort: Effort, sabotaged: bool) -> Result:
    with patched(*in_place, when=sabotaged):
        straight = folder()
        steps = 3 * INTERVAL
        fork(with_failpoints(train(straight, steps=steps), 0, straight / "count")).wait()
        expected = record(straight / "run")
        moments = int((straight / "count").read_text())
        stride = max(1, moments // (25 if sabotaged else effort.of(moments, 10)))
        chosen = range(1 + (stride > 1) * 3, moments + 1, stride)
        good, problems = 0, []
        for target in chosen:
            where = folder()
            fork(with_failpoints(train(where, steps=steps), target, where / "count")).wait()
            run = Run(where / "run")
            torn = [s for s in run.steps() if not is_whole(run.checkpoint_path(s))]
            ended = finish(where, steps=steps)
            left = list((where / "run").rglob(".writing-*"))
            if not torn and goes_on(ended) and not left and record(where / "run") == expected:
                good += 1
            else:
                problems.append(f"moment {target}: torn {torn}, left {left}, {ended.errors}")
            shutil.rmtree(where)
            if sabotaged and problems:
                break
    return tally(good, good + len(problems), f"(of {moments} moments) old or new", problems)


def recorded(function: Callable[[], object], log: Path, sync_at_all: bool) -> Any:
    """Wrap `function`: write a line for each fsync and replace, in the format of strace."""

    def run() -> object:
        with log.open("w", buffering=1) as lines:
            sync, replace = os.fsync, os.replace

            def logged_sync(number: int) -> None:
                if not sync_at_all:
                    return
                sync(number)
                print(f"fsync({number}<{os.readlink(f'/proc/self/fd/{number}')}>)", file=lines)

            def logged_replace(source: Any, target: Any) -> None:
                replace(source, target)
                print(f'rename("{source}", "{target}")', file=lines)

            with (
                mock.patch.object(os, "fsync", logged_sync),
                mock.patch.object(os, "replace", logged_replace),
            ):
                return function()

    return run


@check("the system calls of a save: fsync, replace, fsync of the folder", sabotage="no fsync")
def system_calls(effort: Effort, sabotaged: bool) -> Result:
    where = folder()
    log = where / "log"
    strace = None if effort.fast else shutil.which("strace")
    if strace is None:
        fork(recorded(train(where, steps=30), log, not sabotaged)).wait()
    else:
        before = "import os; os.fsync = lambda number: None; " if sabotaged else ""
        program = f"{before}from charrnn.cli.main import main; main()"
        text = write_text(where)
        calls = "trace=fsync,rename,renameat,renameat2"
        subprocess.run(
            [strace, "-f", "-y", "-s", "4096", "-e", calls, "-o", str(log),
             sys.executable, "-c", program, "train", str(text), "--out", str(where / "run"),
             *tiny_arguments(steps=30)],
            check=True,
            capture_output=True,
        )  # fmt: skip
    lines = [
        line for line in log.read_text("utf-8", "replace").splitlines()
        if "fsync(" in line or "rename" in line
    ]  # fmt: skip
    renames = [
        i for i, line in enumerate(lines) if "rename" in line and ".writing-" in line
        and "step-" in line
    ]  # fmt: skip
    good = 0
    for i in renames:
        temporary = re.search(r'"([^"]*\.writing-[^"]*)"', lines[i])
        name = Path(temporary[1]).name if temporary else "?"
        before_it, after_it = lines[i - 1], lines[i + 1] if i + 1 < len(lines) else ""
        synced = "fsync(" in before_it and name in before_it
        good += synced and re.search(r"fsync\(\d+<[^>]*/checkpoints>\)", after_it) is not None
    return tally(good, len(renames), f"saves in that order, by {'strace' if strace else 'a log'}")


# Resume -------------------------------------------------------------------------------------------


def in_child(function: Callable[[], Any]) -> Any:
    """Run `function` in a forked child and return its result, passed as JSON."""
    ended = fork(lambda: print(json.dumps(function()))).wait(600)
    if ended.code:
        raise RuntimeError(ended.errors)
    return json.loads(ended.output.splitlines()[-1])


no_carry = mock.patch.object(
    Trainer,
    "tensors",
    lambda self, whole=Trainer.tensors: {
        name: value for name, value in whole(self).items() if not name.startswith("carry/")
    },
)


# A resumed run reads these from its checkpoint; here it starts from the configuration given.
DECIDED = {"evaluation__first": 4, "checkpoints__every": 4}


def ends_of_all_starts(cell: str, stops: range) -> tuple[str, list[str]]:
    """Return fingerprints of the end of an unbroken run and of runs that resumed at each step."""
    where = folder()
    config, corpus = tiny_config(model__cell=cell, **DECIDED), tiny_corpus(where)
    straight = start(where / "straight", config, corpus)
    drive(straight)
    expected = fingerprint(straight.run.latest(str))
    found = []
    for stop in stops:
        first = start(where / f"run-{stop}", config, corpus)
        drive(first, stop)
        again = start(where / f"run-{stop}", config, corpus)
        again.restore(first.run.latest(str))
        drive(again)
        found.append(fingerprint(again.run.latest(str)))
    return expected, found


@check("resume at each step of a run, each cell, dropout on", sabotage="no hidden state saved")
def resume_everywhere(effort: Effort, sabotaged: bool) -> Result:
    good = count = 0
    stops = range(0, 14, 1 if not effort.fast else 5)
    with patched(no_carry, when=sabotaged):
        for cell in ("vanilla", "lstm", "gru"):
            expected, found = in_child(lambda cell=cell: ends_of_all_starts(cell, stops))
            good += sum(each == expected for each in found)
            count += len(found)
    return tally(good, count, "equal by SHA-256 (7 steps an epoch)")


def unnoticed_omissions(extra: list[str]) -> tuple[int, list[str]]:
    """Return the number of parts of a checkpoint, and the parts whose loss changes nothing."""
    where = folder()
    config = tiny_config(training__schedule="plateau", **DECIDED)
    corpus = tiny_corpus(where)
    straight = start(where / "straight", config, corpus)
    drive(straight)
    expected = fingerprint(straight.run.latest(str))
    first = start(where / "run", config, corpus)
    drive(first, 9)
    saved = first.run.latest(str)
    parts = [f"tensor {name}" for name in saved.tensors]
    for section in ("progress", "session", "vocabulary"):
        parts += [f"{section} {name}" for name in saved.metadata[section]]
    parts += ["config ", "vocabulary ", "progress ", "session ", "corpus ", *extra]
    unnoticed = []
    for i, part in enumerate(parts):
        tensors, metadata = dict(saved.tensors), json.loads(json.dumps(saved.metadata))
        section, _, name = part.partition(" ")
        if section == "tensor":
            del tensors[name]
        elif name:
            del metadata[section][name]
        else:
            del metadata[section]
        again = start(where / f"without-{i}", config, corpus)
        path = again.run.checkpoint_path(9)
        save_checkpoint(path, tensors, metadata)
        try:
            again.restore(load_checkpoint(path, check_layout))
            drive(again)
            if fingerprint(again.run.latest(str)) == expected:
                unnoticed.append(part)
        except CharrnnError:
            continue  # The loss was noticed.
    return len(parts), unnoticed


@check("any one saved field left out", sabotage="a field that changes nothing is counted too")
def omissions(effort: Effort, sabotaged: bool) -> Result:
    extra = ["environment commit"] if sabotaged else []
    count, unnoticed = in_child(lambda: unnoticed_omissions(extra))
    return tally(count - len(unnoticed), count, "fields noticed", unnoticed)


def forgetful_restore(session: Session, checkpoint: Any, whole: Any = Session.restore) -> None:
    """Do as `restore`, but leave out the session's own values."""
    whole(session, checkpoint)
    session.best = None
    session.without_improvement = session.since_drop = 0


@check("five kills in one run: best, patience, rates, metrics", sabotage="no counters restored")
def five_kills(effort: Effort, sabotaged: bool) -> Result:
    changes = {
        "training.schedule": "plateau",
        "training.plateau_patience": 1,
        "training.patience": 40,
        "training.learning_rate": 0.05,
        "evaluation.best": "validation",
    }
    with patched(mock.patch.object(Session, "restore", forgetful_restore), when=sabotaged):
        straight, where = folder(), folder()
        fork(train(straight, **changes)).wait()
        expected = record(straight / "run")
        kills = 0
        for at in (13, 27, 44, 61, 88):
            function = resume(where) if kills else train(where, **changes)
            fork(dies_at(function, at)).wait()
            kills += 1
        ended = fork(resume(where)).wait()
        found = record(where / "run")
    rates = len({line.get("learning_rate") for line in expected["metrics"]})
    figure = f"{kills} kills, {rates} learning rates, {len(expected['metrics'])} lines of metrics"
    return Result(ended.code == 0 and found == expected and rates > 2, figure)


def dies_at(function: Callable[[], object], step: int) -> Callable[[], object]:
    """Wrap `function`: kill it right after training step `step`."""

    def run() -> object:
        whole = Trainer._step

        def mortal(trainer: Any, batch: Any) -> Any:
            result = whole(trainer, batch)
            if trainer.progress.step + 1 == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        with mock.patch.object(Trainer, "_step", mortal):
            return function()

    return run


# Signals ------------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> float:
    """Return the seconds until the condition is true. Raises TimeoutError."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError
        time.sleep(0.002)
    return time.monotonic() - began


def slowly(function: Callable[[], object], seconds: float = 0.01) -> Callable[[], object]:
    """Wrap `function`: make each training step take a while."""

    def run() -> object:
        whole = Trainer._step

        def step(trainer: Any, batch: Any) -> Any:
            time.sleep(seconds)
            return whole(trainer, batch)

        with mock.patch.object(Trainer, "_step", step):
            return function()

    return run


@check(
    "of two processes the one that helps is killed: exit 1, one sentence, resumed bit for bit",
    sabotage="nobody notices",
)
def member_killed(effort: Effort, sabotaged: bool) -> Result:
    straight = folder()
    fork(train(straight, processes=2)).wait()
    expected = record(straight / "run")
    good, problems, count = 0, [], effort.of(20, 3)
    unnoticed = mock.patch.object(LaneProcesses, "_answer", return_value=(0.0, 0))
    deaf = mock.patch.object(LaneProcesses, "_talk", return_value=None)
    for i in range(count):
        where = folder()
        with patched(unnoticed, deaf, when=sabotaged):
            ended = fork(bereaved(train(where, processes=2), 2 + 97 * i // count)).wait()
        lines = [line for line in ended.errors.splitlines() if line.startswith("charrnn: ")]
        said = ended.code == 1 and len(lines) == 1 and "charrnn resume" in lines[0]
        again = finish(where, processes=2)
        same = goes_on(again) and record(where / "run") == expected
        good += said and same
        problems += [] if said and same else [f"exit {ended.code}, same: {same}, {ended.errors}"]
    return tally(good, count, "said so and went on", problems)


def bereaved(function: Callable[[], object], step: int) -> Callable[[], object]:
    """Wrap `function`: kill its worker process before training step `step`."""

    def run() -> object:
        whole = Trainer._step

        def robbed(trainer: Any, batch: Any) -> Any:
            if trainer.progress.step + 1 == step and trainer.lane_processes is not None:
                os.kill(trainer.lane_processes._workers[0].pid, signal.SIGKILL)
            return whole(trainer, batch)

        with mock.patch.object(Trainer, "_step", robbed):
            return function()

    return run


@check("Ctrl-C once, SIGTERM", sabotage="the signal handler does nothing", ci=True)
def signals(effort: Effort, sabotaged: bool) -> Result:
    straight, steps = folder(), effort.of(100, 40)
    fork(train(straight, steps)).wait()
    expected = record(straight / "run")
    good, figures = 0, []
    deaf = mock.patch.object(Stopper, "_handle")
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        where = folder()
        with patched(deaf, when=sabotaged):
            child = fork(slowly(counting(train(where, steps), where / "counter")))
            wait_for(lambda where=where: last_step(where / "counter") > 14)
            child.kill(number)
            began = time.monotonic()
            said = 0.0
            if number == signal.SIGINT and not sabotaged:
                said = wait_for(lambda child=child: "stopping after this step" in child.errors())
            ended = child.wait()
        took = time.monotonic() - began
        advice = f"charrnn resume {where / 'run'}" in ended.errors
        again = fork(resume(where)).wait()
        same = again.code == 0 and record(where / "run") == expected
        good += ended.code == code and advice and same and said < 0.5
        figures.append(f"exit {ended.code} after {took:.2f} s")
    return Result(good == 2, ", ".join(figures))


@check("Ctrl-C twice, also during a save", sabotage="the second Ctrl-C is like the first")
def interrupted_twice(effort: Effort, sabotaged: bool) -> Result:
    straight = folder()
    fork(train(straight)).wait()
    expected = record(straight / "run")
    good, figures = 0, []
    for during_save in (False, True):
        where = folder()
        saving = where / "saving"

        def slow_sync(descriptor: int, saving: Path = saving, sync: Any = os.fsync) -> None:
            if "step-00000010" in os.readlink(f"/proc/self/fd/{descriptor}"):
                saving.touch()
                time.sleep(5)
            sync(descriptor)

        def slow_step(trainer: Any, batch: Any, whole: Any = Trainer._step) -> Any:
            if trainer.progress.step == 15:
                time.sleep(5)
            return whole(trainer, batch)

        slow = (
            mock.patch.object(os, "fsync", slow_sync)
            if during_save
            else mock.patch.object(Trainer, "_step", slow_step)
        )
        with patched(slow):
            function = counting(train(where), where / "counter")
            child = fork(gently(function) if sabotaged else function)
        if during_save:
            wait_for(saving.exists)
        else:
            wait_for(lambda where=where: last_step(where / "counter") >= 15)
        child.kill(signal.SIGINT)
        wait_for(lambda child=child: "stopping" in child.errors())
        child.kill(signal.SIGINT)
        began = time.monotonic()
        ended = child.wait()
        took = time.monotonic() - began
        run = Run(where / "run")
        whole = all(is_whole(run.checkpoint_path(step)) for step in run.steps())
        again = fork(resume(where)).wait()
        same = again.code == 0 and record(where / "run") == expected
        left = list(run.path.rglob(".writing-*"))
        good += ended.code == 130 and took < 1 and whole and same and not left
        figures.append(f"gone in {took:.2f} s{' during a save' if during_save else ''}")
    return Result(good == 2, ", ".join(figures))


def gently(function: Callable[[], object]) -> Callable[[], object]:
    """Wrap `function`: while it runs, `os._exit` does nothing."""

    def run() -> object:
        with mock.patch.object(os, "_exit"):
            return function()

    return run


@check("metrics ahead of the checkpoint, or torn", sabotage="the tail is not cut", ci=True)
def metrics_ahead(effort: Effort, sabotaged: bool) -> Result:
    straight = folder()
    fork(train(straight, steps=50)).wait()
    expected = record(straight / "run")
    good = 0
    uncut = mock.patch.object(Run, "cut_metrics")
    with patched(uncut, when=sabotaged):
        for tail in ("", '{"schema": 1, "step": 50, "epo', '{"schema": 1, "step": 60}\n'):
            where = folder()
            shutil.copytree(straight / "run", where / "run")
            run = Run(where / "run")
            run.checkpoint_path(50).unlink()
            with (run.path / "metrics.jsonl").open("a") as file:
                file.write(tail)
            ended = fork(resume(where)).wait()
            good += ended.code == 0 and record(where / "run")["metrics"] == expected["metrics"]
    return tally(good, 3, "tails cut, no step twice")


# Two at once --------------------------------------------------------------------------------------

no_lock = (
    mock.patch.object(filelock.FileLock, "acquire"),
    mock.patch.object(filelock.FileLock, "release"),
)


@check(
    "two trainers in one directory, none after kill -9", sabotage="the lock does nothing", ci=True
)
def two_trainers(effort: Effort, sabotaged: bool) -> Result:
    where = folder()
    with patched(*no_lock, when=sabotaged):
        first = fork(slowly(counting(train(where), where / "counter"), 0.05))
        wait_for(lambda: last_step(where / "counter") > 11)
        others = [fork(train(where)).wait(), fork(resume(where)).wait()]
        first.kill()
        first.wait()
        after = fork(resume(where)).wait()
    host = os.uname().nodename
    named = all(str(first.pid) in each.errors and host in each.errors for each in others)
    codes = [each.code for each in others]
    return Result(
        codes == [5, 5] and named and after.code == 0,
        f"exits {codes}, named: {named}; after kill -9 resume exits {after.code}",
    )


@check("20 simultaneous starts on one directory", sabotage="the lock does nothing")
def simultaneous(effort: Effort, sabotaged: bool) -> Result:
    where = folder()
    with patched(*no_lock, when=sabotaged):
        function = train(where, steps=200)
        children = [fork(function) for _ in range(20)]
        codes = sorted(child.wait(300).code for child in children)
    return Result(codes == [0] + [5] * 19, f"{codes.count(0)} ran, {codes.count(5)} exit 5")


@check("reading while a run saves for ever", sabotage="writes in place")
def reading_while_saving(effort: Effort, sabotaged: bool) -> Result:
    where = folder()
    fork(train(where, steps=INTERVAL)).wait()
    run = Run(where / "run")
    path = run.checkpoint_path(INTERVAL)
    old = load_checkpoint(path)
    new = {n: v + np.ones((), v.dtype) for n, v in old.tensors.items()}
    versions = [old.tensors, new]

    def save_for_ever() -> None:
        for i in range(10**9):
            save_checkpoint(path, versions[i % 2], old.metadata)

    good, count, samples, problems = 0, effort.of(1000, 60), effort.of(40, 3), []
    with patched(*in_place, when=sabotaged):
        child = fork(save_for_ever)
        try:
            time.sleep(0.1)
            for i in range(count):
                try:
                    tensors = load_checkpoint(path, check_layout).tensors
                except CharrnnError as error:
                    problems.append(str(error))
                    continue
                good += any(
                    all(np.array_equal(tensors[name], version[name]) for name in version)
                    for version in versions
                )
                if i < samples:
                    ended = fork(command("sample", run.path, "-n", 5)).wait()
                    good -= ended.code != 0
        finally:
            child.kill()
            child.wait()
    word = f"old or new, {samples} of them whole `charrnn sample` commands"
    return tally(good, count, word, problems)
