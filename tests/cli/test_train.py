"""`charrnn train`: runs and their files, options, texts, budgets and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from charrnn.config.schema import Config
from charrnn.registry import CELLS
from charrnn.runs.checkpoint import load_checkpoint
from tests.cli.conftest import TINY
from tests.conftest import TEXT, Run


def test_train_prints_the_run_and_writes_its_files(run: Run, tmp_path: Path) -> None:
    result = run("train", "book.txt", *TINY, "--steps", "30")
    assert (result.code, result.out) == (0, "runs/book-1\n")
    folder = tmp_path / "runs" / "book-1"
    assert {path.name for path in folder.iterdir()} == {
        "best.json", "checkpoints", "config.schema.json", "config.yaml", "environment.json", "lock",
        "metrics.jsonl", "samples.jsonl", "steps.jsonl",
    }  # fmt: skip
    for part in ("text    book.txt", "model   2 x LSTM 8", "device  cpu", "plan    ", "run     "):
        assert part in result.err
    assert "next    charrnn sample runs/book-1" in result.err
    assert "\x1b" not in result.err
    assert run("train", "book.txt", *TINY, "--steps", "2").out == "runs/book-2\n"


def test_editors_get_the_schema_of_a_runs_config(trained: str) -> None:
    line, *_ = Path(trained, "config.yaml").read_text("utf-8").splitlines()
    place = line.removeprefix("# yaml-language-server: $schema=")
    schema = json.loads(Path(trained, place).read_text("utf-8"))
    assert schema == json.loads(json.dumps(Config.model_json_schema()))


def test_quiet_leaves_only_warnings_errors_and_the_run(run: Run, tmp_path: Path) -> None:
    result = run("train", "book.txt", *TINY, "--steps", "10", "--quiet")
    assert result == (0, "runs/book-1\n", "")
    again = run("resume", "book-1", "--steps", "12", "-q", "--set", "data.errors=replace")
    assert (again.code, again.out) == (0, "runs/book-1\n")
    assert all(line.startswith("warning: ") for line in again.err.splitlines())
    wrong = run("train", "missing.txt", "--quiet")
    assert wrong.code == 3
    assert "missing.txt" in wrong.err


@pytest.mark.parametrize("budget", [["--steps", "50"], ["--max-time", "30s"]])
def test_a_dry_run_writes_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: list[str]
) -> None:
    monkeypatch.setattr("charrnn.session.loop.REHEARSAL", 0.05)
    result = run("train", "book.txt", *TINY, *budget, "--dry-run", "--set", "data.order=path")
    assert result.code == 0, result.err
    for part in (
        "model   2 x LSTM 8",
        "parameters",
        "memory  about ",
        "time    about ",
        "chosen  ",
    ):
        assert part in result.out
    assert "nothing was written" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["book.txt"]


def test_a_dry_run_prints_its_plan_as_json(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("charrnn.session.loop.REHEARSAL", 0.05)
    plan = json.loads(run("train", "book.txt", *TINY, "--steps", "50", "--dry-run", "--json").out)
    assert plan["steps"] == plan["settings"]["training.steps"] == 50
    assert plan["seconds"] > 0
    assert plan["peak_memory"] > 10_000_000
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    refused = run("train", "book.txt", *TINY, "--dry-run", "--out", "used")
    assert refused.code == 2
    assert "used exists already" in refused.err
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["file"]


def test_the_runs_config_repeats_it(run: Run, trained: str, tmp_path: Path) -> None:
    again = run("train", "--config", f"{trained}/config.yaml", "--out", "runs/b")
    assert again.code == 0, again.err
    first, second = (json.loads((tmp_path / "runs" / n / "best.json").read_text()) for n in "ab")
    for best in (first, second):
        del best["score"]["text"]  # One names the text as it was given, one by its path.
    assert first == second


def test_train_json_ends_with_the_score(run: Run) -> None:
    result = run("train", "book.txt", *TINY, "--steps", "20", "--json")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert {line["event"] for line in lines[:-1]} == {"evaluation"}
    end = lines[-1]
    assert end["event"] == "end"
    assert end["steps"] == 20
    assert end["run"] == "runs/book-1"
    assert set(end) >= {
        "split", "nats_per_character", "bits_per_character", "bits_per_byte", "characters",
        "unknown_characters", "step", "schema", "parameters", "characters_per_second", "seconds",
    }  # fmt: skip
    scored = json.loads(run("eval", "book-1", "--json").out)
    assert scored["nats_per_character"] == pytest.approx(end["nats_per_character"], rel=1e-6)
    assert scored["bits_per_character"] == pytest.approx(scored["nats_per_character"] / np.log(2))


def test_an_existing_run_is_not_touched(run: Run, trained: str) -> None:
    result = run("train", "book.txt", *TINY, "--steps", "2", "--out", trained)
    assert result.code == 2
    assert "charrnn resume runs/a" in result.err


def test_starts_at_the_same_time_get_runs_of_their_own(run: Run) -> None:
    program = "from charrnn.runs.directory import claim_run; print(claim_run('book').path)"
    children = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(3)
    ]
    said = sorted(child.communicate(timeout=120)[0] for child in children)
    assert said == [b"runs/book-1\n", b"runs/book-2\n", b"runs/book-3\n"]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "sgd"])
def test_every_optimizer_learns_by_default(run: Run, optimizer: str) -> None:
    changes = ["--set", f"training.optimizer={optimizer}", "--steps", "150", "--json"]
    result = run("train", "book.txt", *TINY, *changes)
    assert json.loads(result.out.splitlines()[-1])["nats_per_character"] < 2.3


def test_from_another_model(run: Run, trained: str, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text(TEXT.replace("q", "Q"), "utf-8")
    result = run(
        "train",
        "other.txt",
        "--from",
        trained,
        "--steps",
        "12",
        "--batch-size",
        "4",
        "--window",
        "16",
        "--set",
        "training.warmup_steps=10",
    )
    assert result.code == 0, result.err
    assert "1 symbols added ('Q'), 1 symbols dropped ('q')" in result.err
    assert "2 x LSTM 8" in result.err


@pytest.mark.parametrize("length", [0, 1, 2, 3, 5, 30, 300])
def test_short_texts_give_a_model_or_a_sentence(run: Run, tmp_path: Path, length: int) -> None:
    (tmp_path / "short.txt").write_text(TEXT[:length], "utf-8")
    result = run("train", "short.txt", "--steps", "12")
    assert result.code == (0 if length >= 3 else 3), result.err
    if result.code:
        assert len(result.err.splitlines()) == 2
        assert "short.txt" in result.err or "characters" in result.err
    else:
        assert run("sample", result.out.strip(), "-n", "10", "--seed", "0").code == 0


TITLES = {
    "vanilla": ("vanilla (tanh)", "fused"),
    "lstm": ("LSTM", "fused"),
    "gru": ("GRU", "fused"),
    "rhn": ("RHN (depth 3)", "plain"),
    "mlstm": ("mLSTM", "plain"),
    "mingru": ("minGRU", "fused"),
    "minlstm": ("minLSTM", "fused"),
}


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_is_resumed_sampled_scored_and_described(run: Run, cell: str) -> None:
    depth = ["--set", "model.recurrence_depth=3"]
    unlike = ["--hidden-size", "[6, 8]", "--embedding-size", "one_hot"]
    others = ["--set", "model.skip_connections=false", "--set", "training.schedule=linear"]
    options = [*TINY, "--steps", "12", "--cell", cell, *depth, *unlike, *others]
    result = run("train", "book.txt", *options)
    assert result.code == 0, result.err
    title, path = TITLES[cell]
    assert f"model   {title} [6, 8], one-hot, " in result.err
    assert f"; {path} {cell}, float32" in result.err
    trained = result.out.strip()
    resumed = run("resume", trained, "--steps", "15")
    assert resumed.code == 0, resumed.err
    text = run("sample", trained, "-n", "20", "--seed", "1").out
    assert len(text) >= 20
    assert run("sample", trained, "-n", "20", "--seed", "1").out == text
    scored = json.loads(run("eval", trained, "--json").out)
    assert 1 < scored["nats_per_character"] < 5
    shown = run("info", trained)
    assert title in shown.out
    assert f"({path} {cell}, float32)" in shown.out
    fewer = ["--steps", "12", "--batch-size", "4", "--set", "evaluation.every=6"]
    again = run("train", "book.txt", "--from", trained, *fewer)
    assert again.code == 0, again.err
    assert f"{title} [6, 8]" in again.err


def test_what_a_cell_does_not_have_cannot_be_asked_of_it(run: Run) -> None:
    result = run("train", "book.txt", *TINY, "--cell", "mingru", "--set", "model.layer_norm=true")
    assert result.code == 2
    assert "a mingru has no layer normalisation; set model.layer_norm to false" in result.err
    dropped = ["--set", "model.weight_dropout=0.5"]
    result = run("train", "book.txt", *TINY, "--cell", "minlstm", *dropped)
    assert result.code == 2
    assert "weight dropout" in result.err
    assert "use another cell" in result.err


def test_regularisers_and_the_plain_path_are_named(run: Run) -> None:
    options = {"layer_norm": "true", "weight_dropout": "0.3", "locked_dropout": "true"}
    sets = [f"--set=model.{name}={value}" for name, value in options.items()]
    made = run("train", "book.txt", *TINY, "--steps", "10", "--out", "runs/n", *sets)
    assert made.code == 0, made.err
    assert "locked dropout" in made.err
    assert "weight dropout 0.3, layer normalisation" in made.err
    assert "plain lstm" in made.err
    assert "(plain lstm, float32)" in run("info", "runs/n").out


def test_documents_and_separate_files(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "poems"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.txt").write_text(TEXT[i * 100 : i * 100 + 120], "utf-8")
    result = run(
        "train",
        "poems",
        *TINY,
        "--steps",
        "12",
        "--validation",
        "book.txt",
        "--test",
        "book.txt",
        "--set",
        "data.reset_state_at_documents=true",
    )
    assert result.code == 0, result.err
    scored = json.loads(run("eval", "poems-1", "--split", "test", "--json").out)
    assert scored["characters"] == len(TEXT)


def test_tied_embeddings_need_equal_widths(run: Run) -> None:
    tied = ["--set", "model.tie_embeddings=true", "--set", "model.skip_connections=false"]
    good = run("train", "book.txt", *TINY, "--steps", "12", *tied)
    assert good.code == 0, good.err
    bad = run("train", "book.txt", *TINY, "--steps", "12", *tied, "--embedding-size", "5")
    assert bad.code == 2
    assert "tied embeddings" in bad.err


def test_a_learning_rate_of_a_million_exits_6(run: Run, tmp_path: Path) -> None:
    result = run(
        "train",
        "book.txt",
        *TINY,
        "--steps",
        "400",
        "--cell",
        "vanilla",
        "--learning-rate",
        "1e30",
        "--set",
        "model.activation=relu",
        "--set",
        "training.optimizer=sgd",
    )
    assert result.code == 6
    assert "--learning-rate" in result.err
    for file in (tmp_path / "runs" / "book-1" / "checkpoints").iterdir():
        assert all(np.isfinite(value).all() for value in load_checkpoint(file).tensors.values())


def test_an_overflow_within_one_step_exits_6(run: Run, tmp_path: Path) -> None:
    result = run(
        "train",
        "book.txt",
        *TINY,
        "--steps",
        "3",
        "--learning-rate",
        "1e38",
        "--set",
        "evaluation.every=1",
    )
    assert result.code == 6, result.err
    assert "Traceback" not in result.err
    saved = [file.name for file in (tmp_path / "runs" / "book-1" / "checkpoints").iterdir()]
    assert saved == ["step-00000000.safetensors"]
    again = run("train", "book.txt", *TINY, "--out", "runs/book-1")
    assert "use charrnn resume" in again.err
