"""`charrnn eval`: scores of splits and texts, dynamic evaluation, mixtures and novelty."""

import json
from pathlib import Path

import numpy as np
import pytest

import charrnn
from charrnn.evaluation.dynamic import Rates
from tests.cli.conftest import TINY
from tests.conftest import TEXT, Run


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


def test_a_new_test_text_is_what_was_asked_for(run: Run, trained: str, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("the é fox " * 9, "utf-8")
    arguments = ("eval", trained, "--split", "test", "--test", "new.txt", "--json")
    assert run(*arguments).code == 3
    scored = run(*arguments, "--unknown", "skip")
    assert scored.code == 0, scored.err
    assert json.loads(scored.out)["characters"] == 81
    assert "not the one the run began with" not in scored.err
    (tmp_path / "other.txt").write_text(TEXT + "the fox\n", "utf-8")
    both = run(*arguments, "--unknown", "skip", "--data", "other.txt")
    assert "the text is not the one the run began with" in both.err


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


def test_a_byte_model_scores_the_bytes_of_any_text(run: Run, byte_model: str) -> None:
    info = json.loads(run("info", byte_model, "--json").out)
    assert info["vocabulary"] == {"kind": "byte", "size": 256}
    score = json.loads(run("eval", byte_model, "-", "--json", stdin="é\r\n".encode() + b"\xff").out)
    assert score["characters"] == 5
    assert score["bits_per_byte"] == pytest.approx(score["bits_per_character"])


def test_eval_compares_with_the_baseline(run: Run, trained: str) -> None:
    record = json.loads(run("eval", trained, "--compare", "--json").out)
    alone = json.loads(run("eval", trained, "--json").out)
    beside = record.pop("baseline")
    gain = beside["nats_per_character"] - record["nats_per_character"]
    assert record.pop("better") == ("network" if gain > 0 else "baseline")
    assert record == alone
    expected = json.loads(run("baseline", "book.txt", "--json").out)
    same = {
        "model", "order", "nats_per_character", "bits_per_byte", "characters", "split", "protocol",
        "text", "text_sha256", "schema",
    }  # fmt: skip
    assert {key: beside[key] for key in same} == {key: expected[key] for key in same}
    shown = run("eval", trained, "--compare").out
    assert f"kneser-ney order 7  {beside['nats_per_character']:.4f}" in shown.splitlines()
    winner = "the network" if gain > 0 else "kneser-ney"
    assert f"better              {winner}, by {abs(gain):.4f} nats per character" in shown
    train = json.loads(run("eval", trained, "--compare", "--split", "train", "--json").out)
    assert train["baseline"]["characters"] == train["characters"]
    for option in ("book.txt", "--per-character"):
        refused = run("eval", trained, "--compare", option)
        assert (refused.code, refused.out) == (2, "")
        assert "--compare" in refused.err


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
        assert "use a lower learning rate of dynamic evaluation (--dynamic-rate)" in result.err
        assert "Traceback" not in result.err
    assert not Path("book.txt.charrnn").exists()


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
        assert "--novelty only compares SAMPLE" in refused.err


def test_what_is_copied_is_shown_as_it_is_written(run: Run, tmp_path: Path) -> None:
    poem = "床前明月光。疑是地上霜。举头望明月。低头思故乡。" * 20
    (tmp_path / "poem.txt").write_text(poem, "utf-8")
    run("train", "poem.txt", *TINY, "--steps", "10", "--out", "runs/p")
    (tmp_path / "copy.txt").write_text(poem[:300], "utf-8")
    shown = run("eval", "runs/p", "--novelty", "copy.txt").out
    assert "300 characters: '床前明月光" in shown
    assert "…" in shown


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
