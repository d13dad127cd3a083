"""ARCHITECTURE.md's worked example of a cell of one's own, done in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_cell_is_one_file_and_one_line(tmp_path: Path) -> None:
    section = (ROOT / "ARCHITECTURE.md").read_text("utf-8").partition("## Adding a cell")[2]
    name = re.search(r"in `(charrnn/\w+\.py)`", section)
    file, line = re.findall(r"```python\n(.*?)```", section, re.S)[:2]
    assert name
    for folder in ("charrnn", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / name.group(1)).write_text(file, "utf-8")
    registry = tmp_path / "charrnn" / "registry.py"
    start = "CELLS: dict[str, CellEntry] = {\n"
    before, _, after = registry.read_text("utf-8").partition(start)
    registry.write_text(before + start + line + after, "utf-8")

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    train = ["train", "pyproject.toml", "--steps", "12", "--hidden-size", "8", "--out", "run"]
    assert "x MGU 8" in run("charrnn", *train, "--cell", "mgu")
    run("charrnn", "resume", "run", "--steps", "14")
    assert len(run("charrnn", "sample", "run", "--length", "20", "--seed", "1")) >= 20
    assert "nats per character" in run("charrnn", "eval", "run")
    assert "plain mgu" in run("charrnn", "info", "run")
    contracts = ["test_layers", "test_layout", "test_models", "test_session"]
    words = "mgu and not bfloat16 and not float32-2"
    tested = run("pytest", *(f"tests/{file}.py" for file in contracts), "-q", "-k", words)
    passed = re.search(r"(\d+) passed", tested)
    assert passed
    assert int(passed.group(1)) > 40
    assert "failed" not in tested
