"""Words composed from their characters: the equations, and language models with such words."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from charrnn.config.merge import build_config
from charrnn.data.batching import pad
from charrnn.data.sources import find_sources
from charrnn.data.spelling import characters_of, spell, word_characters
from charrnn.data.vocabulary import ByteVocabulary, CharacterVocabulary, WordVocabulary
from charrnn.errors import CheckpointError, ConfigError, DataError
from charrnn.evaluation.dynamic import Rates
from charrnn.evaluation.score_network import Reading
from charrnn.inference.numpy_stepper import NumpyModel
from charrnn.inference.torch_stepper import TorchStepper
from charrnn.inference.trained_model import TrainedModel
from charrnn.nn.word_vectors import (
    ALIKE,
    ConvolvingComposer,
    RecurrentComposer,
    SpelledEmbedding,
    WordVectors,
    by_length,
)
from charrnn.runs.checkpoint import load_checkpoint, save_checkpoint
from charrnn.runs.checkpoint_check import check_layout, expected_tensors
from charrnn.session.loop import Session
from charrnn.tasks.data import read_data
from charrnn.training.build import build_model
from tests.tiny import drive, start, tiny_config

Array = NDArray[np.float64]
ARTICLES, ANIMALS, VERBS = ["the", "a", "my"], ["cats", "dogs", "cows"], ["sat", "ran"]
TEXT = "".join(
    f"{ARTICLES[i % 3]} {ANIMALS[i * i % 7 % 3]}{'' if i % 4 else ','} {VERBS[i % 5 % 2]}"
    f"{'.' if i % 3 else ' on it;'}\n"
    for i in range(60)
)
KINDS: list[Any] = ["recurrent", "convolving", ["lookup", "convolving"]]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def weights_of(module: torch.nn.Module) -> dict[str, Array]:
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def lstm(weights: dict[str, Array], name: str, inputs: Array) -> Array:
    """Compute the last hidden state of an LSTM over (T, D)."""
    part = {n.rpartition(".")[2]: v for n, v in weights.items() if n.startswith(name)}
    hidden = cell = np.zeros(part["weight_hh"].shape[1])
    for x in inputs:
        total = part["weight_ih"] @ x + part["bias_ih"] + part["weight_hh"] @ hidden
        i, f, g, o = np.split(total + part["bias_hh"], 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
    return hidden


def composed(module: torch.nn.Module, word: list[int]) -> Array:
    """Compute a word's vector by the equations."""
    w = weights_of(module)
    x = w["embedding.weight"][word]
    if isinstance(module, RecurrentComposer):
        ends = [lstm(w, "layer.forward_layer", x), lstm(w, "layer.backward_layer", x[::-1])]
        features = np.concatenate(ends)
    else:
        maxima: list[float] = []
        for k in range(6):
            kernels, biases = w[f"convolutions.{k}.weight"], w[f"convolutions.{k}.bias"]
            assert len(kernels) in {
                (k + 1) * len(w["highway.transform.bias"]) // 21 + n for n in (0, 1)
            }
            for kernel, bias in zip(kernels, biases, strict=True):  # (D, k + 1)
                at = [
                    bias + sum(kernel[:, j] @ x[t + j] for j in range(k + 1) if t + j < len(x))
                    for t in range(len(x))
                ]
                maxima.append(max(np.tanh(at)))
        f = np.array(maxima)
        gate = sigmoid(w["highway.transform.weight"] @ f + w["highway.transform.bias"])
        candidate = np.maximum(0, w["highway.candidate.weight"] @ f + w["highway.candidate.bias"])
        features = gate * candidate + (1 - gate) * f
    return w["projection.weight"] @ features + w["projection.bias"]


def composers() -> list[torch.nn.Module]:
    torch.manual_seed(1)
    return [RecurrentComposer(9, 4, 5, 3).double(), ConvolvingComposer(9, 4, 50, 3).double()]


