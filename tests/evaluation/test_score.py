"""Descriptions of a score: its units, keys, halves, and the scored model."""

import math
from pathlib import Path

import numpy as np
import pytest

from charrnn.data.corpus import corpus_of_text, load_corpus
from charrnn.data.sources import find_sources
from charrnn.data.vocabulary import ByteVocabulary
from charrnn.errors import DataError
from charrnn.evaluation.score import (
    Evaluation,
    describe_scored,
    evaluation_of_surprisals,
    key_unit,
    span_of,
    until,
)
from charrnn.runs.checkpoint import load_checkpoint
from tests.tiny import TEXT, drive, start, tiny_config, tiny_corpus


def test_bits_are_nats_over_ln_2() -> None:
    score = Evaluation("text", math.log(4), 6, "unbroken", byte_count=8)
    assert score.bits == pytest.approx(2)
    assert score.bits_per_byte == pytest.approx(2 * 6 / 8)
    assert Evaluation("text", 1.0, 6, "unbroken").bits_per_byte is None


@pytest.mark.parametrize(
    ("unit", "key"), [("byte", "character"), ("word", "word"), ("label", "label")]
)
def test_a_byte_keeps_the_keys_of_old_files(unit: str, key: str) -> None:
    record = Evaluation("text", 1.5, 6, "unbroken", unit).record()
    assert key_unit(unit) == key
    assert record[f"nats_per_{key}"] == 1.5
    assert record[f"{key}s"] == 6


def test_a_model_of_bytes_is_scored_per_byte(tmp_path: Path) -> None:
    assert corpus_of_text("é", ByteVocabulary()).unit == "byte"
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    corpus = load_corpus(find_sources([str(tmp_path / "text.txt")]), vocabulary="byte")
    session = start(tmp_path / "run", tiny_config(), corpus)
    drive(session, until=4)
    assert session.estimate().unit == "byte"
    assert session.run.metrics()[0]["validation"]["nats_per_character"] > 0
    best = session.run.read_best()
    assert best["nats_per_character"] > 0


def test_halves_are_the_means_of_the_halves() -> None:
    score = evaluation_of_surprisals(np.array([1.0, 3.0, 4.0, 5.0, 6.0]), "text", "unbroken")
    assert (score.nats, score.halves) == (pytest.approx(3.8), (2.0, 5.0))
    assert evaluation_of_surprisals(np.array([1.0]), "text", "unbroken").halves is None


def test_a_wish_to_stop_is_an_interrupt() -> None:
    items = until(lambda: True, range(9))
    assert next(items) == 0  # `until` asks after an item, not before.
    with pytest.raises(KeyboardInterrupt):
        next(items)
    assert list(until(lambda: False, range(3))) == [0, 1, 2]


def test_a_split_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no 'test' split; it has train, validation"):
        span_of(tiny_corpus(tmp_path), "test")


@pytest.mark.parametrize("tied", [False, True])
def test_a_score_says_of_which_model_it_is(tmp_path: Path, tied: bool) -> None:
    changes = {"model__tie_embeddings": True, "model__embedding_size": 16} if tied else {}
    config = tiny_config(training__steps=2, training__seed=7, **changes)
    session = start(tmp_path / "run", config, tiny_corpus(tmp_path))
    drive(session)
    path = session.run.checkpoint_path(2)
    model = describe_scored(load_checkpoint(path))
    assert model == {
        "run": str(tmp_path / "run"),
        "task": "language_model",
        "cell": "lstm",
        "seed": 7,
        "parameters": session.parameters,
    }
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes(path.read_bytes())
    assert describe_scored(load_checkpoint(lone))["run"] == str(lone)
