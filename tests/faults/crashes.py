"""Kills and interruptions where a run is most likely to be left in pieces: before its first
checkpoint, while a checkpoint takes another's place, while it resumes, at any moment at all."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from charrnn.cli.progress import Stopper
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.runs.directory import Run, write_atomically
from charrnn.session.loop import Session
from tests.faults.harness import (
    Effort,
    Result,
    check,
    fingerprint,
    fork,
    record,
    resume,
    tally,
)
from tests.faults.killing import (
    INTERVAL,
    counting,
    dies_at,
    folder,
    forgetful_restore,
    in_place,
    is_whole,
    last_step,
    patched,
    slowly,
    train,
    wait_for,
    with_failpoints,
)


def has_ended(run: Run) -> bool:
    """Return whether a run wrote its last entry, the score of its best checkpoint."""
    return run.read_best().get("score") is not None


def without_steps(found: dict[str, Any]) -> dict[str, Any]:
    """Return a record without the list of checkpoints, to which an interruption adds one."""
    return {name: value for name, value in found.items() if name != "steps"}


# Before the first checkpoint ----------------------------------------------------------------------


@check(
    "kill -9 before the first checkpoint: the same command begins the run",
    sabotage="whatever stands in the directory counts as a run",
)
def before_the_first_checkpoint(effort: Effort, sabotaged: bool) -> Result:
    straight = folder()
    fork(train(straight, steps=INTERVAL)).wait()
    expected = record(straight / "run")
    good, problems = 0, []
    for count in itertools.count():
        target = 1 + count * effort.of(2, 17)
        where = folder()
        begin = train(where, steps=INTERVAL)
        fork(with_failpoints(begin, target, where / "count")).wait()
        if Run(where / "run").steps():
            break
        with patched(mock.patch.object(Run, "_is_used", return_value=True), when=sabotaged):
            again = fork(begin).wait()
        if again.code == 0 and record(where / "run") == expected:
            good += 1
        else:
            last = again.errors.strip().splitlines()[-1]
            problems.append(f"moment {target}: exit {again.code}, {last}")
    return tally(good, count, "moments", problems)


# One checkpoint in another's place ----------------------------------------------------------------


def replace_after_unlink(source: Path, target: Path, replace: Any = os.replace) -> None:
    """Unlink the target, then replace it: for a moment neither file exists."""
    if os.path.exists(target):
        os.unlink(target)
    replace(source, target)


@check(
    "a checkpoint over an older one, best.json, prune x kill: old or new, never neither",
    sabotage="the old file is deleted before the new one takes its place",
)
def overwritten(effort: Effort, sabotaged: bool) -> Result:
    base = folder()
    fork(train(base, steps=2 * INTERVAL)).wait()
    old = Run(base / "run")
    before = load_checkpoint(old.checkpoint_path(2 * INTERVAL))
    changed = {name: value + np.ones((), value.dtype) for name, value in before.tensors.items()}
    old_best = old.read_best()
    new_best = old_best | {"nats_per_character": 1.0}

    def rewrite(run: Run) -> Callable[[], None]:
        def work() -> None:
            run.save(2 * INTERVAL, changed, before.metadata)
            run.write_best(new_best)
            run.prune(2 * INTERVAL, 1, 2 * INTERVAL)

        return work

    def rewritten(target: int) -> Run:
        where = folder()
        shutil.copytree(base / "run", where / "run")
        run = Run(where / "run")
        unlinking = mock.patch.object(os, "replace", replace_after_unlink)
        with patched(unlinking, when=sabotaged):
            fork(with_failpoints(rewrite(run), target, where / "count")).wait()
        return run

    after = rewritten(0)
    moments = int((after.path.parent / "count").read_text())
    new = fingerprint(after.load(2 * INTERVAL))
    good, problems = 0, []
    for target in range(1, moments + 1):
        run = rewritten(target)
        path, older = run.checkpoint_path(2 * INTERVAL), run.checkpoint_path(INTERVAL)
        kept = is_whole(path) and fingerprint(load_checkpoint(path)) in (fingerprint(before), new)
        best = run.read_best() in (old_best, new_best)
        pruned = is_whole(older) or not older.exists()
        good += kept and best and pruned
        if not (kept and best and pruned):
            problems.append(f"moment {target}: checkpoint {kept}, best.json {best}, {pruned}")
        shutil.rmtree(run.path)
    return tally(good, moments, "moments", problems)


# During a resume ----------------------------------------------------------------------------------


def dies_saving(function: Callable[[], object], step: int) -> Callable[[], object]:
    """Wrap `function`: kill it between writing the metrics of a step and saving the step."""

    def run() -> object:
        whole = Run.save

        def mortal(run: Run, number: int, *rest: Any) -> None:
            if number == step:
                os.kill(os.getpid(), signal.SIGKILL)
            whole(run, number, *rest)

        with mock.patch.object(Run, "save", mortal):
            return function()

    return run


@check(
    "every failpoint of a resume x kill, then resumed again",
    sabotage="writes in place",
    slow=True,
)
def killed_while_resuming(effort: Effort, sabotaged: bool) -> Result:
    steps = 3 * INTERVAL
    straight, base = folder(), folder()
    fork(train(straight, steps=steps)).wait()
    expected = record(straight / "run")
    fork(dies_saving(train(base, steps=steps), steps)).wait()
    with (base / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"schema": 1, "ste')
    (base / "run" / "checkpoints" / ".writing-1-step-00000030.safetensors").write_bytes(b"half")

    def resumed(target: int) -> Path:
        where = folder()
        shutil.copytree(base / "run", where / "run")
        with patched(*in_place, when=sabotaged):
            fork(with_failpoints(resume(where), target, where / "count")).wait()
        return where

    moments = int((resumed(0) / "count").read_text())
    chosen = range(1, moments + 1, max(1, moments // (25 if sabotaged else effort.of(moments, 6))))
    good, problems = 0, []
    for target in chosen:
        where = resumed(target)
        run = Run(where / "run")
        torn = [step for step in run.steps() if not is_whole(run.checkpoint_path(step))]
        again = None if has_ended(run) else fork(resume(where)).wait()
        same = record(where / "run") == expected
        left = list(run.path.rglob(".writing-*")) if again else []
        good += same and not torn and not left
        if not same or torn or left:
            problems.append(f"moment {target}: torn {torn}, left {left}, the same: {same}")
        shutil.rmtree(where)
    return tally(good, len(chosen), f"(of {moments} moments) equal the straight run", problems)


# At any moment ------------------------------------------------------------------------------------


def announcing(function: Callable[[], object], ready: Path) -> Callable[[], object]:
    """Wrap `function`: create a file when the child reaches it."""

    def run() -> object:
        ready.touch()
        return function()

    return run


def leaves_at_once(_stopper: Stopper, _number: int, _frame: Any) -> None:
    """Handle Ctrl-C as Python does by default."""
    raise KeyboardInterrupt


@check(
    "Ctrl-C or SIGTERM at random moments: not one step lost",
    sabotage="a signal ends the step that is being taken",
    slow=True,
)
def interrupted_at_random(effort: Effort, sabotaged: bool) -> Result:
    straight = folder()
    whole = fork(train(straight)).wait()
    expected = without_steps(record(straight / "run"))
    count = 8 if sabotaged else effort.of(60, 6)
    moments = random.Random(11)
    good, early, problems = 0, 0, []
    for i in range(count):
        number, code = ((signal.SIGINT, 130), (signal.SIGTERM, 143))[i % 2]
        where = folder()
        with patched(mock.patch.object(Stopper, "_handle", leaves_at_once), when=sabotaged):
            begin = counting(train(where), where / "counter")
            child = fork(announcing(begin, where / "ready"))
            wait_for((where / "ready").exists)
            time.sleep(0.9 * whole.seconds * (i + moments.random()) / count)
            child.kill(number)
            ended = child.wait()
        run = Run(where / "run")
        last = last_step(where / "counter")
        lost = last - max(run.steps(), default=0)
        # Before training there is nothing to save, so SIGTERM may end the process at once.
        early += last == 0
        right = ended.code == code or (last == 0 and ended.code == -number) or has_ended(run)
        if not run.steps():
            shutil.rmtree(run.path, ignore_errors=True)
            fork(begin).wait()
        elif not has_ended(run):
            fork(resume(where)).wait()
        same = without_steps(record(run.path)) == expected
        good += right and lost == 0 and same and not ended.traceback
        if not right or lost or not same or ended.traceback:
            problems.append(f"signal {i}: exit {ended.code}, {lost} steps lost, same: {same}")
        shutil.rmtree(where)
    result = tally(good, count, "saved and resumed bit for bit", problems)
    return Result(result.holds, f"{result.figure}; {early} came before the first step")


# Who holds the lock -------------------------------------------------------------------------------


def anonymous(path: Path, content: bytes, *rest: Any) -> None:
    """Do as `write_atomically`, but skip the file that names the holder of the lock."""
    if path.name != "owner.json":
        write_atomically(path, content, *rest)


@check(
    "20 resumes at once of a run that was killed: 19 name the one that runs",
    sabotage="who holds the lock is not written down",
    slow=True,
)
def named_by_all(effort: Effort, sabotaged: bool) -> Result:
    where = folder()
    fork(dies_at(train(where), INTERVAL + 3)).wait()
    with patched(mock.patch("charrnn.runs.directory.write_atomically", anonymous), when=sabotaged):
        go_on = slowly(resume(where))
        children = [fork(go_on) for _ in range(20)]
        ends = [(child.pid, child.wait(300)) for child in children]
    ran = [pid for pid, ended in ends if ended.code == 0]
    refused = [ended for _, ended in ends if ended.code == 5]
    words = f"process {ran[0]} on {os.uname().nodename}" if ran else "nobody ran"
    named = sum(words in ended.errors for ended in refused)
    wrong = [ended.errors.strip() for ended in refused if words not in ended.errors]
    shown = f"{len(ran)} ran, {len(refused)} exit 5, {named} name it"
    shown += f"; first that does not: {wrong[0][-120:]}" if wrong else ""
    return Result(len(ran) == 1 and len(refused) == named == 19, shown)


# Patience -----------------------------------------------------------------------------------------


@check("five kills in a run that ends by patience", sabotage="no counters restored", slow=True)
def killed_before_patience(effort: Effort, sabotaged: bool) -> Result:
    changes = {
        "training.schedule": "plateau",
        "training.plateau_patience": 1,
        "training.patience": 2,
        "evaluation.best": "validation",
        "training.learning_rate": 0.1,
        "evaluation.every": 5,
        "checkpoints.every": 5,
    }
    straight, where = folder(), folder()
    fork(train(straight, steps=200, **changes)).wait()
    expected = record(straight / "run")
    last = expected["steps"][-1]
    with patched(mock.patch.object(Session, "restore", forgetful_restore), when=sabotaged):
        for i, at in enumerate((7, last // 2, last - 12, last - 7, last - 2)):
            begin = resume(where) if i else train(where, steps=200, **changes)
            fork(dies_at(begin, at)).wait()
        ended = fork(resume(where)).wait()
    found = record(where / "run")
    figure = f"exit {ended.code}; ended at step {found['steps'][-1]}, the straight run at {last}"
    return Result(ended.code == 0 and found == expected and last < 200, figure)
