"""Processes that share the lanes compute the same as one process, and end with it."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from charrnn.errors import CharrnnError, ConfigError, DataError
from charrnn.session.loop import Session
from charrnn.training import lane_processes
from charrnn.training.hardware import choose_processes
from charrnn.training.objective import Loss
from charrnn.training.text_windows import TextWindows
from tests.tiny import drive, start, tiny_config, tiny_corpus

pytestmark = pytest.mark.skipif(
    not lane_processes.available(), reason="processes are forked on Linux only"
)
STILL = {"model__dropout": 0.0, "model__input_dropout": 0.0, "model__output_dropout": 0.0}
CPU = torch.device("cpu")


def session(folder: Path, processes: int, **changes: Any) -> Session:
    corpus = tiny_corpus(folder)
    return start(folder / f"run-{processes}", tiny_config(processes=processes, **changes), corpus)


@pytest.mark.parametrize(
    ("cell", "processes"), [("lstm", 2), ("lstm", 3), ("lstm", 4), ("vanilla", 3), ("gru", 2)]
)
def test_several_processes_train_as_one_does(tmp_path: Path, cell: str, processes: int) -> None:
    weights, metrics = [], []
    for count in (1, processes):
        one = session(tmp_path, count, model__cell=cell, **STILL)
        drive(one)
        weights.append(one.model.state_dict())
        metrics.append([line.get("train", {}).get("nats_per_character") for line in
                        one.run.metrics() if "train" in line])  # fmt: skip
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=2e-6)
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-5)


def test_workers_draw_different_dropout(tmp_path: Path) -> None:
    one, seeds = session(tmp_path, 2), []

    def compute(_objective: Any, _batch: Any, _carry: Any, seed: int) -> Loss:
        seeds.append(seed)
        return Loss(torch.zeros(()), 1, None)

    processes = lane_processes.LaneProcesses(
        compute, one.trainer.shares, one.model, one.objective.empty_carry(one.model)
    )
    for rank in range(2):
        processes._compute_share(one.objective, next(one.objective.batches(0)), rank, 7)
    processes.close()
    assert len(set(seeds)) == 2


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_shares_of_a_batch_are_its_lanes_in_order(tmp_path: Path, count: int) -> None:
    whole = TextWindows(tiny_corpus(tmp_path), batch_size=4, window=8)
    shares = [whole.share(rank, count) for rank in range(count)]
    for batch, *parts in zip(
        whole.batches(0, 2), *(share.batches(0, 2) for share in shares), strict=True
    ):
        assert torch.equal(torch.cat([part.inputs for part in parts]), batch.inputs)
        assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)
        assert sum(part.scored for part in parts) == batch.scored


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def workers(one: Session) -> list[int]:
    assert one.trainer.lane_processes is not None
    return [worker.pid for worker in one.trainer.lane_processes._workers]


def test_workers_end_with_the_run_and_the_model_stays_usable(tmp_path: Path) -> None:
    one = session(tmp_path, 3)
    steps = one.events()
    for _ in range(3):
        next(steps)
    pids = workers(one)
    assert len(pids) == 2
    assert all(map(alive, pids))
    steps.close()
    assert not any(map(alive, pids))
    assert one.trainer.lane_processes is None
    one.estimate()


def test_workers_end_when_the_trainer_is_killed(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)  # A fork has only the calling thread.
            one = session(tmp_path, 3)
            steps = one.events()
            for _ in range(3):
                next(steps)
            os.write(writing, " ".join(map(str, workers(one))).encode())
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(writing)
    pids = [int(word) for word in os.read(reading, 100).split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    end = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(alive, pids))


def test_signals_to_the_whole_group_leave_the_workers_at_work(tmp_path: Path) -> None:
    one = session(tmp_path, 2)
    steps = one.events()
    for _ in range(3):
        next(steps)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(workers(one)[0], number)
    next(steps)
    assert all(map(alive, workers(one)))
    steps.close()


def test_each_process_computes_its_lanes_on_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, original = session(tmp_path, 2), TextWindows.loss

    def loss(self: Any, *arguments: Any) -> Any:
        (tmp_path / f"threads-{os.getpid()}").write_text(str(torch.get_num_threads()))
        return original(self, *arguments)

    monkeypatch.setattr(TextWindows, "loss", loss)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        steps = one.trainer.run(3)
        next(steps)
        used = {path.name: path.read_text() for path in tmp_path.glob("threads-*")}
        assert used == {f"threads-{pid}": "1" for pid in one.trainer.process_ids()}
        assert len(used) == 2
        assert torch.get_num_threads() == 2
    finally:
        one.trainer.close()
        torch.set_num_threads(before)


def test_a_worker_that_was_killed_is_one_sentence(tmp_path: Path) -> None:
    one = session(tmp_path, 2)
    steps = one.events()
    for _ in range(3):
        next(steps)
    os.kill(workers(one)[0], signal.SIGKILL)
    with pytest.raises(CharrnnError, match="was killed; charrnn resume goes on"):
        for _ in steps:
            pass
    assert one.trainer.lane_processes is None


@pytest.mark.parametrize("error", [DataError("the text is gone"), MemoryError("no memory")])
def test_the_error_of_a_worker_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    one = session(tmp_path, 2)
    trainer, whole = os.getpid(), TextWindows.loss

    def loss(self: Any, *arguments: Any) -> Any:
        if os.getpid() != trainer:
            raise error
        return whole(self, *arguments)

    monkeypatch.setattr(TextWindows, "loss", loss)
    with pytest.raises(type(error), match=str(error)):
        drive(one)


def test_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_processes("auto", CPU, 64, 2) == 2
    assert choose_processes("auto", CPU, 64, 1) == 1
    assert choose_processes("auto", CPU, 7, 8) == 1
    assert choose_processes("auto", torch.device("cuda"), 64, 2) == 1
    assert choose_processes(3, CPU, 64, 2) == 3
    with pytest.raises(ConfigError, match="4 lanes cannot be shared among 5 processes"):
        choose_processes(5, CPU, 4, 2)
    with pytest.raises(ConfigError, match="needs a CPU and Linux"):
        choose_processes(2, torch.device("cuda"), 64, 2)
    monkeypatch.setattr(lane_processes, "available", lambda: False)
    assert choose_processes("auto", CPU, 64, 2) == 1
    with pytest.raises(ConfigError, match="needs a CPU and Linux"):
        choose_processes(2, CPU, 64, 2)
