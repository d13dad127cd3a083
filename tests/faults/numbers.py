"""Values that are not finite, and memory that runs out."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import charrnn.cli.main  # noqa: F401 -- bound before a check patches what it imports
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.runs.checkpoint_check import check_layout
from charrnn.runs.directory import Run
from charrnn.training.trainer import Trainer
from tests.faults.harness import (
    Effort,
    Result,
    check,
    command,
    fork,
    resume,
    tally,
    tiny_arguments,
    train,
)
from tests.faults.killing import folder, patched
from tests.faults.texts import LINE, trained


class Boundless:
    """An object that is larger than any number, even than nan."""

    def __mul__(self, _: float) -> Boundless:
        return self

    def __gt__(self, _: float) -> bool:
        return True


def finite(value: Any) -> bool:
    """Return whether every number in plain data is finite."""
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


@check(
    "after a learning rate of 1e6: one line, records without NaN, the run can be used",
    sabotage="the step's loss and gradient may be anything",
)
def after_divergence(effort: Effort, sabotaged: bool) -> Result:
    good, count, problems = 0, 0, []
    cells = [("gru", "tanh"), ("vanilla", "relu"), ("lstm", "tanh")]
    import torch

    blind = mock.patch.object(
        torch, "isfinite", lambda value: torch.ones_like(torch.as_tensor(value), dtype=torch.bool)
    )
    calm = mock.patch("charrnn.session.loop.HOPELESS", Boundless())
    for optimizer in ("sgd", "adamw"):
        for cell, activation in cells[: effort.of(3, 2)]:
            count += 1
            where = folder()
            changes: dict[str, object] = {
                "model.cell": cell, "model.activation": activation,
                "training.optimizer": optimizer, "training.learning_rate": 1e6,
                "training.schedule": "constant",
            }  # fmt: skip
            with patched(blind, calm, when=sabotaged):
                ended = fork(train(where, **changes)).wait()
            run = Run(where / "run")
            lines = [line for line in ended.errors.splitlines() if line.startswith("charrnn: ")]
            arrays = [
                value
                for step in run.steps()
                for value in load_checkpoint(run.checkpoint_path(step), check_layout)
                .tensors.values()
            ]  # fmt: skip
            whole = bool(arrays) and all(np.isfinite(value).all() for value in arrays)
            whole = whole and finite(run.metrics()) and finite(run.read_best())
            used = [
                fork(command("sample", where / "run", "-n", 5, "--last")).wait(),
                fork(command("info", where / "run")).wait(),
            ]
            fine = ended.code == 6 and len(lines) == 1 and "--learning-rate" in lines[0]
            if fine and whole and not any(other.code or other.traceback for other in used):
                good += 1
            else:
                problems.append(
                    f"{optimizer} {cell}: exit {ended.code}, {len(lines)} lines, finite: {whole}, "
                    f"then {[other.code for other in used]}"
                )
    return tally(good, count, "as they should", problems)


@check("out of memory", sabotage="the error is not recognised", ci=True)
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


def short_of_memory(name: str, when: int, function: Callable[[], object]) -> Callable[[], object]:
    """Wrap `function`: torch runs out of memory in `Trainer.<name>` at step `when`."""

    def run() -> object:
        import torch

        whole = getattr(Trainer, name)

        def hungry(trainer: Any, *arguments: Any) -> Any:
            if trainer.progress.step == when:
                torch.empty(1 << 55, dtype=torch.uint8)
            return whole(trainer, *arguments)

        with mock.patch.object(Trainer, name, hungry):
            return function()

    return run


@check(
    "out of memory in mid-run: saved, suggested, goes on", sabotage="the error is not recognised"
)
def memory_in_mid_run(effort: Effort, sabotaged: bool) -> Result:
    """Check, in a step and in an evaluation: the last checkpoint is good, and `resume` works."""
    deaf = (
        mock.patch("charrnn.errors.is_out_of_memory", return_value=False),
        mock.patch("charrnn.cli.main.is_out_of_memory", return_value=False),
    )
    good, problems = 0, []
    for name, when, kept in (("_step", 25, 20), ("averaged", 30, 20), ("_step", 0, 0)):
        where = folder()
        with patched(*deaf, when=sabotaged):
            ended = fork(short_of_memory(name, when, train(where, steps=40))).wait()
        run = Run(where / "run")
        steps = run.steps()
        for step in steps:
            load_checkpoint(run.checkpoint_path(step), check_layout)
        again = fork(resume(where)).wait()
        lines = [line for line in ended.errors.splitlines() if line.startswith("charrnn: ")]
        said = len(lines) == 1 and "--batch-size 2" in lines[0] and f"of step {kept}" in lines[0]
        fine = ended.code == 1 and said and steps[-1:] == [kept] and again.code == 0
        fine = fine and run.steps()[-1:] == [40] and not ended.traceback
        good += fine
        problems += [] if fine else [f"{name}: exit {ended.code}, {steps}, {ended.errors[-150:]}"]
    return tally(good, 3, "kept its checkpoint and went on", problems)


@check("more samples at once than memory holds", sabotage="the error is not recognised")
def memory_in_sampling(effort: Effort, sabotaged: bool) -> Result:
    """Check for a one-line error that names the option to lower, for any number of samples."""
    where = trained()
    status = Path("/proc/self/status")
    if not status.exists():
        return Result(False, "this machine does not say how much memory a process has")
    now = int(status.read_text().split("VmSize:")[1].split()[0]) * 1024
    deaf = mock.patch("charrnn.cli.main.is_out_of_memory", return_value=False)
    good, problems = 0, []
    with patched(deaf, when=sabotaged):
        for count in (1 << 16, 10**8, 10**20):
            ended = fork(
                command("sample", where / "run", "-n", 500, "--num-samples", count),
                {resource.RLIMIT_AS: now + (16 << 20)},
            ).wait()
            fine = ended.code in (1, 2) and not ended.traceback and "--num-samples" in ended.errors
            good += fine
            problems += [] if fine else [f"{count:.0e}: exit {ended.code}, {ended.errors[-120:]}"]
    return tally(good, 3, "numbers refused in one line", problems)
