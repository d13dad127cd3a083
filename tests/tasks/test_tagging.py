"""Tagging: the model, its score, its run, its predictions."""

import json
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charrnn.config.merge import build_config
from charrnn.data.sources import find_sources
from charrnn.data.vocabulary import CharacterVocabulary
from charrnn.errors import CheckpointError, ConfigError, DataError
from charrnn.nn.state import leaves
from charrnn.runs.checkpoint import load_checkpoint, save_checkpoint
from charrnn.runs.checkpoint_check import check_layout, expected_tensors
from charrnn.session.loop import Session
from charrnn.tasks.tagging import TaggedSentences, Tagging, parts_of, read
from tests.tiny import ON_EXAMPLES, drive, resumes, start

TINY: dict[str, Any] = ON_EXAMPLES | {
    "task": "tagging",
    "model.layers": 1,
    "model.character_embedding_size": 4,
    "model.character_hidden_size": 11,
    "training.steps": 7,
}
ENDINGS = {"ing": "VERB", "ly": "ADV", "er": "NOUN"}
WORDS: list[Any] = ["lookup", "recurrent", "convolving", ["lookup", "recurrent"]]


def write_sentences(path: Path, seed: int, count: int = 60) -> Path:
    """Write sentences in which words in -ing are verbs, in -ly adverbs, in -er nouns, mostly new;
    `to` is a particle before a verb and else an adposition."""
    draw = np.random.default_rng(seed)
    blocks = []
    for number in range(count):
        rows: list[tuple[str, str]] = []
        for _ in range(draw.integers(1, 6)):
            ending = draw.choice(list(ENDINGS))
            stem = "".join(draw.choice(list("bdfgmnprst"), draw.integers(1, 5)))
            if draw.random() < 0.4:
                rows.append(("to", "PART" if ending == "ing" else "ADP"))
            rows.append((stem + ending, ENDINGS[ending]))
        lines = [f"# sent_id = {number}", "1-2\tskipped\t" + "\t".join("_" * 8)]
        lines += [
            f"{i}\t{word}\t_\t{tag}\t" + "\t".join("_" * 6) for i, (word, tag) in enumerate(rows, 1)
        ]
        blocks.append("\n".join([*lines, "1.1\tempty\t" + "\t".join("_" * 8)]))
    path.write_text("\n\n".join(blocks) + "\n\n", "utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return (
        write_sentences(tmp_path / "train.conllu", 1),
        write_sentences(tmp_path / "dev.conllu", 2, 30),
    )


def load(files: tuple[Path, Path], **changes: Any) -> tuple[Any, TaggedSentences]:
    values = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    config = build_config([("test", values)])[0]
    train, dev = (find_sources([str(path)]) for path in files)
    return config, read(config, {"sources": train, "validation": dev})


def begin(files: tuple[Path, Path], run: Path, **changes: Any) -> Session:
    return start(run, *load(files, **changes))


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_and_neighbours_change_nothing(
    files: tuple[Path, Path], tmp_path: Path, words: Any, bidirectional: bool
) -> None:
    session = begin(files, tmp_path / "run", model__words=words, model__bidirectional=bidirectional)
    model = session.model.double().eval()
    examples = session.data.splits["train"][:9]
    device = torch.device("cpu")
    batch = Tagging.collate(examples, device)
    together = model(batch)
    for row, example in enumerate(examples):
        alone = model(Tagging.collate([example], device))[0]
        torch.testing.assert_close(together[row, : len(example.words)], alone)
    past = torch.arange(batch.words.shape[1]) >= batch.lengths[:, None]
    ends = torch.arange(batch.characters.shape[1]) >= batch.spelled[:, None]
    assert past.any()
    assert ends.any()
    garbage = batch._replace(
        words=batch.words.masked_fill(past, 1), characters=batch.characters.masked_fill(ends, 2)
    )
    assert torch.equal(model(garbage)[~past], together[~past])
    assert torch.equal(session.objective.loss(model, garbage, None).total,
                       session.objective.loss(model, batch, None).total)  # fmt: skip


def test_a_sentence_is_read_from_both_ends(files: tuple[Path, Path], tmp_path: Path) -> None:
    def first_logits(last: int, **changes: Any) -> torch.Tensor:
        session = begin(files, tmp_path / str(len(changes)), **changes)
        sentence = next(e for e in session.data.splits["train"] if len(e.words) > 4)
        changed = sentence._replace(words=(*sentence.words[:-1], sentence.words[last]))
        batch = Tagging.collate([changed], torch.device("cpu"))
        return session.model.eval()(batch)[0, 0].detach()  # type: ignore[no-any-return]

    assert not torch.equal(first_logits(-1), first_logits(0))
    ahead = {"model__bidirectional": False}
    assert torch.equal(first_logits(-1, **ahead), first_logits(0, **ahead))


