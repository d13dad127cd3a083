"""`charrnn config`."""

import json
import re
from pathlib import Path

import pytest

from tests.conftest import Run


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
