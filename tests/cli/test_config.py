"""`charrnn config`."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.conftest import Run

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"


def test_config_commands(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.yaml").write_text("model:\n  cell: gru\n")
    monkeypatch.setenv("CHARRNN_TRAINING__WINDOW", "99")
    shown = run("config", "show", "c.yaml", "--set", "training.seed=5").out
    for key, value, source in (
        ("model.cell", '"gru"', "c.yaml"),
        ("training.window", "99", "CHARRNN_TRAINING__WINDOW"),
        ("training.seed", "5", "--set training.seed=5"),
        ("training.clip", "1.0", "default"),
    ):
        assert re.search(rf"^{key}\s+{value}\s+{source}$", shown, re.M)
    assert json.loads(run("config", "schema").out)["title"] == "Config"
    assert "training.learning_rate" in run("config", "defaults").out


def test_diff_lists_the_settings_that_differ(run: Run, trained: str) -> None:
    golden = GOLDEN / "lstm"
    lines = run("config", "diff", trained, golden).out.splitlines()
    pairs = json.loads(run("config", "diff", trained, golden, "--json").out)
    assert [line.split()[0] for line in lines] == [*pairs]
    first = yaml.safe_load(Path(trained, "config.yaml").read_text("utf-8"))
    assert pairs["data.sources"][0] == first["data"]["sources"]
    assert "training.optimizer" not in pairs
    checkpoint = next(Path(trained, "checkpoints").iterdir())
    for other in (checkpoint, Path(trained, "config.yaml"), trained):
        same = run("config", "diff", trained, other)
        assert (same.code, same.out) == (0, "")
        assert "have equal settings" in same.err
    Path("my.yaml").write_text("model: {cell: gru}", "utf-8")
    assert json.loads(run("config", "diff", "my.yaml", trained, "--json").out)["model.cell"] == [
        "gru",
        "lstm",
    ]
    assert run("config", "diff", trained, "missing").code == 4
