"""`charrnn baseline`: n-grams and hidden Markov models."""

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charrnn.baselines.ngram import NgramModel
from charrnn.data.corpus import load_corpus
from charrnn.data.sources import find_sources
from tests.cli.conftest import process
from tests.conftest import TEXT, Run


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
