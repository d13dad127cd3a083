"""`charrnn resume`: budgets, texts that moved or changed, signals and locks."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from charrnn.runs.checkpoint import load_checkpoint
from charrnn.training import trainer as training
from tests.cli.conftest import TINY, Trainer
from tests.conftest import TEXT, Run


def test_resume_goes_on_and_says_when_there_is_nothing_to_do(run: Run, trained: str) -> None:
    done = run("resume", trained)
    assert done.code == 2
    assert "reached its budget of 30 steps" in done.err
    more = run("resume", "a", "--steps", "40")
    assert more.code == 0, more.err
    assert json.loads(run("info", trained, "--last", "--json").out)["step"] == 40


def test_resume_with_a_time_plans_anew(run: Run, trained: str, tmp_path: Path) -> None:
    result = run("resume", trained, "--max-time", "0.01")
    assert result.code == 0, result.err
    assert "max_time: null" in (tmp_path / trained / "config.yaml").read_text()
    assert json.loads(run("info", trained, "--last", "--json").out)["step"] > 30


def test_a_budget_that_is_used_up_is_refused(run: Run, trained: str, tmp_path: Path) -> None:
    before = (tmp_path / trained / "config.yaml").read_text()
    for budget in (["--steps", "30"], ["--steps", "3"], ["--epochs", "0.01"]):
        refused = run("resume", trained, *budget)
        assert refused.code == 2
        assert "reached its budget" in refused.err
    assert (tmp_path / trained / "config.yaml").read_text() == before


def test_another_text_starts_the_search_for_the_best_anew(
    run: Run, trained: str, tmp_path: Path
) -> None:
    (tmp_path / "other.txt").write_text(TEXT[::-1], "utf-8")
    result = run("resume", trained, "--data", "other.txt", "--steps", "35")
    assert result.code == 0, result.err
    assert json.loads((tmp_path / trained / "best.json").read_text())["step"] == 35


def test_separate_texts_may_move_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "validation.txt").write_text(TEXT[:300], "utf-8")
    run("train", "book.txt", *TINY, "--steps", "12", "--validation", "validation.txt")
    (tmp_path / "validation.txt").rename(tmp_path / "moved.txt")
    assert run("resume", "book-1", "--steps", "15").code == 3
    assert run("resume", "book-1", "--steps", "15", "--validation", "moved.txt").code == 0
    assert run("eval", "book-1", "--validation", "moved.txt").code == 0


@pytest.fixture
def trained_here(run: Run) -> str:
    """Train a run on the book.txt of this test, so that the text may move or change."""
    result = run("train", "book.txt", *TINY, "--steps", "30", "--out", "runs/a")
    assert result.code == 0, result.err
    return "runs/a"


def test_a_lone_checkpoint_is_enough(
    run: Run, trained_here: str, tmp_path: Path, cache: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file = elsewhere / "some name.safetensors"
    shutil.copy(tmp_path / trained_here / "checkpoints" / "step-00000030.safetensors", file)
    moved = elsewhere / "moved.txt"
    shutil.move(tmp_path / "book.txt", moved)
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(cache)
    assert len(run("sample", file, "-n", "20", "--seed", "1").out) >= 20
    assert run("eval", file, "--data", moved).code == 0
    assert run("eval", file, moved).code == 0
    assert run("info", file).code == 0
    gone = run("resume", file, "--steps", "35")
    assert gone.code == 3
    resumed = run("resume", file, "--data", moved, "--steps", "31")
    assert resumed.code == 0, resumed.err
    assert run("sample", resumed.out.strip(), "-n", "3", "--seed", "1").code == 0
    resumed = run("resume", file, "--data", moved, "--steps", "35")
    assert resumed.code == 0, resumed.err
    assert (tmp_path / resumed.out.strip() / "checkpoints" / "step-00000035.safetensors").is_file()


def test_an_edited_text_is_noticed_on_resume(run: Run, trained_here: str, tmp_path: Path) -> None:
    with (tmp_path / "book.txt").open("a") as file:
        file.write("the quick brown fox\n")
    result = run("resume", trained_here, "--steps", "35")
    assert result.code == 0, result.err
    assert "the text is not the one the run began with" in result.err
    with (tmp_path / "book.txt").open("a") as file:
        file.write("é\n")
    result = run("resume", trained_here, "--steps", "40")
    assert result.code == 3
    assert "U+00E9" in result.err
    assert "set --unknown to skip" in result.err
    assert run("resume", trained_here, "--steps", "40", "--unknown", "skip").code == 0


def test_standard_input_is_kept_for_resume(run: Run, cache: Path) -> None:
    result = run("train", "-", *TINY, "--steps", "12", stdin=TEXT.encode())
    assert (result.code, result.out) == (0, "runs/stdin-1\n")
    assert run("resume", "stdin-1", "--steps", "15").code == 0
    shutil.rmtree(cache / "ids")
    gone = run("resume", "stdin-1", "--steps", "18")
    assert gone.code == 3
    assert "--data" in gone.err
    assert run("resume", "stdin-1", "--steps", "18", "--data", "book.txt").code == 0


def test_resume_takes_a_lower_rate_and_records_it(run: Run, trained_here: str) -> None:
    before = yaml.safe_load((Path(trained_here) / "config.yaml").read_text())["training"]
    changes = ["--learning-rate", "0.001", "--set", "training.clip=0.5"]
    steps = before["steps"] + 5
    assert run("resume", trained_here, "--steps", str(steps), *changes).code == 0
    now = yaml.safe_load((Path(trained_here) / "config.yaml").read_text())["training"]
    assert (now["steps"], now["learning_rate"], now["clip"]) == (steps, 0.001, 0.5)
    (entry,) = now["earlier"]
    assert entry["until"] == entry["training.steps"] == before["steps"]
    assert entry["training.learning_rate"] == before["learning_rate"]
    repeated = run("train", "--config", f"{trained_here}/config.yaml", "--out", "runs/again")
    assert repeated.code == 0, repeated.err
    last = f"checkpoints/step-{steps:08d}.safetensors"
    first, second = (
        load_checkpoint(Path(folder) / last).tensors for folder in (trained_here, "runs/again")
    )
    assert all(np.array_equal(first[n], second[n]) for n in first if n.startswith("model/"))


def test_resume_refuses_what_cannot_change(run: Run, trained_here: str) -> None:
    result = run("resume", trained_here, "--steps", "40", "--set", "model.hidden_size=9")
    assert result.code == 2
    assert "model.hidden_size cannot change while a run is under way" in result.err
    assert "start a new run from the weights of this one" in result.err


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["ctrl-c", "sigterm", "sighup"],
)
def test_a_signal_saves_and_resume_goes_on(
    run: Run, train_once: Trainer, number: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = training.Trainer._step

    def interrupted(trainer: Any, batch: Any) -> Any:
        if trainer.progress.step == 17:
            os.kill(os.getpid(), number)
        return step(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_step", interrupted)
        stopped = run("train", "book.txt", *TINY, "--steps", "30", "--out", "runs/stopped")
    assert stopped.code == code, stopped.err
    assert "go on with: charrnn resume runs/stopped" in stopped.err
    assert json.loads(run("info", "stopped", "--last", "--json").out)["step"] == 18
    resumed = run("resume", "stopped")
    assert resumed.code == 0, resumed.err
    straight = train_once("--steps", "30")  # The same text from another folder, without a stop.
    files = [
        folder / "checkpoints" / "step-00000030.safetensors"
        for folder in (straight, Path("runs", "stopped"))
    ]
    a, b = (load_checkpoint(file).tensors for file in files)
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_a_second_trainer_is_refused(run: Run, trained: str) -> None:
    program = (
        "import sys; from pathlib import Path; from charrnn.runs.directory import Run\n"
        "with Run(Path(sys.argv[1])).lock(): print('locked', flush=True); sys.stdin.read()"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program, trained], **pipes) as trainer:
        assert trainer.stdout
        assert trainer.stdout.readline() == b"locked\n"
        second = run("resume", "a", "--steps", "32")
        assert second.code == 5
        assert str(trainer.pid) in second.err
        trainer.kill()
    assert run("resume", "a", "--steps", "32").code == 0
