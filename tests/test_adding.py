"""ARCHITECTURE.md's worked examples of a cell and a task of one's own, done in a copy of the
package."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def added(folder: Path, section: str, table: str, start: str) -> Callable[..., str]:
    """A copy of the package with a section's file, and its line at the start of a table; what runs
    a module there."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8").partition(f"\n## {section}\n")[2]
    name = re.search(r"`(charrnn/[\w/]+\.py)`:\n\n```python", text)
    file, line = re.findall(r"```python\n(.*?)```", text, re.S)[:2]
    assert name
    for part in ("charrnn", "tests"):
        shutil.copytree(ROOT / part, folder / part)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / name.group(1)).write_text(file, "utf-8")
    before, found, after = (folder / table).read_text("utf-8").partition(start)
    assert found
    (folder / table).write_text(before + start + line + after, "utf-8")

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_a_cell_is_one_file_and_one_line(tmp_path: Path) -> None:
    start = "CELLS: dict[str, CellEntry] = {\n"
    run = added(tmp_path, "Adding a cell", "charrnn/registry.py", start)
    train = ["train", "pyproject.toml", "--steps", "12", "--hidden-size", "8", "--out", "run"]
    assert "x MGU 8" in run("charrnn", *train, "--cell", "mgu")
    run("charrnn", "resume", "run", "--steps", "14")
    assert len(run("charrnn", "sample", "run", "--length", "20", "--seed", "1")) >= 20
    assert "nats per character" in run("charrnn", "eval", "run")
    assert "plain mgu" in run("charrnn", "info", "run")
    contracts = [
        "nn/test_layers",
        "runs/test_checkpoint_check",
        "nn/test_models",
        "session/test_loop",
    ]
    words = "mgu and not bfloat16 and not float32-2"
    tested = run("pytest", *(f"tests/{file}.py" for file in contracts), "-q", "-k", words)
    passed = re.search(r"(\d+) passed", tested)
    assert passed
    assert int(passed.group(1)) > 40
    assert "failed" not in tested


def test_a_task_is_one_file_and_one_line(tmp_path: Path) -> None:
    run = added(tmp_path, "Adding a task", "charrnn/config/schema.py", "TASKS = {\n")
    draw = np.random.default_rng(1)
    words = sorted({"".join(draw.choice(list("aeiou...."), 6)) for _ in range(300)})
    counts = [sum(letter != "." for letter in word) for word in words]
    rows = [f"{word}\t{count}\n" for word, count in zip(words, counts, strict=True)]
    (tmp_path / "vowels.tsv").write_text("".join(rows[::2]), "utf-8")
    (tmp_path / "held.tsv").write_text("".join(rows[1::2]), "utf-8")
    train = ["vowels.tsv", "--validation", "held.tsv", "--task", "counting", "--out", "run"]
    options = ["--hidden-size", "16", "--steps", "60", "--set", "training.learning_rate=1e-2"]
    assert "mean absolute error" in run("charrnn", "train", *train, *options)
    run("charrnn", "resume", "run", "--steps", "80")
    scored = json.loads(run("charrnn", "eval", "run", "--json"))
    assert "bidirectional" in run("charrnn", "info", "run")
    said = run("charrnn", "predict", "run", "--json", *words[1::2]).splitlines()
    rates, held = np.array([json.loads(line)["rate"] for line in said]), np.array(counts[1::2])
    chances = [math.exp(-r) * r**k / math.factorial(k) for r, k in zip(rates, held, strict=True)]
    assert scored["nats_per_text"] == pytest.approx(-np.log(chances).mean(), abs=1e-4)
    assert scored["mean_absolute_error"] == pytest.approx(np.abs(rates - held).mean(), abs=1e-4)
    assert scored["mean_absolute_error"] < 0.5 * np.abs(held - held.mean()).mean()
