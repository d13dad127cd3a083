"""Known numbers on Tiny Shakespeare, and the scores of the recipes in all pages."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from charrnn.config.merge import build_config, file_layer
from charrnn.data.corpora import NAMED
from charrnn.data.corpus import load_corpus
from charrnn.data.sources import find_sources
from tests.tiny import drive, start, tiny_config

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scores() -> ModuleType:
    """Load the script that makes the tables of recipes as a module."""
    spec = importlib.util.spec_from_file_location("scores", ROOT / "scripts" / "scores.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "scores", module)  # A dataclass looks its module up there.
        spec.loader.exec_module(module)
    return module


def test_the_pages_have_the_scores_of_the_configs(scores: ModuleType) -> None:
    blocks = scores.generate()
    assert blocks["scores"].count("\n") == 1 + len(list((ROOT / "configs").glob("*.yaml")))
    for name in scores.PAGES:
        page = (ROOT / name).read_text("utf-8")
        assert scores.fill(page, blocks) == page, f"run: python scripts/scores.py --write ({name})"
    recipes = (ROOT / "docs" / "use" / "recipes.md").read_text("utf-8")
    assert all(block in recipes for block in blocks.values())


def test_every_config_is_valid_and_its_header_is_true_of_it(scores: ModuleType) -> None:
    for recipe in scores.read_recipes():
        config, _ = build_config([file_layer(ROOT / "configs" / recipe.name)])
        assert not config.data.sources
        commands = recipe.header["Command"]
        assert commands[-1].startswith("charrnn train ")
        assert f" --config configs/{recipe.name} " in commands[-1]
        text, seeds = scores.join_scores(recipe)
        assert seeds[:1] == [config.training.seed] or text == "never run"


def test_the_experiments_have_the_scores_of_the_configs(scores: ModuleType) -> None:
    """Each loss, accuracy and perplexity in a header is written on a page of experiments."""
    pages = (ROOT / "docs" / "experiments").glob("*.md")
    written = set(re.findall(r"\d+\.\d+", "\n".join(page.read_text("utf-8") for page in pages)))
    for recipe in scores.read_recipes():
        if recipe.name == "tiny.yaml":
            continue  # It is an example, not an experiment.
        for score in recipe.header["Score"]:
            figures = [figure for figure in scores.FIGURE.findall(score) if "%" not in figure]
            assert figures or score == "never run"
            assert set(figures) <= written, recipe.name


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("# Waht: a\n", "known key"),
        ("# no key\n", "known key"),
        ("# What: a\n# What: b\n", "occurs twice"),
        ("# What: a\n# Command: b\n", "lacks Scored on, Score, Machine"),
    ],
)
def test_a_header_of_another_form_is_refused(
    scores: ModuleType, tmp_path: Path, header: str, message: str
) -> None:
    (tmp_path / "x.yaml").write_text(header + "seed: 1\n")
    with pytest.raises(ValueError, match=message):
        scores.read_recipe(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    "lines",
    [
        ["1.5 nats"],
        ["1.5 nats (seed 1)", "accuracy 0.5 (seed 2)"],
        ["1.5 nats, accuracy high (seed 1)"],
    ],
)
def test_scores_that_cannot_be_joined_are_refused(scores: ModuleType, lines: list[str]) -> None:
    with pytest.raises(ValueError, match="score"):
        scores.join_scores(scores.Recipe("x.yaml", {"Score": lines}))


@pytest.mark.shared_data
def test_the_named_corpus_is_the_text_and_split_the_field_uses(shared_data: Path) -> None:
    corpus = load_corpus(find_sources([str(shared_data / "tinyshakespeare.txt")]))
    assert f"sha256:{corpus.sha256}" == NAMED["shakespeare"].files[0].texts[""].checksum
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
    # The counts of bigrams give the same score.
    ids = np.asarray(corpus.ids, np.int64)
    train, validation = corpus.splits["train"], corpus.splits["validation"]
    counts = np.ones((65, 65))
    np.add.at(counts, (ids[: train.stop - 1], ids[1 : train.stop]), 1)
    table = -np.log(counts / counts.sum(1, keepdims=True))
    pairs = ids[validation.start - 1 : validation.stop]
    assert score == pytest.approx(table[pairs[:-1], pairs[1:]].mean(), abs=0.01)