@pytest.mark.parametrize("kind", [0, 1])
def test_vectors_are_those_of_the_equations_whatever_stands_beside(kind: int) -> None:
    module = composers()[kind]
    draw = np.random.default_rng(1)
    words = [draw.integers(0, 9, n) for n in (1, 2, 12, 5, 7, 3)]
    ids, lengths = map(torch.from_numpy, pad(words))
    together = module(ids, lengths)
    for row, word in enumerate(words):
        expected = composed(module, word.tolist())
        np.testing.assert_allclose(together[row].detach().numpy(), expected, rtol=1e-10)
        alone = module(torch.from_numpy(word)[None], torch.tensor([len(word)]))[0]
        torch.testing.assert_close(alone, together[row])
    garbage = ids.clone()
    garbage[torch.arange(12) >= lengths[:, None]] = 8
    assert torch.equal(module(garbage, lengths), together)


@pytest.mark.parametrize("kind", range(2))
def test_words_composed_a_few_at_a_time_are_those_composed_at_once(kind: int) -> None:
    composer = composers()[kind].double()
    draw = np.random.default_rng(3)
    ids, lengths = map(
        torch.from_numpy, pad([draw.integers(0, 9, n) for n in draw.integers(1, 30, 3 * ALIKE + 5)])
    )
    results = []
    for vectors in (by_length(composer, ids.long(), lengths), composer(ids.long(), lengths)):
        composer.zero_grad()
        (vectors * torch.linspace(0, 1, vectors.numel()).view_as(vectors)).sum().backward()
        results.append([vectors, *(p.grad.clone() for p in composer.parameters())])
    for few, at_once in zip(*results, strict=True):
        torch.testing.assert_close(few, at_once, rtol=1e-10, atol=1e-10)


def test_padding_does_not_win_where_all_else_is_low() -> None:
    module = composers()[1]
    with torch.no_grad():
        for name, value in module.named_parameters():
            if "convolutions" in name:
                value.fill_(-3.0 if name.endswith("weight") else 0.0)
            if name == "embedding.weight":
                value.fill_(1.0)  # All outputs are below zero; zeros would win.
    ids, lengths = torch.zeros(2, 9, dtype=torch.long), torch.tensor([2, 9])
    expected = composed(module, [0, 0])
    np.testing.assert_allclose(module(ids, lengths)[0].detach().numpy(), expected, rtol=1e-10)


def test_few_filters_are_an_error() -> None:
    with pytest.raises(ValueError, match="21 filters"):
        ConvolvingComposer(9, 4, 20, 3)


def test_the_transform_gate_begins_nearly_shut() -> None:
    assert (composers()[1].state_dict()["highway.transform.bias"] == -2).all()


def test_spelling_has_both_ends_and_is_cut() -> None:
    characters = characters_of(["ab", "c"])
    a, b, c, unknown, first, last = range(6)
    assert spell("cab", characters).tolist() == [first, c, a, b, last]
    assert spell("a?", characters).tolist() == [first, a, unknown, last]
    long = "a" * 25 + "b" * 100 + "c" * 21
    assert spell(long, characters).tolist() == [first, *[a] * 20, *[c] * 20, last]


def test_rare_words_are_taken_for_unknown_ones_in_training_only() -> None:
    torch.manual_seed(1)
    vectors = WordVectors(5, torch.nn.Embedding(4, 2), [RecurrentComposer(9, 4, 5, 3)], 3)
    ids = torch.tensor([0, 1, 2]).repeat_interleave(1000)
    spelled, lengths = torch.ones(3000, 1, dtype=torch.long), torch.ones(3000, dtype=torch.long)
    chances = torch.tensor([0.0, 0.25, 1.0]).repeat_interleave(1000)
    plain = vectors(ids, spelled, lengths)
    dropped = vectors(ids, spelled, lengths, chances)
    replaced = (dropped[:, 3:] == vectors.lookup.weight[3]).all(1)  # type: ignore[index, union-attr]
    assert torch.equal(dropped[:, :3], plain[:, :3])
    assert torch.equal(dropped[~replaced], plain[~replaced])
    share = replaced.view(3, 1000).double().mean(1).tolist()
    assert share[0] == 0
    assert share[1] == pytest.approx(0.25, abs=0.05)
    assert share[2] == 1
    assert torch.equal(vectors.eval()(ids, spelled, lengths, chances), plain)


