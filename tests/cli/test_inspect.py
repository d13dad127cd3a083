"""`charrnn info`, `charrnn list` and `charrnn vocab`."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import charrnn
from charrnn.runs.directory import Run as RunDirectory
from tests.cli.conftest import Trainer
from tests.conftest import TEXT, Run

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"


def listed(run: Run, *arguments: str) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in run("list", *arguments, "--json").out.splitlines()]
    return {Path(row["run"]).name: row for row in rows}


def test_looking_around(run: Run, trained: str) -> None:
    info = json.loads(run("info", trained, "--json").out)
    model = charrnn.load(trained)
    assert info["parameters"]["total"] == sum(p.numel() for p in model.model.parameters())
    assert f"{info['parameters']['total']:,}" in run("info", trained).out
    (row,) = [json.loads(line) for line in run("list", "--json").out.splitlines()]
    assert row["run"] == trained
    assert row["protocol"] == "unbroken"
    assert "runs/a" in run("list").out
    assert json.loads(run("vocab", trained, "--json").out)["symbols"] == sorted(set(TEXT))
    assert "U+000A\t\\n" in run("vocab", trained).out


def test_parts_stand_in_the_order_in_which_a_symbol_meets_them(run: Run) -> None:
    expected = {
        "lstm": ["embedding", "layer 1", "layer 2", "head", "total"],
        "tied": ["layer 1", "layer 2", "head", "total"],
        "tags": ["words", "layer 1", "layer 2", "head", "total"],
        "writer": ["embedding", "label_embedding", "layer 1", "head", "total"],
        "pairs-additive": [
            "source_embedding", "target_embedding", "encoder", "bridges", "decoder", "attention",
            "combine", "head", "total",
        ],
    }  # fmt: skip
    for name, parts in expected.items():
        info = json.loads(run("info", GOLDEN / name, "--json").out)
        assert list(info["parameters"]) == parts
        *counts, total = info["parameters"].values()
        assert sum(counts) == total
        lines = run("info", GOLDEN / name).out.splitlines()
        assert [line[12:].split("  ")[0] for line in lines if line.endswith("parameters")] == parts


def test_a_list_says_what_each_run_is(run: Run, trained: str, byte_model: str) -> None:
    for name in ("pairs-dot", "no-skip"):
        shutil.copytree(GOLDEN / name, Path("runs", name))
    rows = listed(run)
    assert set(rows) == {"a", "b", "no-skip", "pairs-dot"}
    first = rows["a"]
    info = json.loads(run("info", trained, "--json").out)
    assert first["nats"] == info["score"]["nats_per_character"]
    assert (first["parameters"], first["step"]) == (info["parameters"]["total"], 30)
    assert (first["task"], first["cell"]) == ("language_model", "lstm")
    assert (first["hidden_sizes"], first["seed"]) == ([8, 8], 1)
    assert (first["unit"], first["state"]) == ("character", "finished")
    assert (rows["pairs-dot"]["task"], rows["pairs-dot"]["nats"]) == ("translation", None)
    assert (rows["no-skip"]["hidden_sizes"], rows["no-skip"]["seed"]) == ([8, 12], 5)
    heads, *lines = run("list").out.splitlines()
    assert heads.split() == [
        "run", "task", "cell", "widths", "parameters", "seed", "step", "score", "state", "age",
        "protocol",
    ]  # fmt: skip
    assert f"{first['nats']:.4f} nats per character  finished" in lines[0]
    assert f"{rows['b']['nats']:.4f} nats per byte" in lines[1]
    assert "8, 12" in lines[2]
    assert run("list", "nowhere").out == ""


def test_states_of_a_run(run: Run, trained: str, train_once: Trainer) -> None:
    def state(name: str = "a") -> str:
        return str(listed(run)[name]["state"])

    assert state() == "finished"
    with RunDirectory(Path(trained)).lock():
        assert state() == "running"
    assert state() == "finished"
    (Path(trained) / "owner.json").write_text('{"pid": 1, "host": "elsewhere"}')
    assert state() == "finished"  # That trainer was killed: nobody holds the lock.
    shutil.copytree(GOLDEN / "gru", "runs/gru")
    assert state("gru") == "stopped"  # At step 101 of 120.
    Path(trained, "metrics.jsonl").unlink()
    assert state() == "finished"  # All of its steps are trained, though not scored.
    Path("runs/empty/checkpoints").mkdir(parents=True)
    assert state("empty") == "stopped"


def test_a_damaged_checkpoint_is_listed(run: Run, trained: str) -> None:
    (checkpoint,) = Path(trained, "checkpoints").glob("*30.safetensors")
    for content in (b"", b"\xff" * 100, checkpoint.read_bytes()[:200], b"\x02" + bytes(7) + b"{}"):
        checkpoint.write_bytes(content)
        row = listed(run)["a"]
        assert (row["step"], row["task"], row["parameters"]) == (30, None, None)
        assert row["nats"] is not None
        assert run("list").out.splitlines()[1].split()[:6] == [trained, "-", "-", "-", "-", "-"]


def test_vocabularies_of_bytes_and_of_several_kinds(run: Run, byte_model: str) -> None:
    lines = run("vocab", byte_model).out.splitlines()
    assert (lines[0], lines[255]) == ("0\t0x00", "255\t0xFF")
    lines = run("vocab", GOLDEN / "pairs-dot").out.splitlines()
    assert {line.split("\t")[0] for line in lines} == {"source", "target"}
    data = json.loads(run("vocab", GOLDEN / "pairs-dot", "--json").out)
    assert data["source"]["kind"] == "character"
    assert len(data["source"]["symbols"]) == data["source"]["size"]


def test_a_score_by_eval_is_recorded_where_training_left_none(run: Run, trained: str) -> None:
    path = Path(trained, "best.json")
    scored = json.loads(path.read_text())
    path.write_text(json.dumps(scored | {"score": None}))
    before = listed(run)["a"]
    assert before["protocol"] != "unbroken"
    for options in (["--split", "train"], ["book.txt"], ["--temperature", "0.9"]):
        assert run("eval", trained, *options).code == 0
        assert listed(run)["a"]["nats"] == before["nats"]
    with RunDirectory(Path(trained)).lock():  # A running trainer scores it itself.
        assert run("eval", trained).code == 0
    assert listed(run)["a"]["nats"] == before["nats"]
    result = run("eval", trained)
    assert f"recorded the score in {trained}; charrnn list shows it" in result.err
    after = listed(run)["a"]
    assert after["protocol"] == "unbroken"
    assert after["nats"] == pytest.approx(scored["score"]["nats_per_character"], rel=1e-6)
    content = path.read_text()
    assert "recorded" not in run("eval", trained).err
    assert path.read_text() == content


def test_a_list_is_sorted_and_filtered(run: Run) -> None:
    for name in ("lstm", "gru", "tags", "pairs-dot"):
        shutil.copytree(GOLDEN / name, Path("runs", name))
    Path("runs/empty/checkpoints").mkdir(parents=True)
    rows = listed(run)
    assert [*rows] == ["empty", "gru", "lstm", "pairs-dot", "tags"]
    assert [*listed(run, "--sort", "-name")] == [*rows][::-1]
    for key, field in (("age", "age_seconds"), ("parameters", "parameters"), ("step", "step")):
        values = [row[field] for row in listed(run, "--sort", key).values()]
        known = [value for value in values if value is not None]
        assert known == sorted(known)
        assert values[len(known) :] == [None] * values.count(None)
    assert [*listed(run, "--cell", "gru")] == [n for n, r in rows.items() if r["cell"] == "gru"]
    assert [*listed(run, "--task", "tagging", "--state", "stopped")] == ["tags"]
    assert "no run in runs has cell rhn" in run("list", "--cell", "rhn").err
    wrong = run("list", "--sort", "sore")
    assert wrong.code == 2
    assert "did you mean score?" in wrong.err


def test_scores_of_different_units_are_sorted_apart(run: Run) -> None:
    scores = {"lstm": ("character", 2.5), "gru": ("character", 1.5), "tags": ("word", 2.0)}
    for name, (unit, nats) in scores.items():
        shutil.copytree(GOLDEN / name, Path("runs", name))
        best = {"step": 101, f"nats_per_{unit}": nats, "protocol": "quick", "score": None}
        Path("runs", name, "best.json").write_text(json.dumps(best), "utf-8")
    shutil.copytree(GOLDEN / "word", Path("runs/unscored"))
    assert [*listed(run, "--sort", "score")] == ["gru", "lstm", "tags", "unscored"]
    assert [*listed(run, "--sort", "-score")] == ["lstm", "gru", "tags", "unscored"]
    told = "scores per character and per word are sorted apart"
    assert told in run("list", "--sort", "score").err
    assert told not in run("list", "--sort", "score", "--task", "tagging").err
