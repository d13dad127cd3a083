"""Adding a cell and a task, by an installed package and in a copy of charrnn, as
docs/carry-on/add-a-cell.md and add-a-task.md describe it."""

import contextlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tests/third_party"
Run = Callable[..., str]


SERVER = """
import json, sys
import torch._dynamo, charrnn.session.loop  # so that a forked command starts at once
from tests.faults.harness import command, fork
for line in sys.stdin:
    ended = fork(command(*json.loads(line))).wait()
    print(json.dumps([ended.code, ended.output + ended.errors]), flush=True)
"""


@contextlib.contextmanager
def commands(python: Path | str, folder: Path, path: Path) -> Iterator[Run]:
    """Return a function that runs `charrnn` in `folder` by another Python, with the package in
    `path`, checks the exit code and returns the output.

    Each command is a process of its own, forked from one that has imported torch.
    """
    environment = os.environ | {
        "PYTHONPATH": str(path),
        "CHARRNN_CACHE_DIR": str(folder / "cache"),
        "TMPDIR": str(folder),
    }
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [str(python), "-c", SERVER], cwd=folder, env=environment, **pipes
    ) as server:
        assert server.stdin
        assert server.stdout

        def run(*words: str, code: int = 0) -> str:
            print(json.dumps(words), file=server.stdin, flush=True)
            ended, output = json.loads(server.stdout.readline())
            assert ended == code, output
            assert "Traceback" not in output
            return output

        yield run
        server.stdin.close()


class Fresh:
    """A new environment with charrnn's requirements and nothing else."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
        self.python = folder / "env/bin/python"
        self.site = next((folder / "env").glob("lib/python*/site-packages"))
        (self.site / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")

    def pip(self, *words: str | Path) -> None:
        """Run our pip for this environment; it downloads nothing."""
        pip = [sys.executable, "-m", "pip", "--python", self.python, *words, "--quiet"]
        subprocess.run(pip, check=True)

    def install(self, package: Path, folder: Path) -> None:
        """Install a copy of a package's source."""
        shutil.copytree(package, folder)
        offline = ["--no-index", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
        self.pip("install", folder, *offline)


def write_vowels(folder: Path) -> tuple[list[str], list[int]]:
    """Write words with their numbers of vowels for training and for validation; return the
    latter."""
    draw = np.random.default_rng(1)
    words = sorted({"".join(draw.choice(list("aeiou...."), 6)) for _ in range(300)})
    counts = [sum(letter != "." for letter in word) for word in words]
    rows = [f"{word}\t{count}\n" for word, count in zip(words, counts, strict=True)]
    (folder / "vowels.tsv").write_text("".join(rows[::2]), "utf-8")
    (folder / "held.tsv").write_text("".join(rows[1::2]), "utf-8")
    return words[1::2], counts[1::2]


def use_the_cell(run: Run, out: str, shown: str) -> None:
    """Train, resume, sample, score and describe a model of the cell."""
    train = ["train", str(ROOT / "pyproject.toml"), "--steps", "12", "--hidden-size", "8"]
    assert f"x {shown} 8" in run(*train, "--out", out, "--cell", "mgu")
    run("resume", out, "--steps", "14")
    assert len(run("sample", out, "--length", "20", "--seed", "1")) >= 20
    assert "nats per character" in run("eval", out)
    assert "plain mgu" in run("info", out)


def use_the_task(run: Run, out: str, folder: Path) -> None:
    """Train, resume, score and describe a model of the task, and predict with it."""
    held, counts = write_vowels(folder)
    train = ["vowels.tsv", "--validation", "held.tsv", "--task", "counting", "--out", out]
    options = ["--hidden-size", "16", "--steps", "60", "--set", "training.learning_rate=1e-2"]
    assert "mean absolute error" in run("train", *train, *options)
    run("resume", out, "--steps", "80")
    assert "bidirectional" in run("info", out)
    assert "use charrnn predict" in run("sample", out, code=4)
    scored = json.loads(run("eval", out, "--json"))
    predicted = run("predict", out, "--json", *held).splitlines()
    rates = np.array([json.loads(line)["rate"] for line in predicted])
    chances = [math.exp(-r) * r**k / math.factorial(k) for r, k in zip(rates, counts, strict=True)]
    error = np.abs(rates - counts).mean()
    assert scored["nats_per_text"] == pytest.approx(-np.log(chances).mean(), abs=1e-4)
    assert scored["mean_absolute_error"] == pytest.approx(error, abs=1e-4)
    assert error < 0.5 * np.abs(np.array(counts) - np.mean(counts)).mean()


def test_installed_cells_and_a_task(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path)
    fresh.install(PACKAGE, tmp_path / "source")
    refused = "{0} is not installed; pip install the package that provides it"
    with commands(fresh.python, tmp_path, ROOT) as run:
        usage = " ".join(run("train", "--help").split())
        assert "minlstm or mgu." in usage
        assert "translation or counting." in usage
        schema = json.loads(run("config", "schema"))
        assert schema["$defs"]["ModelConfig"]["properties"]["cell"]["enum"][-1] == "mgu"
        assert schema["properties"]["task"]["enum"][-1] == "counting"
        use_the_cell(run, "cell", "mgu")
        assert "did you mean mgu?" in run("train", "--cell", "mgru", code=2)
        use_the_task(run, "task", tmp_path)
        options = ["--task", "counting", "--set", "model.attention=dot"]
        assert "model.attention" in run("train", "vowels.tsv", *options, code=2)
        fresh.pip("uninstall", "--yes", "charrnn-examples")
        assert "mgu" not in run("train", "--help")
        for words in (["sample", "cell"], ["resume", "cell", "--steps", "16"], ["eval", "cell"]):
            assert refused.format("cell 'mgu'") in run(*words, code=4)
        for words in (
            ["predict", "task", "a"],
            ["resume", "task", "--steps", "90"],
            ["eval", "task"],
        ):
            assert refused.format("task 'counting'") in run(*words, code=4)
        add_a_broken_cell(fresh.site)
        assert "minlstm or lost." in run("train", "--help")
        used = run("train", str(ROOT / "pyproject.toml"), "--cell", "lost", code=2)
        assert "no_such_package:Cell cannot be loaded" in used
        assert not (tmp_path / "runs").exists()


def add_a_broken_cell(site: Path) -> None:
    """Install a package whose cell cannot be loaded."""
    package = site / "broken-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[charrnn.cells]\nlost = no_such_package:Cell\n")