def word_config(words: Any, **changes: Any) -> Any:
    small = {"model__character_embedding_size": 4, "model__character_hidden_size": 11,
             "model__embedding_scale": 1.0}  # fmt: skip
    return tiny_config(data__vocabulary="word", model__words=words, **small | changes)


def begin(folder: Path, words: Any, text: str = TEXT, **changes: Any) -> Session:
    folder.mkdir()
    (folder / "text.txt").write_text(text, "utf-8")
    config = word_config(words, **changes)
    corpus = read_data(config, {"sources": find_sources([str(folder / "text.txt")])})
    return start(folder / "run", config, corpus)


@pytest.mark.parametrize("words", ["lookup", ["lookup", "recurrent"]])
def test_vectors_that_are_looked_up_start_at_their_scale(words: Any) -> None:
    vocabulary = WordVocabulary.of([TEXT])

    def weights(scale: float) -> dict[str, Array]:
        torch.manual_seed(1)
        return weights_of(build_model(word_config(words, model__embedding_scale=scale), vocabulary))

    small, plain = weights(0.25), weights(1.0)
    name = next(name for name in plain if name.endswith(("lookup.weight", "embedding.weight")))
    assert plain[name].std() == pytest.approx(1, abs=0.1)
    for key, value in plain.items():
        np.testing.assert_array_equal(small[key], value * (0.25 if key == name else 1))


@pytest.mark.parametrize("words", KINDS)
def test_an_embedding_of_spelled_words(words: Any, tmp_path: Path) -> None:
    vocabulary = WordVocabulary.of([TEXT])
    model = build_model(word_config(words), vocabulary).double().eval()
    embedding = model.embedding
    assert isinstance(embedding, SpelledEmbedding)
    ids = torch.from_numpy(vocabulary.encode(TEXT).astype(np.int64))[:120].view(3, 40)
    vectors = embedding(ids)
    weights, characters = weights_of(embedding), word_characters(vocabulary)
    composer = embedding.vectors.composers[0]
    for place in ((0, 0), (1, 7), (2, 39)):
        number = int(ids[place])
        expected = composed(composer, spell(vocabulary.symbols[number], characters).tolist())
        if isinstance(words, list):
            expected = np.concatenate([expected, weights["vectors.lookup.weight"][number]])
        np.testing.assert_allclose(vectors[place].detach().numpy(), expected, rtol=1e-10)
    table = embedding.table()
    assert table.shape == (vocabulary.size, embedding.embedding_dim)
    torch.testing.assert_close(table[ids], vectors)
    nothing = composed(composer, spell("", characters).tolist())
    np.testing.assert_allclose(table[-1, : len(nothing)].detach().numpy(), nothing, rtol=1e-10)

    at_once, _ = model(ids, model.initial_state(3))
    state, pieces = model.initial_state(3), []
    for piece in ids.split((1, 20, 19), 1):
        logits, state = model(piece, state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, 1), at_once)
    state = model.initial_state(3)
    for t in range(40):
        logits, state = model.step(ids[:, t], state)
        torch.testing.assert_close(logits, at_once[:, t])


@pytest.mark.parametrize(("words", "processes"), [("recurrent", 1), (["lookup", "convolving"], 2)])
def test_resumed_equals_uninterrupted(words: Any, processes: int, tmp_path: Path) -> None:
    changes = {"processes": processes, "training__average": 0.5, "training__steps": 7}
    straight = begin(tmp_path / "whole", words, **changes)
    drive(straight)
    for k in (1, 4):  # Inside an interval and at an evaluation; tests/session stops at all.
        first = begin(tmp_path / f"{k}", words, **changes)
        drive(first, until=k)
        again = start(tmp_path / f"{k}" / "run", first.config, first.data)
        again.restore(first.run.load(k))
        drive(again)
        for name, tensor in straight.trainer.tensors().items():
            assert torch.equal(tensor, again.trainer.tensors()[name]), (k, name)


