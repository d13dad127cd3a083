"""Regularisation: each method follows its paper's formula, is off in evaluation, and resumes
exactly."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from charrnn.errors import CheckpointError
from charrnn.inference.trained_model import TrainedModel
from charrnn.nn.cells.minimal import MinGRUCell
from charrnn.nn.cells.mlstm import MultiplicativeLSTMCell
from charrnn.nn.cells.rhn import RHNCell
from charrnn.nn.cells.stacked import StackedCell
from charrnn.nn.cells.standard import GRUCell, LSTMCell, LSTMState, ResetFirstGRUCell, VanillaCell
from charrnn.nn.dropout import Dropouts, drop
from charrnn.nn.layers import Recurrent, Zoneout, unroll
from charrnn.nn.models import language_model
from charrnn.nn.state import leaves, map_state
from charrnn.runs.checkpoint import load_checkpoint, save_checkpoint
from charrnn.runs.checkpoint_check import check_layout
from charrnn.training.text_windows import TextWindows
from tests.layers import filled
from tests.session.test_loop import fingerprint, metrics
from tests.tiny import drive, start, tiny_config, tiny_corpus

V = 7
OPTIONS: dict[str, Dropouts] = {
    "dropout": Dropouts(layers=0.5, input=0.4, output=0.3),
    "locked dropout": Dropouts(layers=0.5, input=0.4, locked=True),
    "embedding dropout": Dropouts(embedding=0.5),
    "weight dropout": Dropouts(weight=0.5),
}


def model(cell: str = "lstm", **options: Any) -> Any:
    torch.manual_seed(1)
    network = language_model(V, cell=cell, hidden_sizes=(5, 6), embedding_size=4, **options)  # type: ignore[arg-type]
    return network.double()


@pytest.mark.parametrize("cell", ["vanilla", "lstm", "gru"])
@pytest.mark.parametrize("name", OPTIONS)
def test_none_acts_in_evaluation_and_each_in_training(name: str, cell: str) -> None:
    plain, network = model(cell), model(cell, dropouts=OPTIONS[name])
    network.load_state_dict(plain.state_dict())
    ids, state = torch.randint(V, (3, 9)), plain.initial_state(3)
    expected, _ = plain(ids, state)
    assert torch.equal(network.eval()(ids, state)[0], expected)
    assert not torch.allclose(network.train()(ids, state)[0], expected)
    step, _ = network.eval().step(ids[:, 0], state)
    torch.testing.assert_close(step, expected[:, 0])


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_dropout_keeps_the_expectation(locked: bool, rate: float) -> None:
    torch.manual_seed(3)
    inputs = torch.rand(4, 5, 6, dtype=torch.float64) + 1
    draws = torch.stack([drop(inputs, rate, True, locked) for _ in range(4000)])
    kept = draws[draws != 0]
    scaled = (inputs / (1 - rate)).expand_as(draws)[draws != 0]
    torch.testing.assert_close(kept, scaled)
    assert float((draws == 0).double().mean()) == pytest.approx(rate, abs=0.01)
    torch.testing.assert_close(draws.mean(0), inputs, rtol=0.2, atol=0)
    assert torch.equal(drop(inputs, rate, False, locked), inputs)


def test_a_locked_mask_is_one_for_all_steps_of_a_lane() -> None:
    torch.manual_seed(4)
    zero = drop(torch.ones(3, 8, 50), 0.5, True, locked=True) == 0
    assert torch.equal(zero, zero[:, :1].expand_as(zero))
    assert not torch.equal(zero[0], zero[1])
    free = drop(torch.ones(3, 8, 50), 0.5, True, locked=False) == 0
    assert not torch.equal(free, free[:, :1].expand_as(free))


def test_embedding_dropout_takes_whole_symbols_away() -> None:
    network = model(dropouts=Dropouts(embedding=0.5)).train()
    network.embedding.weight.data.fill_(1)
    torch.manual_seed(5)
    ids = torch.arange(V).repeat(3, 4)
    vectors = network._embed(ids)
    gone = vectors[0, :V].sum(1) == 0
    assert 0 < int(gone.sum()) < V
    for lane in range(3):
        for i, symbol in enumerate(ids[lane].tolist()):
            assert torch.equal(vectors[lane, i], vectors[0, symbol])
    torch.testing.assert_close(vectors[vectors != 0], torch.full_like(vectors[vectors != 0], 2))


def test_embedding_dropout_takes_one_hot_symbols_away() -> None:
    network = language_model(V, hidden_sizes=(5,), dropouts=Dropouts(embedding=0.5)).train()
    torch.manual_seed(5)
    vectors = network._embed(torch.arange(V).repeat(3, 4))
    kept = vectors[0, :V].sum(1)
    assert set(kept.tolist()) == {0.0, 2.0}
    assert torch.equal(vectors[1], vectors[0])
    assert torch.equal(network.eval()._embed(torch.arange(V)[None])[0], torch.eye(V))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "make", [VanillaCell, LSTMCell, GRUCell, ResetFirstGRUCell, MultiplicativeLSTMCell, RHNCell]
)
def test_weight_dropout_is_dropout_on_the_recurrent_matrix(make: Any, fused: bool) -> None:
    layer = filled(Recurrent(make(3, 4), fused, weight_dropout=0.4)).train()
    inputs, state = torch.randn(2, 6, 3, dtype=torch.float64), layer.initial_state(2)
    torch.manual_seed(6)
    outputs, _ = layer(inputs, state)
    gradient = torch.autograd.grad(outputs.sum(), layer.cell.weight_hh)[0]
    torch.manual_seed(6)
    dropped = functional.dropout(layer.cell.weight_hh.detach(), 0.4)
    other = make(3, 4).double()
    other.load_state_dict(layer.cell.state_dict() | {"weight_hh": dropped})
    torch.testing.assert_close(outputs, unroll(other, inputs, state)[0])
    assert torch.equal(gradient == 0, dropped == 0)
    assert isinstance(layer.cell.weight_hh, torch.nn.Parameter)
    names = [f"cell.{name}" for name, _ in make(3, 4).named_parameters()]
    assert [name for name, _ in layer.named_parameters()] == names


def test_weight_dropout_needs_the_matrix_that_it_falls_on() -> None:
    with pytest.raises(ValueError, match="weight_hh, which MinGRUCell does not have"):
        Recurrent(MinGRUCell(3, 4), weight_dropout=0.4)


def test_zoneout_needs_a_cell_whose_output_is_in_its_state() -> None:
    cell = StackedCell([VanillaCell(3, 4), VanillaCell(4, 4)])
    layer = Recurrent(cell, zoneout=[0.1, 0.1])
    with pytest.raises(ValueError, match="and StackedCell does not"):
        layer(torch.zeros(1, 2, 3), layer.initial_state(1))


@pytest.mark.parametrize(
    "make", [VanillaCell, GRUCell, LSTMCell, MultiplicativeLSTMCell, RHNCell, MinGRUCell]
)
def test_zoneout_is_its_equation(make: Any) -> None:
    torch.manual_seed(7)
    cell = filled(make(3, 200))
    rates = [0.3, 0.6][: 2 if issubclass(make, LSTMCell) else 1]
    zoned = Zoneout(cell, rates)
    x = torch.randn(4, 3, dtype=torch.float64)
    old = map_state(torch.rand_like, cell.initial_state(4))
    new = list(leaves(cell(x, old)[1]))
    output, after = zoned(x, old)
    for rate, before, then, now in zip(rates, leaves(old), new, leaves(after), strict=True):
        kept = now == before
        assert torch.equal(now, torch.where(kept, before, then))
        assert float(kept.double().mean()) == pytest.approx(rate, abs=0.06)
    assert torch.equal(output, next(leaves(after)))
    cell.eval()
    output, after = zoned(x, old)
    for rate, before, then, now in zip(rates, leaves(old), new, leaves(after), strict=True):
        torch.testing.assert_close(now, rate * before + (1 - rate) * then)
    assert isinstance(after, LSTMState) == issubclass(make, LSTMCell)


# The average --------------------------------------------------------------------------------------


def weights(session: Any) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in session.model.named_parameters()}


@pytest.mark.parametrize("tied", [False, True])
def test_the_average_is_its_recursion(tmp_path: Path, tied: bool) -> None:
    changes = {"model__tie_embeddings": tied, "model__embedding_size": 16 if tied else 6}
    session = start(tmp_path, tiny_config(training__average=0.8, **changes), tiny_corpus(tmp_path))
    expected = weights(session)
    steps = session.trainer.run(14)
    for t, _ in enumerate(steps):
        decay = min(0.8, (1 + t) / (10 + t))
        for name, value in weights(session).items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in session.trainer._averages().items():
        if name in expected:
            torch.testing.assert_close(value, expected[name])


def test_the_average_is_what_is_evaluated_sampled_and_saved(tmp_path: Path) -> None:
    config = tiny_config(
        training__average=0.9, model__tie_embeddings=True, model__embedding_size=16
    )
    session = start(tmp_path / "run", config, tiny_corpus(tmp_path))
    drive(session)
    raw = weights(session)
    score = session.estimate().nats_per_character
    text = session.sample_text(30)
    for name, value in raw.items():
        assert torch.equal(value, weights(session)[name])
    checkpoint = session.run.load(14)
    loaded = TrainedModel.from_checkpoint(checkpoint)
    assert loaded.sample_text(30, seed=1) == text
    session.trainer._exchange()  # The model now has its averaged weights.
    for name, parameter in session.model.named_parameters():
        assert not torch.equal(parameter, raw[name])
        np.testing.assert_array_equal(loaded.weights[name], parameter.detach().numpy())
    session.trainer.average = 0.0
    assert session.estimate().nats_per_character == score


def test_a_checkpoint_without_its_average_is_refused(tmp_path: Path) -> None:
    session = start(tmp_path / "run", tiny_config(training__average=0.9), tiny_corpus(tmp_path))
    drive(session)
    saved = load_checkpoint(session.run.checkpoint_path(14), check_layout)
    tensors = {n: v for n, v in saved.tensors.items() if n != "average/head.bias"}
    save_checkpoint(tmp_path / "less.safetensors", tensors, saved.metadata)
    with pytest.raises(CheckpointError, match=r"average/head\.bias .* is missing"):
        load_checkpoint(tmp_path / "less.safetensors", check_layout)
    plain = json.loads(json.dumps(saved.metadata))
    plain["config"]["training"]["average"] = 0.0
    save_checkpoint(tmp_path / "more.safetensors", saved.tensors, plain)
    with pytest.raises(CheckpointError, match="average/"):
        load_checkpoint(tmp_path / "more.safetensors", check_layout)


# Windows and resets -------------------------------------------------------------------------------


def random_task(folder: Path, **options: Any) -> TextWindows:
    return TextWindows(tiny_corpus(folder), batch_size=3, window=10, random_windows=True, **options)


def test_random_windows_tile_the_lanes_and_are_a_function_of_the_epoch(tmp_path: Path) -> None:
    task = random_task(tmp_path, seed=3)
    seen = set()
    for epoch in range(40):
        first, length, offsets = task._windows(epoch)
        assert (first, length, offsets) == task._windows(epoch)
        assert offsets[0] == 0
        assert offsets[-1] == length
        assert all(b - a >= 5 for a, b in itertools.pairwise(offsets[:-1]))
        assert first + 3 * length <= task._first + 3 * task.lane_length
        seen.add((first, *offsets))
        batches = list(task.batches(epoch))
        text = torch.cat([batch.inputs for batch in batches], 1).numpy()
        for lane in range(3):
            begin = first + lane * length
            np.testing.assert_array_equal(text[lane], task.corpus.ids[begin : begin + length])
        for a, b in zip(batches[2:], task.batches(epoch, 2), strict=True):
            assert torch.equal(a.inputs, b.inputs)
    assert len(seen) > 35


def test_the_learning_rate_is_scaled_with_the_window(tmp_path: Path) -> None:
    session = start(
        tmp_path, tiny_config(training__random_windows=True, training__schedule="constant"),
        tiny_corpus(tmp_path),
    )  # fmt: skip
    batches = list(session.objective.batches(0))
    for batch, report in zip(batches, session.trainer.run(len(batches)), strict=True):
        highest = session.trainer.schedule(report.step - 1)
        assert report.learning_rate == pytest.approx(highest * batch.inputs.shape[1] / 8)


def test_lanes_are_reset_as_often_as_asked_and_in_training_alone(tmp_path: Path) -> None:
    task = TextWindows(tiny_corpus(tmp_path), batch_size=24, window=8, reset_probability=0.3)
    network = language_model(task.corpus.vocabulary.size, hidden_sizes=(4,), embedding_size=3)
    carry = map_state(lambda leaf: torch.ones_like(leaf) * 9, network.initial_state(24))
    batch = next(task.batches(0, 1))._replace(fresh=False)
    zero = network.initial_state(24)
    resets = 0
    for seed in range(50):
        torch.manual_seed(seed)
        after = next(leaves(task.loss(network.train(), batch, carry).carry))  # type: ignore[arg-type]
        fresh = next(leaves(network(batch.inputs, zero)[1]))
        resets += int((after - fresh).abs().amax(1).lt(1e-6).sum())
    assert resets / (50 * 24) == pytest.approx(0.3, abs=0.05)
    a = task.loss(network.eval(), batch, carry).total
    b = TextWindows(task.corpus, batch_size=24, window=8).loss(network, batch, carry).total
    assert torch.equal(a, b)


# Resume -------------------------------------------------------------------------------------------

EVERYTHING = {
    "training__average": 0.9,
    "training__random_windows": True,
    "training__reset_probability": 0.2,
    "model__locked_dropout": True,
    "model__embedding_dropout": 0.2,
    "model__weight_dropout": 0.3,
}


@pytest.mark.parametrize(
    ("cell", "processes", "changes"),
    [
        pytest.param("lstm", 2, {}, id="fused, 2 processes"),
        pytest.param("lstm", 1, {"model__zoneout": 0.1, "model__zoneout_cell": 0.2}, id="zoneout"),
        pytest.param("gru", 1, {"model__layer_norm": True}, id="layer norm"),
    ],
)
def test_resumed_equals_uninterrupted(
    tmp_path: Path, cell: str, changes: dict[str, Any], processes: int
) -> None:
    corpus = tiny_corpus(tmp_path)
    config = tiny_config(model__cell=cell, processes=processes, **EVERYTHING | changes)
    straight = start(tmp_path / "straight", config, corpus)
    drive(straight)
    for k in (3, 11):
        drive(start(tmp_path / f"stopped-{k}", config, corpus), until=k)
        again = start(tmp_path / f"stopped-{k}", config, corpus)
        again.restore(again.run.latest(pytest.fail))
        drive(again)
        assert fingerprint(again.run, 14) == fingerprint(straight.run, 14), k
        assert metrics(again.run) == metrics(straight.run), k
