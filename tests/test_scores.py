"""Known numbers on Tiny Shakespeare."""

from pathlib import Path

import numpy as np
import pytest

from charrnn.data.corpus import load_corpus
from charrnn.data.sources import NAMED, find_sources
from tests.tiny import drive, start, tiny_config


@pytest.mark.shared_data
def test_the_named_corpus_is_the_text_and_split_the_field_uses(shared_data: Path) -> None:
    corpus = load_corpus(find_sources([str(shared_data / "tinyshakespeare.txt")]))
    assert corpus.sha256 == NAMED["shakespeare"].sha256
    assert corpus.vocabulary.size == 65
    assert {name: len(span) for name, span in corpus.splits.items()} == {
        "train": 1_003_854,
        "validation": 111_540,
    }


@pytest.mark.slow
@pytest.mark.shared_data
def test_a_memoryless_run_reaches_the_bigram_entropy(shared_data: Path, tmp_path: Path) -> None:
    """One to one: with a window of 1 and no carried state, the model is a bigram table."""
    corpus = load_corpus(find_sources([str(shared_data / "tinyshakespeare.txt")]))
    config = tiny_config(
        model__hidden_size=64,
        model__embedding_size=64,
        model__dropout=0.0,
        model__input_dropout=0.0,
        model__output_dropout=0.0,
        training__window=1,
        training__carry_state=False,
        training__batch_size=4096,
        training__steps=1500,
        training__learning_rate=3e-3,
        training__weight_decay=0.0,
        evaluation__every=500,
    )
    session = start(tmp_path / "run", config, corpus)
    drive(session)
    model = session.experiment.trained()
    score = model.evaluate_split(corpus, "validation").nats_per_character
    print(f"memoryless validation score: {score:.4f} nats per character")
    assert score == pytest.approx(2.48, abs=0.02)
    # And the counts themselves say so.
    ids = np.asarray(corpus.ids, np.int64)
    train, validation = corpus.splits["train"], corpus.splits["validation"]
    counts = np.ones((65, 65))
    np.add.at(counts, (ids[: train.stop - 1], ids[1 : train.stop]), 1)
    table = -np.log(counts / counts.sum(1, keepdims=True))
    pairs = ids[validation.start - 1 : validation.stop]
    assert score == pytest.approx(table[pairs[:-1], pairs[1:]].mean(), abs=0.01)
