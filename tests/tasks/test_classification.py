"""Classification: the model, its score, its run, its predictions."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charrnn.config.merge import build_config
from charrnn.data.sources import find_sources
from charrnn.errors import CheckpointError, DataError
from charrnn.nn.state import leaves
from charrnn.runs.checkpoint import load_checkpoint, save_checkpoint
from charrnn.runs.checkpoint_check import check_layout, expected_tensors
from charrnn.session.loop import Session
from charrnn.tasks.classification import Classification
from charrnn.tasks.labelled import UNKNOWN_CLASS, read
from tests.tasks.conftest import TrainOnce
from tests.tiny import ON_EXAMPLES, drive, resumes, start

TINY: dict[str, Any] = ON_EXAMPLES | {"task": "classification"}


def write_texts(folder: Path) -> Path:
    """Write words of vowels for one class and words of consonants for another, one on each line."""
    draw = np.random.default_rng(1)
    for name, letters in (("vowels", "aeiou"), ("consonants", "bcdfg")):
        words = {"".join(draw.choice(list(letters), draw.integers(1, 8))) for _ in range(60)}
        (folder / f"{name}.txt").write_text("\n".join(sorted(words)), "utf-8")
    return folder


def begin(folder: Path, run: Path, **changes: Any) -> Session:
    values = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    config = build_config([("test", values)])[0]
    data = read(config, {"sources": find_sources([str(folder)])})
    return start(run, config, data)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    return write_texts(tmp_path / "texts")


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_and_neighbours_change_nothing(
    texts: Path, tmp_path: Path, pooling: str, cell: str, bidirectional: bool
) -> None:
    session = begin(
        texts, tmp_path / "run", model__pooling=pooling, model__cell=cell,
        model__bidirectional=bidirectional,
    )  # fmt: skip
    model = session.model.double().eval()
    examples = session.data.splits["train"][:9]
    batch = Classification.collate(examples, torch.device("cpu"))
    together = model(batch.ids, batch.lengths)
    for row, example in enumerate(examples):
        alone = Classification.collate([example], torch.device("cpu"))
        torch.testing.assert_close(model(alone.ids, alone.lengths)[0], together[row])
    garbage = batch.ids.clone()
    garbage[torch.arange(garbage.shape[1]) >= batch.lengths[:, None]] = 1
    torch.testing.assert_close(model(garbage, batch.lengths), together)


@pytest.mark.parametrize("skips", [False, True])
def test_the_last_outputs_are_those_of_each_direction(
    texts: Path, tmp_path: Path, skips: bool
) -> None:
    session = begin(
        texts, tmp_path / "run", model__pooling="last", model__skip_connections=skips
    )  # fmt: skip
    model = session.model.double().eval()
    ids = torch.tensor([[1, 2, 3, 0]])
    outputs, _ = model.stack(model.embedding(ids[:, :3]), model.stack.initial_state(1))
    ends = []
    for first in range(0, outputs.shape[2], 12):
        ends += [outputs[:, -1, first : first + 6], outputs[:, 0, first + 6 : first + 12]]
    expected = model.head(torch.cat(ends, -1))
    torch.testing.assert_close(model(ids, torch.tensor([3])), expected)


@pytest.mark.parametrize(("processes", "stops"), [(1, range(1, 13)), (2, (4, 7))])
def test_resumed_equals_uninterrupted(
    texts: Path, tmp_path: Path, processes: int, stops: Iterable[int]
) -> None:
    # With two processes, stop only at an evaluation and between two evaluations.
    resumes(lambda run: begin(texts, run, processes=processes), tmp_path, stops)


def test_the_score_is_that_of_the_probabilities(texts: Path, tmp_path: Path) -> None:
    session = begin(texts, tmp_path / "run")
    drive(session)
    score = session.experiment.final(
        {n: v.numpy() for n, v in session.model.state_dict().items()}, split="validation"
    )
    nats, right = 0.0, 0
    for example in session.data.splits["validation"]:
        alone = Classification.collate([example], torch.device("cpu"))
        with torch.inference_mode():
            logits = session.model.eval()(alone.ids, alone.lengths)[0].double()
        chances = torch.exp(logits) / torch.exp(logits).sum()
        nats -= math.log(chances[example.label])
        right += int(chances.argmax()) == example.label
    count = len(session.data.splits["validation"])
    assert score.count == count
    assert score.nats == pytest.approx(nats / count, abs=1e-6)
    assert score.metrics["accuracy"] == right / count
    batch = Classification.collate(session.data.splits["validation"], torch.device("cpu"))
    loss = session.objective.loss(session.model.eval(), batch, None)
    assert loss.scored == count
    assert float(loss.total.detach()) == pytest.approx(nats, rel=1e-5)
    assert set(score.record()) >= {"nats_per_label", "accuracy", "macro_f1", "labels"}


def test_it_learns_what_is_there_to_learn(texts: Path, tmp_path: Path) -> None:
    session = begin(texts, tmp_path / "run", training__steps=60, training__learning_rate=0.02)
    *_, finished = drive(session)
    assert finished.score.metrics["accuracy"] == 1.0  # type: ignore[union-attr]


def test_layout_is_that_of_the_model(texts: Path, tmp_path: Path) -> None:
    session = begin(texts, tmp_path / "run")
    expected = expected_tensors(session.config, session.data.vocabularies)  # type: ignore[attr-defined]
    shapes = {name: tuple(value.shape) for name, value in session.model.state_dict().items()}
    assert expected.weights == shapes
    assert not list(leaves(session.objective.empty_carry(session.model)))


def test_symbols_that_training_lacks_are_unknown(texts: Path) -> None:
    config = build_config([("test", TINY)])[0]
    data = read(config, {"sources": find_sources([str(texts)])})
    text = data.vocabularies["text"]
    assert text.encode("aZa").tolist()[1] == text.size - 1  # type: ignore[arg-type]


def test_one_class_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "only.txt").write_text("a\tx\nb\tx\nc\tx\nd\tx\ne\tx\n", "utf-8")
    config = build_config([("test", TINY)])[0]
    with pytest.raises(DataError, match="one class"):
        read(config, {"sources": find_sources([str(tmp_path / "only.txt")])})


def test_the_commands(run: Any, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    write_texts(tmp_path / "texts")
    options = [f"--set={key}={value}" for key, value in TINY.items()]
    trained = run("train", "texts", *options, "--out", "words", "--json")
    assert trained.code == 0, trained.err
    lines = [json.loads(line) for line in trained.out.splitlines()]
    end = lines[-1]
    assert end["event"] == "end"
    assert end["nats_per_label"] > 0
    assert 0 <= end["accuracy"] <= 1
    scored = json.loads(run("eval", "words", "--json").out)
    assert scored["nats_per_label"] == pytest.approx(end["nats_per_label"], abs=1e-6)
    assert "accuracy" in run("eval", "words", "--split", "train").out
    assert "4 steps" not in run("info", "words").err
    listed = json.loads(run("list", ".", "--json").out)
    assert listed["unit"] == "label"
    assert "x LSTM 6, bidirectional, embedding 5" in run("info", "words").out
    assert "skip connections, max pooling\n" in run("info", "words").out
    assert "label\t0\t" in run("vocab", "words").out
    resumed = run("resume", "words", "--steps", "20")
    assert resumed.code == 0, resumed.err

    said = run("predict", "words", "aeiou", "bcdf")
    assert said.code == 0, said.err
    assert [line.split("\t")[2] for line in said.out.splitlines()] == ["aeiou", "bcdf"]
    given = run("predict", "words", "--json", stdin=b"aeiou\nbcdf\n")
    records = [json.loads(line) for line in given.out.splitlines()]
    assert [record["text"] for record in records] == ["aeiou", "bcdf"]
    for record, line in zip(records, said.out.splitlines(), strict=True):
        assert sum(record["probabilities"].values()) == pytest.approx(1)
        assert record["label"] == max(record["probabilities"], key=record["probabilities"].get)
        assert line.split("\t")[0] == record["label"]
    assert run("predict", "words", "").out == "\n"
    foreign = run("predict", "words", stdin=b"aeiou\nb\xe9b\n")
    assert foreign.code == 3
    assert "line 2 of standard input" in foreign.err
    closed = subprocess.run(
        f"{sys.executable} -m charrnn predict words <&-",
        shell=True, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (closed.returncode, closed.stderr.count("\n")) == (3, 1), closed.stderr
    assert "standard input is closed" in closed.stderr


def write_folder(folder: Path) -> None:
    (folder / "texts").mkdir()
    write_texts(folder / "texts")


@pytest.fixture
def trained(train_once: TrainOnce) -> None:
    """Train a classifier in the folder `words`."""
    options = [f"--set={key}={value}" for key, value in TINY.items()]
    train_once("classifier", write_folder, "texts", *options)


def test_a_classifier_does_not_write(run: Any, trained: None) -> None:
    for command in (
        ["sample", "words"],
        ["eval", "words", "--dynamic"],
        ["eval", "words", "--novelty", "book.txt"],
        ["compress", "words", "book.txt"],
    ):
        refused = run(*command, stdin=b"text")
        assert refused.code in (2, 4), command
        assert "classification" in refused.err
    other = run("train", "book.txt", "--from", "words", "--steps", "3")
    assert other.code == 4
    assert "classification" in other.err


def test_a_language_model_says_nothing_of_a_text(run: Any) -> None:
    trained = run("train", "book.txt", "--steps", "10", "--out", "book")
    assert trained.code == 0
    assert "bidirectional" not in trained.err
    assert "pooling" not in trained.err
    refused = run("predict", "book", "a text")
    assert refused.code == 2
    assert "charrnn sample" in refused.err


def test_a_changed_shape_is_refused(trained: None, tmp_path: Path) -> None:
    path = sorted((tmp_path / "words" / "checkpoints").glob("*.safetensors"))[-1]
    stored = load_checkpoint(path)
    head = stored.tensors["model/head.weight"]
    save_checkpoint(path, stored.tensors | {"model/head.weight": head[:1]}, stored.metadata)
    with pytest.raises(CheckpointError, match=r"head\.weight"):
        load_checkpoint(path, check_layout)


def test_predict_on_a_terminal_says_that_it_waits(run: Any, trained: None) -> None:
    master, slave = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "charrnn", "predict", "words"],
        stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        os.write(master, b"aeiou\n\x04")
        out, err = process.communicate(timeout=60)
    os.close(slave)
    os.close(master)
    assert process.returncode == 0, err
    assert err == "type a text and press Enter; Ctrl-D ends\n"
    assert out.split("\t")[2] == "aeiou\n"


def test_an_empty_stop_is_refused(run: Any) -> None:
    refused = run("sample", "words", "--stop", "")
    assert refused.code == 2
    assert "--stop is empty" in refused.err


def rows(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


def read_rows(path: str, validation: str | None = None, **changes: Any) -> Any:
    values = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    texts = {"sources": find_sources([path])}
    if validation:
        texts["validation"] = find_sources([validation])
    config = build_config([("test", values)])[0]
    return config, read(config, texts)


MAIL = [f"mail number {i}\t{('spam', 'ham', 'ham')[i % 3]}" for i in range(40)]


def test_a_class_outside_of_training_counts_as_wrong(tmp_path: Path) -> None:
    main = rows(tmp_path / "a.tsv", *MAIL)
    other = rows(tmp_path / "b.tsv", "mail one\tham", "mail two\tHam", "mail three\tHam")
    config, data = read_rows(main, other)
    assert [e.label for e in data.splits["validation"]] == [0, UNKNOWN_CLASS, UNKNOWN_CLASS]
    noted = " ".join(data.notes)
    assert "1 class in validation only, 2 of its examples, counted as wrong: 'Ham'" in noted
    assert "b.tsv, line 2)" in noted
    assert "the class 'Ham' (2) looks like 'ham' (27): the same one, misspelled?" in noted
    session = start(tmp_path / "run", config, data)
    judged = session.experiment.judge(session.model, data.splits["validation"], lambda: False)
    assert judged.labels == 1
    assert judged.metrics["accuracy"] in (0, 1 / 3)
    assert judged.part == ", 2 of unknown classes count as wrong"
    assert math.isfinite(judged.nats)
    drive(session)


def test_a_split_of_unknown_classes_alone_is_refused(tmp_path: Path) -> None:
    other = rows(tmp_path / "b.tsv", "mail two\tHam")
    with pytest.raises(DataError, match=r"no example of validation has a class of training;"):
        read_rows(rows(tmp_path / "a.tsv", *MAIL), other)


def test_a_checkpoint_refuses_a_new_class_in_training(tmp_path: Path) -> None:
    path = rows(tmp_path / "a.tsv", *MAIL)
    config, data = read_rows(path)
    rows(tmp_path / "a.tsv", *MAIL, "new mail\tnews")
    with pytest.raises(DataError, match=r"the model has no class 'news' \(.*a\.tsv, line 41\)"):
        read(config, {"sources": find_sources([path])}, data.vocabulary_data)


def test_a_long_text_is_cut_and_named(tmp_path: Path) -> None:
    lines = [*MAIL, f"{'x' * 99}\tham"]
    _, data = read_rows(rows(tmp_path / "a.tsv", *lines), data__maximum_length=20)
    lengths = [len(e.ids) for part in data.splits.values() for e in part]
    assert (max(lengths), len(lengths)) == (20, 41)
    assert any("longer than 20 symbols (data.maximum_length), cut there" in note
               and "a.tsv, line 41 (99)" in note for note in data.notes)  # fmt: skip
    _, whole = read_rows(rows(tmp_path / "a.tsv", *lines))
    assert whole.settings["data.maximum_length"] > 1000


def test_the_bound_of_a_batch_and_the_columns_are_recorded(tmp_path: Path) -> None:
    config, data = read_rows(rows(tmp_path / "a.tsv", *MAIL))
    planned = start(tmp_path / "run", config, data).config
    assert planned.data.split_by == "stratified"
    assert (planned.data.text_column, planned.data.label_column) == (1, 2)
    assert isinstance(planned.data.maximum_length, int)
    assert isinstance(planned.training.batch_symbols, int)


def test_balanced_weights_count_each_class_the_same(tmp_path: Path) -> None:
    config, data = read_rows(rows(tmp_path / "a.tsv", *MAIL), training__class_weights="balanced")
    task = start(tmp_path / "run", config, data).experiment
    examples = data.splits["train"]
    batch = Classification.collate(examples, torch.device("cpu"))
    cost, count = task.cost(lambda ids, lengths: torch.zeros(len(ids), 2), batch)
    assert count == len(examples)
    torch.testing.assert_close(cost, torch.tensor(count * math.log(2)))
    per_class = [
        sum(float(task.weights[e.label]) for e in examples if e.label == i) for i in (0, 1)
    ]
    assert per_class[0] == pytest.approx(per_class[1])


def test_a_run_with_long_examples_resumes(tmp_path: Path) -> None:
    lines = [*MAIL, f"{'x' * 300}\tham", f"{'y' * 290}\tspam"]
    changes = {"training__batch_symbols": 200, "training__batch_size": 8}
    path = rows(tmp_path / "a.tsv", *lines)
    resumes(lambda run: start(run, *read_rows(path, **changes)), tmp_path, [5])


def test_the_banner_names_classes_columns_and_what_was_left_out(tmp_path: Path, run: Any) -> None:
    path = rows(tmp_path / "a.tsv", *MAIL, MAIL[0], "\tspam")
    result = run("train", path, "--task", "classification", "--steps", "10", "--set",
                 "model.hidden_size=8", "--set", "data.bad_rows=skip", "--out", "r")  # fmt: skip
    assert result.code == 0, result.err
    assert "classes: ham 26, spam 14\n" in result.err
    assert "read as TSV, no header: class from column 2; text from column 1\n" in result.err
    assert f"1 of 42 rows left out: {path}, line 42\n" in result.err
    assert "1 of 41 left out, equal to earlier ones\n" in result.err


def test_the_remedies_for_too_little_memory_are_those_of_examples(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Classification, "cost", fail)
    path = rows(tmp_path / "a.tsv", *MAIL)
    result = run("train", path, "--task", "classification", "--steps", "10", "--set",
                 "model.hidden_size=8", "--set", "processes=1", "--out", "r")  # fmt: skip
    assert result.code == 1
    assert (
        "out of memory with 32 examples a step; start again with --set training.batch_symbols=224, "
        "or --set data.maximum_length=7 (the longest has 14)"
    ) in result.err