@pytest.mark.parametrize("words", KINDS)
def test_a_trained_model_samples_by_a_table_scores_and_adapts(words: Any, tmp_path: Path) -> None:
    changes = {"training__steps": 60, "training__learning_rate": 0.05, "evaluation__every": 60}
    session = begin(tmp_path / "it", words, **changes)
    drive(session)
    model = TrainedModel.from_checkpoint(session.run.load(60))
    assert isinstance(model._stepper, NumpyModel)
    stepper, ids = TorchStepper(model.model), model.vocabulary.encode(TEXT)[:30].astype(np.int64)
    ours, theirs = model.initial_state(1), stepper.initial_state(1)
    for token in ids:
        logits, ours = model.step(np.array([token]), ours)
        expected, theirs = stepper.step(np.array([token]), theirs)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=2e-5)
    assert model.sample_text(10, seed=1) == model.sample_text(10, seed=1)
    plain = model.evaluate(TEXT[:200])
    guess = math.log(model.vocabulary.size)
    assert plain.nats < 0.7 * guess
    dynamic = model.evaluate(TEXT[:200], reading=Reading(rates=Rates(0.0, 0.0, 7)))
    assert dynamic.nats == pytest.approx(plain.nats, abs=1e-5)
    adapted = model.adapted_to(TEXT[:200], Rates(0.01, 0.0, 20))
    assert adapted.evaluate(TEXT[:200]).nats < plain.nats


@pytest.mark.parametrize("words", KINDS)
def test_any_word_has_a_vector(words: Any, tmp_path: Path) -> None:
    session = begin(tmp_path / "it", words, training__steps=10)
    model = session.experiment.trained()
    embedding = model.model.embedding
    known = model.word_vector(" dogs")
    number = int(model.vocabulary.encode(" dogs")[0])
    np.testing.assert_allclose(known, embedding.table()[number].detach().numpy(), atol=1e-6)
    unseen, other = model.word_vector(" dogsat"), model.word_vector("forsooths")
    assert unseen.shape == known.shape
    assert not np.allclose(unseen[:6], known[:6], atol=1e-3)
    assert not np.allclose(unseen[:6], other[:6], atol=1e-3)
    if isinstance(words, list):
        assert np.array_equal(unseen[6:], other[6:])
    for wrong in ("two words", "", " "[:0]):
        with pytest.raises(DataError, match="not a single word"):
            model.word_vector(wrong)


def test_looked_up_words_have_vectors_too(tmp_path: Path) -> None:
    session = begin(tmp_path / "it", "lookup")
    model = session.experiment.trained()
    weights = session.model.state_dict()["embedding.weight"]
    assert np.array_equal(model.word_vector("forsooths"), weights[-1].numpy())
    characters = start(tmp_path / "c", tiny_config(), read_data(
        tiny_config(), {"sources": find_sources([str(tmp_path / "it" / "text.txt")])}
    ))  # fmt: skip
    with pytest.raises(DataError, match="character vocabulary"):
        characters.experiment.trained().word_vector("forsooths")


