"""Mistakes of users give one line and an exit code, and write nothing."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import Run


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["trian"], 2, "did you mean train?"),
        (["train", "--stepz", "3"], 2, "--steps"),
        (["train", "bok.txt"], 3, "did you mean book.txt?"),
        (["train", "shakespear"], 3, "did you mean shakespeare?"),
        (["train", "book.txt", "--set", "training.learnin_rate=1"], 2, "training.learning_rate?"),
        (["train", "book.txt", "--cell", "lsmt"], 2, "did you mean lstm?"),
        (["train", "book.txt", "--steps", "0"], 2, "training.steps"),
        (["train", "book.txt", "--steps", "x"], 2, "training.steps"),
        (["train", "book.txt", "--config", "missing.yaml"], 2, "missing.yaml"),
        (["train", "book.txt", "--batch-size", "100000"], 2, "--batch-size"),
        (["train", "book.txt", "--encoding", "klingon"], 2, "klingon"),
        (["train", "book.txt", "--device", "cuda:99"], 2, "not available"),
        (["train", "book.txt", "--out", "book.txt"], 2, "book.txt"),
        (["sample", "nothing"], 4, "charrnn list"),
        (["sample", "nothing", "--temperature", "nan"], 2, "--temperature"),
        (["train", "book.txt", "--device", "gpu"], 2, "gpu"),
        (["sample", "book.txt"], 4, "not a usable checkpoint"),
        (["resume", "nothing"], 4, "nothing"),
        (["eval", "nothing", "--dynamic-rate", "nan"], 2, "--dynamic-rate"),
        (["compress", "nothing", "book.txt", "--dynamic-decay", "nan"], 2, "--dynamic-decay"),
        (["baseline", "bok.txt"], 3, "did you mean book.txt?"),
        (["baseline", "book.txt", "--order", "0"], 2, "--order"),
        (["baseline", "book.txt", "--model", "hmm", "--order", "3"], 2, "--order is for n-grams"),
        (["baseline", "book.txt", "--states", "3"], 2, "add --model hmm"),
        (["baseline", "book.txt", "--vocabulary", "wrod"], 2, "did you mean word?"),
        (["baseline", "book.txt", "--encoding", "klingon"], 2, "klingon"),
        (["baseline", "book.txt", "--prompt", "the"], 2, "--sample"),
        (
            ["baseline", "book.txt", "--sample", "5", "--prompt", "é"],
            3,
            "lacks symbols of the prompt",
        ),
        (["baseline", "book.txt", "--sample", "5", "--temperature", "nan"], 2, "--temperature"),
    ],
)
def test_mistakes_get_one_sentence(run: Run, arguments: list[str], code: int, words: str) -> None:
    result = run(*arguments)
    assert result.code == code, result.err
    assert words in result.err
    assert "Traceback" not in result.err
    assert not list(Path("runs").glob("*"))


def test_a_mistyped_run_is_suggested(run: Run, trained: str) -> None:
    shutil.copytree("runs/a", "runs/shakespeare-1")
    assert "did you mean shakespeare-1?" in run("sample", "shakespear-1").err
    missing = run("sample", trained, "--step", "29")
    assert missing.code == 4
    assert "it has 30" in missing.err or "30" in missing.err
