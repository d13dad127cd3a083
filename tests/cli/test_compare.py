"""`charrnn compare`: what differs between runs, and what came out."""

import csv
import io
import json
import statistics
from pathlib import Path

import pytest

from charrnn.runs.directory import Run as Directory
from tests.cli.test_plot import copy_of
from tests.conftest import Run


def test_settings_that_differ_and_means_over_seeds(run: Run, trained: str) -> None:
    seed = copy_of(trained, "b", {"seed": 2}, times=2)
    best = json.loads((seed / "best.json").read_text())
    best["score"]["nats_per_character"] *= 2
    (seed / "best.json").write_text(json.dumps(best))
    copy_of(trained, "c", {"clip": 2.0, "weight_decay": 0.3})
    done = run("compare", trained, "runs/b", "runs/c", "--to", "99", "--format", "json")
    two, one = map(json.loads, done.out.splitlines())
    nats = best["score"]["nats_per_character"]
    assert two["nats"] == [nats / 2, nats]
    assert two["settings"] == {
        "training.weight_decay": 0.1, "training.clip": 1.0, "training.seed": [1, 2]
    }  # fmt: skip
    assert one["settings"]["training.clip"] == 2.0
    first = Directory(Path(trained)).metrics()[0]
    assert one["seconds_to"] == [first["seconds"]]
    row = next(
        line for line in run("compare", trained, "runs/b", "runs/c").out.splitlines()
        if line.startswith("nats per character")
    )  # fmt: skip
    deviation = statistics.stdev([nats / 2, nats])
    assert f"{nats * 0.75:.4f} ± {deviation:.4f}" in row


@pytest.mark.parametrize("form", ["markdown", "latex", "csv"])
def test_forms_of_the_table(run: Run, trained: str, form: str) -> None:
    copy_of(trained, "c_d", {"clip": 2.0})
    out = run("compare", trained, "runs/c_d", "--to", "0.1", "--format", form).out
    if form == "markdown":
        assert out.startswith("|  | a | c_d |\n|---|---|---|\n")
        assert "| training.clip | 1.0 | 2.0 |" in out
        assert "| seconds to 0.1 nats | - | - |" in out
    elif form == "latex":
        assert r"training.clip & 1.0 & 2.0 \\" in out
        assert r"c\_d" in out
    else:
        rows = list(csv.DictReader(io.StringIO(out)))
        assert [row["training.clip"] for row in rows] == ["1.0", "2.0"]


def test_scores_of_different_protocols_are_not_averaged(run: Run, trained: str) -> None:
    other = copy_of(trained, "b", {"seed": 2})
    best = json.loads((other / "best.json").read_text()) | {"score": None}
    (other / "best.json").write_text(json.dumps(best))
    done = run("compare", trained, "runs/b", "--format", "json")
    assert len(done.out.splitlines()) == 2
    assert "different protocols" in done.err