@pytest.mark.parametrize("processes", [1, 2])
def test_resumed_equals_uninterrupted(
    files: tuple[Path, Path], tmp_path: Path, processes: int
) -> None:
    # At an evaluation and between two; test_classification stops at every step.
    resumes(lambda run: begin(files, run, processes=processes), tmp_path, (4, 6))


def test_the_score_is_that_of_the_probabilities(files: tuple[Path, Path], tmp_path: Path) -> None:
    session = begin(files, tmp_path / "run", training__steps=30, evaluation__every=30)
    drive(session)
    weights = {n: v.numpy() for n, v in session.model.state_dict().items()}
    score = session.experiment.final(weights, split="validation")
    seen = {word.text for e in session.data.splits["train"] for word in e.words}
    nats, right, unseen = 0.0, Counter[bool](), Counter[bool]()
    for example in session.data.splits["validation"]:
        with torch.inference_mode():
            logits = session.model.eval()(Tagging.collate([example], torch.device("cpu")))[0]
        for word, tag, row in zip(example.words, example.tags, logits.double(), strict=True):
            chances = torch.exp(row) / torch.exp(row).sum()
            nats -= math.log(chances[tag])
            unseen[word.text not in seen] += 1
            right[word.text not in seen] += int(chances.argmax()) == tag
    count = unseen.total()
    assert 0 < unseen[True] < count
    assert score.count == count
    assert score.nats == pytest.approx(nats / count, abs=1e-6)
    assert score.metrics == {
        "accuracy": right.total() / count,
        "accuracy_unseen": right[True] / unseen[True],
        "unseen": unseen[True],
    }
    batch = Tagging.collate(session.data.splits["validation"], torch.device("cpu"))
    loss = session.objective.loss(session.model.eval(), batch, None)
    assert loss.scored == count
    assert float(loss.total.detach()) == pytest.approx(nats, rel=1e-5)
    assert set(score.record()) >= {"nats_per_token", "accuracy", "accuracy_unseen", "tokens"}
    training = session.experiment.final(weights, split="train")
    assert "accuracy_unseen" not in training.metrics  # It has no unseen words.


@pytest.mark.parametrize("words", ["recurrent", ["lookup", "convolving"]])
def test_it_learns_from_the_spelling_and_from_both_sides(
    files: tuple[Path, Path], tmp_path: Path, words: Any
) -> None:
    session = begin(
        files, tmp_path / "run", model__words=words, model__hidden_size=12,
        model__dropout=0.0, model__input_dropout=0.0, model__output_dropout=0.0,
        training__steps=150, training__learning_rate=0.02, evaluation__every=150,
    )  # fmt: skip
    *_, finished = drive(session)
    metrics = finished.score.metrics  # type: ignore[union-attr]
    assert metrics["accuracy_unseen"] > 0.97
    assert metrics["accuracy"] > 0.97


def test_what_is_unseen_or_rare_is_counted_in_training(files: tuple[Path, Path]) -> None:
    _, data = load(files, data__minimum_count=2)
    train, dev = data.splits["train"], data.splits["validation"]
    counts = Counter(word.text for e in train for word in e.words)
    parts = parts_of(data.vocabularies)
    for word in (word for e in [*train, *dev] for word in e.words):
        assert word.seen == (word.text in counts)
        assert (word.id == parts.word.unknown) == (counts[word.text] < 2)
    assert "skipped" not in counts
    assert "empty" not in counts
    batch = Tagging.collate(dev[:4], torch.device("cpu"))
    words = dict.fromkeys(word.text for e in dev[:4] for word in e.words)
    expected = [1 / (1 + counts[word]) for word in words]
    np.testing.assert_allclose(batch.chances.numpy(), expected)


