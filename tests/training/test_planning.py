"""The plan decides every `auto` within sensible bounds and overrides no choice of the user."""

import itertools
import math
import os
from typing import Any

import pytest
import torch

from charrnn.config.merge import build_config, flatten
from charrnn.config.schema import Config
from charrnn.errors import ConfigError
from charrnn.registry import CELLS
from charrnn.training import planning
from charrnn.training.budget import steps_bound
from charrnn.training.hardware import choose_device, choose_precision, prepare_process
from charrnn.training.planning import DEFAULT_TIME, plan

SIZES = [300, 5_000, 1_000_000, 500_000_000]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "measure_speed", lambda device: 1e11)


def configured(**values: Any) -> Config:
    return build_config([("x", {key.replace("__", "."): v for key, v in values.items()})])[0]


def autos(config: Config) -> list[str]:
    return [key for key, value in flatten(config.model_dump()).items() if value == "auto"]


@pytest.mark.parametrize(
    ("characters", "device", "cell"),
    [
        *((size, "cpu", "lstm") for size in SIZES),
        *((1_000_000, device, "lstm") for device in ("cuda:0", "mps")),
        *((1_000_000, "cpu", cell) for cell in CELLS if cell != "lstm"),
    ],
)
def test_everything_is_decided(characters: int, device: str, cell: str) -> None:
    planned = plan(configured(model__cell=cell), characters, 65, torch.device(device))
    assert autos(planned) == [
        "evaluation.every", "evaluation.first", "evaluation.lanes", "evaluation.characters",
        "evaluation.best", "checkpoints.every",
    ]  # fmt: skip
    model, training = planned.model, planned.training
    window, lanes = training.window, training.batch_size
    assert planned.device == device
    assert 8 <= window <= 128
    assert 1 <= lanes <= 64
    assert lanes * window <= characters
    assert 64 <= model.widths[0] <= 1024
    assert 16 <= model.embedding_size <= 65
    for dropout in (model.dropout, model.input_dropout, model.output_dropout):
        assert 0 <= dropout <= 0.5
    assert 1e-4 < training.learning_rate < 0.02
    assert training.max_time == DEFAULT_TIME
    steps_per_epoch = math.ceil((characters - 1) // lanes / window)
    assert (training.epochs or 0) * steps_per_epoch >= 0.98 * planning.FEWEST_STEPS


@pytest.mark.parametrize("characters", [2, 3, 7, 20])
@pytest.mark.parametrize("symbols", [1, 2, 256, 100_000])
def test_the_smallest_texts_can_be_planned(characters: int, symbols: int) -> None:
    planned = plan(Config(), characters, symbols, CPU)
    assert planned.training.batch_size == 1
    assert planned.model.hidden_size == 64


def test_longer_texts_get_larger_models_and_less_dropout() -> None:
    plans = [plan(Config(), characters, 65, CPU) for characters in SIZES]
    widths = [planned.model.widths[0] for planned in plans]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]
    dropouts = [planned.model.dropout for planned in plans]
    assert dropouts == sorted(dropouts, reverse=True)
    assert dropouts[0] == 0.5
    assert dropouts[-1] == 0


def test_more_time_gets_a_larger_model() -> None:
    plans = [plan(configured(training__max_time=t), 10**8, 65, CPU) for t in (30.0, 600.0, 36000.0)]
    widths = [planned.model.widths[0] for planned in plans]
    assert widths[0] < widths[1] < widths[2]


def test_words_start_small_and_characters_do_not() -> None:
    for vocabulary, scale in (("character", 1.0), ("byte", 1.0), ("word", 0.1)):
        planned = plan(configured(data__vocabulary=vocabulary), 10**6, 256, CPU)
        assert planned.model.embedding_scale == scale


