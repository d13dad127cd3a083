"""Budgets: schedules, intervals, and a run that is kept within its time on a simulated clock."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from charrnn.config.changes import config_at, record_change
from charrnn.config.merge import build_config, with_values
from charrnn.config.schema import Config
from charrnn.evaluation.score import Evaluation
from charrnn.session.events import Evaluated, Event, Finished, Planned, Replanned, Saved
from charrnn.session.loop import Session
from charrnn.training.budget import (
    ENDING,
    EVALUATIONS,
    LONG_SCORE,
    Costs,
    Intervals,
    TimeBudget,
    estimate_size,
    evaluation_intervals,
    learning_rate_schedule,
    steps_bound,
)
from tests.tiny import drive, start, tiny_config, tiny_corpus


def configured(**values: Any) -> Any:
    return build_config([("x", {key.replace("__", "."): v for key, v in values.items()})])[0]


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


@pytest.mark.parametrize(("first", "every"), [(1, 1), (7, 7), (1, 40), (3, 1000), (10, 35)])
def test_intervals_grow_from_first_to_every(first: int, every: int) -> None:
    intervals = Intervals(first, every)
    due = [step for step in range(1, 4000) if intervals.are_due(step)]
    assert due[0] == first
    gaps = [b - a for a, b in itertools.pairwise(due)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == min(every, max(gaps))
    assert all(gap == min(every, max(first, at // 4)) for at, gap in zip(due, gaps, strict=False))
    for step in (0, 1, first, 500, 3999):
        assert intervals.count(step) == sum(at <= step for at in due)


@pytest.mark.parametrize(("total", "every"), [(1, 1), (12, 1), (13, 2), (1200, 100), (1201, 101)])
def test_the_evaluation_interval_of_a_long_text(total: int, every: int) -> None:
    assert evaluation_intervals(Config(), total, 10**6) == (every, every)
    assert evaluation_intervals(configured(evaluation__every=7), total, 10) == (7, 7)
    chosen = configured(evaluation__every=70, evaluation__first=3)
    assert evaluation_intervals(chosen, total, 10) == (3, 70)


def test_a_short_text_is_evaluated_after_two_passes() -> None:
    assert evaluation_intervals(Config(), 12_000, 25) == (50, 1000)
    assert evaluation_intervals(Config(), 12_000_000, 4).first == 10**6 // 64


def test_intervals_last_minutes_and_evaluations_a_tenth_of_the_time() -> None:
    costs = Costs(step=0.5, evaluation=10.0)
    assert evaluation_intervals(Config(), 10**6, 10, costs) == (200, 480)
    dear = Costs(step=0.5, evaluation=100.0)
    assert evaluation_intervals(Config(), 10**6, 10, dear).every == 2000


@pytest.mark.parametrize("held_out", [0, 300, 4_000, 50_000, 10**7])
def test_the_estimate_reads_what_there_is_time_for(held_out: int) -> None:
    settings = Config().evaluation
    most = estimate_size(settings, held_out)
    assert most["evaluation.characters"] == 262_144
    assert most["evaluation.lanes"] == max(1, min(64, held_out // 1000))
    read = []
    for reading in (0, 30_000, 100_000, 10**9):
        lanes, characters = estimate_size(settings, held_out, reading).values()
        assert 8_192 <= characters <= 262_144
        assert min(8, most["evaluation.lanes"]) <= lanes <= most["evaluation.lanes"]
        read.append(lanes * 1000 + min(held_out, characters))
        assert read[-1] <= max(reading, 8_000 + 8_192)
    assert read == sorted(read)
    chosen = configured(evaluation__lanes=3, evaluation__characters=500).evaluation
    assert [*estimate_size(chosen, held_out, 1e6).values()] == [3, 500]


def test_costs_change_with_the_speed_of_the_steps() -> None:
    costs = Costs(0.1, evaluation=3.0, final_score=5.0)
    costs.rescale(0.3)
    costs.rescale(0.2)
    assert (costs.step, costs.evaluation, costs.final_score) == pytest.approx((0.2, 6.0, 10.0))


@pytest.mark.parametrize("evaluation", [0.0, 0.2, 2.0])
@pytest.mark.parametrize("intervals", [Intervals(50, 50), Intervals(10, 3000)])
def test_the_planned_steps_fit_the_time(evaluation: float, intervals: Intervals) -> None:
    costs = Costs(0.013, evaluation, 3.0)
    budget = TimeBudget(500.0, lambda: 20.0, costs)
    total, scored = budget.steps_that_fit(100, intervals)
    assert scored
    count = intervals.count(total) - intervals.count(100)
    used = 20 + (total - 100) * costs.step + count * evaluation + costs.final_score
    assert used == pytest.approx(0.97 * 500 - ENDING, abs=evaluation + 0.02)
    assert not budget.is_missed(100, total, intervals, True)
    assert budget.is_missed(100, total + total // 5, intervals, True)
    assert budget.is_missed(100, total - total // 5, intervals, True)


def test_no_time_left_means_no_more_steps_and_no_final_score() -> None:
    budget = TimeBudget(100.0, lambda: 105.0, Costs(0.1, 0.1, 0.1))
    assert budget.steps_that_fit(100, Intervals(10, 10)) == (100, False)


def test_a_dear_final_score_is_left_out() -> None:
    budget = TimeBudget(100.0, lambda: 0.0, Costs(0.1, 0.0, LONG_SCORE * 97 + 0.1))
    fitting = int((97 - ENDING) / 0.1)
    assert budget.steps_that_fit(0, Intervals(10, 10)) == (fitting, False)


def test_changes_are_recorded_and_undone_step_by_step() -> None:
    config = with_values(Config(), {"training.steps": 100})
    first = record_change(config, 30, {"training.steps": 80})
    second = record_change(first, 50, {"training.steps": 90, "training.learning_rate": 0.1})
    again = record_change(second, 50, {"training.steps": 95})
    assert again.training.earlier == [
        {"until": 30, "training.steps": 100},
        {"until": 50, "training.steps": 80, "training.learning_rate": "auto"},
    ]
    steps = [config_at(again, step).training.steps for step in (0, 29, 30, 49, 50, 99)]
    assert steps == [100, 100, 80, 80, 95, 95]
    assert config_at(again, 49).training.learning_rate == "auto"
    assert record_change(again, 60, {"training.steps": 95}) is again
    assert record_change(config, 0, {"training.steps": 80}).training.earlier == []


# A simulated clock ------------------------------------------------------------------------------


@dataclass
class Machine:
    """A simulated machine; a test says how long a step or an evaluation takes at each time."""

    step: Callable[[float], float]
    evaluation: Callable[[float], float] = lambda _: 0.0
    final: float = 0.0
    now: float = 0.0
    saved: list[float] = field(default_factory=list)
    shown: list[float] = field(default_factory=list)

    def session(self, folder: Path, patch: pytest.MonkeyPatch, **values: Any) -> Session:
        config = tiny_config(
            training__steps=None, training__epochs=None, evaluation__every="auto", **values
        )
        session = start(folder, config, tiny_corpus(folder), lambda: self.now)
        trainer, kind, run = session.trainer, session.experiment, session.run

        def step(_: Any) -> tuple[int, float]:
            self.now += self.step(self.now)
            trainer.progress.interval_characters += 32
            return 32, 0.1

        def estimate(at: int) -> Evaluation:
            self.now += self.evaluation(self.now)
            return Evaluation("validation", 1.0 / (1 + at), 24, "simulated", step=at)

        def final(_weights: Any, stop: Callable[[], bool], **_: Any) -> Evaluation:
            for _part in range(10):
                self.now += self.final / 10
                if stop():
                    raise KeyboardInterrupt
            return Evaluation("validation", 1.0, 24, "simulated")

        def save(*arguments: Any) -> None:
            self.saved.append(self.now)
            original(*arguments)

        original = run.save
        patch.setattr(trainer, "_step", step)
        waiting = session.history.unmeasured
        patch.setattr(trainer, "losses_and_norms", lambda: [(32.0, 1.0)] * len(waiting))
        patch.setattr(kind, "estimate", estimate)
        patch.setattr(kind, "final_seconds", lambda: self.final)
        patch.setattr(kind, "final", final)
        patch.setattr(run, "save", save)
        return session

    def run(self, folder: Path, patch: pytest.MonkeyPatch, **values: Any) -> list[Event]:
        events = []
        for event in self.session(folder, patch, **values).events():
            events.append(event)
            if isinstance(event, Evaluated | Saved):
                self.shown.append(self.now)
        return events

    def end(self, events: list[Event]) -> Finished:
        assert isinstance(events[-1], Finished)
        return events[-1]


def late(before: float, after: float, when: float) -> Callable[[float], float]:
    return lambda now: before if now < when else after


LOADS = {
    "steady": lambda _: 0.05,
    "a load that comes": late(0.05, 0.1, 30.0),
    "a load that goes": late(0.1, 0.05, 30.0),
    "a load that comes late": late(0.05, 0.2, 90.0),
    "a load that comes and goes": lambda now: 0.05 if int(now / 7) % 2 else 0.12,
    "a slow warm-up": late(0.2, 0.05, 10.0),
}


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("evaluation", [0.0, 1.0])
@pytest.mark.parametrize("seconds", [30.0, 120.0])
def test_a_budget_is_kept_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: str, evaluation: float, seconds: float
) -> None:
    machine = Machine(LOADS[load], lambda now: evaluation * LOADS[load](now) / 0.05, final=2.0)
    events = machine.run(tmp_path, monkeypatch, training__max_time=seconds)
    assert sum(isinstance(event, Planned) for event in events) == 1
    assert 0.9 * seconds <= machine.now <= 1.05 * seconds
    assert machine.end(events).reason == "budget"
    # The last step was evaluated.
    last = [event for event in events if isinstance(event, Evaluated)][-1]
    assert last.metrics["step"] == machine.end(events).step


def test_a_steady_machine_needs_no_correction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = Machine(lambda _: 0.05).run(tmp_path, monkeypatch, training__max_time=100.0)
    assert not any(isinstance(event, Replanned) for event in events)
    assert sum(isinstance(event, Evaluated) for event in events) <= EVALUATIONS + 15


def test_a_dear_final_score_never_overruns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(lambda _: 0.05, final=9.0)
    session = machine.session(tmp_path, monkeypatch, training__max_time=60.0)
    monkeypatch.setattr(session.experiment, "final_seconds", lambda: 0.5)  # It takes 9.
    end = list(session.events())[-1]
    assert isinstance(end, Finished)
    assert machine.now <= 1.05 * 60
    assert (end.reason, end.score) == ("budget", None)


@pytest.mark.parametrize("hours", [1 / 6, 1, 24])
@pytest.mark.parametrize("evaluation", [0.1, 30.0])
def test_no_silence_and_no_loss_beyond_five_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: float, evaluation: float
) -> None:
    seconds, step = hours * 3600, hours
    slower = late(step, 2 * step, seconds / 2)
    machine = Machine(slower, lambda _: evaluation)
    machine.run(
        tmp_path, monkeypatch, training__max_time=seconds, checkpoints__keep_last=2,
        training__patience=None,
    )  # fmt: skip
    for times in (machine.saved, machine.shown):
        marks = [*times, machine.now]
        assert max(b - a for a, b in itertools.pairwise(marks)) <= 300


def test_a_dear_last_evaluation_is_paid_at_the_present_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load comes between the last two evaluations, each of which the user wants to be long."""
    load = late(0.05, 0.15, 17.0)
    machine = Machine(load, lambda now: 40 * load(now))
    machine.run(tmp_path, monkeypatch, training__max_time=30.0, evaluation__first=1000)
    assert 0.9 * 30 <= machine.now <= 1.03 * 30
    assert [now for now in machine.shown if now > 17.0] == [machine.now]


