"""Generation: the model, its score, its run, its texts."""

import json
import math
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from charrnn.config.merge import build_config
from charrnn.data.sources import find_sources
from charrnn.errors import CheckpointError, DataError
from charrnn.inference.sampler import Choice, Draws, sample
from charrnn.nn.state import leaves
from charrnn.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from charrnn.runs.checkpoint_check import check_layout, expected_tensors
from charrnn.session.loop import Session
from charrnn.tasks.data import find_texts
from charrnn.tasks.generation import Generation, Generator, read, surprisals
from charrnn.tasks.labelled import read as read_texts
from tests.reference import lstm_step
from tests.tasks.conftest import TrainOnce
from tests.tasks.test_classification import write_texts
from tests.tiny import ON_EXAMPLES, drive, resumes, start

TINY: dict[str, Any] = ON_EXAMPLES | {"task": "generation"}
CPU = torch.device("cpu")
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "conditioned_names.py"


def begin(folder: Path, run: Path, **changes: Any) -> Session:
    values = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    config = build_config([("test", values)])[0]
    return start(run, config, read(config, {"sources": find_sources([str(folder)])}))


def writer(session: Session) -> Generator:
    data: Any = session.data
    return Generator(session.model, data.vocabularies, session.about)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    return write_texts(tmp_path / "texts")


@pytest.mark.parametrize("cell", ["lstm", "gru", "mingru"])
def test_padding_and_neighbours_change_nothing(texts: Path, tmp_path: Path, cell: str) -> None:
    session = begin(texts, tmp_path / "run", model__cell=cell)
    model = session.model.double().eval()
    examples = session.data.splits["train"][:9]
    batch = Generation.collate(examples, CPU)
    together = surprisals(model, batch)
    for row, example in enumerate(examples):
        alone = surprisals(model, Generation.collate([example], CPU))[0]
        torch.testing.assert_close(alone, together[row, : len(alone)])
        assert not together[row, len(alone) :].any()
    garbage = batch.inputs.clone()
    lengths = torch.tensor([len(example.inputs) for example in examples])
    padding = torch.arange(garbage.shape[1]) >= lengths[:, None]
    assert padding.any()
    garbage[padding] = 3
    assert torch.equal(surprisals(model, batch._replace(inputs=garbage)), together)


