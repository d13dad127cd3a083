"""`charrnn eval` by class and by line, and on other labelled texts."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from charrnn.cli.main import main
from tests.conftest import Run

TRAIN = "".join(
    f"{'aeiou'[i % 5] * 3}{i}\tvowels\n{'bcdfg'[i % 5] * 3}{i}\tothers\n" for i in range(20)
)
OTHER = "aaa\tvowels\nbbb\tothers\neee\tVowels\nccc\tothers\n"
TAGS = "the DET\nbell NOUN\nrings VERB\n\nred ADJ\nbells NOUN\n\n"
OTHER_TAGS = "the DET\nbell _\n\noh INTJ\nbells NOUN\n\n"
PAIRS = "".join(f"a{i}\tb{i}\n" for i in range(20))


TEXTS = {"train.tsv": TRAIN, "other.tsv": OTHER, "tags.txt": TAGS * 10,
         "other_tags.txt": OTHER_TAGS, "pairs.tsv": PAIRS}  # fmt: skip
TASKS = {"classification": "train.tsv", "generation": "train.tsv", "tagging": "tags.txt",
         "translation": "pairs.tsv"}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a tiny model of each task on examples, once."""
    folder = tmp_path_factory.mktemp("models")
    for name, text in TEXTS.items():
        (folder / name).write_text(text, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for task, text in TASKS.items():
            arguments = [text, "--task", task, "--steps", "2", "--out", task]
            settings = ["--set", "model.hidden_size=8", "--set", "data.split_by=position"]
            patch.setattr(sys, "argv", ["charrnn", "train", *arguments, *settings])
            with pytest.raises(SystemExit) as raised:
                main()
            assert raised.value.code == 0
    return folder


@pytest.fixture
def trained(run: Run, models: Path, tmp_path: Path) -> None:
    """Copy the models into the folder of the test."""
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)


@pytest.mark.usefixtures("trained")
def test_other_labelled_texts_are_scored_and_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "train.tsv").unlink()  # A checkpoint alone is enough.
    said = run("eval", "classification", "other.tsv")
    assert said.code == 0, said.err
    assert (
        "1 class in test only, 1 of its examples, counted as wrong: 'Vowels' (other.tsv, line 3)"
        in said.err
    )
    record = json.loads(run("eval", "classification", "other.tsv", "--json").out)
    assert (record["text"], record["split"], record["labels"]) == ("other.tsv", "test", 3)
    assert record["confusion"]["classes"] == ["others", "vowels", "Vowels"]
    counts = record["confusion"]["counts"]
    assert sum(map(sum, counts)) == 4
    assert record["classes"]["Vowels"]["count"] == 1
    right = sum(counts[i][i] for i in range(3))
    assert record["accuracy"] == right / 4
    table = run("eval", "classification", "other.tsv").out
    assert "class   precision  recall      F1   count\nothers" in table
    assert "right / predicted  others  vowels  Vowels\n" in table

    tagged = json.loads(run("eval", "tagging", "other_tags.txt", "--json").out)
    assert (tagged["text"], tagged["tokens"]) == ("other_tags.txt", 2)
    assert sum(each["count"] for each in tagged["classes"].values()) == 3
    assert "accuracy_unseen" not in tagged  # The training text was not read.
    for task, text in (("generation", "other.tsv"), ("translation", "pairs.tsv")):
        other = run("eval", task, text, "--json")
        assert other.code == 0, other.err
        assert json.loads(other.out)["text"] == text
    moved = run("eval", "tagging", "--split", "test", "--test", "other_tags.txt", "--json")
    assert "not the one the run began with" not in moved.err
    again = json.loads(moved.out)
    assert again["text"].endswith("other_tags.txt")
    assert again["nats_per_token"] == pytest.approx(tagged["nats_per_token"], abs=1e-9)


@pytest.mark.usefixtures("trained")
def test_each_example_has_a_score(run: Run) -> None:
    for task, text, unit in (
        ("classification", "other.tsv", None), ("tagging", "other_tags.txt", None),
        ("generation", "other.tsv", "characters"), ("translation", "pairs.tsv", "characters"),
    ):  # fmt: skip
        said = run("eval", task, text, "--per-line")
        assert said.code == 0, said.err
        records = [json.loads(line) for line in said.out.splitlines()]
        score = json.loads(run("eval", task, text, "--json").out)
        count = (
            sum(r[unit] for r in records)
            if unit
            else score[{"classification": "labels", "tagging": "tokens"}[task]]
        )
        nats = sum(r["nats"] or 0 for r in records) / count
        per_unit = next(v for k, v in score.items() if k.startswith("nats_per_"))
        assert nats == pytest.approx(per_unit, rel=1e-5)
        assert [r["line"] for r in records][:2] == ([1, 4] if task == "tagging" else [1, 2])
        assert {Path(r["file"]).name for r in records} == {text}
    assert len(run("eval", "classification", "--per-line").out.splitlines()) > 1
    refused = run("eval", "classification", "--per-line", "--per-character")
    assert refused.code == 2


@pytest.mark.usefixtures("trained")
def test_the_confusion_is_drawn(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for task, text in (("classification", "other.tsv"), ("tagging", "other_tags.txt")):
        assert run("eval", task, text, "--picture", "seen.svg").code == 0
        assert (tmp_path / "seen.svg").stat().st_size > 1000
    refused = run("eval", "translation", "pairs.tsv", "--picture", "seen.svg")
    assert refused.code == 2
    assert run("eval", "classification", "--picture", "seen.doc").code == 2


def test_lines_of_a_text_sum_to_its_score(run: Run, tmp_path: Path) -> None:
    assert run("train", "book.txt", "--hidden-size", "8", "--steps", "4", "--out", "lm").code == 0
    (tmp_path / "other.txt").write_text("the fox\n\nline 1: brown", "utf-8")
    score = json.loads(run("eval", "lm", "other.txt", "--json").out)
    assert score["text"] == "other.txt"
    records = [json.loads(r) for r in run("eval", "lm", "other.txt", "--per-line").out.splitlines()]
    assert [(r["line"], r["text"], r["characters"]) for r in records] == [
        (1, "the fox", 8), (2, "", 1), (3, "line 1: brown", 13),
    ]  # fmt: skip
    assert sum(r["nats"] for r in records) / 22 == pytest.approx(
        score["nats_per_character"], rel=1e-6
    )
    piped = json.loads(run("eval", "lm", "-", "--json", stdin=b"the fox").out)
    assert piped["text"] == "standard input"
    own = run("eval", "lm", "--per-line").out.splitlines()
    assert json.loads(own[-1])["text"].startswith("line 59")
