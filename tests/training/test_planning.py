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
from charrnn.training.budget import (
    EVALUATIONS,
    LONG_SCORE,
    Costs,
    evaluation_interval,
    learning_rate_schedule,
    steps_bound,
    steps_in_time,
)
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
    assert autos(planned) == ["evaluation.every", "checkpoints.every"]
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


# LSTM 2 x width at 1e11 operations a second: scores of these plans are published.
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
            assert abs((b.training.epochs or 0) - (a.training.epochs or 0)) <= 2


def test_a_short_text_has_fewer_lanes_and_more_dropout() -> None:
    sizes = (3_000, 9_000, 27_000, 54_000, 200_000, 1_000_000)
    plans = [plan(configured(training__max_time=300.0), size, 65, CPU) for size in sizes]
    assert [planned.training.batch_size for planned in plans] == [4, 8, 8, 16, 32, 32]
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


def scheduled(kind: str, total: int | None, warmup: int = 100) -> list[float]:
    config = configured(
        training__schedule=kind, training__learning_rate=0.5, training__warmup_steps=warmup
    )
    rate = learning_rate_schedule(config, total)
    return [rate(step) for step in range(total or 1000)]


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "plateau"])
def test_the_warm_up_is_linear_and_independent_of_the_total(kind: str) -> None:
    expected = [0.5 * (step + 1) / 100 for step in range(100)]
    for total in (None, 150, 1000, 10**6):
        config = configured(training__schedule=kind, training__learning_rate=0.5)
        rate = learning_rate_schedule(config, total)
        assert [rate(step) for step in range(100)] == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["constant", "plateau"])
def test_a_constant_schedule(kind: str) -> None:
    assert set(scheduled(kind, 1000)[100:]) == {0.5}


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_before_the_total_is_known_the_rate_stays(kind: str) -> None:
    assert set(scheduled(kind, None)[100:]) == {0.5}


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("total", [200, 1000, 5000])
def test_the_rate_falls_to_zero_without_jumps(kind: str, total: int) -> None:
    rates = scheduled(kind, total)
    assert max(rates) == pytest.approx(0.5)
    fall = rates[99:]
    assert all(a > b for a, b in itertools.pairwise(fall))
    steepest = 0.5 * (math.pi / 2 if kind == "cosine" else 1) / (total - 100)
    assert all(a - b <= 1.01 * steepest for a, b in itertools.pairwise(fall))
    assert 0 < rates[-1] < 0.5 * 2 / (total - 100)


def test_the_shapes_of_the_fall() -> None:
    halfway = 100 + (1100 - 100) // 2 - 1
    assert scheduled("linear", 1100)[halfway] == pytest.approx(0.25, rel=0.01)
    assert scheduled("cosine", 1100)[halfway] == pytest.approx(0.25, rel=0.01)
    quarter = 100 + (1100 - 100) // 4 - 1
    assert scheduled("linear", 1100)[quarter] == pytest.approx(0.375, rel=0.01)
    eased = 0.25 * (1 + math.cos(math.pi / 4))
    assert scheduled("cosine", 1100)[quarter] == pytest.approx(eased, rel=0.01)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_run_shorter_than_its_warm_up(kind: str) -> None:
    assert scheduled(kind, 50) == pytest.approx([0.5 * (step + 1) / 100 for step in range(50)])
    assert min(scheduled(kind, 101)) > 0


@pytest.mark.parametrize(
    ("costs", "every", "expected"),
    [
        (Costs(0.1, 0.0, 0.0), None, (1100, True, EVALUATIONS)),
        (Costs(0.1, 1.0, 0.0), None, (1100 - 10 * EVALUATIONS, True, EVALUATIONS)),
        (Costs(0.1, 10.0, 0.0), None, (900, True, 2)),  # In a fifth of the time.
        (Costs(0.1, 0.0, 10.0), None, (1000, True, EVALUATIONS)),
        (Costs(0.1, 0.0, LONG_SCORE * 100 + 0.1), None, (1100, False, EVALUATIONS)),
        (Costs(0.1, 1.0, 0.0), 10, (600, True, 50)),
        (Costs(1000.0, 0.0, 0.0), None, (100, True, EVALUATIONS)),
        (Costs(0.1, 1000.0, 0.0), None, (100, True, 1)),
    ],
)
def test_steps_in_time(costs: Costs, every: int | None, expected: tuple[int, bool]) -> None:
    assert steps_in_time(100, 100.0, costs, every) == expected


@pytest.mark.parametrize("left", [0.0, -5.0])
def test_no_time_left_means_no_more_steps(left: float) -> None:
    assert steps_in_time(100, left, Costs(0.1, 0.1, 0.1), None) == (100, False, 1)


@pytest.mark.parametrize("evaluation", [0.0, 0.2, 2.0])
@pytest.mark.parametrize("every", [None, 50])
def test_the_planned_steps_fit_the_time(evaluation: float, every: int | None) -> None:
    costs = Costs(0.013, evaluation, 3.0)
    total, scored, _ = steps_in_time(100, 500.0, costs, every)
    steps = total - 100
    count = EVALUATIONS if every is None else steps / every
    used = steps * costs.step + count * evaluation + (costs.final_score if scored else 0)
    assert used <= 500
    assert used > 499


@pytest.mark.parametrize(
    ("values", "bound"),
    [
        ({"training__steps": 5, "training__epochs": None}, 5),
        ({"training__epochs": 2.5}, 25),
        ({"training__epochs": 3}, 30),
        ({"training__epochs": 0.001}, 1),
        ({"training__epochs": 2.5, "training__steps": 24}, 24),
        ({"training__epochs": 2.5, "training__steps": 26}, 25),
        ({"training__max_time": 5.0, "training__epochs": None}, None),
    ],
)
def test_the_bound_on_the_steps(values: dict[str, Any], bound: int | None) -> None:
    assert steps_bound(configured(**values), 10) == bound


@pytest.mark.parametrize(("total", "every"), [(1, 1), (12, 1), (13, 2), (1200, 100), (1201, 101)])
def test_the_evaluation_interval(total: int, every: int) -> None:
    assert evaluation_interval(Config(), total) == every
    assert evaluation_interval(Config(), total, 1) == total
    assert evaluation_interval(configured(evaluation__every=7), total) == 7


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
    prepare_process("auto")
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
