"""Translation: the model, its score, its run, its translations."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charrnn.cli.pictures import save_alignment
from charrnn.config.merge import build_config
from charrnn.data.sources import find_sources
from charrnn.errors import CheckpointError, ConfigError
from charrnn.inference.beam import beam_search
from charrnn.inference.sampler import Choice, Draws, prime, sample
from charrnn.inference.torch_stepper import TorchStepper
from charrnn.nn.state import leaves, map_state
from charrnn.runs.checkpoint import load_checkpoint, save_checkpoint
from charrnn.runs.checkpoint_check import check_layout, expected_tensors
from charrnn.runs.directory import find_checkpoint
from charrnn.session.loop import Session
from charrnn.tasks.translation import Translation, decode, read, text_of
from tests.tasks.conftest import TrainOnce
from tests.tiny import ON_EXAMPLES, drive, resumes, start

TINY: dict[str, Any] = ON_EXAMPLES | {"task": "translation", "model.layers": 2}
CPU = torch.device("cpu")
QUICK = {"evaluation__every": 6, "evaluation__sample_length": 0}


def write_pairs(path: Path, letters: str = "abc", most: int = 7, count: int = 60) -> Path:
    """Write rows of a word, a tab, and the word backwards in capitals."""
    draw = np.random.default_rng(1)
    words = {"".join(draw.choice(list(letters), draw.integers(1, most))) for _ in range(count)}
    path.write_text("".join(f"{w}\t{w[::-1].upper()}\n" for w in sorted(words)), "utf-8")
    return path


def begin(pairs: Path, run: Path, **changes: Any) -> Session:
    values = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    config = build_config([("test", values)])[0]
    return start(run, config, read(config, {"sources": find_sources([str(pairs)])}))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.tsv")


ATTENTIONS = ["none", "additive", "dot", "general"]
KINDS = [
    ("none", "lstm", True),
    ("additive", "gru", True),
    ("dot", "lstm", False),
    ("general", "lstm", True),
    ("general", "minlstm", False),
]


@pytest.mark.parametrize(("attention", "cell", "bidirectional"), KINDS)
def test_padding_and_neighbours_change_nothing(
    pairs: Path, tmp_path: Path, attention: str, cell: str, bidirectional: bool
) -> None:
    session = begin(
        pairs, tmp_path / "run", model__attention=attention, model__cell=cell,
        model__bidirectional=bidirectional,
    )  # fmt: skip
    model = session.model.double().eval()
    examples = session.data.splits["train"][:9]
    batch = Translation.collate(examples, CPU)
    together = model(batch.sources, batch.lengths, batch.inputs)
    for row, example in enumerate(examples):
        alone = Translation.collate([example], CPU)
        logits = model(alone.sources, alone.lengths, alone.inputs)[0]
        torch.testing.assert_close(logits, together[row, : len(logits)])
    garbage = batch.sources.clone()
    garbage[torch.arange(garbage.shape[1]) >= batch.lengths[:, None]] = 1
    inputs = batch.inputs.clone()
    inputs[batch.labels < 0] = 1
    dirty = model(garbage, batch.lengths, inputs)
    real = batch.labels >= 0
    torch.testing.assert_close(dirty[real], together[real])
    cost, count = Translation.cost(model, batch._replace(sources=garbage, inputs=inputs))
    assert count == sum(len(example.pair.target) + 1 for example in examples)
    torch.testing.assert_close(cost, Translation.cost(model, batch)[0])


@pytest.mark.parametrize(("attention", "cell", "bidirectional"), KINDS)
def test_stepped_equals_teacher_forced(
    pairs: Path, tmp_path: Path, attention: str, cell: str, bidirectional: bool
) -> None:
    session = begin(
        pairs, tmp_path / "run", model__attention=attention, model__cell=cell,
        model__bidirectional=bidirectional,
    )  # fmt: skip
    model = session.model.eval()
    batch = Translation.collate(session.data.splits["train"][:9], CPU)
    with torch.inference_mode():
        forced = model(batch.sources, batch.lengths, batch.inputs).numpy()
        begun = model.read(batch.sources, batch.lengths)
    assert all(len(leaf) == 9 for leaf in leaves(begun))
    stepper = TorchStepper(model, begun)
    state = stepper.initial_state(9)
    for t in range(batch.inputs.shape[1]):
        logits, state = stepper.step(batch.inputs[:, t].numpy(), state)
        np.testing.assert_allclose(logits, forced[:, t], atol=1e-5)
    # Any lanes can be picked, in any order.
    order = np.array([4, 0, 4])
    picked = map_state(lambda leaf: leaf[order], begun)
    logits, _ = stepper.step(batch.inputs[order, 0].numpy(), picked)
    np.testing.assert_allclose(logits, forced[order, 0], atol=1e-5)


def test_without_attention_the_final_state_is_all_there_is(pairs: Path, tmp_path: Path) -> None:
    """Compare the connection of encoder and decoder with its equations in numpy."""
    session = begin(pairs, tmp_path / "run", model__attention="none", model__layers=1)
    model = session.model.double().eval()
    batch = Translation.collate(session.data.splits["train"][:2], CPU)
    state = model.read(batch.sources, batch.lengths)
    assert state.memory == ()
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    zero = model.encoder.initial_state(1)
    for lane, length in enumerate(batch.lengths):
        vectors = model.source_embedding(batch.sources[lane, :length])[None]
        _, ((ahead, back),) = model.encoder(vectors, zero)
        for part, given in enumerate(state.layers[0]):
            both = np.concatenate([ahead[part][0].detach(), back[part][0].detach()])
            expected = weights[f"bridges.{part}.weight"] @ both + weights[f"bridges.{part}.bias"]
            expected = np.tanh(expected) if part == 0 else expected
            np.testing.assert_allclose(given[lane].detach(), expected, atol=1e-12)


def test_the_attentional_vector_is_that_of_the_paper(pairs: Path, tmp_path: Path) -> None:
    session = begin(pairs, tmp_path / "run")
    model = session.model.double().eval()
    batch = Translation.collate(session.data.splits["train"][:4], CPU)
    state = model.read(batch.sources, batch.lengths)
    hidden = model.decoder(model.target_embedding(batch.inputs), state.layers)[0]
    aligned = model.alignment(batch.sources, batch.lengths, batch.inputs).detach().numpy()
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    logits = model(batch.sources, batch.lengths, batch.inputs).detach().numpy()
    values = state.memory.values.detach().numpy()
    for n, t in np.ndindex(*batch.inputs.shape):
        context = sum(aligned[n, t, s] * values[n, s] for s in range(values.shape[1]))
        joined = np.concatenate([context, hidden[n, t].detach().numpy()])
        vector = np.tanh(weights["combine.weight"] @ joined + weights["combine.bias"])
        expected = weights["head.weight"] @ vector + weights["head.bias"]
        np.testing.assert_allclose(logits[n, t], expected, atol=1e-10)


def test_the_decoder_is_stepped_by_the_sampler(pairs: Path, tmp_path: Path) -> None:
    session = begin(pairs, tmp_path / "run")
    model, target = session.model.eval(), session.data.vocabularies["target"]  # type: ignore[attr-defined]
    batch = Translation.collate(session.data.splits["train"][:1], CPU)
    with torch.inference_mode():
        begun = model.read(batch.sources, batch.lengths)
    stepper = TorchStepper(model, begun)
    cursor = prime(stepper, np.full((3, 1), target.start))
    drawn = sample(stepper, cursor, Choice(temperature=0), Draws(1, range(3)))
    ids = np.array([next(drawn) for _ in range(5)])
    assert (ids == ids[:, :1]).all()
    ((greedy,),) = beam_search(stepper, begun, target.start, target.size, [5])
    assert ids[:, 0].tolist() == list(greedy.ids)
    two = map_state(lambda leaf: leaf[[0, 0]], begun)
    with pytest.raises(ValueError, match="for 2 lanes"):
        TorchStepper(model, two).initial_state(3)


@pytest.mark.parametrize("processes", [1, 2])
def test_resumed_equals_uninterrupted(
    pairs: Path, tmp_path: Path, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("charrnn.tasks.translation.DECODED", 1)
    # At an evaluation and between two; test_classification stops at every step.
    resumes(lambda run: begin(pairs, run, processes=processes, **QUICK), tmp_path, (4, 7))


def test_the_score_is_that_of_the_probabilities(pairs: Path, tmp_path: Path) -> None:
    session = begin(pairs, tmp_path / "run", training__steps=40, training__learning_rate=0.02)
    drive(session)
    score = session.experiment.final(
        {n: v.numpy() for n, v in session.model.state_dict().items()}, split="validation"
    )
    target = session.data.vocabularies["target"]  # type: ignore[attr-defined]
    model = session.model.eval()
    nats, count, right = 0.0, 0, 0
    examples = session.data.splits["validation"]
    for example in examples:
        alone = Translation.collate([example], CPU)
        with torch.inference_mode():
            logits = model(alone.sources, alone.lengths, alone.inputs)[0].double()
            (found,) = decode(model, alone, target)
        wanted = [*target.encode(example.pair.target), target.end]
        for row, label in zip(logits, wanted, strict=True):
            chances = torch.exp(row) / torch.exp(row).sum()
            nats -= math.log(chances[label])
            count += 1
        right += text_of(target, found[0]) == example.pair.target
    assert score.count == count
    assert score.nats == pytest.approx(nats / count, abs=1e-6)
    assert score.metrics["exact_match"] == right / len(examples)
    assert set(score.record()) >= {"nats_per_character", "exact_match", "bleu", "characters"}


def test_during_training_some_are_translated(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = begin(pairs, tmp_path / "run")
    whole = session.estimate()
    count = len(session.data.splits["validation"])
    assert whole.protocol == "all pairs once"
    monkeypatch.setattr("charrnn.tasks.translation.DECODED", 5)
    part = session.estimate()
    assert part.nats == whole.nats
    assert part.protocol.startswith("all pairs once, ")
    assert part.protocol.endswith(f"of {count} translated")
    assert int(part.protocol.split()[3]) <= 5


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_it_learns_what_is_there_to_learn(tmp_path: Path, attention: str) -> None:
    pairs = write_pairs(tmp_path / "pairs.tsv", "ab", 4)
    session = begin(
        pairs, tmp_path / "run", training__steps=120, training__learning_rate=0.02,
        training__batch_size=16, model__hidden_size=24, model__layers=1, evaluation__every=60,
        model__bidirectional=attention != "dot", data__validation=[str(pairs)], model__dropout=0.0,
        model__input_dropout=0.0, model__output_dropout=0.0,
    )  # fmt: skip
    drive(session)
    data = session.data.splits["train"]
    judged = session.experiment.judge(session.model, data, lambda: False)  # type: ignore[attr-defined]
    assert judged.metrics["exact_match"] == 1.0


def test_layout_is_that_of_the_model(pairs: Path, tmp_path: Path) -> None:
    for attention in ATTENTIONS:
        session = begin(
            pairs, tmp_path / attention, model__attention=attention,
            model__bidirectional=attention != "dot",
        )  # fmt: skip
        expected = expected_tensors(session.config, session.data.vocabularies)  # type: ignore[attr-defined]
        shapes = {name: tuple(value.shape) for name, value in session.model.state_dict().items()}
        assert expected.weights == shapes
        assert not list(leaves(session.objective.empty_carry(session.model)))


@pytest.mark.parametrize("kind", ["character", "word", "byte"])
def test_texts_by_character_word_and_byte(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "pairs.tsv"
    lines = [f"one {n} a\tün {n} é" for n in range(40)]
    path.write_text("\n".join(lines), "utf-8")
    session = begin(path, tmp_path / "run", data__vocabulary=kind, data__split_by="position")
    drive(session)
    assert session.experiment.unit == kind
    source, target = session.data.vocabularies.values()  # type: ignore[attr-defined]
    assert target.symbols[-2:] == ("<s>", "</s>")
    for example in session.data.splits["train"]:
        assert source.decode(example.source) == example.pair.source
        assert target.decode(example.inputs) == target.decode(example.labels) == example.pair.target
        assert (example.inputs[0], example.labels[-1]) == (target.start, target.end)


def test_a_dot_product_of_two_widths_is_an_error(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="received widths: 12 and 24"):
        begin(pairs, tmp_path / "run", model__attention="dot")


def test_bad_rows_are_named(run: Any, tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("a\tb\nno tab here\n", "utf-8")
    refused = run("train", "pairs.tsv", "--task", "translation")
    assert (refused.code, "pairs.tsv, line 2" in refused.err) == (3, True)
    (tmp_path / "pairs.tsv").write_text("a\tb\na\t\n", "utf-8")
    refused = run("train", "pairs.tsv", "--task", "translation")
    assert (refused.code, "empty target" in refused.err) == (3, True)


def train(train_once: TrainOnce, name: str = "translator", **changes: Any) -> None:
    values = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    options = [f"--set={key}={json.dumps(value)}" for key, value in values.items()]
    train_once(name, lambda folder: write_pairs(folder / "pairs.tsv"), "pairs.tsv", *options)


@pytest.fixture
def trained(train_once: TrainOnce) -> None:
    """Train a translator in the folder `words`."""
    train(train_once)


def test_the_commands(run: Any, trained: None, tmp_path: Path) -> None:
    scored = json.loads(run("eval", "words", "--json").out)
    assert scored["nats_per_character"] > 0
    assert 0 <= scored["exact_match"] <= 1
    assert 0 <= scored["bleu"] <= 1
    assert "exact match" in run("eval", "words", "--split", "train").out
    assert "decoder" in run("info", "words").out
    assert json.loads(run("list", ".", "--json").out)["unit"] == "character"
    assert "target\t4\t<s>" in run("vocab", "words").out
    resumed = run("resume", "words", "--steps", "20")
    assert resumed.code == 0, resumed.err

    said = run("predict", "words", "abc", "ba")
    assert said.code == 0, said.err
    given = run("predict", "words", "--json", stdin=b"abc\nba\n")
    records = [json.loads(line) for line in given.out.splitlines()]
    assert [record["text"] for record in records] == ["abc", "ba"]
    assert [record["translation"] for record in records] == said.out.splitlines()
    assert all(set(record) == {"text", "translation", "nats"} for record in records)
    wide = json.loads(run("predict", "words", "abc", "--beam", "4", "--json").out)
    assert len({wide["translation"], *(o["translation"] for o in wide["others"])}) > 1
    assert run("predict", "words", "").out == "\n"
    assert run("predict", "words", "abc", "--beam", "0").code == 2


def test_a_translation_does_not_continue_a_text(run: Any, trained: None, tmp_path: Path) -> None:
    for command in (["sample", "words"], ["compress", "words", "book.txt"]):
        refused = run(*command, stdin=b"text")
        assert refused.code in (2, 4), command
        assert "translation" in refused.err


def test_other_tasks_have_no_beam(run: Any, tmp_path: Path) -> None:
    (tmp_path / "classes.tsv").write_text(
        "".join(f"{'ab'[i % 2]}{i}\t{i % 2}\n" for i in range(40))
    )
    options = ["--task", "classification", "--steps", "3", "--hidden-size", "4", "--out", "classes"]
    assert run("train", "classes.tsv", *options).code == 0
    for option in (["--beam", "2"], ["--attention", "a.png"]):
        refused = run("predict", "classes", "a1", *option)
        assert refused.code == 2
        assert "are for translations" in refused.err
        assert refused.err.count("\n") == 1


def test_the_alignment_is_drawn(run: Any, trained: None, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = run("predict", "words", "ab c$d$", "--attention", "look.png")
    assert drawn.code == 0, drawn.err
    assert (tmp_path / "look.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert drawn.out == run("predict", "words", "ab c$d$").out
    for command, said in (
        (["abc", "b", "--attention", "look.png"], "one TEXT"),
        (["--attention", "look.png"], "one TEXT"),
        (["abc", "--attention", "look.doc"], ".png"),
    ):
        refused = run("predict", "words", *command)
        assert refused.code == 2
        assert said in refused.err
    formula = tmp_path / "formula.png"
    save_alignment(formula, np.eye(2), ["$\\nothing$", " "], ["\x1b", "</s>"])
    assert formula.stat().st_size > 1000
    lost = run("predict", "words", "abc", "--attention", "no/such/folder/look.png")
    assert lost.code == 7
    assert "look.png" in lost.err


def test_without_attention_there_is_nothing_to_draw(run: Any, train_once: TrainOnce) -> None:
    pytest.importorskip("matplotlib")
    train(train_once, "without attention", model__attention="none")
    refused = run("predict", "words", "abc", "--attention", "look.png")
    assert refused.code == 2
    assert "was trained without attention; train with" in refused.err


def test_a_changed_shape_is_refused(run: Any, trained: None, tmp_path: Path) -> None:
    path = sorted((tmp_path / "words" / "checkpoints").glob("*.safetensors"))[-1]
    stored = load_checkpoint(path)
    bridge = stored.tensors["model/bridges.0.weight"]
    save_checkpoint(path, stored.tensors | {"model/bridges.0.weight": bridge[:1]}, stored.metadata)
    with pytest.raises(CheckpointError, match=r"bridges\.0\.weight"):
        load_checkpoint(path, check_layout)
    plain = dict(stored.metadata["vocabulary"]["target"], specials=["<unk>"])
    vocabulary = stored.metadata["vocabulary"] | {"target": plain}
    save_checkpoint(path, stored.tensors, stored.metadata | {"vocabulary": vocabulary})
    with pytest.raises(CheckpointError, match="lacks <s> or </s>"):
        load_checkpoint(path, check_layout)


def test_weights_that_are_not_finite_are_refused(run: Any, trained: None, tmp_path: Path) -> None:
    for path in (tmp_path / "words" / "checkpoints").glob("*.safetensors"):
        stored = load_checkpoint(path)
        head = stored.tensors["model/head.bias"].copy()
        head[0] = np.nan
        save_checkpoint(path, stored.tensors | {"model/head.bias": head}, stored.metadata)
    refused = run("predict", "words", "abc")
    assert refused.code == 4
    assert "not all finite" in refused.err


def test_a_picture_of_too_many_symbols_is_refused(tmp_path: Path) -> None:
    many = ["a"] * 301
    for columns, rows in ((many, ["b"]), (["b"], many)):
        weights = np.ones((len(rows), len(columns)))
        with pytest.raises(ConfigError, match="301"):
            save_alignment(tmp_path / "much.png", weights, columns, rows)


def test_a_wide_beam_takes_fewer_texts_at_a_time(
    run: Any, trained: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Translation.predictor(find_checkpoint(str(tmp_path / "words"), print), "cpu")
    texts = ["abc", "b", "ca"] * 3
    predictor.beam = 2
    together = [said.record for said in predictor.predict(texts)]
    lanes = []

    def counted(model: Any, batch: Any, **options: Any) -> Any:
        lanes.append(len(batch.sources) * options["beam"])
        return decode(model, batch, **options)

    monkeypatch.setattr("charrnn.tasks.translation.AT_A_TIME", 4)
    monkeypatch.setattr("charrnn.tasks.translation.decode", counted)
    assert [said.record["translation"] for said in predictor.predict(texts)] == [
        record["translation"] for record in together
    ]
    assert max(lanes) == 4


def test_control_characters_are_shown_on_a_terminal(
    run: Any, trained: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("charrnn.tasks.translation.text_of", lambda target, hypothesis: "a\x07")
    assert run("predict", "words", "abc").out == "a\x07\n"
    monkeypatch.setattr("charrnn.cli.predict.is_terminal", lambda stream: True)
    assert "\x07" not in run("predict", "words", "abc").out
