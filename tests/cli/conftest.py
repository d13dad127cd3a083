"""Runs for the tests of the commands. A run that many tests use is trained once and copied."""

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from charrnn.cli.main import main
from tests.conftest import TEXT, Run

TINY = [
    "--hidden-size", "8", "--batch-size", "4", "--window", "16",
    "--set", "training.warmup_steps=10", "--set", "evaluation.every=10",
]  # fmt: skip
Trainer = Callable[..., Path]


def process(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Run `charrnn` in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "charrnn", *arguments], **options)


@pytest.fixture(scope="session")
def train_once(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """Train a tiny run on book.txt. A second call with the same options returns the same run.

    Copy the run before use: no test may write into it. Its text is in a folder of its own.
    """

    @functools.cache
    def train(*options: str) -> Path:
        folder = tmp_path_factory.mktemp("trained")
        (folder / "book.txt").write_text(TEXT, "utf-8")
        arguments = ["train", "book.txt", *TINY, *options, "--out", "run"]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("CHARRNN_CACHE_DIR", str(folder / "cache"))
            patch.setattr(sys, "argv", ["charrnn", *arguments])
            with pytest.raises(SystemExit) as raised:
                main()
        assert raised.value.code == 0
        return folder / "run"

    return train


@pytest.fixture
def trained(run: Run, train_once: Trainer, tmp_path: Path) -> str:
    """Return a run of 30 steps, copied for this test."""
    shutil.copytree(train_once("--steps", "30"), tmp_path / "runs" / "a")
    return "runs/a"


@pytest.fixture
def byte_model(run: Run, train_once: Trainer, tmp_path: Path) -> str:
    """Return a run of 12 steps with a vocabulary of bytes, copied for this test."""
    options = ["--steps", "12", "--vocabulary", "byte"]
    shutil.copytree(train_once(*options), tmp_path / "runs" / "b")
    return "runs/b"