@pytest.mark.parametrize("words", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_layout_is_that_of_the_model(words: Any, tied: bool, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"model__tie_embeddings": tied, "model__embedding_size": 16}
    if tied and not isinstance(words, list):
        with pytest.raises(ConfigError, match="add lookup"):
            begin(tmp_path / "it", words, **changes)
        return
    session = begin(tmp_path / "it", words, **changes)
    drive(session, until=4)
    expected = expected_tensors(session.config, {"text": session.data.vocabulary})
    shapes = {name: tuple(value.shape) for name, value in session.model.state_dict().items()}
    assert expected.weights == shapes
    path = session.run.checkpoint_path(4)
    stored = load_checkpoint(path, check_layout)
    name = next(name for name in stored.tensors if name.endswith("projection.weight"))
    for changed in (
        {name: stored.tensors[name][:, :-1].copy()},
        {"model/embedding.vectors.spellings": np.zeros((3, 3), np.float32)},
    ):
        save_checkpoint(path, stored.tensors | changed, stored.metadata)
        with pytest.raises(CheckpointError, match=r"embedding\.vectors"):
            load_checkpoint(path, check_layout)


@pytest.mark.parametrize("words", ["recurrent", ["convolving", "lookup"]])
def test_characters_are_adopted_by_identity(words: Any, tmp_path: Path) -> None:
    old = begin(tmp_path / "old", words)
    drive(old, until=3)
    text = TEXT.replace("cow", "kow").replace("a", "á")
    new = begin(tmp_path / "new", words, text, training__seed=5)
    fresh = copy.deepcopy(new.model.state_dict())
    new.adopt_weights(old.experiment.trained())
    mine, theirs = new.model.embedding, old.model.embedding
    name = "embedding.vectors.composers.0.embedding.weight"
    new_characters, old_characters = (
        word_characters(session.data.vocabulary).symbols  # type: ignore[attr-defined]
        for session in (new, old)
    )
    for i, symbol in enumerate(new_characters):
        if symbol in old_characters:
            expected = old.model.state_dict()[name][old_characters.index(symbol)]
        else:
            assert symbol in "ká"
            expected = fresh[name][i]
        assert torch.equal(new.model.state_dict()[name][i], expected)
    if isinstance(words, list):
        symbols, old_symbols = new.data.vocabulary.symbols, old.data.vocabulary.symbols  # type: ignore[attr-defined]
        i, j = symbols.index(" dogs"), old_symbols.index(" dogs")
        assert torch.equal(mine.vectors.lookup.weight[i], theirs.vectors.lookup.weight[j])
    ours, old_weights = (m.vectors.composers[0].projection.weight for m in (mine, theirs))
    assert torch.equal(ours, old_weights)
    other = begin(tmp_path / "other", words, model__input_dropout=0.0, model__embedding_size=7)
    with pytest.raises(ConfigError, match="do not fit"):
        other.adopt_weights(old.experiment.trained())


def test_a_users_mistakes_are_named() -> None:
    def error(vocabulary: Any, **changes: Any) -> str:
        with pytest.raises(ConfigError) as raised:
            build_model(word_config("convolving", **changes), vocabulary)
        return str(raised.value)

    words = WordVocabulary.of([TEXT])
    assert "set data.vocabulary to word" in error(CharacterVocabulary("ab"))
    assert "byte vocabulary" in error(ByteVocabulary())
    assert "give it a number" in error(words, model__embedding_size="one_hot")
    more = WordVocabulary.of([TEXT], specials=["<unk>", "<s>", "</s>"])
    assert "no special symbol but <unk>" in error(more)
    assert "character_hidden_size = 10" in error(words, model__character_hidden_size=10)
    for wrong in (["lookup", "lookup"], [], "spelled"):
        with pytest.raises(ConfigError, match=r"model\.words"):
            build_config([("t", {"model.words": wrong})])


def test_the_commands(run: Any, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(TEXT, "utf-8")
    small = ["--hidden-size", "8", "--vocabulary", "word", "--set", "model.words=recurrent",
             "--set", "model.character_hidden_size=5", "--set", "training.warmup_steps=10",
             ]  # fmt: skip
    trained = run("train", "words.txt", *small, "--steps", "12", "--out", "it", "--json")
    assert trained.code == 0, trained.err
    score = json.loads(run("eval", "it", "--json").out)
    assert score["nats_per_word"] > 0
    assert "of recurrent words" in run("info", "it").out
    again = run("train", "words.txt", "--from", "it", "--steps", "3")
    assert again.code == 0, again.err
    refused = run("train", "words.txt", "--set", "model.words=recurrent", "--steps", "3")
    assert refused.code == 2
    assert "set --vocabulary to word" in refused.err
