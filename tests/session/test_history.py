"""The rows of training steps: at most 2,000, the same after every resume."""

import itertools
import math
from pathlib import Path

import pytest

from charrnn.runs.directory import Run
from charrnn.session.history import History, Row, as_records, steps_in_a_row
from tests.tiny import drive, start, tiny_config, tiny_corpus


def row(step: int) -> Row:
    return Row(step, 1, 10 + step % 3, 30 / step, math.sqrt(step), 1 / step, 0.5 * step)


@pytest.mark.parametrize("steps", [1, 1_999, 2_000, 2_001, 3_001, 9_500])
def test_the_rows_add_up_to_the_steps(steps: int) -> None:
    history, taken = History("character"), [row(step) for step in range(1, steps + 1)]
    for one in taken:
        history.add(one)
    size = steps_in_a_row(steps)
    assert len(history.rows) == math.ceil(steps / size) <= 2_000
    assert size == 1 or len(history.rows) > 1_000
    begin = 0
    for got in history.rows:
        part = taken[begin : int(got.step)]
        assert got.steps == len(part)
        assert got.scored == sum(one.scored for one in part)
        assert got.nats == pytest.approx(sum(one.nats for one in part))
        assert got.norms == pytest.approx(sum(one.norms for one in part))
        assert (got.learning_rate, got.seconds) == (part[-1].learning_rate, part[-1].seconds)
        begin = int(got.step)
    assert begin == steps


@pytest.mark.parametrize("stop", [1, 7, 2_000, 2_001, 4_003])
def test_rows_that_were_saved_go_on_as_if_never_stopped(stop: int) -> None:
    straight, stopped = History("character"), History("character")
    for step in range(1, 4_010):
        straight.add(row(step))
    for step in range(1, stop + 1):
        stopped.add(row(step))
    again = History("character")
    again.load([list(saved) for saved in stopped.rows])
    for step in range(stop + 1, 4_010):
        again.add(row(step))
    assert again.rows == straight.rows


def test_the_file_has_the_complete_rows_and_at_the_end_all(tmp_path: Path) -> None:
    run, history = Run(tmp_path), History("label")
    for step in range(1, 2_004):
        history.add(row(step))
        if step % 100 == 1:
            history.write(run)
            assert run.records("steps") == as_records(history.complete(), "label")
    history.write(run, at_end=True)
    lines = run.records("steps")
    assert [line["step"] for line in lines] == [*range(2, 2_003, 2), 2_003]
    assert all(line["labels"] > 0 and "nats_per_label" in line["train"] for line in lines)
    # The speed of a line belongs to the time since the line before.
    for before, line in itertools.pairwise(lines):
        seconds = line["seconds"] - before["seconds"]
        assert line["characters_per_second"] == pytest.approx(line["labels"] / seconds)


def test_lines_after_the_last_checkpoint_are_dropped_on_resuming(tmp_path: Path) -> None:
    """As after `kill -9`: the file holds steps that the checkpoint does not know."""
    corpus, config = tiny_corpus(tmp_path), tiny_config(training__steps=14)
    drive(start(tmp_path / "straight", config, corpus))
    drive(start(tmp_path / "killed", config, corpus), until=9)
    run = Run(tmp_path / "killed")
    run.append_records("steps", [{"step": 10}, {"step": 11}])
    with (run.path / "steps.jsonl").open("a") as file:
        file.write('{"step": 12, "ste')
    again = start(tmp_path / "killed", config, corpus)
    again.restore(again.run.latest(pytest.fail))
    drive(again)
    steps = [line["step"] for line in run.records("steps")]
    assert steps == [line["step"] for line in Run(tmp_path / "straight").records("steps")]
    assert steps == list(range(1, 15))


def test_an_old_run_records_its_steps_from_now_on(tmp_path: Path) -> None:
    history = History("character")
    history.load([])
    for step in range(5_001, 5_011):
        history.add(row(step))
    assert [int(one.step) for one in history.rows] == [5_004, 5_008, 5_010]


def test_gradient_norm_and_loss_are_those_of_the_step(tmp_path: Path) -> None:
    """The mean of the steps' losses is the training loss of the evaluation."""
    session = start(tmp_path / "run", tiny_config(training__steps=14), tiny_corpus(tmp_path))
    drive(session)
    lines, evaluations = session.run.records("steps"), session.run.metrics()
    first = next(line for line in evaluations if line["kind"] == "evaluation")
    part = [line for line in lines if line["step"] <= first["step"]]
    scored = sum(line["characters"] for line in part)
    nats = sum(line["characters"] * line["train"]["nats_per_character"] for line in part) / scored
    assert nats == pytest.approx(first["train"]["nats_per_character"], rel=1e-6)
    assert all(line["gradient_norm"] > 0 for line in lines)
