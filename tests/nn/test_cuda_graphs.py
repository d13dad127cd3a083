"""Code for GPUs: tested with a stand-in for CUDA graphs, and on a GPU if there is one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charrnn.errors import DivergedError
from charrnn.inference.torch_stepper import TorchStepper
from charrnn.nn.fast import cuda_graphs
from charrnn.nn.models import language_model
from charrnn.nn.state import State, leaves, map_state
from charrnn.training import captured_step, trainer
from charrnn.training.text_windows import TextWindows, _signed
from tests.tiny import drive, start, tiny_config, tiny_corpus

GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)


class StandIn:
    """A `capture` without CUDA. Like a graph, it does not run the function that it captures, keeps
    values that are not tensors as they were, and writes its result to the same memory each time."""

    def __init__(self, undo: Callable[[], Callable[[], None]]) -> None:
        self.undo, self.captures, self.replays = undo, 0, 0

    def __call__(self, function: Any, inputs: State) -> tuple[Callable[[], None], State]:
        self.captures += 1
        restore = self.undo()
        outputs = map_state(torch.clone, function(inputs))
        restore()

        def replay() -> None:
            self.replays += 1
            map_state(lambda place, value: place.copy_(value), outputs, function(inputs))

        return replay, outputs


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    capture = StandIn(lambda: lambda: None)
    monkeypatch.setattr(cuda_graphs, "capture", capture)
    monkeypatch.setattr(cuda_graphs, "on_side_stream", lambda action: action())
    monkeypatch.setattr(captured_step, "on_side_stream", lambda action: action())
    return capture


def test_a_captured_function_is_that_function(stand_in: StandIn) -> None:
    captured = cuda_graphs.Captured(
        lambda pair: (pair[0] + pair[1], pair[1] * 2), (torch.ones(2),) * 2
    )
    for _ in range(3):
        a, b = torch.randn(2), torch.randn(2)
        total, double = captured((a, b))  # type: ignore[misc]
        assert torch.equal(total, a + b)
        assert torch.equal(double, b * 2)
    assert (stand_in.captures, stand_in.replays) == (1, 3)


def as_on_a_gpu(session: Any, stand_in: StandIn) -> None:
    """Make the trainer do on a CPU what it does on a GPU."""
    trained = session.trainer
    trained.not_finite = torch.zeros(())
    trained.optimizer.found_inf = trained.not_finite
    for group in trained.optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"])
    trained.capture_steps()

    def undo() -> Callable[[], None]:
        # The tensors stay the same and get their old values back.
        model = copy.deepcopy(trained.model.state_dict())
        moments = {
            p: {k: v.clone() for k, v in s.items()} for p, s in trained.optimizer.state.items()
        }

        def restore() -> None:
            trained.model.load_state_dict(model)
            for parameter, state in moments.items():
                for key, value in state.items():
                    trained.optimizer.state[parameter][key].copy_(value)

        return restore

    stand_in.undo = undo


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_captured_steps_are_the_steps(tmp_path: Path, stand_in: StandIn, cell: str) -> None:
    corpus = tiny_corpus(tmp_path)
    config = tiny_config(model__cell=cell, training__steps=30)
    single = start(tmp_path / "single", config, corpus)
    drive(single)
    captured = start(tmp_path / "captured", config, corpus)
    as_on_a_gpu(captured, stand_in)
    drive(captured)
    # The first few windows and those around the edge of an epoch run without a graph.
    assert stand_in.captures == 1
    assert stand_in.replays == 19
    for name, value in single.model.state_dict().items():
        torch.testing.assert_close(captured.model.state_dict()[name], value)
    lines = [[line["train"]["nats_per_character"] for line in run.metrics() if "train" in line]
             for run in (single.run, captured.run)]  # fmt: skip
    assert lines[1] == pytest.approx(lines[0], rel=1e-5)


def test_a_captured_run_is_resumed(tmp_path: Path, stand_in: StandIn) -> None:
    corpus, config = tiny_corpus(tmp_path), tiny_config(training__steps=30)
    straight = start(tmp_path / "straight", config, corpus)
    as_on_a_gpu(straight, stand_in)
    drive(straight)
    first = start(tmp_path / "stopped", config, corpus)
    as_on_a_gpu(first, stand_in)
    drive(first, until=17)
    again = start(tmp_path / "stopped", config, corpus)
    as_on_a_gpu(again, stand_in)
    again.restore(again.run.latest(pytest.fail))
    drive(again)
    for name, value in straight.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value)


def test_nothing_changes_after_a_step_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: StandIn
) -> None:
    session = start(tmp_path / "run", tiny_config(), tiny_corpus(tmp_path))
    as_on_a_gpu(session, stand_in)
    trained, straight = session.trainer, TextWindows.loss
    steps = trained.run(10)
    for _ in range(2):
        next(steps)
    monkeypatch.setattr(
        TextWindows, "loss", lambda *a: (x := straight(*a))._replace(total=x.total * torch.nan)
    )
    before = copy.deepcopy(session.model.state_dict())
    next(steps)
    monkeypatch.setattr(TextWindows, "loss", straight)
    next(steps)
    for name, value in before.items():
        assert torch.equal(session.model.state_dict()[name], value)
    with pytest.raises(DivergedError, match="not finite at or before step 4"):
        trained.interval_score()
    with pytest.raises(DivergedError, match=r"try a lower training\.learning_rate"):
        trained.tensors()


@pytest.mark.parametrize("batch", [(3, 8), (4, 5)])
def test_reading_there_is_reading_here(tmp_path: Path, batch: tuple[int, int]) -> None:
    corpus = tiny_corpus(tmp_path)
    lanes, window = batch
    on_cpu = TextWindows(corpus, batch_size=lanes, window=window)
    on_gpu = TextWindows(corpus, batch_size=lanes, window=window)
    on_gpu._ids_on_gpu = _signed(corpus.ids)
    span = corpus.splits["validation"]
    for ours, theirs in (
        (on_cpu.batches(0), on_gpu.batches(0)),
        (on_cpu.batches(0, 2), on_gpu.batches(0, 2)),
        (on_cpu.unbroken(span, 7), on_gpu.unbroken(span, 7)),
        (on_cpu.in_lanes(span, 3, 5, 6), on_gpu.in_lanes(span, 3, 5, 6)),
    ):
        for one, other in zip(ours, theirs, strict=True):
            for a, b in zip(one, other, strict=True):
                assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_ids_of_every_width_are_read_there(dtype: Any) -> None:
    ids = np.array([0, 3, np.iinfo(dtype).max if dtype != np.uint32 else 0x10FFFF], dtype)
    assert _signed(ids).tolist() == ids.tolist()


def test_states_of_a_captured_stepper_are_kept(stand_in: StandIn) -> None:
    model = language_model(7, hidden_sizes=[5, 5], embedding_size=3)
    plain, captured = TorchStepper(model), TorchStepper(model)
    captured._device = torch.device("cuda")
    states: list[Any] = [captured.initial_state(2)]
    with torch.inference_mode():
        for token in ([1, 2], [3, 4], [5, 6]):
            logits, after = captured._advance(torch.tensor(token), states[-1])
            expected, _ = plain.step(np.array(token), states[-1])
            np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-6)
            states.append(after)
        assert stand_in.captures == 1
        logits, _ = captured._advance(torch.tensor([3, 4]), states[1])
    again, _ = plain.step(np.array([3, 4]), states[1])
    np.testing.assert_allclose(logits.numpy(), again, rtol=1e-6)


# On a GPU ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [GPU])
@pytest.mark.parametrize("cell", ["vanilla", "lstm", "gru"])
def test_a_gpu_trains_as_a_cpu_does(tmp_path: Path, device: str, cell: str) -> None:
    corpus = tiny_corpus(tmp_path)
    still = {"model__dropout": 0.0, "model__input_dropout": 0.0, "model__output_dropout": 0.0}
    ends = []
    for where, graph in (("cpu", False), (device, False), (device, True)):
        config = tiny_config(model__cell=cell, device=where, graph=graph, precision="float32",
                             training__steps=30, **still)  # fmt: skip
        session = start(tmp_path / f"{where}-{graph}", config, corpus, on=where)
        with trainer.full_precision():
            drive(session)
        ends.append({n: v.cpu() for n, v in session.model.state_dict().items()})
    for other in ends[1:]:
        for name, value in ends[0].items():
            torch.testing.assert_close(other[name], value, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("device", [GPU])
def test_a_gpu_steps_as_a_cpu_does(device: str) -> None:
    model = language_model(7, hidden_sizes=[5, 5], embedding_size=3)
    on_cpu, on_gpu = TorchStepper(model), TorchStepper(copy.deepcopy(model).to(device))
    state, other = on_cpu.initial_state(3), on_gpu.initial_state(3)
    for token in ([1, 2, 0], [3, 4, 5]):
        expected, state = on_cpu.step(np.array(token), state)
        logits, other = on_gpu.step(np.array(token), other)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    for a, b in zip(leaves(state), leaves(other), strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-4, atol=1e-5)
