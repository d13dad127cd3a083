"""The commands end to end, on a tiny configuration."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import charrnn
from charrnn.baselines.ngram import NgramModel
from charrnn.data.corpus import load_corpus
from charrnn.data.sources import find_sources
from charrnn.evaluation.dynamic import Rates
from charrnn.registry import CELLS
from charrnn.runs.checkpoint import load_checkpoint
from tests.conftest import TEXT, Run

TINY = [
    "--hidden-size",
    "8",
    "--batch-size",
    "4",
    "--window",
    "16",
    "--set",
    "training.warmup_steps=10",
]


@pytest.fixture
def trained(run: Run) -> str:
    result = run("train", "book.txt", *TINY, "--steps", "30", "--out", "runs/a")
    assert result.code == 0, result.err
    return "runs/a"


def process(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Run `charrnn` in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "charrnn", *arguments], **options)


# Training ------------------------------------------------------------------------------------


def test_train_prints_the_run_and_writes_its_files(run: Run, tmp_path: Path) -> None:
    result = run("train", "book.txt", *TINY, "--steps", "30")
    assert (result.code, result.out) == (0, "runs/book-1\n")
    folder = tmp_path / "runs" / "book-1"
    assert {path.name for path in folder.iterdir()} == {
        "best.json", "checkpoints", "config.yaml", "environment.json", "lock", "metrics.jsonl",
    }  # fmt: skip
    for part in ("text    book.txt", "model   2 x LSTM 8", "device  cpu", "plan    ", "run     "):
        assert part in result.err
    assert "next    charrnn sample runs/book-1" in result.err
    assert "\x1b" not in result.err
    assert run("train", "book.txt", *TINY, "--steps", "2").out == "runs/book-2\n"


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


def test_resume_goes_on_and_says_when_there_is_nothing_to_do(run: Run, trained: str) -> None:
    done = run("resume", trained)
    assert done.code == 2
    assert "reached its budget of 30 steps" in done.err
    more = run("resume", "a", "--steps", "40")
    assert more.code == 0, more.err
    assert json.loads(run("info", trained, "--last", "--json").out)["step"] == 40


def test_resume_with_a_time_plans_anew(run: Run, trained: str, tmp_path: Path) -> None:
    result = run("resume", trained, "--max-time", "0.01")
    assert result.code == 0, result.err
    assert "max_time: null" in (tmp_path / trained / "config.yaml").read_text()
    assert json.loads(run("info", trained, "--last", "--json").out)["step"] > 30


def test_a_budget_that_is_used_up_is_refused(run: Run, trained: str, tmp_path: Path) -> None:
    before = (tmp_path / trained / "config.yaml").read_text()
    for budget in (["--steps", "30"], ["--steps", "3"], ["--epochs", "0.01"]):
        refused = run("resume", trained, *budget)
        assert refused.code == 2
        assert "reached its budget" in refused.err
    assert (tmp_path / trained / "config.yaml").read_text() == before


def test_another_text_starts_the_search_for_the_best_anew(
    run: Run, trained: str, tmp_path: Path
) -> None:
    (tmp_path / "other.txt").write_text(TEXT[::-1], "utf-8")
    result = run("resume", trained, "--data", "other.txt", "--steps", "35")
    assert result.code == 0, result.err
    assert json.loads((tmp_path / trained / "best.json").read_text())["step"] == 35


def test_separate_texts_may_move_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "validation.txt").write_text(TEXT[:300], "utf-8")
    run("train", "book.txt", *TINY, "--steps", "12", "--validation", "validation.txt")
    (tmp_path / "validation.txt").rename(tmp_path / "moved.txt")
    assert run("resume", "book-1", "--steps", "15").code == 3
    assert run("resume", "book-1", "--steps", "15", "--validation", "moved.txt").code == 0
    assert run("eval", "book-1", "--validation", "moved.txt").code == 0


def test_starts_at_the_same_time_get_runs_of_their_own(run: Run) -> None:
    children = [
        process("train", "book.txt", *TINY, "--steps", "3", stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    said = sorted(child.communicate(timeout=120)[0] for child in children)
    assert said == [b"runs/book-1\n", b"runs/book-2\n", b"runs/book-3\n"]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "sgd"])
def test_every_optimizer_learns_by_default(run: Run, optimizer: str) -> None:
    changes = ["--set", f"training.optimizer={optimizer}", "--steps", "150", "--json"]
    result = run("train", "book.txt", *TINY, *changes)
    assert json.loads(result.out.splitlines()[-1])["nats_per_character"] < 2.3


def test_a_lone_checkpoint_is_enough(run: Run, trained: str, tmp_path: Path, cache: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file = elsewhere / "some name.safetensors"
    shutil.copy(tmp_path / trained / "checkpoints" / "step-00000030.safetensors", file)
    moved = elsewhere / "moved.txt"
    shutil.move(tmp_path / "book.txt", moved)
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(cache)
    assert len(run("sample", file, "-n", "20", "--seed", "1").out) >= 20
    assert run("eval", file, "--data", moved).code == 0
    assert run("eval", file, moved).code == 0
    assert run("info", file).code == 0
    gone = run("resume", file, "--steps", "35")
    assert gone.code == 3
    resumed = run("resume", file, "--data", moved, "--steps", "31")
    assert resumed.code == 0, resumed.err
    assert run("sample", resumed.out.strip(), "-n", "3", "--seed", "1").code == 0
    resumed = run("resume", file, "--data", moved, "--steps", "35")
    assert resumed.code == 0, resumed.err
    assert (tmp_path / resumed.out.strip() / "checkpoints" / "step-00000035.safetensors").is_file()


def test_an_edited_text_is_noticed_on_resume(run: Run, trained: str, tmp_path: Path) -> None:
    with (tmp_path / "book.txt").open("a") as file:
        file.write("the quick brown fox\n")
    result = run("resume", trained, "--steps", "35")
    assert result.code == 0, result.err
    assert "the text is not the one the run began with" in result.err
    with (tmp_path / "book.txt").open("a") as file:
        file.write("é\n")
    result = run("resume", trained, "--steps", "40")
    assert result.code == 3
    assert "U+00E9" in result.err
    assert "set --unknown to skip" in result.err
    assert run("resume", trained, "--steps", "40", "--unknown", "skip").code == 0


def test_standard_input_is_kept_for_resume(run: Run, cache: Path) -> None:
    result = run("train", "-", *TINY, "--steps", "12", stdin=TEXT.encode())
    assert (result.code, result.out) == (0, "runs/stdin-1\n")
    assert run("resume", "stdin-1", "--steps", "15").code == 0
    shutil.rmtree(cache / "ids")
    gone = run("resume", "stdin-1", "--steps", "18")
    assert gone.code == 3
    assert "--data" in gone.err
    assert run("resume", "stdin-1", "--steps", "18", "--data", "book.txt").code == 0


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


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_and_option_trains(run: Run, cell: str) -> None:
    result = run(
        "train",
        "book.txt",
        *TINY,
        "--steps",
        "12",
        "--cell",
        cell,
        "--hidden-size",
        "[6, 8]",
        "--embedding-size",
        "one_hot",
        "--set",
        "model.skip_connections=false",
        "--set",
        "training.schedule=linear",
        "--vocabulary",
        "byte",
    )
    assert result.code == 0, result.err
    info = json.loads(run("info", result.out.strip(), "--json").out)
    assert info["vocabulary"] == {"kind": "byte", "size": 256}


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
    result = run("train", "book.txt", *TINY, "--steps", "12", "--cell", cell, *depth)
    assert result.code == 0, result.err
    title, path = TITLES[cell]
    assert f"model   2 x {title} 8, " in result.err
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
    assert title in shown.out + shown.err
    assert f"({path} {cell}, float32)" in shown.out + shown.err
    again = run("train", "book.txt", "--from", trained, "--steps", "12", "--batch-size", "4")
    assert again.code == 0, again.err
    assert f"2 x {title} 8" in again.err


def test_what_a_cell_does_not_have_cannot_be_asked_of_it(run: Run) -> None:
    result = run("train", "book.txt", *TINY, "--cell", "mingru", "--set", "model.layer_norm=true")
    assert result.code == 2
    assert "a mingru has no layer normalisation; set model.layer_norm to false" in result.err
    dropped = ["--set", "model.weight_dropout=0.5"]
    result = run("train", "book.txt", *TINY, "--cell", "minlstm", *dropped)
    assert result.code == 2
    assert "weight_dropout falls on the matrix from hidden to hidden state" in result.err


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


# Sampling ------------------------------------------------------------------------------------


def test_sample_is_repeatable_and_streams_the_prompt(run: Run, trained: str) -> None:
    one = run("sample", trained, "-n", "50", "--seed", "7", "--prompt", "the ")
    two = run("sample", trained, "-n", "50", "--seed", "7", "--prompt", "the ")
    assert one == two
    assert one.out.startswith("the ")
    assert len(one.out.rstrip("\n")) >= 50
    assert run("sample", trained, "-n", "50", "--seed", "8", "--prompt", "the ").out != one.out


def test_a_chosen_seed_is_printed(run: Run, trained: str) -> None:
    first = run("sample", trained, "-n", "40")
    seed = re.search(r"seed (\d+)", first.err)
    assert seed is not None
    assert run("sample", trained, "-n", "40", "--seed", seed[1]).out == first.out


def test_sample_three_of_ten_is_sample_three_of_five(run: Run, trained: str) -> None:
    def samples(count: int) -> list[str]:
        result = run(
            "sample", trained, "-n", "30", "--seed", "1", "--num-samples", str(count), "--json"
        )
        return [json.loads(line)["text"] for line in result.out.splitlines()]

    ten = samples(10)
    assert ten[:5] == samples(5)
    assert len(set(ten)) > 1
    assert run("sample", trained, "-n", "30", "--seed", "1").out.rstrip("\n") == ten[0].rstrip("\n")


def test_a_saved_state_goes_on_as_if_never_stopped(run: Run, trained: str, tmp_path: Path) -> None:
    whole = run("sample", trained, "-n", "60", "--seed", "3", "--json")
    first = run(
        "sample", trained, "-n", "25", "--seed", "3", "--json", "--save-state", "s.safetensors"
    )
    rest = run("sample", trained, "-n", "35", "--json", "--load-state", "s.safetensors")
    texts = [json.loads(result.out)["text"] for result in (whole, first, rest)]
    assert texts[0] == texts[1] + texts[2]
    foreign = run(
        "train",
        "book.txt",
        "--hidden-size",
        "9",
        "--steps",
        "2",
        "--set",
        "training.warmup_steps=10",
    )
    refused = run("sample", foreign.out.strip(), "--load-state", "s.safetensors")
    assert refused.code == 4


def test_stop_text_ends_a_sample(run: Run, trained: str) -> None:
    for count in ("1", "4"):
        result = run(
            "sample",
            trained,
            "-n",
            "400",
            "--seed",
            "1",
            "--stop",
            "e",
            "--num-samples",
            count,
            "--json",
        )
        for line in result.out.splitlines():
            text = json.loads(line)["text"]
            assert text.count("e") == 1
            assert text.endswith("e")


def test_greedy_needs_no_seed(run: Run, trained: str) -> None:
    first = run("sample", trained, "-n", "30", "--temperature", "0")
    assert "seed" not in first.err
    assert first.out == run("sample", trained, "-n", "30", "--temperature", "0", "--seed", "9").out


def test_prompts_with_unknown_characters(run: Run, trained: str, tmp_path: Path) -> None:
    refused = run("sample", trained, "--prompt", "naïve")
    assert refused.code == 3
    assert "U+00EF" in refused.err
    assert "set --unknown to skip" in refused.err
    skipped = run(
        "sample", trained, "--prompt", "theï", "--unknown", "skip", "--seed", "1", "--json"
    )
    plain = run("sample", trained, "--prompt", "the", "--seed", "1", "--json")
    assert json.loads(skipped.out)["text"] == json.loads(plain.out)["text"]
    (tmp_path / "prompt.txt").write_text("the", "utf-8")
    from_file = run("sample", trained, "--prompt-file", "prompt.txt", "--seed", "1", "--json")
    assert from_file.out == plain.out


def test_interactive_keeps_the_state_between_turns(run: Run, trained: str) -> None:
    two = run("sample", trained, "--interactive", "-n", "20", "--seed", "1", stdin=b"the\nfox\n")
    one = run("sample", trained, "--interactive", "-n", "20", "--seed", "1", stdin=b"the\n")
    assert (two.code, one.code) == (0, 0)
    assert two.out.startswith(one.out)
    assert len(two.out) > len(one.out)
    wrong = run(
        "sample", trained, "--interactive", "-n", "5", "--seed", "1", stdin="é\nthe\n".encode()
    )
    assert wrong.code == 0
    assert "U+00E9" in wrong.err


def test_interactive_without_newlines_in_the_vocabulary(run: Run, tmp_path: Path) -> None:
    (tmp_path / "flat.txt").write_text(TEXT.replace("\n", " "), "utf-8")
    run("train", "flat.txt", *TINY, "--steps", "3")
    result = run("sample", "flat-1", "--interactive", "-n", "5", "--seed", "1", stdin=b"the\n")
    assert (result.code, len(result.out)) == (0, 6)


def test_bytes_that_are_no_text_can_be_prompts(run: Run) -> None:
    run("train", "book.txt", *TINY, "--steps", "3", "--vocabulary", "byte")
    result = run("sample", "book-1", "--prompt", "\udcff", "-n", "3", "--seed", "1")
    assert result.code == 0
    assert result.out.startswith("\\udcff")


# Scores --------------------------------------------------------------------------------------


def test_eval_of_a_text_counts_unknown_characters(run: Run, trained: str, tmp_path: Path) -> None:
    refused = run("eval", trained, "-", stdin="the é fox".encode())
    assert refused.code == 3
    assert "U+00E9" in refused.err
    skipped = json.loads(
        run("eval", trained, "-", "--unknown", "skip", "--json", stdin="the é fox".encode()).out
    )
    plain = json.loads(run("eval", trained, "-", "--json", stdin=b"the  fox").out)
    assert skipped["unknown_characters"] == 1
    assert skipped["characters"] == plain["characters"] == 8
    assert skipped["nats_per_character"] == plain["nats_per_character"]
    assert run("eval", trained, "-", stdin=b"").code == 3


def test_per_character_sums_to_the_score(run: Run, trained: str) -> None:
    lines = run("eval", trained, "book.txt", "--per-character").out.splitlines()
    rows = [json.loads(line) for line in lines]
    assert "".join(row["character"] for row in rows) == TEXT
    score = json.loads(run("eval", trained, "book.txt", "--json").out)
    assert np.mean([row["nats"] for row in rows]) == pytest.approx(
        score["nats_per_character"], rel=1e-5
    )
    model = charrnn.load(trained)
    assert rows[0]["nats"] == pytest.approx(np.log(model.vocabulary.size))


def test_a_byte_model_scores_the_bytes_of_any_text(run: Run) -> None:
    run("train", "book.txt", *TINY, "--steps", "12", "--vocabulary", "byte", "--out", "runs/b")
    score = json.loads(run("eval", "b", "-", "--json", stdin="é\r\n".encode() + b"\xff").out)
    assert score["characters"] == 5
    assert score["bits_per_byte"] == pytest.approx(score["bits_per_character"])


def test_baseline_scores_an_ngram_model(run: Run) -> None:
    result = run("baseline", "book.txt", "--order", "3")
    assert result.code == 0, result.err
    rows = dict(re.split(r"  +", line) for line in result.out.splitlines())
    assert list(rows) == [
        "nats per character", "bits per character", "bits per byte", "perplexity",
        "first half", "second half", "characters scored", "unknown characters",
        "1-grams", "2-grams", "3-grams",
    ]  # fmt: skip
    assert "kneser-ney of order 3, fitted on" in result.err
    record = json.loads(run("baseline", "book.txt", "--order", "3", "--json").out)
    corpus = load_corpus(find_sources(["book.txt"]))
    train, validation = corpus.splits["train"], corpus.splits["validation"]
    model = NgramModel(corpus.ids[: train.stop], corpus.vocabulary.size, 3)
    nats = model.surprisals(corpus.ids, validation.start)
    assert record["nats_per_character"] == pytest.approx(nats.mean())
    middle = len(nats) // 2
    assert record["halves"] == pytest.approx([nats[:middle].mean(), nats[middle:].mean()])
    assert float(rows["nats per character"]) == pytest.approx(nats.mean(), abs=1e-4)
    assert record["ngrams"] == model.counts == [int(rows[f"{k}-grams"]) for k in (1, 2, 3)]
    assert (record["model"], record["order"], record["schema"]) == ("kneser-ney", 3, 1)
    assert (record["split"], record["protocol"]) == ("validation", "unbroken")
    assert (record["characters"], record["text"]) == (len(validation), "book.txt")
    other = json.loads(run("baseline", "book.txt", "--model", "witten-bell", "--json").out)
    assert (other["model"], other["order"], len(other["ngrams"])) == ("witten-bell", 7, 7)
    model = NgramModel(corpus.ids[: train.stop], corpus.vocabulary.size, 7, "witten-bell")
    nats = model.surprisals(corpus.ids, validation.start)
    assert other["nats_per_character"] == pytest.approx(nats.mean())


def test_baseline_reads_what_train_reads(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(*arguments: str, stdin: bytes = b"") -> dict[str, Any]:
        result = run("baseline", *arguments, "--json", stdin=stdin)
        assert result.code == 0, result.err
        record: dict[str, Any] = json.loads(result.out)
        return {key: value for key, value in record.items() if key not in {"seconds", "text"}}

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text(TEXT, "utf-8")
    plain = score("book.txt")
    assert score("-", stdin=TEXT.encode()) == score("folder") == plain
    (tmp_path / "latin.txt").write_text(TEXT.replace("quick", "quïck"), "latin-1")
    refused = run("baseline", "latin.txt")
    assert (refused.code, refused.out) == (3, "")
    assert "--encoding" in refused.err
    score("latin.txt", "--encoding", "latin-1")
    score("latin.txt", "--errors", "replace")
    in_bytes = score("latin.txt", "--vocabulary", "byte")
    assert in_bytes["bits_per_byte"] == in_bytes["bits_per_character"]
    separate = score("book.txt", "--validation", "folder")
    assert separate["characters"] == len(TEXT)
    monkeypatch.setenv("CHARRNN_DATA__SPLIT", "[0.5, 0.5]")
    assert score("book.txt")["characters"] == len(TEXT) // 2


def test_baseline_samples(run: Run, tmp_path: Path) -> None:
    arguments = ["baseline", "book.txt", "--sample", "40", "--prompt", "the "]
    chosen = run(*arguments)
    seed = re.search(r"seed (\d+)", chosen.err)
    assert seed is not None
    _, shown = chosen.out.split("\n\n", 1)
    assert shown.startswith("the ")
    record = json.loads(run(*arguments, "--seed", seed[1], "--json").out)["sample"]
    assert (record["prompt"], len(record["text"])) == ("the ", 40)
    assert shown == record["prompt"] + record["text"] + "\n"
    assert set(record["text"]) <= set(TEXT)
    other = json.loads(run(*arguments, "--seed", "8", "--json").out)["sample"]
    assert other["text"] != record["text"]
    safe = ["--sample", "9", "--temperature", "0", "--json"]
    quick = json.loads(run("baseline", "book.txt", *safe, "--prompt", "the q").out)["sample"]
    assert quick["text"] == "uick brow"
    line = json.loads(run("baseline", "book.txt", *safe).out)["sample"]
    assert line["text"].startswith("line ")  # After a newline.
    (tmp_path / "flat.txt").write_text("abcb" * 20, "utf-8")
    after_b = json.loads(run("baseline", "flat.txt", *safe).out)["sample"]
    assert after_b["text"][0] in "ac"  # After the most frequent.


def test_baseline_imports_no_torch(run: Run, tmp_path: Path) -> None:
    # The folder a process starts in is searched first.
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    options = ["--sample", "5", "--seed", "1"]
    child = process(
        "baseline", "book.txt", *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, said = child.communicate(timeout=60)
    assert child.returncode == 0, said
    assert b"nats per character" in out


@pytest.mark.parametrize("length", [0, 1, 2, 3, 5])
def test_baseline_of_short_texts(run: Run, tmp_path: Path, length: int) -> None:
    (tmp_path / "short.txt").write_text(TEXT[:length], "utf-8")
    result = run("baseline", "short.txt", "--sample", "5", "--seed", "1")
    assert result.code == (0 if length >= 3 else 3), result.err
    if length >= 3:
        assert "first half" not in result.out  # One character has none.
        assert np.isfinite(float(result.out.split()[3]))


def test_eval_compares_with_the_baseline(run: Run, trained: str) -> None:
    record = json.loads(run("eval", trained, "--compare", "--json").out)
    alone = json.loads(run("eval", trained, "--json").out)
    beside = record.pop("baseline")
    assert record == alone
    expected = json.loads(run("baseline", "book.txt", "--json").out)
    same = {
        "model", "order", "nats_per_character", "bits_per_byte", "characters", "split", "protocol",
        "text", "text_sha256", "schema",
    }  # fmt: skip
    assert {key: beside[key] for key in same} == {key: expected[key] for key in same}
    shown = run("eval", trained, "--compare").out
    assert f"kneser-ney order 7  {beside['nats_per_character']:.4f}" in shown.splitlines()
    train = json.loads(run("eval", trained, "--compare", "--split", "train", "--json").out)
    assert train["baseline"]["characters"] == train["characters"]
    for option in ("book.txt", "--per-character"):
        refused = run("eval", trained, "--compare", option)
        assert (refused.code, refused.out) == (2, "")
        assert "--compare" in refused.err


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


# From Python ---------------------------------------------------------------------------------


def test_the_python_surface(run: Run, trained: str) -> None:
    model = charrnn.load(trained)
    text = model.sample_text(30, "the ", seed=1)
    assert text == "".join(charrnn.load("a").sample(30, "the ", seed=1))
    assert len(text) == 30
    state = model.initial_state(2)
    logits, state = model.step(np.array([0, 1]), state)
    assert logits.shape == (2, model.vocabulary.size)
    assert model.evaluate(TEXT).count == len(TEXT)
    assert set(charrnn.__all__) <= set(dir(charrnn))
    with pytest.raises(AttributeError):
        _ = charrnn.nothing  # type: ignore[attr-defined]


# Errors, signals and pipes -------------------------------------------------------------------


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
        (["baseline", "book.txt", "--states", "3"], 2, "give --model hmm as well"),
        (["baseline", "book.txt", "--vocabulary", "wrod"], 2, "did you mean word?"),
        (["baseline", "book.txt", "--encoding", "klingon"], 2, "klingon"),
        (["baseline", "book.txt", "--prompt", "the"], 2, "--sample"),
        (["baseline", "book.txt", "--sample", "5", "--prompt", "é"], 3, "of the prompt"),
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


def test_a_damaged_checkpoint_is_passed_over_or_refused(run: Run, trained: str) -> None:
    steps = sorted(Path(trained, "checkpoints").iterdir())
    content = bytearray(steps[-1].read_bytes())
    content[-5] ^= 1
    steps[-1].write_bytes(content)
    fallen_back = run("sample", trained, "-n", "5", "--seed", "1", "--last")
    assert fallen_back.code == 0, fallen_back.err
    assert "falling back" in fallen_back.err
    assert run("sample", steps[-1]).code == 4


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_a_signal_saves_and_resume_goes_on(run: Run, number: int, code: int) -> None:
    arguments = [*TINY, "--steps", "400", "--set", "evaluation.every=50"]
    straight = run("train", "book.txt", *arguments, "--out", "runs/straight")
    assert straight.code == 0
    child = process(
        "train",
        "book.txt",
        *arguments,
        "--out",
        "runs/stopped",
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert child.stderr is not None
    said = b""
    while b"step 50/" not in said:
        line = child.stderr.readline()
        assert line, said
        said += line
    child.send_signal(number)
    _, rest = child.communicate(timeout=60)
    assert child.returncode == code, said + rest
    assert b"go on with: charrnn resume runs/stopped" in rest
    resumed = run("resume", "stopped")
    assert resumed.code == 0, resumed.err
    files = [
        Path("runs", name, "checkpoints", "step-00000400.safetensors")
        for name in ("straight", "stopped")
    ]
    a, b = (load_checkpoint(file).tensors for file in files)
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_a_second_trainer_is_refused(run: Run) -> None:
    child = process(
        "train",
        "book.txt",
        *TINY,
        "--steps",
        "100000",
        "--out",
        "runs/a",
        "--set",
        "evaluation.every=20",
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert child.stderr is not None
    while not child.stderr.readline().startswith(b"step 20/"):
        assert child.poll() is None
    time.sleep(0.2)
    second = run("resume", "a")
    assert second.code == 5
    assert str(child.pid) in second.err
    child.kill()
    child.communicate(timeout=60)
    assert run("resume", "a", "--max-time", "0.01").code == 0


def test_a_closed_pipe_is_no_error(run: Run, trained: str) -> None:
    child = process(
        "sample",
        trained,
        "-n",
        "20000",
        "--seed",
        "1",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert len(child.stdout.read(100)) == 100
    child.stdout.close()
    assert child.stderr is not None
    said = child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=60) == 0
    assert said == b""


@pytest.mark.parametrize("encoding", ["", "latin-1", "ascii"])
def test_other_locales_are_no_error(run: Run, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "emoji.txt").write_text("😀é\u200d🎉 ünï\n" * 60, "utf-8")
    assert run("train", "emoji.txt", *TINY, "--steps", "12", "--out", "runs/e").code == 0
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "NO_COLOR": "1",
        **({"PYTHONIOENCODING": encoding} if encoding else {}),
    }
    child = process(
        "sample", "e", "-n", "50", stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    out, said = child.communicate(timeout=60)
    assert child.returncode == 0, said
    assert b"\x1b" not in out + said
    assert out


def test_help_everywhere(run: Run) -> None:
    commands = ["train", "resume", "sample", "eval", "baseline", "info", "list", "config", "vocab"]
    for command in commands:
        result = run(command, "--help")
        assert result.code == 0
        assert "Examples:" in result.out
    top = run("--help").out
    assert "Exit codes:" in top
    assert run("--version").out.startswith("charrnn, version")


# Reading that learns, compression, novelty, hidden Markov models ---------------------------------


def test_eval_learns_and_mixes(run: Run, trained: str) -> None:
    plain = json.loads(run("eval", trained, "--json").out)
    for options, protocol in (
        (
            ["--dynamic-rate", "0.02", "--dynamic-decay", "0"],
            "unbroken, dynamic (rate 0.02, decay 0, segments of 20)",
        ),
        (["--mix", "ngram"], "unbroken, mixed with n-grams of order 9"),
        (["--temperature", "0.9"], "unbroken, temperature 0.9"),
    ):
        result = run("eval", trained, "--json", *options)
        assert result.code == 0, result.err
        record = json.loads(result.out)
        assert record["protocol"] == protocol
        assert record["characters"] == plain["characters"]
        assert record["nats_per_character"] != plain["nats_per_character"]
    chosen = run("eval", trained, "--dynamic", "--temperature", "auto")
    assert chosen.code == 0, chosen.err
    assert "choosing on the first half of validation" in chosen.err
    assert "dynamic (rate " in chosen.err
    assert "first half" in chosen.out
    assert "decay 0.5," in run("eval", trained, "--dynamic-decay", "0.5").err
    assert "rate 0.02," in run("eval", trained, "--dynamic-rate", "0.02").err
    for options in (["--temperature", "0"], ["--temperature", "warm"], ["--temperature", "nan"]):
        refused = run("eval", trained, *options)
        assert refused.code == 2
        assert "neither auto nor a number above 0" in refused.err


def test_eval_of_another_text_learns_from_it(run: Run, trained: str, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text(TEXT[:300] * 3, "utf-8")
    plain = json.loads(run("eval", trained, "other.txt", "--json").out)
    for options in (["--dynamic"], ["--mix", "ngram"], ["--dynamic-rate", "0.03"]):
        result = run("eval", trained, "other.txt", "--json", *options)
        assert result.code == 0, result.err
        assert json.loads(result.out)["nats_per_character"] < plain["nats_per_character"]


def test_sample_adapts_to_a_text(run: Run, trained: str, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text(TEXT[:200] * 4, "utf-8")
    options = ["-n", "40", "--seed", "1"]
    plain = run("sample", trained, *options)
    result = run("sample", trained, *options, "--adapt-to", "other.txt", "--dynamic-rate", "0.05")
    assert result.code == 0, result.err
    assert result.out != plain.out
    assert (
        result.out
        == run("sample", trained, *options, "--adapt-to", "other.txt", "--dynamic-rate", "0.05").out
    )
    missing = run("sample", trained, "--adapt-to", "none.txt")
    assert missing.code == 3
    assert "cannot read the text none.txt" in missing.err
    alone = run("sample", trained, "--dynamic-rate", "0.05")
    assert alone.code == 2
    assert "give it a FILE" in alone.err


def test_a_byte_model_adapts_to_what_is_no_text(run: Run, tmp_path: Path) -> None:
    run("train", "book.txt", *TINY, "--steps", "10", "--vocabulary", "byte", "--out", "runs/b")
    (tmp_path / "some.bin").write_bytes(bytes(range(256)) * 2)
    result = run("sample", "runs/b", "-n", "20", "--adapt-to", "some.bin")
    assert result.code == 0, result.err


def test_learning_that_diverges_exits_6(
    run: Run, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("charrnn.evaluation.dynamic.Rates.of", lambda *_: Rates(1e38, 0.0))
    high = ["--dynamic-rate", "100", "--dynamic-decay", "0"]  # Too low for so small a model.
    for command in (
        ["eval", trained, *high],
        ["eval", trained, "--per-character", *high],
        ["sample", trained, "--adapt-to", "book.txt", *high],
        ["compress", trained, "book.txt", *high],
    ):
        result = run(*command)
        assert result.code == 6, result.err
        assert "use a lower --dynamic-rate" in result.err
        assert "Traceback" not in result.err
    assert not Path("book.txt.charrnn").exists()


def test_what_is_compressed_is_decompressed(run: Run, trained: str, tmp_path: Path) -> None:
    content = TEXT[:500].encode() + b"\xff\x00 \xc3\xa9"
    (tmp_path / "some.txt").write_bytes(content)
    sizes = []
    for options in ([], ["--dynamic"], ["--dynamic-rate", "0.01"]):
        done = run("compress", trained, "some.txt", *options)
        assert done.code == 0, done.err
        assert re.search(r"bytes in, [\d,]+ out: \d\.\d+ bits per byte", done.err)
        refused = run("compress", trained, "some.txt")
        assert refused.code == 2
        assert "some.txt.charrnn exists already" in refused.err
        back = run("decompress", trained, "some.txt.charrnn", "--out", "back.txt")
        assert back.code == 0, back.err
        assert (tmp_path / "back.txt").read_bytes() == content
        sizes.append((tmp_path / "some.txt.charrnn").stat().st_size)
        (tmp_path / "some.txt.charrnn").unlink()
        (tmp_path / "back.txt").unlink()
    assert sizes[2] == sizes[1] != sizes[0]
    wrong = run("decompress", trained, "some.txt", "--out", "back.txt")
    assert wrong.code == 3
    assert "some.txt: this is no file of charrnn compress" in wrong.err
    for command in ("compress", "decompress"):
        nowhere = run(command, trained, "some.txt", "--out", "none/some.small")
        assert nowhere.code in (2, 3)
        assert "Traceback" not in nowhere.err
    assert (
        "there is no folder none"
        in run("compress", trained, "some.txt", "--out", "none/some.small").err
    )
    assert not (tmp_path / "back.txt").exists()


def test_novelty_of_a_copy_and_of_a_sample(run: Run, trained: str, tmp_path: Path) -> None:
    (tmp_path / "copy.txt").write_text(TEXT[50:150], "utf-8")
    record = json.loads(run("eval", trained, "--novelty", "copy.txt", "--json").out)
    assert record["longest"] == 100
    assert record["span"] == TEXT[50:150]
    assert record["shares"] == {"8": 1.0, "16": 1.0, "32": 1.0}
    (tmp_path / "new.txt").write_text("zq" * 40 + "é", "utf-8")
    shown = run("eval", trained, "--novelty", "new.txt")
    assert shown.code == 0, shown.err
    assert "32 characters       0.00%" in shown.out
    for options in (["copy.txt"], ["--dynamic"], ["--compare"], ["--split", "train"]):
        refused = run("eval", trained, *options, "--novelty", "new.txt")
        assert refused.code == 2
        assert "--novelty is about SAMPLE alone" in refused.err


def test_what_is_copied_is_shown_as_it_is_written(run: Run, tmp_path: Path) -> None:
    poem = "床前明月光。疑是地上霜。举头望明月。低头思故乡。" * 20
    (tmp_path / "poem.txt").write_text(poem, "utf-8")
    run("train", "poem.txt", *TINY, "--steps", "10", "--out", "runs/p")
    (tmp_path / "copy.txt").write_text(poem[:300], "utf-8")
    shown = run("eval", "runs/p", "--novelty", "copy.txt").out
    assert "300 characters: '床前明月光" in shown
    assert "…" in shown


def test_baseline_of_a_hidden_markov_model(run: Run) -> None:
    result = run("baseline", "book.txt", "--model", "hmm", "--states", "3", "--iterations", "5",
                 "--json", "--sample", "20", "--seed", "2")  # fmt: skip
    assert result.code == 0, result.err
    record = json.loads(result.out)
    assert (record["model"], record["states"], record["split"]) == ("hmm", 3, "validation")
    falls = record["train_nats"]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(falls))
    assert len(record["sample"]["text"]) == 20
    options = ["--model", "hmm", "--states", "3", "--iterations", "5", "--json", "--sample", "20"]
    first = json.loads(run("baseline", "book.txt", *options).out)
    assert first["nats_per_character"] == record["nats_per_character"]
    seed = str(first["sample"]["seed"])
    again = json.loads(run("baseline", "book.txt", *options, "--seed", seed).out)
    assert again["sample"] == first["sample"]
    one = json.loads(run("baseline", "book.txt", "--model", "hmm", "--states", "1", "--json").out)
    unigram = json.loads(run("baseline", "book.txt", "--order", "1", "--json").out)
    assert one["nats_per_character"] == pytest.approx(unigram["nats_per_character"], abs=0.02)


# Words ---------------------------------------------------------------------------------------


def test_a_model_of_words(run: Run, tmp_path: Path) -> None:
    text = TEXT + "once only\n" + TEXT
    (tmp_path / "words.txt").write_text(text, "utf-8")
    options = [*TINY, "--vocabulary", "word", "--set", "data.minimum_count=2"]
    trained = run("train", "words.txt", *options, "--steps", "12", "--out", "w", "--json")
    assert trained.code == 0, trained.err
    end = json.loads(trained.out.splitlines()[-1])
    assert end["nats_per_word"] > 0
    whole = json.loads(run("eval", "w", "--split", "train", "--json").out)
    assert whole["unknown_words"] == 2  # "once" and " only"
    plain = json.loads(run("eval", "w", "words.txt", "--json").out)
    assert plain["unknown_words"] == 2
    words = [
        json.loads(line)
        for line in run("eval", "w", "words.txt", "--per-character").out.splitlines()
    ]
    assert "".join(one["word"] for one in words) == text.replace("once only", " <unk> <unk>")
    for options in (["--dynamic"], ["--mix", "ngram"], ["--compare"]):
        assert run("eval", "w", *options).code == 0
    assert run("sample", "w", "-n", "5", "--prompt", "the quick", "--seed", "1").code == 0
    vocabulary = run("vocab", "w").out.splitlines()
    assert any(line.endswith("\t quick") for line in vocabulary)
    counted = run("baseline", "words.txt", "--vocabulary", "word", "--minimum-count", "2", "--json")
    assert json.loads(counted.out)["nats_per_word"] > 0
    (tmp_path / "sample.txt").write_text(TEXT[:200], "utf-8")
    copied = json.loads(run("eval", "w", "--novelty", "sample.txt", "--json").out)
    assert copied["longest"] == 200
    more = run("train", "words.txt", "--from", "w", "--steps", "10", "--out", "w2")
    assert more.code == 0, more.err
    assert "0 symbols added, 0 symbols dropped" in more.err


def test_words_are_compressed_as_words(run: Run, tmp_path: Path) -> None:
    options = [*TINY, "--vocabulary", "word", "--steps", "40"]
    assert run("train", "book.txt", *options, "--out", "w").code == 0
    content = TEXT.encode()[:900] + b" <unk> unheard \xff of\r\n"
    (tmp_path / "t.bin").write_bytes(content)
    packed = run("compress", "w", "t.bin")
    assert packed.code == 0, packed.err
    assert run("decompress", "w", "t.bin.charrnn", "--out", "again").code == 0
    assert (tmp_path / "again").read_bytes() == content
    assert (tmp_path / "t.bin.charrnn").stat().st_size < len(content)