@pytest.mark.parametrize("characters_per_second", [5_000, 25_000])
@pytest.mark.parametrize("seconds", [20.0, 30.0])
def test_evaluations_take_a_tenth_of_a_short_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, characters_per_second: int
) -> None:
    spent = []
    machine = Machine(lambda _: 2048 / characters_per_second)
    session = machine.session(
        tmp_path, monkeypatch, training__max_time=seconds,
        evaluation__lanes="auto", evaluation__characters="auto", evaluation__warmup=1000,
    )  # fmt: skip
    session.data.splits["validation"] = range(100_000)  # type: ignore[index]
    simulated, step = session.experiment.estimate, session.trainer._step

    def evaluate(at: int) -> Evaluation:
        evaluation = session.experiment.config.evaluation
        read = int(evaluation.lanes) * 1000 + min(100_000, int(evaluation.characters))
        spent.append(read / characters_per_second)
        machine.now += spent[-1]
        return simulated(at)

    def longer_step(batch: Any) -> tuple[int, float]:
        step(batch)
        return 2048, 0.1

    monkeypatch.setattr(session.experiment, "estimate", evaluate)
    monkeypatch.setattr(session.trainer, "_step", longer_step)
    list(session.events())
    cheapest = 16_200 / characters_per_second
    assert sum(spent) <= max(0.15 * seconds, 2 * cheapest)
    assert len(spent) >= 2
    assert session.config.evaluation.characters == session.experiment.config.evaluation.characters


def test_a_corrected_run_is_repeated_from_its_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps are real here: the weights must be the same, bit for bit."""
    now = [0.0]
    config = tiny_config(training__steps=None, training__epochs=None, training__max_time=30.0)
    corpus = tiny_corpus(tmp_path)
    session = start(tmp_path / "timed", config, corpus, lambda: now[0])
    step = session.trainer._step

    def slow(batch: Any) -> Any:
        now[0] += 0.1 if now[0] < 10 else 0.3
        return step(batch)

    monkeypatch.setattr(session.trainer, "_step", slow)
    assert any(isinstance(event, Replanned) for event in drive(session))
    assert session.config.training.earlier
    again = start(tmp_path / "again", session.config, corpus)
    drive(again)
    last = session.trainer.progress.step
    assert again.trainer.progress.step == last
    first, second = (run.load(last).tensors for run in (session.run, again.run))
    assert all((first[name] == second[name]).all() for name in first if "interval" not in name)