CHOICES: dict[str, Any] = {
    "model.hidden_size": 40,
    "model.embedding_size": "one_hot",
    "model.embedding_scale": 0.3,
    "model.dropout": 0.15,
    "model.input_dropout": 0.25,
    "model.output_dropout": 0.35,
    "training.steps": 123,
    "training.epochs": 3.5,
    "training.max_time": 77.0,
    "training.batch_size": 5,
    "training.window": 11,
    "training.learning_rate": 0.5,
    "evaluation.every": 9,
    "checkpoints.every": 13,
    "threads": 3,
    "model.layers": 4,
    "training.optimizer": "sgd",
}


@pytest.mark.parametrize(
    ("key", "characters"),
    [*((key, 1_000_000) for key in CHOICES), ("all", 1_000_000), ("all", 300)],
)
def test_what_the_user_chose_is_kept(key: str, characters: int) -> None:
    chosen = CHOICES if key == "all" else {key: CHOICES[key]}
    config = build_config([("x", chosen)])[0]
    planned = flatten(plan(config, characters, 65, CPU).model_dump())
    assert {name: planned[name] for name in chosen} == chosen
    before = flatten(config.model_dump())
    decided = {key: value for key, value in before.items() if value != "auto" and key != "device"}
    assert {name: planned[name] for name in decided} == decided


def test_a_list_of_widths_is_kept() -> None:
    planned = plan(configured(model__hidden_size=[8, 9]), 1000, 65, CPU)
    assert planned.model.widths == [8, 9]


@pytest.mark.parametrize(
    ("key", "value", "others"),
    [
        ("training.steps", 5, ["epochs", "max_time"]),
        ("training.epochs", 2.0, ["steps", "max_time"]),
    ],
)
def test_a_chosen_number_of_steps_or_epochs_is_the_only_budget(
    key: str, value: Any, others: list[str]
) -> None:
    planned = plan(build_config([("x", {key: value})])[0], 1_000_000, 65, CPU)
    assert [getattr(planned.training, other) for other in others] == [None, None]


@pytest.mark.parametrize(("characters", "passes"), [(3_000, 33), (30_000, 25), (1_000_000, 50)])
def test_a_time_is_bounded_by_passes_over_the_text(characters: int, passes: int) -> None:
    for max_time in (8.0, 50.0, 300.0, 86_400.0):
        training = plan(configured(training__max_time=max_time), characters, 65, CPU).training
        assert training.max_time == max_time
        assert training.epochs == pytest.approx(passes, abs=1)


def test_more_time_than_is_useful_changes_nothing() -> None:
    hour, day = (plan(configured(training__max_time=t), 9_000, 65, CPU) for t in (3600.0, 86_400.0))
    assert hour.model == day.model
    assert hour.training.model_copy(update={"max_time": 86_400.0}) == day.training


def test_a_chosen_number_of_passes_is_kept_beside_a_time() -> None:
    for passes in (500.0, None):
        config = configured(training__max_time=60.0, training__epochs=passes)
        assert plan(config, 5_000, 65, CPU).training.epochs == passes


# Two LSTM layers at 1e11 operations a second: the pages have scores of these plans.
@pytest.mark.parametrize(
    ("max_time", "width", "dropout"), [(30.0, 160, 0.0), (120.0, 192, 0.0), (600.0, 256, 0.15)]
)
def test_the_plan_for_a_megabyte(max_time: float, width: int, dropout: float) -> None:
    planned = plan(configured(training__max_time=max_time), 1_003_854, 65, CPU)
    model, training = planned.model, planned.training
    assert (training.batch_size, training.window) == (32, 64)
    assert model.hidden_size == width
    assert (model.dropout, model.output_dropout, model.input_dropout) == (dropout, dropout, 0.0)


@pytest.mark.parametrize("max_time", [8.0, 50.0, 300.0])
def test_the_plan_has_no_jumps(max_time: float) -> None:
    """Texts that differ by 2% in length get nearly the same plan."""
    config = configured(training__max_time=max_time)
    sizes = [round(3_000 * 1.02**i) for i in range(300)]
    plans = [plan(config, size, 65, CPU) for size in sizes]
    for a, b in itertools.pairwise(plans):
        assert b.training.batch_size in (a.training.batch_size, 2 * a.training.batch_size)
        assert b.model.widths[0] - a.model.widths[0] in (0, planning.WIDTH_STEP)
        assert abs(b.model.dropout - a.model.dropout) < 0.11
        assert abs(b.model.input_dropout - a.model.input_dropout) < 0.11
        if a.training.batch_size == b.training.batch_size:
            assert abs((b.training.epochs or 0) - (a.training.epochs or 0)) <= 4


