"""The width chosen for a number of parameters: it is the largest that fits, and is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch

import charrnn
from charrnn.config.merge import build_config, file_layer
from charrnn.config.schema import Config
from charrnn.data.vocabulary import read_vocabularies
from charrnn.errors import ConfigError
from charrnn.tasks.data import find_texts, read_data
from charrnn.tasks.task import task_of
from charrnn.training import planning
from charrnn.training.parameter_budget import (
    count_parameters,
    count_parameters_of_run,
    plan_within_budget,
)
from charrnn.training.planning import plan
from tests.tiny import TEXT

CHARACTERS = {"kind": "character", "symbols": "".join(map(chr, range(32, 97)))}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def known_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fix the speed: measuring it takes a while, and it decides only the dropout."""
    monkeypatch.setattr(planning, "measure_speed", lambda _: 1e11)


def configured(**values: Any) -> Config:
    return build_config([("x", {key.replace("__", "."): v for key, v in values.items()})])[0]


def planned(config: Config) -> Any:
    return plan_within_budget(lambda config: plan(config, 100_000, 65, CPU), config, CHARACTERS)


def built_parameters(config: Any) -> int:
    network = task_of(config.task).build(config, read_vocabularies(CHARACTERS))
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("cell", ["vanilla", "lstm", "gru", "rhn", "mlstm", "mingru"])
@pytest.mark.parametrize("budget", [20_000, 500_000])
def test_the_width_is_the_largest_that_fits(cell: str, budget: int) -> None:
    config = planned(configured(model__cell=cell, model__parameters=budget))
    width = config.model.hidden_size
    assert isinstance(width, int)
    assert config.model.parameters is None
    assert built_parameters(config) <= budget
    wider = configured(model__cell=cell, model__hidden_size=width + 1)
    assert built_parameters(plan(wider, 100_000, 65, CPU)) > budget
    if budget == 500_000:
        assert built_parameters(config) > 0.98 * budget


def test_tied_matrices_count_once() -> None:
    tied = {"model__tie_embeddings": True, "model__skip_connections": False}
    config = planned(configured(model__parameters=100_000, **tied))
    assert config.model.embedding_size == config.model.hidden_size
    assert count_parameters(config, read_vocabularies(CHARACTERS)) == built_parameters(config)


def test_a_budget_that_nothing_fits() -> None:
    with pytest.raises(ConfigError, match=r"model\.parameters = 50 is too small: .* of 1, this"):
        planned(configured(model__parameters=50))
    with pytest.raises(ConfigError, match=r"leave out model\.hidden_size"):
        configured(model__parameters=50, model__hidden_size=5)


@pytest.mark.parametrize(("text", "count"), [("500k", 500_000), ("1.5M", 1_500_000), (77, 77)])
def test_how_a_number_is_written(text: Any, count: int) -> None:
    assert configured(model__parameters=text).model.parameters == count


@pytest.mark.parametrize("wrong", [0, -5, 1.5, "", [5], True])
def test_what_is_no_number_of_parameters(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"model\.parameters"):
        configured(model__parameters=wrong)


def test_runs_of_the_same_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run's size comes from a number, the second's from the first run."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, "utf-8")
    common: dict[str, Any] = {"steps": 2, "device": "cpu", "window": 8, "batch_size": 2}
    first = charrnn.train("text.txt", cell="lstm", parameters="9k", out="first", **common)
    count = count_parameters_of_run("first", pytest.fail)
    assert 0.9 * 9_000 < count == first.finished.parameters <= 9_000
    second = charrnn.train("text.txt", cell="gru", parameters="first", out="second", **common)
    assert 0.9 * count < second.finished.parameters <= count
    again = build_config([file_layer(Path("second", "config.yaml"))])[0]
    assert isinstance(again.model.hidden_size, int)
    assert again.model.parameters is None
    with pytest.raises(ConfigError, match="'frist' is neither a number, such as 500k, nor a run"):
        charrnn.train("text.txt", parameters="frist", **common)


def test_tasks_on_examples(tmp_path: Path) -> None:
    rows = "".join(f"word{i}\t{'even' if i % 2 == 0 else 'odd'}\n" for i in range(40))
    (tmp_path / "rows.tsv").write_text(rows, "utf-8")
    config = configured(
        task="classification",
        data__sources=[str(tmp_path / "rows.tsv")],
        data__split=[0.7, 0.3],
        model__parameters=30_000,
    )
    with find_texts(config, pytest.fail) as texts:
        data = read_data(config, texts)
    kind = task_of("classification")
    chosen = plan_within_budget(
        lambda config: kind.plan(config, data, CPU), config, data.vocabulary_data
    )
    network = kind.build(chosen, read_vocabularies(data.vocabulary_data))
    assert 0.95 * 30_000 < sum(p.numel() for p in network.parameters()) <= 30_000