@pytest.mark.parametrize("words", WORDS)
def test_words_are_looked_up_in_lower_case_where_their_characters_are_read(
    files: tuple[Path, Path], tmp_path: Path, words: Any
) -> None:
    train, dev = files
    rows = [f"{i}\t{word}\t_\tX\t" + "\t".join("_" * 6) for i, word in enumerate(
        ["Vox", "vox", "VOX", "hax"], 1)]  # fmt: skip
    train.write_text(train.read_text("utf-8") + "\n".join(rows) + "\n\n", "utf-8")
    rows = [f"{i}\t{word}\t_\tX\t" + "\t".join("_" * 6) for i, word in enumerate(
        ["Hax", "Vox", "qqq"], 1)]  # fmt: skip
    dev.write_text("\n".join(rows) + "\n\n", "utf-8")
    _, data = load(files, model__words=words)
    found = {word.text: word for e in data.splits["validation"] for word in e.words}
    parts = parts_of(data.vocabularies)
    unknown = parts.word.unknown
    known = {text for text, word in found.items() if word.id != unknown}
    assert [word.seen for word in found.values()] == [False, True, False]
    trained = {word.text: word for e in data.splits["train"] for word in e.words}
    if words == "lookup":
        assert known == {"Vox"}
        assert found["Vox"].chance == 1 / 2
        assert len({trained[text].id for text in ("Vox", "vox", "VOX")}) == 3
    else:
        assert known == {"Hax", "Vox"}
        assert [found[text].chance for text in ("Hax", "Vox", "qqq")] == [1 / 2, 1 / 4, 1]
        assert len({trained[text].id for text in ("Vox", "vox", "VOX")}) == 1
        assert not np.array_equal(trained["Vox"].characters, trained["vox"].characters)
    session = begin(files, tmp_path / "run", model__words=words)
    drive(session)
    predictor = Tagging.predictor(session.run.load(7), "cpu")
    batches = [Tagging.collate(session.data.splits["validation"], torch.device("cpu"))]  # type: ignore[attr-defined]
    collate = predictor._collate
    predictor._collate = lambda examples: batches.append(made := collate(examples)) or made
    assert len(list(predictor.predict(["Hax Vox qqq"]))) == 1
    assert torch.equal(batches[0].ids, batches[1].ids)


def test_what_is_not_chosen_suits_words(files: tuple[Path, Path]) -> None:
    _, data = load(files)
    planned = Tagging.plan(build_config([])[0], data, torch.device("cpu"))
    assert planned.model.words == ["lookup", "recurrent"]
    assert planned.model.embedding_scale == 0.1


def test_layout_is_that_of_the_model(files: tuple[Path, Path], tmp_path: Path) -> None:
    session = begin(files, tmp_path / "run")
    expected = expected_tensors(session.config, session.data.vocabularies)  # type: ignore[attr-defined]
    shapes = {name: tuple(value.shape) for name, value in session.model.state_dict().items()}
    assert expected.weights == shapes
    assert not list(leaves(session.objective.empty_carry(session.model)))


def test_other_vocabularies_are_refused(files: tuple[Path, Path]) -> None:
    _, data = load(files)
    vocabularies = dict(data.vocabularies)
    assert parts_of(vocabularies)
    for changed in (
        vocabularies | {"character": CharacterVocabulary("ab")},
        vocabularies | {"word": vocabularies["tag"]},
        vocabularies | {"more": vocabularies["tag"]},
        {"text": vocabularies["character"]},
    ):
        with pytest.raises(ConfigError, match="a tagger has"):
            parts_of(changed)