def test_a_short_text_has_fewer_lanes_and_more_dropout() -> None:
    sizes = (3_000, 9_000, 27_000, 54_000, 200_000, 1_000_000)
    plans = [plan(configured(training__max_time=300.0), size, 65, CPU) for size in sizes]
    assert [planned.training.batch_size for planned in plans] == [4, 8, 8, 16, 32, 32]
    hurried = [plan(configured(training__max_time=8.0), size, 65, CPU) for size in sizes]
    assert [planned.training.batch_size for planned in hurried] == [4, 16, 16, 32, 32, 32]
    inputs = [planned.model.input_dropout for planned in plans]
    assert inputs == sorted(inputs, reverse=True)
    assert inputs[0] == pytest.approx(0.2)
    assert inputs[-1] == 0


@pytest.mark.parametrize("budget", [{"training__epochs": None}, {"training__max_time": None}])
def test_one_default_budget_can_be_switched_off(budget: dict[str, Any]) -> None:
    planned = plan(configured(**budget), 1_000_000, 65, CPU)
    assert (planned.training.epochs is None) == ("training__epochs" in budget)
    assert (planned.training.max_time is None) == ("training__max_time" in budget)


def test_no_budget_is_added_where_both_defaults_are_switched_off() -> None:
    config = configured(training__epochs=None, training__max_time=None)
    planned = plan(config, 1_000_000, 65, CPU)
    budgets = (planned.training.steps, planned.training.epochs, planned.training.max_time)
    assert budgets == (None, None, None)
    assert steps_bound(planned, 10) is None


@pytest.mark.parametrize("skip", [True, False])
def test_tied_embeddings_fit(skip: bool) -> None:
    config = configured(model__tie_embeddings=True, model__skip_connections=skip)
    model = plan(config, 1_000_000, 65, CPU).model
    assert model.embedding_size == (sum(model.widths) if skip else model.widths[-1])


def test_the_plan_is_a_fixed_point() -> None:
    planned = plan(Config(), 1_000_000, 65, CPU)
    assert plan(planned, 5_000, 10, CPU) == planned


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    for wanted in ("cuda", "cuda:0", "cuda:3", "mps"):
        with pytest.raises(ConfigError, match=rf"'{wanted}' is not available.*set device to cpu"):
            choose_device(wanted)


def test_devices_where_there_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="sees 2 CUDA devices"):
        choose_device("cuda:2")


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    prepare_process(3)
    prepare_process(10**9)
    assert set_to == [3, 8]


def test_the_measured_speed_is_a_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 1e6 < planning.measure_speed(CPU) < 1e16


@pytest.mark.parametrize("supported", [False, True])
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru", "vanilla", "another"])
@pytest.mark.parametrize("work", [1023, 1024])
def test_reduced_precision_where_it_exists_and_pays(
    monkeypatch: pytest.MonkeyPatch, supported: bool, native: bool, cell: str, work: int
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    pays = supported and native and cell != "another" and work == 1024
    assert choose_precision("auto", CPU, cell, work) == ("bfloat16" if pays else "float32")
    assert choose_precision("float32", CPU, cell, work) == "float32"
    if supported:
        assert choose_precision("bfloat16", CPU, cell, work) == "bfloat16"
    else:
        with pytest.raises(
            ConfigError, match="bfloat16 is not available on cpu; set precision to float32"
        ):
            choose_precision("bfloat16", CPU, cell, work)


def test_the_same_plan_has_the_same_precision() -> None:
    config = configured(training__batch_size=32, model__hidden_size=64)
    assert len({plan(config, 10_000, 20, CPU).precision for _ in range(5)}) == 1