def add(folder: Path, page: str, module: Path) -> None:
    """Copy the package, and add a module and its line in the registry as a page says."""
    text = (ROOT / "docs/carry-on" / page).read_text("utf-8").partition("\n## In charrnn itself")[2]
    place = re.search(r"`(charrnn/[\w/]+\.py)`", text)
    table = re.search(r"`charrnn\.registry\.(\w+)`", text)
    line = re.search(r"```python\n(.*?)```", text, re.S)
    assert place
    assert table
    assert line
    for part in ("charrnn", "tests"):
        shutil.copytree(ROOT / part, folder / part)
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copy(module, folder / place.group(1))
    registry = folder / "charrnn/registry.py"
    start = re.search(rf"^{table.group(1)}: .*\n.*\n    \{{\n", registry.read_text("utf-8"), re.M)
    assert start
    before, after = (registry.read_text("utf-8")[part] for part in halves(start.end()))
    registry.write_text(before + line.group(1) + after, "utf-8")


def halves(place: int) -> tuple[slice, slice]:
    return slice(place), slice(place, None)


# The tests that every cell of the registry must pass.
CONTRACTS = [
    "tests/contracts/test_cells_and_layers.py",
    "tests/nn/test_models.py",
    "tests/runs/test_checkpoint_check.py",
    "tests/session/test_loop.py",
]


def contracts_of(cell: str, ids: Sequence[str]) -> Counter[str]:
    """Return the tests that have a cell among their parameters, without the cell's name."""
    named = (test for test in ids if re.search(rf"\[.*\b{cell}\b", test))
    return Counter(re.sub(rf"\b{cell}\b", "", test) for test in named)


def run_pytest(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *CONTRACTS, "-q", "-p", "no:cacheprovider", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_cell_in_the_package_is_one_file_and_one_line(tmp_path: Path) -> None:
    add(tmp_path, "add-a-cell.md", PACKAGE / "charrnn_examples/mgu.py")
    with commands(sys.executable, tmp_path, tmp_path) as run:
        use_the_cell(run, "run", "MGU")
    quick = "not bfloat16 and not float32-2"
    collected = run_pytest(tmp_path, "--collect-only", "-k", quick).splitlines()
    mine, theirs = contracts_of("mgu", collected), contracts_of("mlstm", collected)
    assert mine == theirs
    tested = run_pytest(tmp_path, "-k", f"mgu and {quick}")
    assert f"{mine.total()} passed" in tested


@pytest.mark.slow
def test_a_task_in_the_package_is_one_file_and_one_line(tmp_path: Path) -> None:
    add(tmp_path, "add-a-task.md", PACKAGE / "charrnn_examples/counting.py")
    with commands(sys.executable, tmp_path, tmp_path) as run:
        use_the_task(run, "run", tmp_path)
