"""A state machine: train, save, kill, corrupt, resume and prune in any order."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from charrnn.errors import CharrnnError, CheckpointError
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.runs.checkpoint_check import check_layout
from charrnn.runs.directory import Run
from charrnn.session.loop import Session
from tests.faults.harness import Effort, Result, check, fingerprint
from tests.faults.killing import folder, in_child, patched
from tests.tiny import drive, start, tiny_config, tiny_corpus

LAST = 14  # steps of the whole run


def is_whole(path: Path) -> bool:
    """Return whether the file is a checkpoint that loads, with the tested protection on."""
    try:
        load_checkpoint(path, check_layout)
    except CharrnnError:
        return False
    return True


def explore(examples: int) -> dict[str, Any]:
    """Run the machine, and return how often each rule ran."""
    base = folder()
    corpus = tiny_corpus(base)
    config = tiny_config(checkpoints__keep_last=2, checkpoints__every=2, evaluation__first=4)
    straight = start(base / "straight", config, corpus)
    drive(straight)
    expected = fingerprint(straight.run.latest(str))
    ran: Counter[str] = Counter()

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.place = folder()
            self.damaged: set[int] = set()
            self.newest_whole = 0

        def run_directory(self) -> Run:
            return Run(self.place / "run")

        def open(self) -> Session:
            """Start as `charrnn train` or `resume` does, up to the first step."""
            session = start(self.place / "run", config, corpus)
            with session.run.lock():
                pass
            if session.run.steps():
                try:
                    session.restore(session.run.latest(lambda _: None))
                except CheckpointError:
                    shutil.rmtree(self.place / "run")
                    return self.open()
            session.run.cut_metrics(session.trainer.progress.step)
            return session

        def note(self, session: Session) -> None:
            self.damaged &= set(session.run.steps())
            self.newest_whole = max(set(session.run.steps()) - self.damaged, default=0)

        @rule(steps=st.integers(1, 6))
        def train(self, steps: int) -> None:
            ran["train, save"] += 1
            session = self.open()
            step = session.trainer.progress.step
            if step < LAST:
                drive(session, min(LAST, step + steps))
                self.damaged -= set(range(step, LAST + 1))
                self.note(session)

        @rule(steps=st.integers(1, 5), torn=st.booleans())
        def kill(self, steps: int, torn: bool) -> None:
            ran["kill"] += 1
            session = self.open()
            step = session.trainer.progress.step
            taken = 0

            class Killed(BaseException):
                pass

            def die() -> bool:
                nonlocal taken
                taken += 1
                if taken > steps:
                    raise Killed
                return False

            with contextlib.suppress(Killed):
                list(session.events(die))
            self.damaged -= set(range(step, session.trainer.progress.step + 1))
            if torn:
                (session.run.path / "checkpoints" / ".writing-1-x").write_bytes(b"half")
                with (session.run.path / "metrics.jsonl").open("a") as file:
                    file.write('{"schema": 1, "st')
            self.note(session)

        @precondition(lambda self: set(self.run_directory().steps()) - self.damaged)
        @rule(data=st.data())
        def corrupt(self, data: Any) -> None:
            ran["corrupt"] += 1
            run = self.run_directory()
            step = data.draw(st.sampled_from(sorted(set(run.steps()) - self.damaged)))
            content = bytearray(run.checkpoint_path(step).read_bytes())
            at = data.draw(st.integers(0, 8 * len(content) - 1))
            content[at // 8] ^= 1 << at % 8
            run.checkpoint_path(step).write_bytes(content)
            self.damaged.add(step)
            self.newest_whole = max(set(run.steps()) - self.damaged, default=0)

        @precondition(lambda self: set(self.run_directory().steps()) - self.damaged)
        @rule()
        def prune(self) -> None:
            ran["prune"] += 1
            session = self.open()
            best = session.best["step"] if session.best else None
            held = best in session.run.steps()
            session.run.prune(session.trainer.progress.step, 1, best)
            assert not held or best in session.run.steps()
            self.note(session)

        @rule()
        def resume_to_the_end(self) -> None:
            ran["resume"] += 1
            copy = folder()
            if (self.place / "run").exists():
                shutil.copytree(self.place / "run", copy / "run")
            place, self.place = self.place, copy
            session = self.open()
            drive(session)
            self.place = place
            left = list(copy.rglob(".writing-*"))
            assert not left, left
            found = session.run.latest(lambda _: None)
            # If the best checkpoint's file was damaged, the best of the later ones takes its place.
            assert weights(found) == weights(straight.run.latest(str))
            if not self.damaged:
                assert fingerprint(found) == expected
            steps = [line["step"] for line in session.run.metrics() if "final" not in line]
            assert steps == sorted(set(steps)), steps
            shutil.rmtree(copy)

        @invariant()
        def the_newest_whole_one_is_found(self) -> None:
            run = self.run_directory()
            if set(run.steps()) - self.damaged:
                found = run.latest(lambda _: None).metadata["progress"]["step"]
                assert found == self.newest_whole, (found, self.newest_whole)

        @invariant()
        def what_is_damaged_is_known(self) -> None:
            run = self.run_directory()
            for step in run.steps():
                assert is_whole(run.checkpoint_path(step)) == (step not in self.damaged)

        def teardown(self) -> None:
            shutil.rmtree(self.place)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=15,
            deadline=None,
            database=None,
            derandomize=True,
            print_blob=False,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    return dict(ran)


def weights(checkpoint: Any) -> dict[str, str]:
    """Return every tensor as text."""
    return {name: value.tobytes().hex() for name, value in checkpoint.tensors.items()}


def unverified() -> Any:
    """Return a patch under which every checksum is accepted."""
    import hashlib

    from charrnn.runs import checkpoint

    class Anything(str):
        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = str.__hash__

    class Digest:
        def __init__(self, content: bytes = b"") -> None:
            self.whole = hashlib.sha256(content)

        def update(self, content: bytes) -> None:
            self.whole.update(content)

        def hexdigest(self) -> str:
            return Anything(self.whole.hexdigest())

    return mock.patch.object(checkpoint, "hashlib", mock.Mock(sha256=Digest))


@check("a state machine of train, save, kill, corrupt, resume, prune", sabotage="no checksum")
def state_machine(effort: Effort, sabotaged: bool) -> Result:
    examples = 25 if sabotaged else effort.of(25, 3)  # Three may have no corruption.
    with patched(unverified(), when=sabotaged):
        try:
            ran = in_child(lambda: explore(examples))
        except RuntimeError as error:
            last = str(error).strip().splitlines()
            return Result(False, next((x for x in reversed(last) if "Error" in x), last[-1])[:150])
    wanted = {"train, save", "kill", "corrupt", "resume", "prune"}
    shown = ", ".join(f"{name} {count}" for name, count in sorted(ran.items()))
    return Result(effort.fast or set(ran) == wanted, f"{examples} examples; rules: {shown}")
