"""Run directories: one writer at a time, and reading the records back."""

import doctest
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from charrnn.errors import ConfigError, LockedError
from charrnn.runs import checkpoint, directory, environment
from charrnn.runs.directory import Run, claim_run, find_checkpoint


@pytest.mark.parametrize("module", [directory, checkpoint, environment])
def test_the_examples_of_the_docstrings(
    module: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(module, globs=vars(module) | {"np": np})  # type: ignore[arg-type]
    assert result.failed == 0 < result.attempted


def test_another_process_is_refused_and_the_holder_named(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    program = (
        "import sys; from pathlib import Path; from charrnn.runs.directory import Run\n"
        "try:\n"
        "    with Run(Path(sys.argv[1])).lock(): print('taken')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-c", program, str(run.path)]
    with run.lock(), run.lock():  # The same process may take it again.
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        owner = json.loads((run.path / "owner.json").read_text("utf-8"))
        assert owner == {"pid": os.getpid(), "host": socket.gethostname()}
    assert said.startswith("LockedError")
    assert f"in use by process {os.getpid()} on {socket.gethostname()}; wait" in said
    assert not run.path.exists()  # Nothing was recorded in it.
    assert "taken" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_name_of_a_dead_holder_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    path = tmp_path / "owner.json"
    names = [{"pid": child.pid}, {"pid": child.pid}, {"pid": os.getpid()}]
    waits: list[float] = []

    def next_name(seconds: float = 0) -> None:
        waits.append(seconds)
        path.write_text(json.dumps(names.pop(0) | {"host": socket.gethostname()}), "utf-8")

    next_name()
    monkeypatch.setattr(directory.time, "sleep", next_name)
    assert directory._living_owner(path)["pid"] == os.getpid()
    assert len(waits) == 3


def test_a_new_run_needs_a_place_of_its_own(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    (run.path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="exists already; delete it"), run.lock(new=True):
        pass
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]
    early = Run(tmp_path / "early")
    with early.lock(new=True):
        early.write_config("task: tagging")
    with early.lock(new=True):  # It was ended before its first checkpoint.
        pass
    with early.lock():
        early.save(3, {}, {})
    with pytest.raises(ConfigError, match="use charrnn resume"), early.lock(new=True):
        pass


def test_a_lock_held_elsewhere_is_an_error_of_its_own(tmp_path: Path) -> None:
    run, other = Run(tmp_path / "run"), Run(tmp_path / "run")
    with run.lock(), pytest.raises(LockedError), other.lock():
        pass


def test_names_are_made_safe_and_counted(tmp_path: Path) -> None:
    claimed = [claim_run("../my book", tmp_path).name for _ in range(2)]
    assert claimed == ["my-book-1", "my-book-2"]


def test_lines_of_metrics_say_their_kind_and_old_ones_are_read(tmp_path: Path) -> None:
    run = Run(tmp_path)
    old = [{"schema": 1, "step": 4, "train": {}}, {"schema": 1, "step": 4, "final": {"a": 1}}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in old), "utf-8")
    run.append_metrics({"step": 8, "train": {}})
    run.append_metrics({"step": 8, "final": {"a": 2}})
    kinds = ["evaluation", "final", "evaluation", "final"]
    assert [line["kind"] for line in run.metrics()] == kinds
    written = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert written[:2] == old
    assert [line["kind"] for line in written[2:]] == kinds[2:]
    run.cut_metrics(6)
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == old[:1]


def test_a_step_and_the_last_one_are_not_chosen_together() -> None:
    with pytest.raises(ConfigError, match="choose one of them"):
        find_checkpoint("any", pytest.fail, step=3, last=True)