def test_a_tag_that_training_lacks_is_named_and_counts_as_wrong(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    files[1].write_text(files[1].read_text("utf-8").replace("VERB", "X"), "utf-8")
    rows = files[1].read_text("utf-8").split("\n")
    first = next(i for i, row in enumerate(rows, 1) if "\tX\t" in row)
    count = sum("\tX\t" in row for row in rows)
    _, data = load(files)
    (note,) = [note for note in data.notes if "only" in note]
    assert note == (
        f"1 tag of {count} words in validation only, each counts as wrong: 'X' "
        f"({files[1]}, line {first})"
    )
    session = begin(files, tmp_path / "run")
    weights = {n: v.numpy() for n, v in session.model.state_dict().items()}
    score = session.experiment.final(weights)
    words = sum(len(e.words) for e in data.splits["validation"])
    assert score.count == words - count
    assert score.metrics["accuracy"] <= score.count / words
    files[1].write_text(re.sub("(VERB|ADV|NOUN|PART|ADP|X)", "Z", files[1].read_text("utf-8")))
    with pytest.raises(DataError, match="no word of validation has a tag of training, such as"):
        load(files)
    vocabularies = session.data.vocabulary_data
    train = find_sources([str(files[1])])
    with pytest.raises(DataError, match=r"the model has no tag 'Z' \(.*dev\.conllu, line "):
        read(session.config, {"sources": train, "validation": train}, vocabularies)


def test_the_commands(run: Any, tmp_path: Path, files: tuple[Path, Path]) -> None:
    options = [f"--set={key}={value}" for key, value in TINY.items()]
    trained = run(
        "train", "train.conllu", "--validation", "dev.conllu", *options, "--out", "tagger", "--json"
    )
    assert trained.code == 0, trained.err
    end = json.loads(trained.out.splitlines()[-1])
    assert end["event"] == "end"
    assert end["nats_per_token"] > 0
    assert 0 <= end["accuracy_unseen"] <= 1
    scored = json.loads(run("eval", "tagger", "--json").out)
    for key in ("nats_per_token", "accuracy", "accuracy_unseen", "unseen"):
        assert scored[key] == pytest.approx(end[key], abs=1e-6)
    assert f"unseen              {end['unseen']}\n" in run("eval", "tagger").out
    assert "of lookup and recurrent words" in run("info", "tagger").out
    listed = json.loads(run("list", ".", "--json").out)
    assert listed["unit"] == "token"
    assert "tag\t0\t" in run("vocab", "tagger").out
    resumed = run("resume", "tagger", "--steps", "9")
    assert resumed.code == 0, resumed.err

    said = run("predict", "tagger", "to  bring", "slowly")
    assert said.code == 0, said.err
    given = run("predict", "tagger", "--json", stdin=b"to  bring\nslowly\n")
    records = [json.loads(line) for line in given.out.splitlines()]
    assert [record["tokens"] for record in records] == [["to", "bring"], ["slowly"]]
    for record, line in zip(records, said.out.splitlines(), strict=True):
        pairs = zip(record["tokens"], record["tags"], strict=True)
        assert line == " ".join(f"{word}/{tag}" for word, tag in pairs)
        assert len(record["probabilities"]) == len(record["tokens"])
        assert all(0.2 <= chance <= 1 for chance in record["probabilities"])
    blank = run("predict", "tagger", "to", " ").out.splitlines()
    assert (blank[0][:3], blank[1:]) == ("to/", [""])
    long = run("predict", "tagger", "b" * 100_000 + " " + "to " * 2000)
    assert len(long.out.split()) == 2001

    for command in (["sample", "tagger"], ["compress", "tagger", "book.txt"]):
        refused = run(*command, stdin=b"text")
        assert refused.code in (2, 4), command
        assert "tagging" in refused.err
    (tmp_path / "prose.txt").write_text(
        "Once upon a time\nthere was a text that goes on.\n\n", "utf-8"
    )
    wrong = run("train", "prose.txt", *options)
    assert wrong.code == 3
    assert "a blank line follows each sentence" in wrong.err
    one_hot = run("train", "train.conllu", *options, "--set", "model.embedding_size=one_hot")
    assert one_hot.code == 2
    assert "give it a number" in one_hot.err


def test_predictions_are_those_of_the_model(files: tuple[Path, Path], tmp_path: Path) -> None:
    session = begin(files, tmp_path / "run")
    drive(session)
    predictor = Tagging.predictor(session.run.load(7), "cpu")
    examples = session.data.splits["validation"][:8]
    texts = [" ".join(word.text for word in example.words) for example in examples]
    tag = parts_of(session.data.vocabularies).tag  # type: ignore[attr-defined]
    for example, made in zip(examples, predictor.predict(texts), strict=True):
        with torch.inference_mode():
            logits = session.model.eval()(Tagging.collate([example], torch.device("cpu")))[0]
        chances, best = torch.softmax(logits.double(), -1).max(-1)
        assert made.record["tags"] == tag.decode(best.tolist())
        np.testing.assert_allclose(made.record["probabilities"], chances, rtol=1e-4)
    sample = session.experiment.sample(40).splitlines()
    assert sample == [line[:40] for line in (p.line for p in predictor.predict(texts[:3]))]


def test_a_changed_shape_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    session = begin(files, tmp_path / "run")
    drive(session, until=4)
    path = session.run.checkpoint_path(4)
    stored = load_checkpoint(path, check_layout)
    name = "model/words.composers.0.embedding.weight"
    changed = {name: stored.tensors[name][:-1].copy()}
    save_checkpoint(path, stored.tensors | changed, stored.metadata)
    with pytest.raises(CheckpointError, match=r"composers\.0\.embedding"):
        load_checkpoint(path, check_layout)


BIO = """-DOCSTART- -X- -X- O

Anna NNP B-NP B-PER
Smith NNP I-NP I-PER
sees VB B-VP O
Rome NNP B-NP B-LOC
. . O _

"""


def train_on(run: Any, *arguments: str) -> Any:
    """Train a tiny tagger named `bio` for a few steps."""
    return run("train", *arguments, "--task", "tagging", "--set", "model.hidden_size=8",
               "--steps", "4", "--out", "bio")  # fmt: skip


@pytest.fixture
def bio(run: Any, tmp_path: Path) -> Any:
    """Train on CoNLL-2003's columns with a tag in validation that training lacks."""
    (tmp_path / "train.txt").write_text(BIO * 6, "utf-8")
    (tmp_path / "dev.txt").write_text(BIO + "Oslo NNP B-NP B-CITY\nwins VB B-VP O\n", "utf-8")
    trained = train_on(run, "train.txt", "--validation", "dev.txt")
    assert trained.code == 0, trained.err
    return trained


def test_spans_are_measured_and_unknown_tags_count_as_wrong(run: Any, bio: Any) -> None:
    scored = json.loads(run("eval", "bio", "--json").out)
    assert scored["tokens"] == 5, "the full stop has no tag, and B-CITY no surprisal"
    assert "1 of tags that training lacks count as wrong" in scored["protocol"]
    assert {"span_f1", "span_precision", "span_recall", "accuracy"} <= set(scored)
    assert scored["accuracy"] <= 5 / 6
    assert 0 <= scored["span_f1"] <= 2 * 2 / 5


def test_predict_fills_the_tags_of_rows(run: Any, bio: Any) -> None:
    rows = "# sent_id = 1\n1-2\tdu\t" + "\t".join("_" * 8) + "\n"
    rows += "".join(f"{i}\t{word}\t" + "\t".join("_" * 8) + "\n"
                    for i, word in enumerate(["New York", "sees"], 1))  # fmt: skip
    said = run("predict", "bio", stdin=(rows + "\n" + rows).encode())
    assert said.code == 0, said.err
    assert "reading a word on each row, tags go to column 4 (UPOS) of 10" in said.err
    before, after = (rows + "\n" + rows).splitlines(), said.out.splitlines()
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        if old[:2] in ("1\t", "2\t"):
            fields = new.split("\t")
            assert fields.pop(3) in ("B-PER", "I-PER", "B-LOC", "O")
            assert fields == old.split("\t")[:3] + old.split("\t")[4:]
        else:
            assert new == old
    records = run("predict", "bio", "--json", stdin=rows.encode()).out.splitlines()
    assert [json.loads(record)["tokens"] for record in records] == [["New York", "sees"]]
    words = run("predict", "bio", stdin=b"Anna\nsees\n\nRome\n").out.splitlines()
    assert [line.partition("\t")[0] for line in words] == ["Anna", "sees", "", "Rome"]
    columns = run("predict", "bio", stdin=BIO.encode()).out.splitlines()
    assert [line.split(" ")[0] for line in columns] == [r.split(" ")[0] for r in BIO.splitlines()]
    lines = run("predict", "bio", "--input", "lines", stdin=b"Anna\nsees\n\nRome\n").out
    assert [line.partition("/")[0] for line in lines.splitlines()] == ["Anna", "sees", "", "Rome"]
    bad = run("predict", "bio", stdin=(rows + "\nc\td\n").encode())
    assert bad.code == 3
    assert "line 6 of standard input has 2 columns" in bad.err


def test_a_blank_line_is_answered_by_one(run: Any, bio: Any) -> None:
    said = run("predict", "bio", stdin=b"Anna sees Rome\n\n \nOslo wins\n").out.splitlines()
    assert [line.partition("/")[0] for line in said] == ["Anna", "", "", "Oslo"]
    records = run("predict", "bio", "--json", stdin=b"\nAnna\n").out.splitlines()
    assert json.loads(records[0]) == {"text": ""}
    assert json.loads(records[1])["tokens"] == ["Anna"]


def test_a_pipe_is_answered_line_by_line(run: Any, bio: Any) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "charrnn", "predict", "bio"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        for word in (b"Anna", b"", b"Rome"):
            process.stdin.write(word + b"\n")
            process.stdin.flush()
            assert process.stdout.readline().partition(b"/")[0].strip() == word
        process.stdin.close()


def test_a_file_without_upos_is_read_by_its_xpos(run: Any, tmp_path: Path) -> None:
    blank = "\t".join("_" * 5)
    for name in ("train", "dev"):
        rows = f"1\ta\t_\t_\tDT\t{blank}\n2\tdog\t_\t_\tNN\t{blank}\n\n"
        (tmp_path / f"{name}.conllu").write_text(rows * 4, "utf-8")
    assert train_on(run, "train.conllu", "--validation", "dev.conllu").code == 0
    assert "DT" in run("vocab", "bio").out