@pytest.mark.parametrize("cell", ["lstm", "gru", "minlstm"])
def test_stepped_equals_unrolled(texts: Path, tmp_path: Path, cell: str) -> None:
    session = begin(texts, tmp_path / "run", model__cell=cell)
    model = session.model.double().eval()
    batch = Generation.collate(session.data.splits["train"][::7], CPU)
    assert set(batch.labels.tolist()) == {0, 1}
    state = model.initial_state(len(batch.labels))._replace(label=batch.labels)
    unrolled, after = model(batch.inputs, state)
    stepper = writer(session)
    stepped: Any = state
    for t in range(batch.inputs.shape[1]):
        logits, stepped = stepper.step(batch.inputs[:, t].numpy(), stepped)
        for never_written in (stepper.vocabulary.unknown, stepper.vocabulary.start):  # type: ignore[union-attr]
            assert (logits[:, never_written] == -np.inf).all()
            logits[:, never_written] = unrolled[:, t, never_written].detach()
        np.testing.assert_allclose(logits, unrolled[:, t].detach().numpy(), atol=1e-5)
    for one, other in zip(leaves(stepped), leaves(after), strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(stepped.label, batch.labels)


@pytest.mark.parametrize("processes", [1, 2])
def test_resumed_equals_uninterrupted(texts: Path, tmp_path: Path, processes: int) -> None:
    # At an evaluation and between two; test_classification stops at every step.
    resumes(lambda run: begin(texts, run, processes=processes), tmp_path, (4, 7))


def test_the_score_is_that_of_the_probabilities_by_hand(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64 numpy: the vectors of symbol and label, an LSTM, a softmax; from <s> to </s>."""
    session = begin(texts, tmp_path / "run", model__layers=1)
    drive(session)
    weights = {n: v.numpy() for n, v in session.model.state_dict().items()}
    score = session.experiment.final(weights, split="validation")
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    cell = SimpleNamespace(
        **{n.rpartition(".")[2]: v for n, v in w.items() if n.startswith("stack.layers.0.cell.")}
    )
    data: Any = session.data
    vocabulary = data.vocabularies["text"]
    nats, count = 0.0, 0
    for example in data.splits["validation"]:
        text = example.targets[:-1].tolist()
        state = (np.zeros(6), np.zeros(6))
        for read_id, said in zip([vocabulary.start, *text], [*text, vocabulary.end], strict=True):
            vector = np.r_[
                w["embedding.weight"][read_id], w["label_embedding.weight"][example.label]
            ]
            state = lstm_step(cell, vector, state)
            logits = w["head.weight"] @ state[0] + w["head.bias"]
            assert len(logits) == vocabulary.size
            nats -= math.log(np.exp(logits[said]) / np.exp(logits).sum())
            count += 1
    assert score.count == count
    assert score.nats == pytest.approx(nats / count, abs=1e-6)
    monkeypatch.setattr("charrnn.tasks.examples.MOST_LOGITS", 300)  # A few texts at a time.
    few = session.experiment.final(weights, split="validation")
    assert few.nats == pytest.approx(score.nats, abs=1e-6)
    batch = Generation.collate(data.splits["validation"], CPU)
    loss = session.objective.loss(session.model.eval(), batch, None)
    assert loss.scored == count
    assert float(loss.total.detach()) == pytest.approx(nats, rel=1e-5)
    assert set(score.record()) >= {"nats_per_character", "characters", "bits_per_character"}


def test_it_writes_what_the_label_says(texts: Path, tmp_path: Path) -> None:
    session = begin(
        texts,
        tmp_path / "run",
        training__steps=80,
        training__learning_rate=0.02,
        model__hidden_size=16,
    )
    *_, finished = drive(session)
    assert finished.score.nats < math.log(7)  # type: ignore[union-attr]
    stepper = writer(session)
    for label, letters in (("vowels", "aeiou"), ("consonants", "bcdfg")):
        written = stepper.write([label] * 50, 30, Choice(), Draws(1, range(50)))
        right = sum(character in letters for text in written for character in text)
        assert right > 0.95 * sum(map(len, written))
        assert len(set(written)) > 30
        assert 2 < sum(map(len, written)) / 50 < 8
    shown = session.experiment.sample(20).splitlines()
    assert len(shown) == 2
    assert {line.partition(":")[0] for line in shown} == {"vowels", "consonants"}


def test_labels_are_drawn_at_training_frequency(tmp_path: Path) -> None:
    rows = [f"{'abc'[i % 3]}{i}\t{'rare' if i % 4 == 0 else 'common'}" for i in range(200)]
    (tmp_path / "rows.tsv").write_text("\n".join(rows), "utf-8")
    session = begin(tmp_path / "rows.tsv", tmp_path / "run", data__split_by="position")
    counts = session.about["corpus"]["label_counts"]
    assert counts == [105, 35]
    stepper = writer(session)
    drawn = stepper.labels(Draws(3, range(4000)))
    assert drawn.count("rare") == pytest.approx(1000, abs=4 * math.sqrt(4000 * 0.25 * 0.75))
    assert drawn[:10] == stepper.labels(Draws(3, range(10)))
    assert stepper.labels(Draws(3, range(4)), "rare") == ["rare"] * 4


def test_a_sample_is_its_own_whatever_stands_beside_it(texts: Path, tmp_path: Path) -> None:
    stepper = writer(begin(texts, tmp_path / "run"))
    labels = stepper.labels(Draws(5, range(20)))
    together = stepper.write(labels, 12, Choice(0.9), Draws(5, range(20)))
    alone = stepper.write(labels[7:8], 12, Choice(0.9), Draws(5, [7]))
    assert alone == together[7:8]
    # The sampler drives it as it drives any stepper.
    cursor = stepper.begin("", 1, labels=labels[7:8])
    ids = [int(i[0]) for _, i in zip(range(12), sample(
        stepper, cursor, Choice(0.9), Draws(5, [7])), strict=False)]  # fmt: skip
    ids = ids[: ids.index(stepper.end)] if stepper.end in ids else ids
    assert stepper.vocabulary.decode(ids) == alone[0]


def test_it_neither_writes_the_unknown_nor_goes_on_after_the_end(
    texts: Path, tmp_path: Path
) -> None:
    session = begin(texts, tmp_path / "run")
    stepper = writer(session)
    bias = session.model.head.bias.data
    bias[stepper.vocabulary.unknown] = 100  # type: ignore[union-attr]
    bias[stepper.vocabulary.start] = 100
    written = stepper.write(["vowels"] * 20, 9, Choice(), Draws(1, range(20)))
    assert not any("\ufffd" in text for text in written)
    assert max(map(len, written)) <= 9
    bias[stepper.end] = 200
    assert stepper.write(["vowels"] * 3, 9, Choice(), Draws(1, range(3))) == ["", "", ""]


@pytest.mark.parametrize("kind", ["byte", "word", "character"])
def test_any_vocabulary_can_be_written(tmp_path: Path, kind: str) -> None:
    rows = [f"{'é ü' if i % 2 else 'no one'} {i % 7} {i}\t{i % 2}" for i in range(60)]
    (tmp_path / "rows.tsv").write_text("\n".join(rows), "utf-8")
    session = begin(tmp_path / "rows.tsv", tmp_path / "run", data__vocabulary=kind)
    *_, finished = drive(session)
    assert finished.score.unit == kind  # type: ignore[union-attr]
    data: Any = session.data
    example = data.splits["train"][0]
    text = data.vocabularies["text"]
    assert example.inputs[0] == text.start
    assert example.targets[-1] == text.end
    assert text.decode(example.targets[:-1].tolist()) == text.decode(example.inputs[1:].tolist())
    stepper = writer(session)
    assert len(stepper.write(["0", "1"], 9, Choice(), Draws(1, range(2)))) == 2
    assert (
        stepper.begin("no 1", 2, labels=["0", "1"]).token.tolist() == [text.encode("no 1")[-1]] * 2
    )


def test_layout_is_that_of_the_model(texts: Path, tmp_path: Path) -> None:
    session = begin(texts, tmp_path / "run")
    data: Any = session.data
    expected = expected_tensors(session.config, data.vocabularies)
    shapes = {name: tuple(value.shape) for name, value in session.model.state_dict().items()}
    assert expected.weights == shapes
    assert not list(leaves(session.objective.empty_carry(session.model)))


def write_folder(folder: Path) -> None:
    (folder / "texts").mkdir()
    write_texts(folder / "texts")


@pytest.fixture
def trained(run: Any, train_once: TrainOnce, tmp_path: Path) -> Path:
    options = [f"--set={key}={value}" for key, value in TINY.items()]
    train_once("writer", write_folder, "texts", *options)
    return tmp_path / "words"


def test_the_commands(run: Any, trained: Path) -> None:
    scored = json.loads(run("eval", "words", "--json").out)
    best = json.loads((trained / "best.json").read_text("utf-8"))
    assert scored["nats_per_character"] == pytest.approx(best["nats_per_character"], abs=1e-6)
    assert "nats per character" in run("eval", "words", "--split", "train").out
    assert "2 token symbols (label)" in run("info", "words").out
    assert json.loads(run("list", ".", "--json").out)["unit"] == "character"
    assert "label\t0\t" in run("vocab", "words").out
    assert run("resume", "words", "--steps", "20").code == 0
    refused = run("predict", "words", "aeiou")
    assert refused.code == 2
    assert "charrnn sample" in refused.err


def test_sample(run: Any, trained: Path) -> None:
    drawn = run("sample", "words", "--num-samples", "5", "--seed", "3", "-n", "8")
    assert drawn.code == 0, drawn.err
    rows = [line.split("\t") for line in drawn.out.splitlines()]
    assert len(rows) == 5
    assert {row[0] for row in rows} <= {"vowels", "consonants"}
    assert run("sample", "words", "--num-samples", "5", "--seed", "3", "-n", "8").out == drawn.out
    records = [
        json.loads(line)
        for line in run(
            "sample", "words", "--num-samples", "5", "--seed", "3", "-n", "8", "--json"
        ).out.splitlines()
    ]
    assert [[record["label"], record["text"]] for record in records] == rows
    given = run("sample", "words", "--label", "vowels", "--prompt", "ae", "--num-samples", "3")
    assert given.code == 0, given.err
    assert "seed " in given.err
    assert [line[:2] for line in given.out.splitlines()] == ["ae"] * 3
    assert not any("\t" in line for line in given.out.splitlines())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--label", "vowel"], 3, "'vowel'; choose one of its 2, such as 'vowels'"),
        (["--prompt", "aZ"], 3, "U+005A 'Z'"),
        (["--interactive"], 2, "--interactive"),
        (["--adapt-to", "book.txt"], 2, "--adapt-to"),
        (["--save-state", "s"], 2, "--save-state"),
        (["--load-state", "s"], 2, "--load-state"),
    ],
)
def test_what_sample_refuses(
    run: Any, trained: Path, words: list[str], code: int, said: str
) -> None:
    refused = run("sample", "words", *words)
    assert refused.code == code
    assert said in refused.err
    assert refused.err.strip().splitlines()[-1].startswith("charrnn: ")
    assert not refused.out


def test_it_is_no_language_model(run: Any, trained: Path) -> None:
    for command in (
        ["eval", "words", "--dynamic"],
        ["eval", "words", "--novelty", "book.txt"],
        ["compress", "words", "book.txt"],
        ["train", "book.txt", "--from", "words", "--steps", "3"],
    ):
        refused = run(*command)
        assert refused.code == 4, command
        assert (
            "was trained for generation and is not a language model; use charrnn sample"
            in refused.err
        )


def test_the_benchmark_counts_what_is_novel_and_intended(run: Any, trained: Path) -> None:
    options = [f"--set={key}={value}" for key, value in TINY.items() if key != "task"]
    train = ["train", "texts", *options, "--set=task=classification"]
    more = ["--set=training.steps=40", "--set=training.learning_rate=0.02"]
    assert run(*train, *more, "--out", "classes").code == 0
    measure = runpy.run_path(str(BENCHMARK))["measure"]
    found = measure("words", "classes", "texts", 300, 1, 1.0)
    sampled = run("sample", "words", "--num-samples", "300", "--seed", "1", "-n", "200", "--json")
    written = [json.loads(line)["text"] for line in sampled.out.splitlines()]
    config = build_config([("test", TINY)])[0]
    data = read_texts(config, {"sources": find_sources([str(trained.parent / "texts")])})
    known = {example.text for example in data.splits["train"]}
    assert known & set(written)
    novel = [text for text in written if text and text not in known]
    assert (found["written"], found["novel"]) == (300, len(novel))
    assert found["novel_and_different"] == len(set(novel)) < len(novel)
    accuracy = json.loads(run("eval", "classes", "--json").out)["accuracy"]
    assert found["classifier_on_real_unseen_names"] == round(accuracy, 4) > 0.7
    right, of = zip(*(map(int, row.split("/")) for row in found["by_label"].values()), strict=True)
    assert sum(of) == found["novel"]
    assert found["intended_label"] == round(sum(right) / sum(of), 4)
    assert run(*train, "--set=data.split=[0.6, 0.4]", "--out", "other").code == 0
    with pytest.raises(DataError, match="same split"):
        measure("words", "other", "texts", 10, 1, 1.0)
    (trained.parent / "texts" / "vowels.txt").write_text("a\ne\no\n", "utf-8")
    with pytest.raises(DataError, match="not what the two runs"):
        measure("words", "classes", "texts", 10, 1, 1.0)


def test_a_language_model_has_no_labels(run: Any) -> None:
    assert run("train", "book.txt", "--steps", "10", "--out", "book").code == 0
    refused = run("sample", "book", "--label", "Irish")
    assert refused.code == 2
    assert "--label has no effect on a model of the task language_model" in refused.err


def changed(path: Path, tensors: dict[str, Any], **corpus: Any) -> Checkpoint:
    stored = load_checkpoint(path)
    metadata = stored.metadata | {"corpus": stored.metadata["corpus"] | corpus}
    save_checkpoint(path, stored.tensors | tensors, metadata)
    return load_checkpoint(path, check_layout)


def test_a_changed_checkpoint_is_refused(run: Any, trained: Path) -> None:
    path = sorted((trained / "checkpoints").glob("*.safetensors"))[-1]
    labels = load_checkpoint(path).tensors["model/label_embedding.weight"]
    for counts in ([1], [1, 2, 3], [0, 0], [-1, 2]):
        with pytest.raises(CheckpointError, match=r"label.counts"):
            changed(path, {}, label_counts=counts)
    without = changed(path, {}, label_counts=[])
    with pytest.raises(CheckpointError, match="how frequent"):
        Generator.from_checkpoint(without)
    changed(path, {}, label_counts=[2, 5])
    with pytest.raises(CheckpointError, match=r"label_embedding\.weight"):
        changed(path, {"model/label_embedding.weight": labels[:1]})


def test_a_list_without_classes(tmp_path: Path, run: Any) -> None:
    names = [f"{a}{b}{c}" for a in ("An", "Be", "Cor") for b in ("na", "ri", "lo") for c in "aeo"]
    (tmp_path / "names.txt").write_text("\n".join([*names, names[0]]) + "\n", "utf-8")
    result = run("train", "names.txt", "--task", "generation", "--steps", "20", "--set",
                 "model.hidden_size=8", "--out", "r", "--set", "data.split=[0.8, 0.2]")  # fmt: skip
    assert result.code == 0, result.err
    assert "27 texts of" in result.err
    assert "class" not in result.err
    assert re.search(r"new [01]\.\d+, repeated 0\.\d+, length ratio \d\.\d+", result.err)
    written = run("sample", "r", "--num-samples", "3", "--seed", "1")
    assert written.code == 0, written.err
    assert len(written.out.splitlines()) == 3
    assert "\t" not in written.out
    refused = run("sample", "r", "--label", "x")
    assert refused.code == 3
    assert "writes texts without a class" in refused.err
    scored = json.loads(run("eval", "r", "--json").out)
    assert 0 <= scored["new"] <= 1


@pytest.mark.parametrize(("separator", "between"), [("---", "\n---\n"), ("<end>", "<end>")])
def test_parts_of_a_file_are_texts(tmp_path: Path, separator: str, between: str) -> None:
    poems = [f"O {place}\nhow {word}\n\nfarewell" for place in "abcd" for word in "xyz"]
    (tmp_path / "poems.txt").write_text(between.join(poems), "utf-8")
    values = TINY | {"data.separator": separator, "data.sources": [str(tmp_path / "poems.txt")]}
    config = build_config([("test", values)])[0]
    with find_texts(config, lambda _: None) as texts:
        data = read(config, texts)
    text = data.vocabularies["text"]
    written = {text.decode(e.targets[:-1]) for part in data.splits.values() for e in part}
    assert written == set(poems)
    assert data.notes == ()
